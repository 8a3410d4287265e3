"""Small functions on the shapes of image-like arrays (B, *S, ...)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Bool


def centre_crop(x: Array, size: Sequence[int]) -> Array:
    """Cut (B, *S, ...) to (B, *size, ...) about the centre; the identity when the size is the same already."""
    index: list[slice] = [slice(None)]
    for have, want in zip(x.shape[1:], size, strict=False):
        start = (have - want) // 2
        index.append(slice(start, start + want))
    return x[tuple(index)]


def bounding_box(inside: Bool[np.ndarray, "*s"]) -> tuple[tuple[int, int], ...]:
    """First and last + 1 index of what is True, along each axis; the whole when nothing is."""
    box = []
    for axis in range(inside.ndim):
        there = np.flatnonzero(inside.any(axis=tuple(a for a in range(inside.ndim) if a != axis)))
        box.append((int(there[0]), int(there[-1]) + 1) if len(there) else (0, inside.shape[axis]))
    return tuple(box)
