"""Images of any size through a function of tiles of one shape: mirrored edges, weighted overlaps, full batches.

Tiles of successive images share batches, so that the network sees one shape and no empty rows but in the very last
batch. The result is put together in bands along the first axis, so that no more than one row of tiles is in memory.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Shaped

from unet_jax.data.tiles import cut, tiles

Apply = Callable[[np.ndarray], Any]  # (B, *tile, C) -> (B, *patch, K), on the device or not
Count = Callable[[int, int], Any]  # told how many more are done, and how many more there are to do


def uncounted(done: int, more: int) -> None:
    """A `Count` that nobody looks at."""


@runtime_checkable
class Rows(Protocol):
    """An image (*S, C) that gives slices of its first axis: a numpy array, or a file that is read as one goes."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of the image, channels last."""

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """The part from rows.start up to rows.stop along the first axis."""


class Band(NamedTuple):
    """Values of the rows from `start` up to `stop` of image number `image`, which has `size` (*S)."""

    image: int
    size: tuple[int, ...]
    start: int
    stop: int
    values: Float32[np.ndarray, "n *s k"]


def gaussian(length: int) -> Float32[np.ndarray, " n"]:
    """Weights of a tile along one axis: exp(-d²/2σ²), d from the middle, σ = length/8; above 3e-4 everywhere.

    Source: Isensee et al. 2021, nnU-Net, importance weighting of sliding windows.
    """
    distance = np.arange(length) - (length - 1) / 2
    return np.exp(-0.5 * (distance / (length / 8)) ** 2).astype(np.float32)


def shares(size: int, patch: int, origins: Sequence[int]) -> dict[int, Float32[np.ndarray, " p"]]:
    """Share of each window in the pixels it covers, by its origin: 0 outside the image, sum over windows 1."""
    weight = gaussian(patch).astype(np.float64)
    total = np.zeros(size)
    inside = {o: slice(max(-o, 0), min(size - o, patch)) for o in origins}
    for o, here in inside.items():
        total[here.start + o : here.stop + o] += weight[here]
    found = {}
    for o, here in inside.items():
        found[o] = np.zeros(patch, np.float32)
        found[o][here] = weight[here] / total[here.start + o : here.stop + o]
    return found


def in_batches(apply: Apply, work: Iterable[tuple[Any, np.ndarray]], batch: int) -> Iterator[tuple[Any, np.ndarray]]:
    """Apply to `batch` arrays at a time, the last batch filled up with zeros; yields (tag, result) in order.

    The next batch is on its way before the last one is waited for, so that host and device work at the same time.
    """
    under_way: deque[tuple[list[Any], Any]] = deque()
    work = iter(work)
    while group := list(itertools.islice(work, batch)):
        stack = np.zeros((batch, *group[0][1].shape), group[0][1].dtype)
        for row, (_, array) in enumerate(group):
            stack[row] = array
        under_way.append(([tag for tag, _ in group], apply(stack)))
        if len(under_way) > 1:
            yield from _unpack(*under_way.popleft())
    while under_way:
        yield from _unpack(*under_way.popleft())


def _unpack(tags: list[Any], results: Any) -> Iterator[tuple[Any, np.ndarray]]:
    yield from zip(tags, np.asarray(results), strict=False)  # rows beyond the tags are filling


