"""What the values of class masks mean: 0/255, numbers of classes, colours, soft edges; decided once, and said.

`survey` looks at every mask, `decide` makes a `Legend` of what it saw (or of what the user says), and the legend reads
masks as class indices 0..K-1. Nothing is guessed in silence: `Legend.notes` says what was taken for what.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from unet_jax.data.decode import Refused, decode
from unet_jax.data.images import named
from unet_jax.data.labels import Values, values_of
from unet_jax.data.legend import Legend, name_of, numbers_of
from unet_jax.data.mask_evidence import MAX_CLASSES, are_objects, like_objects, neighbours, soft_share

_NO_CLASS = {
    "background",
    "bg",
    "void",
    "unlabelled",
    "unlabeled",
    "unclassified",
    "unannotated",
    "nodata",
    "none",
    "unknown",
}


@dataclasses.dataclass(frozen=True)
class Survey:
    """What all masks of a folder hold: the numbers of each, and of how many files compression has altered them.

    `beside` is the sum of `mask_evidence.neighbours` over the masks of three or more numbers below 256; `wide` says
    that all masks are stored in more bits than that takes.
    """

    files: tuple[Values, ...]
    colours: bool = False
    lossy: int = 0
    wide: bool = False
    beside: Int64[np.ndarray, "2 256"] = dataclasses.field(default_factory=lambda: np.zeros((2, 256), np.int64))


def survey(paths: Sequence[Path], *, colours: bool = False) -> Survey:
    """Look at every mask, several at a time; as colours if told or if one holds any. ValueError for a damaged one."""

    def look(path: Path) -> tuple[Values | None, bool, bool, Any]:
        with named(path):
            raw = decode(path)
            try:
                values = numbers_of(raw, colours)
            except Refused as error:
                if error.fault != "colour-mask":
                    raise
                return None, bool(raw.lossy), False, 0
        small = not colours and bool(values.min() >= 0 and values.max() < 256)
        # Numbers below 256 are told apart in the same way whatever the file's bits.
        values = values.astype(np.uint8) if small else values
        kept = _measured(values) if small or colours else _renumbered(values)
        beside = neighbours(values) if small and len(kept.values) > 2 else 0
        return kept, bool(raw.lossy), raw.bits > 8, beside

    with ThreadPoolExecutor(4, thread_name_prefix="unet-jax-mask") as pool:
        found = list(pool.map(look, paths))
        if any(values is None for values, *_ in found):
            return survey(paths, colours=True)
    files, lossy, wide, beside = zip(*found, strict=True)
    around = sum(beside, np.zeros((2, 256), np.int64))
    return Survey(tuple(filter(None, files)), colours, sum(lossy), all(wide), around)


def _measured(values: np.ndarray) -> Values:
    return values_of(values, measure_pieces=values.dtype == np.uint8)


def _renumbered(values: np.ndarray) -> Values:
    """The same of numbers beyond 8 bits, with their pieces measured too where they are not too many."""
    there = np.unique(values)
    if len(there) > 255 or there[0] < 0:
        return _measured(values)
    dense = np.searchsorted(there, values).astype(np.uint8) + np.uint8(there[0] > 0)
    return _measured(dense)._replace(values=tuple(there.tolist()))


def decide(found: Survey, *, ignore: int | None = None) -> Legend:
    """The legend of masks about which nothing is known but what they hold.

    * one number beside 0: background and foreground
    * colours: a class each, black first, the others by red, green, blue
    * greys of soft edges and of JPEG (`mask_evidence.soft_share`): foreground from half of the greatest up
    * numbers of objects (`mask_evidence.are_objects`): background and foreground
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
    if (share := soft_share(totals, found.beside, lossy=bool(found.lossy))) is not None:
        top, half = values[-1], (values[-1] + 1) // 2
        why = f"{found.lossy} masks are JPEG" if found.lossy else "soft edges"
        note = (
            f"masks hold greys between 0 and {top} ({why}; {100 * share:.2g} % of the pixels are neither dark nor "
            f"bright): a pixel of {half} or more is foreground (if they are classes: --classes NAME=VALUE ...)"
        )
        return Legend(("background", "foreground"), ((0,), (top,)), skipped, threshold=half, notes=(note,))
    if (len(values) <= 2 and values[0] == 0) or len(values) == 1:
        return Legend(("background", "foreground"), ((0,), tuple(v for v in values if v)), skipped)
    if found.lossy:
        raise ValueError(
            f"{found.lossy} masks are JPEG, which alters the numbers of classes ({_some(values)}): export them again "
            "as PNG from the program that drew them"
        )
    if are_objects(files, values, wide=found.wide):
        note = (
            f"masks hold up to {max(len(f.values) for f in files) - 1} numbers each, one an object: all objects are "
            "learnt as one class (to tell them apart: python -m experiments.train_cells; if they are classes: "
            "--classes NAME=VALUE ...)"
        )
        return Legend(("background", "foreground"), ((0,), ()), skipped, objects=True, notes=(note,))
    if values[-1] == 255 and values[:-1] == list(range(len(values) - 1)) and len(values) > 2 and ignore is None:
        note = f"value 255 beside 0..{len(values) - 2} is taken as not annotated, and does not count"
        return dataclasses.replace(_by_value(values[:-1], (255,), colours=False), notes=(note,))
    legend = _by_value(values, skipped, colours=False)
    return dataclasses.replace(legend, notes=legend.notes + _doubts(files, values))


