"""What the values of class masks mean: 0/255, numbers of classes, colours, soft edges; decided once, and said.

`survey` looks at every mask, `decide` makes a `Legend` of what it saw (or of what the user says), and the legend reads
masks as class indices 0..K-1. Nothing is guessed in silence: `Legend.notes` says what was taken for what.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Integer, UInt16

from unet_jax.data.decode import Raw, Refused, decode
from unet_jax.data.images import image_of, label_of, named
from unet_jax.data.labels import Values, anti_aliased, decide_kind, values_of

MAX_CLASSES = 256
FEW = 32  # numbers that may be classes even where each lies in one piece
IGNORED, _UNKNOWN = 65_535, 65_534  # what a legend gives for pixels that do not count, and for values it has not
_SHIFTS = np.array([65_536, 256, 1], np.int32)  # of red, green and blue


@dataclasses.dataclass(frozen=True)
class Legend:
    """Names of the classes, and the raw values of each.

    Values are numbers, or 65536 red + 256 green + blue where `colours`. With a `threshold` there are two classes, and
    a pixel is of the second where its grey reaches it. `ignored` pixels do not count. `notes` are for the user.
    """

    names: tuple[str, ...]
    values: tuple[tuple[int, ...], ...]
    ignored: tuple[int, ...] = ()
    colours: bool = False
    threshold: int | None = None
    objects: bool = False  # whatever is not 0 is of the second class
    notes: tuple[str, ...] = ()

    def read(self, path: Path) -> UInt16[np.ndarray, "h w"]:
        """The mask in a file as class indices, `IGNORED` where it does not count; ValueError for other values."""
        raw = read_values(path, colours=self.colours)
        classes = self._classes(raw)
        classes[np.isin(raw, self.ignored)] = IGNORED
        if (classes == _UNKNOWN).any():
            found = [_name(v, self.colours) for v in np.unique(raw[classes == _UNKNOWN])[:5].tolist()]
            raise ValueError(
                f"{path}: holds {', '.join(found)}, which no class has: give --ignore VALUE for pixels that do not "
                "count, or name every class with --classes NAME=VALUE ..."
            )
        return classes

    def _classes(self, raw: np.ndarray) -> np.ndarray:
        if self.threshold is not None:
            return (raw >= self.threshold).astype(np.uint16)
        if self.objects:
            return (raw != 0).astype(np.uint16)
        pairs = sorted((value, index) for index, values in enumerate(self.values) for value in values)
        known, index = (np.array(column) for column in zip(*pairs, strict=True))
        place = np.minimum(np.searchsorted(known, raw), len(known) - 1)
        return np.where(known[place] == raw, index[place], _UNKNOWN).astype(np.uint16)


def read_values(path: Path, *, colours: bool) -> Integer[np.ndarray, "h w"]:
    """The numbers in a mask, or its colours as 65536 red + 256 green + blue; lossy files too."""
    with named(path):
        return _numbers(decode(path), colours)


def _numbers(raw: Raw, colours: bool) -> np.ndarray:
    if raw.lossy and raw.values.ndim == 3 and np.ptp(raw.values, axis=-1).max() <= 24:
        raw = raw._replace(values=raw.values[..., 1])  # greys, whose channels compression has moved apart
    if not colours:
        return label_of(raw._replace(lossy=""))
    picture = image_of(raw)
    if picture.dtype != np.uint8 or picture.shape[-1] not in (1, 3):
        raise Refused(f"holds {picture.shape[-1]} channels of {picture.dtype}: save it as 8-bit RGB")
    return np.broadcast_to(picture, (*picture.shape[:2], 3)).astype(np.int32) @ _SHIFTS


@dataclasses.dataclass(frozen=True)
class Survey:
    """What all masks of a folder hold: the numbers of each, whether they are colours, which files are lossy."""

    files: tuple[Values, ...]
    colours: bool = False
    lossy: int = 0


def survey(paths: Sequence[Path], *, colours: bool = False) -> Survey:
    """Look at every mask, several at a time; as colours if told or if one holds any. ValueError for a damaged one."""

    def look(path: Path) -> tuple[Values | None, bool]:
        with named(path):
            raw = decode(path)
            try:
                values = _numbers(raw, colours)
            except Refused as error:
                if error.fault != "colour-mask":
                    raise
                return None, bool(raw.lossy)
        small = not colours and bool(values.min() >= 0 and values.max() < 256)
        # Numbers below 256 are told apart in the same way whatever the file's bits.
        return values_of(values.astype(np.uint8) if small else values, measure_pieces=small), bool(raw.lossy)

    with ThreadPoolExecutor(4, thread_name_prefix="unet-jax-mask") as pool:
        found = list(pool.map(look, paths))
        if any(values is None for values, _ in found):
            return survey(paths, colours=True)
    return Survey(tuple(values for values, _ in found if values), colours, sum(lossy for _, lossy in found))


def decide(found: Survey, *, ignore: int | None = None) -> Legend:
    """The legend of masks about which nothing is known but what they hold.

    * one number beside 0: background and foreground
    * colours: a class each, black first, the others by red, green, blue
    * greys between 0 and 255, as soft edges and JPEG leave them: foreground from 128 up
    * numbers that are objects' (`labels.decide_kind`), counted through in most files: background and foreground
    * up to 256 other numbers: a class each; 255 beside 0..n does not count

    Raises:
        ValueError: for masks that are all empty, and for more than 256 classes.
    """
    files = [_without(file, ignore) for file in found.files]
    totals: Counter[int] = Counter()
    for file in files:
        totals.update(dict(zip(file.values, file.counts, strict=True)))
    values = sorted(totals)
    skipped = () if ignore is None else (ignore,)
    if not any(values):
        raise ValueError(f"all {len(files)} masks are empty (every pixel is 0): nothing can be learnt from them")
    if found.colours:
        return _by_value(values, skipped, colours=True)
    if soft := _soft(files, totals, found.lossy):
        return Legend(("background", "foreground"), ((0,), (255,)), skipped, threshold=128, notes=(soft,))
    if (len(values) <= 2 and values[0] == 0) or len(values) == 1:
        return Legend(("background", "foreground"), ((0,), tuple(v for v in values if v)), skipped)
    if found.lossy:
        raise ValueError(
            f"{found.lossy} masks are JPEG, which alters the numbers of classes ({_some(values)}): export them again "
            "as PNG from the program that drew them"
        )
    if _are_objects(files, values):
        note = (
            f"masks hold up to {max(len(f.values) for f in files) - 1} numbers each, one an object: all objects are "
            "learnt as one class (to tell them apart: python -m experiments.train_cells)"
        )
        return Legend(("background", "foreground"), ((0,), ()), skipped, objects=True, notes=(note,))
    if values[-1] == 255 and values[:-1] == list(range(len(values) - 1)) and len(values) > 2 and ignore is None:
        note = f"value 255 beside 0..{len(values) - 2} is taken as not annotated, and does not count"
        return dataclasses.replace(_by_value(values[:-1], (255,), colours=False), notes=(note,))
    return _by_value(values, skipped, colours=False)


def legend_of(classes: Mapping[str, int], found: Survey, *, ignore: int | None = None) -> Legend:
    """The legend that the user gives: names and values, the background (0) added where it is not named.

    Where there is one class beside the background, and masks have soft edges, a pixel is of it from half its value up.
    Raises ValueError for two names of one value, and more than 256 classes.
    """
    chosen = dict(classes) if 0 in classes.values() else {"background": 0, **classes}
    names = tuple(sorted(chosen, key=lambda name: chosen[name] != 0))
    if len(set(chosen.values())) < len(chosen) or len(chosen) > MAX_CLASSES:
        raise ValueError(f"--classes {_some(chosen.items())}: give up to {MAX_CLASSES} names, each a value of its own")
    legend = Legend(names, tuple((chosen[name],) for name in names), () if ignore is None else (ignore,), found.colours)
    beyond = {v for file in found.files for v in file.values} - set(chosen.values()) - {ignore}
    top = max(chosen.values())
    if beyond and not found.colours and len(names) == 2 and top > 1 and max(beyond) <= 255:
        note = f"masks hold greys beside 0 and {top}: a pixel of {(top + 1) // 2} or more is {names[1]}"
        return dataclasses.replace(legend, threshold=(top + 1) // 2, notes=(note,))
    return legend


def _by_value(values: Sequence[int], ignored: tuple[int, ...], *, colours: bool) -> Legend:
    """A class for every value, in order."""
    if len(values) > MAX_CLASSES:
        what = "colours" if colours else "numbers"
        raise ValueError(
            f"masks hold {len(values)} {what}: with up to {MAX_CLASSES} classes these are soft edges or objects: save "
            "masks without smoothing as PNG, or give --classes NAME=VALUE ..."
        )
    names = tuple("background" if v == 0 else _name(v, colours) if colours else f"class {v}" for v in values)
    note = f"{len(values)} {'colours' if colours else 'values'} in the masks, a class each: {_some(names)}"
    return Legend(names, tuple((v,) for v in values), ignored, colours, notes=(note,))


def _soft(files: Sequence[Values], totals: Counter[int], lossy: int) -> str:
    """What is said of masks that are all but black and white, "" where they are something else."""
    if max(totals) < 240 or max(totals) > 255 or len(totals) < 3:
        return ""
    if not lossy and not any(anti_aliased(file, None) for file in files):
        return ""
    between = sum(count for value, count in totals.items() if 32 <= value < 224) / sum(totals.values())
    if between > 0.2:
        return ""
    why = f"{lossy} masks are JPEG" if lossy else "soft edges"
    return (
        f"masks hold greys between 0 and 255 ({why}; {100 * between:.2g} % of the pixels are neither dark nor bright): "
        "a pixel of 128 or more is foreground"
    )


def _are_objects(files: Sequence[Values], values: Sequence[int]) -> bool:
    try:
        numbered = decide_kind(files) == "instances"
    except ValueError:  # open: classes, unless there are too many
        return len(values) > MAX_CLASSES
    # Objects are numbered through: a file that holds 5 holds 4. Of few classes any may be missing.
    found = [set(file.values) - {0} for file in files]
    gaps = sum(max(numbers) > len(numbers) for numbers in found if numbers)
    return numbered and (len(values) > FEW or gaps <= sum(map(bool, found)) / 2)


def _without(file: Values, ignore: int | None) -> Values:
    kept = [(v, n) for v, n in zip(file.values, file.counts, strict=True) if v != ignore]
    return file._replace(values=tuple(v for v, _ in kept), counts=tuple(n for _, n in kept))


def _name(value: int, colours: bool) -> str:
    return f"#{value:06x}" if colours else str(value)


def _some(things: Iterable[object]) -> str:
    things = list(things)
    return ", ".join(map(str, things[:10])) + (f", ... {things[-1]}" if len(things) > 10 else "")
