"""What the numbers of a set of label files mean, and the refusal of those that mean nothing certain."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Integer

KINDS = ("instances", "binary", "classes")
MAX_CLASSES = 32


class Values(NamedTuple):
    """The numbers in one label file: sorted values, pixels of each, 8-bit or wider, connected pieces a value."""

    values: tuple[int, ...]
    counts: tuple[int, ...]
    small: bool
    pieces: float | None


def values_of(label: Integer[np.ndarray, "*s"], *, ignore: int | None = None, measure_pieces: bool = False) -> Values:
    """Summary of one label; `ignore` is left out.

    `pieces` is the mean number of connected pieces of a value that is not 0: about 1 for objects, more for classes. It
    is measured on request, in 8-bit labels; None elsewhere and for an empty label.
    """
    small = label.dtype.itemsize == 1
    if label.dtype in (np.uint8, np.uint16):
        counts = np.bincount(label.reshape(-1))
        values = np.flatnonzero(counts)
        counts = counts[values]
    else:
        values, counts = np.unique(label, return_counts=True)
    keep = values != ignore if ignore is not None else np.ones(len(values), bool)
    values, counts = values[keep].tolist(), counts[keep].tolist()
    objects = [value for value in values if value > 0]
    pieces = _pieces(label, objects) if measure_pieces and small and objects else None
    return Values(tuple(values), tuple(counts), small, pieces)


def _pieces(label: np.ndarray, objects: Sequence[int]) -> float:
    from scipy.ndimage import find_objects
    from scipy.ndimage import label as connected

    boxes = find_objects(label.astype(np.uint8))
    touching = np.ones((3, 3))
    return sum(connected(label[boxes[v - 1]] == v, touching)[1] for v in objects) / len(objects)


def decide_kind(files: Sequence[Values]) -> str:
    """Kind of a set of labels: "binary", "instances" or "classes", or ValueError where the numbers leave it open.

    * binary: nothing but 0 and one other number, the same in all files (0/1, 0/255, ...). Empty masks do not matter.
    * instances: any 16-bit file with more; or 8-bit numbers that differ from file to file and lie in one piece each.
    * classes: 8-bit, more than half of the files hold the same numbers 0..K-1, 3 <= K <= 32, no file holds a larger
      one, and a number lies in two or more connected pieces (median over the files measured of each one's mean).

    Open, so that an error asks for `label_kind`: all masks empty; one number a file but not the same one; the same
    numbers in most files, each in one piece (two nuclei in every image, or two organs?) or not counting from 0;
    numbers that differ and lie in many pieces (20 classes, a few in each image). One or two files of single pieces are
    instances. A set with exactly one object in every image is read as binary: give `label_kind="instances"` for that.
    """
    used = [file for file in files if any(file.values)]
    if not used:
        raise ValueError(f"all {len(files)} masks are empty (every pixel is 0): say what they are with --label-kind")
    objects = [set(file.values) - {0} for file in used]
    found = sorted(set().union(*objects))
    if len(found) == 1:
        return "binary"
    if len(used) > 1 and all(len(numbers) == 1 for numbers in objects):
        raise ValueError(
            f"every mask holds one number, but not the same one ({_listed(found)}): give --label-kind binary if "
            "everything that is not 0 is foreground, 'classes' or 'instances' otherwise"
        )
    return _ids_or_classes(used, found) if all(file.small for file in files) else "instances"


def _ids_or_classes(used: Sequence[Values], found: Sequence[int]) -> str:
    pieces = float(np.median([file.pieces for file in used if file.pieces is not None] or [1]))
    common, times = Counter(file.values for file in used).most_common(1)[0]
    same = len(common) >= 3 and times > len(used) / 2
    counting = common == tuple(range(len(common))) and len(common) <= MAX_CLASSES and found[-1] == common[-1]
    if same and counting and pieces >= 2:
        return "classes"
    if pieces <= 1.5 and (not same or len(used) <= 2):
        return "instances"
    what = (
        f"the same numbers ({_listed(common)}) in {times} of {len(used)} masks" if same else f"numbers {_listed(found)}"
    )
    raise ValueError(
        f"{what}, each in {pieces:.3g} connected pieces, may be classes or objects: --label-kind instances if each "
        "number is one object; if they are classes, numbered 0..K-1, give --label-kind classes (and --ignore VALUE for "
        "pixels that are not to count)"
    )


def fault_of(file: Values, kind: str | None, *, classes: int | None = None) -> str:
    """Why a label cannot be of this kind (None: not known yet), with the mend, or "" when it can."""
    values = file.values
    if anti_aliased(file, kind):
        return (
            f"holds greys between 0 and 255 ({len(values)} values: {_listed(values)}), as an anti-aliased, resized or "
            'once JPEG-compressed mask does: threshold it, python -c "import sys; from PIL import Image; '
            "[Image.open(f).convert('L').point(lambda v: 255 * (v >= 128)).save(f) for f in sys.argv[1:]]\" FILES.png "
            "(or, if these are ids, save them with 16 bits)"
        )
    if kind == "binary" and len(set(values) - {0}) > 1:
        return f"holds more than two values ({_listed(values)}): give --label-kind instances or classes instead"
    if kind == "classes" and (beyond := [v for v in values if not 0 <= v < (classes or MAX_CLASSES)]):
        return (
            f"holds {_listed(beyond)}, outside the classes 0..{(classes or MAX_CLASSES) - 1}: "
            f"give --ignore {beyond[-1]} if these pixels do not count, classes=K if there are more, or renumber them"
        )
    if values and (values[0] < 0 or values[-1] >= 2**31):
        wrong = values[0] if values[0] < 0 else values[-1]
        return f"holds {wrong}, and labels are 0 to 2**31 - 1: give --ignore {wrong} if these pixels are not to count"
    return ""


def anti_aliased(file: Values, kind: str | None) -> bool:
    """White and greys between it and black, white outweighing them; in an id map 255 is but one object of many."""
    if not file.small or len(file.values) < 3 or kind == "classes":
        return False
    counts = list(zip(file.values, file.counts, strict=True))
    white = [count for value, count in counts if value >= 240]
    greys = [count for value, count in counts if 16 <= value < 240]
    near = any(240 <= value < 255 for value in file.values)
    if not white or not (greys or near) or (kind == "instances" and len(greys) < 8 and not near):
        return False
    return sum(white) > sum(greys) or max(white) > 4 * max(greys)


def to_label(
    raw: Integer[np.ndarray, "h w"], kind: str, *, ignore: int | None = None
) -> tuple[Int32[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """Label in the library's numbers and the mask of pixels that count; a mask that is all True takes no memory."""
    counts = np.broadcast_to(np.True_, raw.shape)
    if ignore is not None and (ignored := raw == ignore).any():
        counts = ~ignored
        raw = np.where(counts, raw, np.zeros((), raw.dtype))
    label = (raw != 0).astype(np.int32) if kind == "binary" else raw.astype(np.int32)
    label.flags.writeable = counts.flags.writeable = False
    return label, counts


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values[:10])) + (f", ... {values[-1]}" if len(values) > 10 else "")