def legend_of(classes: Mapping[str, int], found: Survey, *, ignore: int | None = None) -> Legend:
    """The legend that the user gives: names and values, the background (0) added where it is not named.

    First is what the user calls background (or void, unlabelled ...), that of value 0 before others; where nothing is
    called so, 0 is a class like any other, and comes first.
    With two classes and masks of soft edges, a pixel is of the brighter one from half its value up.
    Raises ValueError for two names of one value, and more than 256 classes.
    """
    chosen = dict(classes) if 0 in classes.values() else {"background": 0, **classes}
    nothing = min(filter(_is_background, chosen), key=lambda name: chosen[name] != 0, default=None)
    names = tuple(sorted(chosen, key=lambda name: (name != nothing, chosen[name] != 0)))
    if len(set(chosen.values())) < len(chosen) or len(chosen) > MAX_CLASSES:
        raise ValueError(f"--classes {_some(chosen.items())}: give up to {MAX_CLASSES} names, each a value of its own")
    values = tuple((chosen[name],) for name in names)
    skipped = () if ignore is None else (ignore,)
    legend = Legend(names, values, skipped, found.colours, background=None if nothing is None else 0)
    beyond = {v for file in found.files for v in file.values} - set(chosen.values()) - {ignore}
    top = max(chosen.values())
    if beyond and not found.colours and len(names) == 2 and 0 in chosen.values() and top > 1 and max(beyond) <= 255:
        bright = max(names, key=lambda name: chosen[name])
        note = f"masks hold greys beside 0 and {top}: a pixel of {(top + 1) // 2} or more is {bright}"
        return dataclasses.replace(legend, threshold=(top + 1) // 2, notes=(note,))
    return legend


def _is_background(name: str) -> bool:
    """Whether a name says that a pixel is of no class; case, blanks and dashes apart."""
    return "".join(filter(str.isalpha, name.lower())) in _NO_CLASS


def _by_value(values: Sequence[int], ignored: tuple[int, ...], *, colours: bool) -> Legend:
    """A class for every value, in order."""
    if len(values) > MAX_CLASSES:
        what = "colours" if colours else "numbers"
        raise ValueError(
            f"masks hold {len(values)} {what}: with up to {MAX_CLASSES} classes these are soft edges or objects: save "
            "masks without smoothing as PNG, or give --classes NAME=VALUE ..."
        )
    names = tuple("background" if v == 0 else name_of(v, colours) if colours else f"class {v}" for v in values)
    note = f"{len(values)} {'colours' if colours else 'values'} in the masks, a class each: {_some(names)}"
    background = 0 if values[0] == 0 else None
    return Legend(names, tuple((v,) for v in values), ignored, colours, notes=(note,), background=background)


def _doubts(files: Sequence[Values], values: Sequence[int]) -> tuple[str, ...]:
    """What else the numbers of classes might be, and the option that says so."""
    if like_objects(files):
        return ("each number lies in one piece: if they are objects, not classes, python -m experiments.train_cells",)
    if 240 <= values[-1] <= 255:
        return (f"if greys between 0 and {values[-1]} are soft edges of one class: --classes NAME={values[-1]}",)
    return ()


def _without(file: Values, ignore: int | None) -> Values:
    kept = [(v, n) for v, n in zip(file.values, file.counts, strict=True) if v != ignore]
    return file._replace(values=tuple(v for v, _ in kept), counts=tuple(n for _, n in kept))


def _some(things: Iterable[object]) -> str:
    things = list(things)
    return ", ".join(map(str, things[:10])) + (f", ... {things[-1]}" if len(things) > 10 else "")
