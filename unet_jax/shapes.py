"""Small functions on the shapes of image-like arrays (B, *S, ...)."""

from collections.abc import Sequence

from jaxtyping import Array


def centre_crop(x: Array, size: Sequence[int]) -> Array:
    """Cut (B, *S, ...) to (B, *size, ...) about the centre; the identity when the size is the same already."""
    index: list[slice] = [slice(None)]
    for have, want in zip(x.shape[1:], size, strict=False):
        start = (have - want) // 2
        index.append(slice(start, start + want))
    return x[tuple(index)]
