"""Sources: what every data set looks like from here on, and how it is split."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, SupportsIndex, runtime_checkable


@runtime_checkable
class Source(Protocol):
    """A sequence of samples `{"image": (*S, C), "label": (*S) int32, "mask": (*S) bool, "id": str}`, each of any size.

    `ids` holds one name an image, `channels` is C, `columns` further texts an image ({"kind": ("bright", ...)}) or {}.
    `label_kind` is "instances" (0 background, 1..n objects), "binary" (0, 1) or "classes" (0..K-1).
    A sample's arrays may be shared or read-only: copy them before changing them.
    """

    @property
    def ids(self) -> tuple[str, ...]:
        """One name an image, in order."""

    @property
    def channels(self) -> int:
        """C, the same in every image."""

    @property
    def label_kind(self) -> str:
        """What a label's numbers mean."""

    @property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """Further texts, one an image."""

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, index: SupportsIndex, /) -> dict[str, Any]:
        """The sample at `index`; IndexError past the end."""


@dataclass(frozen=True)
class Subset:
    """The images of `source` at `indices`, in that order; a source again."""

    source: Source
    indices: tuple[int, ...]

    def __init__(self, source: Source, indices: Sequence[SupportsIndex]):
        """Raises IndexError when an index lies outside the source."""
        object.__setattr__(self, "source", source)
        object.__setattr__(self, "indices", tuple(range(len(source))[i] for i in indices))

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """One name an image, in order."""
        ids = self.source.ids
        return tuple(ids[i] for i in self.indices)

    @cached_property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """Further texts, one an image."""
        return {name: tuple(cells[i] for i in self.indices) for name, cells in self.source.columns.items()}

    @property
    def channels(self) -> int:
        """C, the same in every image."""
        return self.source.channels

    @property
    def label_kind(self) -> str:
        """What a label's numbers mean."""
        return self.source.label_kind

    def __len__(self) -> int:
        """Number of images."""
        return len(self.indices)

    def __getitem__(self, index: SupportsIndex, /) -> dict[str, Any]:
        """The sample at `index`."""
        return self.source[self.indices[index]]


def _digest(id: str) -> bytes:
    return hashlib.sha256(id.encode("utf-8", "surrogateescape")).digest()


def digest_of(ids: Iterable[str]) -> str:
    """Tells whether images are the same, whatever their order."""
    return hashlib.sha256("".join(sorted(_digest(id).hex() for id in ids)).encode()).hexdigest()[:16]


def place_of(id: str) -> float:
    """A number in [0, 1) that depends on the id alone: the first 8 bytes of its sha256 / 2**64."""
    return int.from_bytes(_digest(id)[:8], "big") / 2**64


def split_of(id: str) -> str:
    """Part of the data an image belongs to: "train" (70 %), "val" (15 %) or "test" (15 %), by a hash of its id alone.

    Train if `place_of` it is below 0.70, val if below 0.85, else test. So adding an image moves no other, and the same
    id falls in the same part on every machine.
    """
    u = place_of(id)
    return "train" if u < 0.70 else "val" if u < 0.85 else "test"


def split(source: Source) -> dict[str, Subset]:
    """The three parts of a source, {"train", "val", "test"}, by `split_of`.

    Raises ValueError when a part is empty, which happens to small sets.
    """
    mend = "(with 40 an empty part is very unlikely) or choose the parts yourself with Subset(source, indices)"
    return split_by(source, split_of, mend=mend)


def split_by(source: Source, part_of: Callable[[str], str], *, mend: str) -> dict[str, Subset]:
    """The parts "train", "val" and "test" of a source, to each of which `part_of(id)` gives its images.

    Raises ValueError, which ends with `mend`, when a part is empty.
    """
    indices: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for i, id in enumerate(source.ids):
        indices[part_of(id)].append(i)
    if not all(indices.values()):
        counts = ", ".join(f"{part} {len(rows)}" for part, rows in indices.items())
        raise ValueError(
            f"{len(source)} images split by the hash of their ids give {counts}: no part may be empty. Add images "
            f"{mend}"
        )
    return {part: Subset(source, rows) for part, rows in indices.items()}


