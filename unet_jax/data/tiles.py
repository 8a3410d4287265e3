"""Geometry of crops and tiles, for any number of axes: where they lie, which pixels they own, what is mirrored."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Shaped

UNSEEN = -1
"""Label of what lies beyond the edge of an image: its mirror image is no object, and its mask is False."""


class Tile(NamedTuple):
    """A window at `origin` (may be negative) that owns the pixels from `start` up to `stop`, in image coordinates."""

    origin: tuple[int, ...]
    start: tuple[int, ...]
    stop: tuple[int, ...]


def tiles(size: Sequence[int], *, patch: Sequence[int], margin: int | Sequence[int]) -> list[Tile]:
    """Windows over an image of `size` pixels (*S) that own every pixel exactly once.

    An owned pixel is at least `margin` pixels from its window's edge, except at the image's own edge. Windows lie
    within the image, evenly spread; where the image is smaller than the patch, one window has it in its middle. The
    margin may differ from axis to axis.
    Raises ValueError when the margins leave nothing of a patch, or the numbers of axes differ.
    """
    if len(size) != len(patch):
        raise ValueError(f"an image with {len(size)} axes {tuple(size)} cannot be cut into patches {tuple(patch)}")
    margins = (margin,) * len(patch) if isinstance(margin, int) else tuple(margin)
    for m, p in zip(margins, patch, strict=True):
        if m < 0 or 2 * m >= p:
            raise ValueError(f"margin {m} of a patch {tuple(patch)}: choose 0 <= margin < {(p + 1) // 2}")
    axes = [_axis(n, p, m) for n, p, m in zip(size, patch, margins, strict=True)]
    return [Tile(*zip(*windows, strict=True)) for windows in itertools.product(*axes)]


def _axis(n: int, patch: int, margin: int) -> list[tuple[int, int, int]]:
    """(origin, start, stop) of the windows along one axis; neighbours share the overlap half and half."""
    if n <= patch:
        return [((n - patch) // 2, 0, n)]
    steps = math.ceil((n - patch) / (patch - 2 * margin))
    origins = [i * (n - patch) // steps for i in range(steps + 1)]
    cuts = [0, *((a + b + patch) // 2 for a, b in itertools.pairwise(origins)), n]
    return list(zip(origins, cuts[:-1], cuts[1:], strict=True))


def cut(array: Shaped[np.ndarray, "..."], origin: Sequence[int], patch: Sequence[int]) -> Shaped[np.ndarray, "..."]:
    """Window of `patch` pixels at `origin` over the first axes; mirrored outside, without doubling the edge.

    A view where the window lies within the array. An array of any size, 1 included, serves.
    """
    for axis, (start, length) in enumerate(zip(origin, patch, strict=True)):
        n = array.shape[axis]
        if start >= 0 and start + length <= n:
            array = array[(slice(None),) * axis + (slice(start, start + length),)]
        else:
            array = np.take(array, _mirror(np.arange(start, start + length), n), axis=axis)
    return array


def cut_label(label: Int[np.ndarray, "..."], origin: Sequence[int], patch: Sequence[int]) -> Int[np.ndarray, "..."]:
    """`cut` of a label: `UNSEEN` outside, since an object mirrored under its own number would be one in two places."""
    place = tuple(slice(max(-o, 0), min(n - o, p)) for o, p, n in zip(origin, patch, label.shape, strict=True))
    if all(part == slice(0, p) for part, p in zip(place, patch, strict=True)):
        return cut(label, origin, patch)
    window = np.full(tuple(patch), UNSEEN, label.dtype)
    window[place] = label[tuple(slice(max(o, 0), o + p) for o, p in zip(origin, patch, strict=True))]
    return window


def owned(shape: Sequence[int], tile: Tile) -> Bool[np.ndarray, "..."]:
    """Mask (*shape) of a tile's window, True on the pixels it owns."""
    mask = np.zeros(tuple(shape), bool)
    mask[inside(tile)] = True
    return mask


def inside(tile: Tile) -> tuple[slice, ...]:
    """Where the owned pixels lie within the window."""
    return tuple(slice(a - o, b - o) for o, a, b in zip(tile.origin, tile.start, tile.stop, strict=True))


def _mirror(index: Int[np.ndarray, " n"], n: int) -> Int[np.ndarray, " n"]:
    """Indices 0..n-1 of the mirrored continuation ... 2 1 0 1 2 ... n-2 n-1 n-2 ..., of period 2 (n - 1)."""
    period = max(2 * (n - 1), 1)
    index = index % period
    return np.minimum(index, period - index) if n > 1 else np.zeros_like(index)
