"""Objects of an image that is never whole in memory: labels of overlapping windows become labels of one image."""

import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import IO, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, Int64, Shaped
from scipy import sparse
from scipy.sparse import csgraph

from unet_jax.blending import Band

Separate = Callable[[np.ndarray], np.ndarray]  # values (h, W, K) -> ids (h, W), 0 is background


class Window(NamedTuple):
    """Values of the rows `low` to `high` of an image; the rows `start` to `stop` of them are this window's own."""

    low: int
    start: int
    stop: int
    high: int
    values: Float32[np.ndarray, "n w k"]


def own(window: Window) -> Shaped[np.ndarray, "n w *k"]:
    """The values of a window's own rows."""
    return window.values[window.start - window.low : window.stop - window.low]


def windows(bands: Iterable[Band], *, before: int, after: int) -> Iterator[Window]:
    """Bands of one image, each with so many rows more `before` and `after` it as the image has."""
    rows, first = None, 0
    waiting: deque[tuple[int, int]] = deque()
    for band in bands:
        rows = band.values if rows is None else np.concatenate([rows, band.values])
        waiting.append((band.start, band.stop))
        while waiting and band.stop >= min(waiting[0][1] + after, band.size[0]):
            start, stop = waiting.popleft()
            low, high = max(start - before, 0), min(stop + after, band.size[0])
            yield Window(low, start, stop, high, rows[low - first : high - first])
            keep = max(stop - before, 0)
            rows, first = rows[keep - first :], keep


class Stitcher:
    """Numbers the objects of windows from the first to the last, and remembers which of them are one object.

    With agree = 0 an object of a window and one of the next are the same when they have a pixel in common: for
    connected pieces of the foreground, windows that share one row then give exactly the objects of the whole image.
    Otherwise they are the same when one of them crosses the seam, where the next window's own rows begin, each has
    pixels on its own side of it, and they share at least `agree` of the pixels that the smaller one has in the rows
    that both windows see. What a window cuts at its far edge, and so may not tell apart, joins nothing.
    """

    def __init__(self, separate: Separate, *, agree: float = 0.0, min_area: int = 0):
        """`separate` is called once a window; what has fewer than `min_area` pixels in all is no object."""
        self._separate, self._agree, self._min_area = separate, agree, min_area
        self._last: tuple[int, Int32[np.ndarray, "n w"], int] | None = None  # high, label, ids given before it
        self._links: list[np.ndarray] = []
        self.count = 0

    def add(self, window: Window) -> tuple[Int32[np.ndarray, "n w"], int, int]:
        """Label of the window's own rows with ids from 1 on, how many ids it has, and how many came before."""
        label = np.asarray(self._separate(window.values), np.int32)
        given = self.count
        if self._last is not None:
            high, last, before = self._last
            shared = high - window.low
            if shared > 0:
                links = self._agreeing(last[len(last) - shared :], label[:shared], window.start - window.low)
                self._links.append(links + np.array([[before], [given]]))
        count = int(label.max(initial=0))
        self._last, self.count = (window.high, label, given), given + count
        return own(window._replace(values=label)), count, given

    def _agreeing(self, above: np.ndarray, below: np.ndarray, seam: int) -> Int64[np.ndarray, "2 n"]:
        both = (above > 0) & (below > 0)
        pairs, common = np.unique(np.stack([above[both], below[both]]), axis=1, return_counts=True)
        pairs = pairs.astype(np.int64)
        areas = np.bincount(above.ravel())[pairs[0]], np.bincount(below.ravel())[pairs[1]]
        same = common >= self._agree * np.minimum(*areas)
        if self._agree > 0:
            same &= np.isin(pairs[0], above[:seam]) & np.isin(pairs[1], below[seam:])
            same &= np.isin(pairs[0], _crossing(above, seam)) | np.isin(pairs[1], _crossing(below, seam))
        return pairs[:, same]

    def resolve(self, area: Int64[np.ndarray, " n"]) -> tuple[Int32[np.ndarray, " m"], int]:
        """Final id of every id given (0 of 0), and how many there are; `area` is what each has in own rows.

        Final ids are 1..n without gaps, in the order in which the objects appear; an object that no window owns a pixel
        of, or fewer than `min_area`, gets none.
        """
        links = np.concatenate([np.zeros((2, 0), np.int64), *self._links], axis=1) - 1
        graph = sparse.coo_array((np.ones(links.shape[1], bool), tuple(links)), shape=(self.count,) * 2)
        pieces, piece = csgraph.connected_components(graph, directed=False)
        there = np.bincount(piece, area, minlength=pieces) >= max(self._min_area, 1)
        first = np.full(pieces, self.count)
        np.minimum.at(first, piece, np.arange(self.count))
        number = np.zeros(pieces, np.int32)
        order = np.argsort(first)
        number[order] = np.cumsum(there[order]) * there[order]
        return np.concatenate([[0], number[piece]]).astype(np.int32), int(there.sum())


def _crossing(label: np.ndarray, seam: int) -> np.ndarray:
    """Ids that have pixels one above the other on both sides of the seam, in front of row `seam`."""
    if not 0 < seam < len(label):
        return np.zeros(0, label.dtype)
    return label[seam][label[seam] == label[seam - 1]]


class Stash:
    """Integer arrays kept compressed in a temporary file, to be read again from the first on."""

    def __init__(self, file: IO[bytes]):
        """The file is empty, open for reading and writing, and closed by whoever opened it."""
        self._file = file
        self._entries: list[tuple[int, tuple[int, ...], np.dtype]] = []

    def append(self, array: np.ndarray) -> None:
        """Keep a copy."""
        packed = zlib.compress(np.ascontiguousarray(array), level=1)
        self._file.write(packed)
        self._entries.append((len(packed), array.shape, array.dtype))

    def __iter__(self) -> Iterator[np.ndarray]:
        """The arrays as they were appended; read one time after the other."""
        self._file.seek(0)
        for length, shape, kind in self._entries:
            yield np.frombuffer(zlib.decompress(self._file.read(length)), kind).reshape(shape)