def blend(
    apply: Apply,
    images: Iterable[Rows],
    *,
    patch: Sequence[int],
    overlap: float,
    batch: int,
    context: int = 0,
    count: Count = uncounted,
) -> Iterator[Band]:
    """Results of `apply` for whole images, as bands from the first row to the last, image by image.

    Args:
        apply: maps (B, *tile, C) to (B, *patch, K) where tile = patch + 2 context; always gets B = batch.
        images: (*S, C) each, of one number of channels and one dtype.
        patch: pixels of a tile's result along each axis.
        overlap: least share of a tile, along its shortest axis, that its neighbour covers too; 0 <= overlap < 1.
        batch: tiles a call.
        context: pixels of mirrored or neighbouring image that the network needs around a tile and gives no result for
            (the overlap-tile strategy of the 2015 paper).
        count: told of every image's tiles when it begins, and of every tile that is done.
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap {overlap}: choose a share of the tile, at least 0 and below 1")
    if batch < 1:
        raise ValueError(f"batch {batch}: choose at least 1")
    patch = tuple(patch)

    def work() -> Iterator[tuple[tuple["_Canvas", tuple[int, ...]], np.ndarray]]:
        for number, image in enumerate(images):
            canvas = _Canvas(number, tuple(image.shape[:-1]), patch, overlap)
            count(0, math.prod(len(origins) for origins in canvas.origins))
            for origin, array in _windows(image, canvas.origins, patch, context):
                yield (canvas, origin), array

    for (canvas, origin), values in in_batches(apply, work(), batch):
        yield from canvas.add(origin, values)
        count(1, 0)


def _windows(
    image: Rows, origins: Sequence[Sequence[int]], patch: tuple[int, ...], context: int
) -> Iterator[tuple[tuple[int, ...], Shaped[np.ndarray, "..."]]]:
    """Tiles of an image, first axis slowest, each with its context; the image is read one row of tiles at a time."""
    tile = tuple(p + 2 * context for p in patch)
    for first in origins[0]:
        start = max(first - context, 0)
        slab = image[start : min(first + patch[0] + context, image.shape[0])]
        for rest in itertools.product(*origins[1:]):
            corner = (first - context - start, *(o - context for o in rest))
            yield (first, *rest), cut(slab, corner, tile)


class _Canvas:
    """One image's result while its tiles come in: the rows that a row of tiles covers, and no more."""

    def __init__(self, number: int, size: tuple[int, ...], patch: tuple[int, ...], overlap: float):
        self.number, self.size, self.patch = number, size, patch
        margin = min(math.ceil(overlap * min(patch) / 2), (min(patch) - 1) // 2)
        found = tiles(size, patch=patch, margin=margin)
        self.origins = [sorted({tile.origin[axis] for tile in found}) for axis in range(len(size))]
        axes = zip(size, patch, self.origins, strict=True)
        self._shares = [shares(n, p, origins) for n, p, origins in axes]
        self._left = math.prod(len(origins) for origins in self.origins[1:])  # tiles to come in this row of tiles
        self._row = 0
        self._rows: np.ndarray | None = None

    def add(self, origin: tuple[int, ...], values: np.ndarray) -> Iterator[Band]:
        """Take one tile; yield the band that is complete when it was the last of its row."""
        here = tuple(slice(max(-o, 0), min(n - o, p)) for o, n, p in zip(origin, self.size, self.patch, strict=True))
        if all(len(origins) == 1 for origins in self.origins):  # the only tile: nothing to blend with
            yield Band(self.number, self.size, 0, self.size[0], values[here])
            return
        if self._rows is None:
            self._rows = np.zeros((self.patch[0], *self.size[1:], values.shape[-1]), np.float32)
        there = tuple(slice(s.start + o, s.stop + o) for s, o in zip(here[1:], origin[1:], strict=True))
        share: np.ndarray = np.ones((), np.float32)
        for axis, (o, part) in enumerate(zip(origin, here, strict=True)):
            share = share[..., None] * self._shares[axis][o][part]
        self._rows[(here[0], *there)] += share[..., None] * values[here]
        self._left -= 1
        if self._left == 0:
            yield self._finish()

    def _finish(self) -> Band:
        """Take out the rows that no later tile touches, and make room for the next row of tiles."""
        first = self.origins[0][self._row]
        last = self._row + 1 == len(self.origins[0])
        start, stop = max(first, 0), self.size[0] if last else self.origins[0][self._row + 1]
        rows = self._rows
        band = Band(self.number, self.size, start, stop, rows[start - first : stop - first])
        if not last:
            self._rows = np.zeros_like(rows)
            self._rows[: len(rows) - (stop - first)] = rows[stop - first :]
            self._row += 1
            self._left = math.prod(len(origins) for origins in self.origins[1:])
        return band


def whole(bands: Iterable[Band]) -> Iterator[Float32[np.ndarray, "..."]]:
    """Put the bands of each image together, image by image."""
    result: np.ndarray | None = None
    for band in bands:
        if band.start == 0 and band.stop == band.size[0]:
            yield band.values
            continue
        if band.start == 0:
            result = np.empty((*band.size, band.values.shape[-1]), np.float32)
        result[band.start : band.stop] = band.values
        if band.stop == band.size[0]:
            yield result


def predict_probabilities(
    apply: Apply, image: Rows, *, patch: Sequence[int], overlap: float = 0.25, batch: int = 8, context: int = 0
) -> Float32[np.ndarray, "*s k"]:
    """Result (*S, K) of `apply` for one image (*S, C) of any size; the arguments are those of `blend`."""
    return next(whole(blend(apply, [image], patch=patch, overlap=overlap, batch=batch, context=context)))