FEW = 40  # images, above which an empty part is very unlikely


def split_few(source: Source) -> dict[str, Subset]:
    """The same three parts for a small set: 15 % for validation and for test, at least one each, in the hash's order.

    Unlike `split`, an image that is added may move others. Raises ValueError for fewer than three images.
    """
    return {part: Subset(source, rows) for part, rows in _deal_few(source.ids).items()}


def _deal_few(ids: Sequence[str]) -> dict[str, list[int]]:
    count = len(ids)
    if count < 3:
        raise ValueError(f"{count} images cannot be split into training, validation and test: give at least 3")
    order = sorted(range(count), key=lambda i: _digest(ids[i]))
    few = max(1, round(0.15 * count))
    parts = {"train": slice(count - 2 * few), "val": slice(count - 2 * few, count - few), "test": slice(-few, None)}
    return {part: sorted(order[rows]) for part, rows in parts.items()}


def split_any(source: Source) -> dict[str, Subset]:
    """`split`, or `split_few` of a set that `is_few`; ValueError for fewer than three images."""
    return split_few(source) if is_few(source.ids) else split(source)


def is_few(ids: Sequence[str]) -> bool:
    """Whether these are fewer than 40 images, but three, of which the hash of their ids leaves a part without any."""
    return 3 <= len(ids) < FEW and len({split_of(id) for id in ids}) < 3


def parts_of(ids: Sequence[str]) -> dict[str, str]:
    """The part, "train", "val" or "test", of each image of a set as `split_any` deals them."""
    if is_few(ids):
        return {ids[i]: part for part, rows in _deal_few(ids).items() for i in rows}
    return {id: split_of(id) for id in ids}


def lend(parts: Mapping[str, Subset], holds: Callable[[dict[str, Any]], bool]) -> tuple[dict[str, Subset], list[str]]:
    """The parts, and what was exchanged so that validation and test hold an image of which `holds(sample)` is true.

    A part without one gives its first image for the last such image of the training part, while that has two. Without
    it a set of which most images are empty may have nothing to be scored on. Where all is well, nothing moves.
    """
    rows, moved = {name: list(part.indices) for name, part in parts.items()}, []
    source = parts["train"].source
    for name in ("val", "test"):
        if any(holds(source[i]) for i in rows[name]):
            continue
        spare = [i for i in rows["train"] if holds(source[i])]
        if len(spare) > 1:
            rows["train"].remove(spare[-1])
            rows["train"].append(rows[name][0])
            rows[name][0] = spare[-1]
            moved.append(f"{source.ids[spare[-1]]} was taken from training for {name}, which had no such image")
    return {name: Subset(source, chosen) for name, chosen in rows.items()}, moved


def count_kinds(source: Source, column: str = "kind") -> dict[str, int]:
    """Number of images of each value of a column, most frequent first; {} when the source has no such column."""
    return dict(Counter(source.columns.get(column, ())).most_common())


def describe_split(parts: Mapping[str, Source]) -> str:
    """The parts of a split, one a line: "train: 388 images (300 fluorescence, 88 tissue)"."""
    lines = []
    for name, part in parts.items():
        kinds = ", ".join(f"{n} {kind}" for kind, n in count_kinds(part).items())
        lines.append(f"{name:>5}: {len(part)} images{f' ({kinds})' if kinds else ''}")
    return "\n".join(lines)


def fewer(source: Source, count: int) -> Subset:
    """`count` of the images, by the order of their ids' hashes: a larger choice holds every smaller one.

    Raises ValueError when there are not so many.
    """
    if not 1 <= count <= len(source):
        raise ValueError(f"{count} of {len(source)} images: choose from 1 to {len(source)}")
    order = sorted(range(len(source)), key=lambda i: _digest(source.ids[i]))
    return Subset(source, order[:count])
