"""Large scenes as many small samples, how samples are split, and how often each is visited; no pixel is copied."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, SupportsIndex

import numpy as np

from unet_jax.data.source import Source, Subset, lend, split, split_few


class Windows:
    """The images of `source`, large ones cut into equal windows of about `side` pixels that share no pixel.

    A window is a view of its image, so that a scene is cut on the fly. Crops taken from a window lie within it. An
    image less than twice the side in an axis stays whole along it. A window's id is its image's and its corner.
    """

    def __init__(self, source: Source, side: int):
        """Looks at the size of every image."""
        self.source, self.side = source, side
        self.channels, self.label_kind = source.channels, source.label_kind
        inner: Any = source
        while isinstance(inner, Subset):
            inner = inner.source
        self.normalised = getattr(inner, "normalised", False)
        self._places: list[tuple[int, tuple[slice, ...]]] = []
        for i in range(len(source)):
            axes = [_parts(n, side) for n in source[i]["label"].shape]
            for place in np.ndindex(*map(len, axes)):
                self._places.append((i, tuple(parts[k] for parts, k in zip(axes, place, strict=True))))
        whole = np.bincount([i for i, _ in self._places], minlength=len(source)) == 1
        self.ids: tuple[str, ...] = tuple(
            source.ids[i] if whole[i] else f"{source.ids[i]}@{','.join(str(s.start) for s in place)}"
            for i, place in self._places
        )
        self.columns: dict[str, tuple[str, ...]] = {
            name: tuple(cells[i] for i, _ in self._places) for name, cells in source.columns.items()
        }

    def __len__(self) -> int:
        """Number of windows."""
        return len(self._places)

    def __getitem__(self, index: SupportsIndex, /) -> dict[str, Any]:
        """The window at `index`."""
        i, place = self._places[range(len(self))[index]]
        return _window(self.source[i], place) | {"id": self.ids[index]}

    def in_turn(self) -> Iterator[dict[str, Any]]:
        """All windows, in order; an image that the source does not keep is decoded once for all of its windows."""
        for i, places in itertools.groupby(zip(self._places, self.ids, strict=True), key=lambda entry: entry[0][0]):
            sample = self.source[i]
            yield from (_window(sample, place) | {"id": id} for (_, place), id in places)


def _window(sample: dict[str, Any], place: tuple[slice, ...]) -> dict[str, Any]:
    return {name: sample[name][place] for name in ("image", "label", "mask")}


def _parts(n: int, side: int) -> list[slice]:
    cuts = np.linspace(0, n, max(1, n // side) + 1).astype(int).tolist()
    return [slice(a, b) for a, b in itertools.pairwise(cuts)]


def share_out(source: Source) -> tuple[Source, dict[str, Subset], list[str]]:
    """The images, their split, and remarks on it for the user.

    They are split by the hash of their names, or, where they are few, at least one each for validation and test; of
    fewer than three images windows are split. Validation and test hold foreground where there is enough of it.
    """
    remarks = []
    try:
        parts = split(source)
    except ValueError:
        if len(source) < 3:
            side = min(min(source[i]["label"].shape) for i in range(len(source))) // 4
            source = Windows(source, max(side, 16))
            remarks.append(f"too few images to split: cut into {len(source)} windows that share no pixel, to be split")
        else:
            remarks.append(f"{len(source)} images are few: at least one of them is for validation, one for the test")
        parts = split_few(source)
    parts, moved = lend(parts, lambda sample: bool(sample["label"][sample["mask"]].any()))
    return source, parts, [*remarks, *(f"an image with foreground, {line}" for line in moved)]


def scheduled_visits(source: Source, *, patch: Sequence[int], crops: int, balance: float) -> Subset:
    """The samples, each as often as an epoch of about `crops` crops visits it, at least once.

    In proportion to the root of its size in patches, and to the repeat factor of the rarest class it holds:
    max over its classes of sqrt(balance / share of the samples with that class), at least 1 and at most 8.

    Source: Gupta et al. 2019, LVIS, section 5.2 (repeat factor sampling).
    """
    held, size = [], []
    # A sample may be a view of a scene of gigabytes: none is kept.
    for sample in source.in_turn() if isinstance(source, Windows) else map(source.__getitem__, range(len(source))):
        held.append(np.flatnonzero(np.bincount(sample["label"][sample["mask"]])))
        size.append(max(1, sample["label"].size / math.prod(patch)))
    share = np.bincount(np.concatenate(held)) / len(source)
    factor = np.sqrt(balance / np.maximum(share, 1e-9)).clip(1, 8)
    repeat = [factor[classes].max(initial=1) for classes in held]
    weight = np.sqrt(size) * repeat
    ends = np.rint(np.cumsum(weight) * crops / weight.sum()).astype(int)
    return Subset(source, np.repeat(np.arange(len(source)), np.maximum(np.diff(ends, prepend=0), 1)).tolist())
