"""What each value of class masks means: decided in a training, kept in its card, and what masks are read by."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt16

from unet_jax.data.decode import Raw, Refused, decode
from unet_jax.data.folder import FolderSource
from unet_jax.data.images import image_of, label_of, named
from unet_jax.data.mask_evidence import MAX_CLASSES

IGNORED, _UNKNOWN = 65_535, 65_534  # what a legend gives for pixels that do not count, and for values it has not
_SHIFTS = np.array([65_536, 256, 1], np.int32)  # of red, green and blue


@dataclasses.dataclass(frozen=True)
class Legend:
    """Names of the classes, and the raw values of each.

    Values are numbers, or 65536 red + 256 green + blue where `colours`. With a `threshold` there are two classes, and
    a pixel is of the one of the greater value where its grey reaches it. `background` is the index of the class that
    is none, which takes part in no mean: 0, or None where every class is one of its own. `ignored` pixels do not
    count. `notes` are for the user.
    """

    names: tuple[str, ...]
    values: tuple[tuple[int, ...], ...]
    ignored: tuple[int, ...] = ()
    colours: bool = False
    threshold: int | None = None
    objects: bool = False  # whatever is not 0 is of the second class
    notes: tuple[str, ...] = ()
    background: int | None = 0

    def read(self, path: Path) -> UInt16[np.ndarray, "h w"]:
        """The mask in a file as class indices, `IGNORED` where it does not count; ValueError for other values."""
        raw = read_values(path, colours=self.colours)
        classes = self._classes(raw)
        classes[np.isin(raw, self.ignored)] = IGNORED
        if (classes == _UNKNOWN).any():
            found = [name_of(v, self.colours) for v in np.unique(raw[classes == _UNKNOWN])[:5].tolist()]
            raise ValueError(
                f"{path}: holds {', '.join(found)}, which no class has: give --ignore VALUE for pixels that do not "
                "count, or train with a name for every class (--classes NAME=VALUE ...)"
            )
        return classes

    def _classes(self, raw: np.ndarray) -> np.ndarray:
        if self.threshold is not None:
            bright_is_second = self.values[1] > self.values[0]
            return ((raw >= self.threshold) == bright_is_second).astype(np.uint16)
        if self.objects:
            return (raw != 0).astype(np.uint16)
        pairs = sorted((value, index) for index, values in enumerate(self.values) for value in values)
        known, index = (np.array(column) for column in zip(*pairs, strict=True))
        place = np.minimum(np.searchsorted(known, raw), len(known) - 1)
        return np.where(known[place] == raw, index[place], _UNKNOWN).astype(np.uint16)


def read_values(path: Path, *, colours: bool) -> Integer[np.ndarray, "h w"]:
    """The numbers in a mask, or its colours as 65536 red + 256 green + blue; lossy files too."""
    with named(path):
        return numbers_of(decode(path), colours)


def numbers_of(raw: Raw, colours: bool) -> np.ndarray:
    """The same of a decoded mask."""
    if raw.lossy and raw.values.ndim == 3 and np.ptp(raw.values, axis=-1).max() <= 24:
        raw = raw._replace(values=raw.values[..., 1])  # greys, whose channels compression has moved apart
    if not colours:
        return label_of(raw._replace(lossy=""))
    picture = image_of(raw)
    if picture.shape[-1] == 4 and (picture[..., 3] == 255).all():  # opacity that the file does not call so
        picture = picture[..., :3]
    if picture.dtype != np.uint8 or picture.shape[-1] not in (1, 3):
        raise Refused(f"holds {picture.shape[-1]} channels of {picture.dtype}: save it as 8-bit RGB")
    return np.broadcast_to(picture, (*picture.shape[:2], 3)).astype(np.int32) @ _SHIFTS


def legend_in(card: Mapping[str, Any]) -> Legend | None:
    """The legend by which the masks of a model's training were read, as its card keeps it; None where it had none.

    Raises ValueError for a legend that no training writes.
    """
    known = card.get("label_map")
    if not isinstance(known, Mapping) or "values" not in known:
        return None
    try:
        fields = {field.name: known[field.name] for field in dataclasses.fields(Legend) if field.name in known}
        fields |= {"names": tuple(known["names"]), "ignored": tuple(known["ignored"]), "notes": ()}
        legend = Legend(**fields | {"values": tuple(map(tuple, known["values"]))})
        right = [*legend.names] == [*card["classes"]] and _can_be(legend)
    except (TypeError, KeyError):
        right = False
    if not right:
        raise ValueError("the card's label_map is none that a training writes: ask for the model again")
    return legend


def _can_be(legend: Legend) -> bool:
    """Whether numbers, flags and classes of a legend go together."""
    values = [value for of_class in legend.values for value in of_class]
    numbers = [*values, *legend.ignored, *([] if legend.threshold is None else [legend.threshold])]
    filled = legend.objects or all(legend.values)
    return (
        all(type(n) is int and -(2**31) <= n < 2**31 for n in numbers)
        and type(legend.colours) is type(legend.objects) is bool
        and (legend.background is None or (type(legend.background) is int and legend.background == 0))
        and 2 <= len(legend.names) == len(legend.values) <= MAX_CLASSES
        and len(set(values)) == len(values)
        and filled
        and (not (legend.objects or legend.threshold is not None) or len(legend.names) == 2)
    )


def open_by(legend: Legend, folder: str | Path, *, ignore: int | None = None) -> FolderSource:
    """The images of a folder with labels 0..K-1, all read; pixels of the value `ignore` do not count either.

    Raises what `FolderSource` and `Legend.read` raise.
    """
    if ignore is not None:
        legend = dataclasses.replace(legend, ignored=(*legend.ignored, ignore))
    source = FolderSource(
        folder, label_kind="classes", classes=len(legend.names), ignore=IGNORED, read=legend.read
    ).preload()
    if legend.threshold is not None and not any(source[i]["label"].any() for i in range(len(source))):
        raise ValueError(
            f"{folder}: no mask reaches {legend.threshold}, from which on the training took a pixel for "
            f"{legend.names[1]}: if these masks hold other numbers, --label-kind binary"
        )
    return source


def how_to_read(legend: Legend, ignore: int | None) -> tuple[str | None, int | None, Legend | None]:
    """Label kind, ignored value and legend with which `open_named` reads labels for a model that has this legend.

    Where the training learnt numbered objects as one class, the objects stay apart; where it knew 0 and one other
    number, any other number will do.
    """
    skipped = {*legend.ignored, *(() if ignore is None else (ignore,))}
    plain = not legend.colours and legend.threshold is None and legend.background == 0
    if len(skipped) < 2 and legend.objects:
        return None, next(iter(skipped), None), None
    if len(skipped) < 2 and plain and len(legend.names) == 2 and legend.values[0] == (0,):
        return "binary", next(iter(skipped), None), None
    return None, ignore, legend


def name_of(value: int, colours: bool) -> str:
    """A value as people write it."""
    return f"#{value:06x}" if colours else str(value)
