"""What a head learns from a label: `label (B, *S) -> target (B, *S)`, pure and cheap enough for the step.

Labels are instance ids, 0 is background; two or three spatial axes. What is measured from pixel to pixel ends at a
radius in pixels, and beyond the edge of the image, or where the label is negative (`tiles.UNSEEN`), nothing is seen: an
object cut by the edge has no border there.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32

Label = Int32[Array, "b *s"]
_FAR = 1e6  # squared pixels: further than any radius
_IDS = 2**16  # ids are told apart up to this number; no crop holds two objects that are so far apart in number
_HIGHEST = 2**31 - 1


def foreground(label: Int32[Array, "*s"]) -> Int32[Array, "*s"]:
    """1 where the label is an object, 0 on the background, from instance ids (0 is background) or a binary label.

    Args:
        label: (B, *S), or one image, of ids.

    Returns:
        The same shape, in {0, 1}.
    """
    return (label > 0).astype(jnp.int32)


def border(label: Label, *, radius: int = 2) -> Int32[Array, "b *s"]:
    """0 background, 1 inside, 2 on an object within `radius` pixels along the axes (a square) of another object.

    The border between touching objects, half on each; a gap between near ones stays background.
    """
    highest, lowest = label, jnp.where(label > 0, label, _HIGHEST)

    def spread(extremes, _, moved):
        return jnp.maximum(extremes[0], moved[0]), jnp.minimum(extremes[1], moved[1])

    for axis in range(1, label.ndim):
        both = highest, lowest
        highest, lowest = _along(axis, radius, spread, both, seen=both, beyond=(0, _HIGHEST))
    return jnp.where((label > 0) & (highest != lowest), 2, foreground(label))


def weight_map(label: Label, *, w0: float = 10.0, sigma: float = 5.0, radius: int = 12) -> Float32[Array, "b *s"]:
    """1 + w0 exp(-(d1 + d2)² / 2 sigma²), large where two objects are near: a price for joining them.

    d1 and d2 are the distances in pixels to the nearest object and to the second nearest; d1 = 0 within an object. An
    object further than `radius` along an axis is not seen. The weight of the classes is left to the loss.

    Source: Ronneberger et al. 2015, equation 2.
    """
    near = jnp.where(label > 0, 0.0, _FAR), label  # squared distance to the nearest object, and its id
    next_ = jnp.full(label.shape, _FAR), jnp.zeros_like(label)

    def nearer(nearest, step, moved):
        for squared, number in moved:
            nearest = _two_nearest(*nearest, (squared + step**2, number))
        return nearest

    for axis in range(1, label.ndim):
        near, next_ = _along(axis, radius, nearer, (near, next_), seen=(near, next_), beyond=((_FAR, 0), (_FAR, 0)))
    between = jnp.sqrt(near[0]) + jnp.sqrt(next_[0])
    return 1 + w0 * jnp.exp(-(between**2) / (2 * sigma**2))


def distance(label: Label, *, radius: int = 16) -> Float32[Array, "b *s"]:
    """Euclidean distance in pixels from each pixel of an object to the nearest that is not of it, at most `radius`.

    Exact below the radius; 0 on the background.

    Source: the separable passes of Felzenszwalb & Huttenlocher 2012, section 2, within the radius.
    """
    squared = jnp.full(label.shape, _FAR)

    def shorter(squared, step, moved):
        other, further = moved
        there = jnp.where(other < 0, _FAR, jnp.where(other == label, further, 0))
        return jnp.minimum(squared, there + step**2)

    for axis in range(1, label.ndim):
        squared = _along(axis, radius, shorter, squared, seen=(label, squared), beyond=(-1, _FAR))
    return jnp.where(label > 0, jnp.minimum(jnp.sqrt(squared), radius), 0)


def centre_offset(label: Label) -> Float32[Array, "b *s r"]:
    """From each pixel of an object to the object's centre of mass, in pixels, one component an axis; 0 elsewhere.

    The centre is that of the part which lies in the image.
    """
    rank = label.ndim - 1

    def one(ids: Array) -> Array:
        place = jnp.stack([jax.lax.broadcasted_iota(jnp.float32, ids.shape, axis) for axis in range(rank)], axis=-1)
        flat = jnp.maximum(ids, 0).reshape(-1) % _IDS
        ones = jnp.concatenate([place.reshape(-1, rank), jnp.ones((flat.size, 1))], axis=-1)
        sums = jnp.zeros((_IDS, rank + 1)).at[flat].add(ones, mode="promise_in_bounds")
        centres = sums[:, :-1] / jnp.maximum(sums[:, -1:], 1)
        return centres.at[flat].get(mode="promise_in_bounds").reshape(place.shape) - place

    return jnp.where(label[..., None] > 0, jax.vmap(one)(label), 0)


def flow(label: Label, *, slow: float = 4.0) -> Float32[Array, "b *s r"]:
    """Direction to the centre of the object: `centre_offset` o as o / max(|o|, slow), one component an axis.

    Of length 1, and shorter within `slow` pixels of the centre, where whoever follows it comes to rest. Unlike the
    offset it asks the same of large and small objects. In the spirit of Stringer et al. 2021 (Cellpose), whose field
    follows a diffusion instead of the straight line.
    """
    offset = centre_offset(label)
    length = jnp.sqrt(jnp.sum(offset**2, axis=-1, keepdims=True))
    return offset / jnp.maximum(length, slow)


def _along(axis: int, radius: int, join: Callable, result: Any, *, seen: Any, beyond: Any) -> Any:
    """`join(result, step, seen as it is `step` pixels further)` for every step from -radius to radius.

    A loop, since written out it would take half a minute to compile.
    """

    def pad(x: Array, fill: float) -> Array:
        return jnp.pad(x, [(radius, radius) if a == axis else (0, 0) for a in range(x.ndim)], constant_values=fill)

    n = jax.tree.leaves(seen)[0].shape[axis]
    padded = jax.tree.map(pad, seen, beyond)

    def visit(number: Array, result: Any) -> Any:
        moved = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, number, n, axis), padded)
        return join(result, (number - radius).astype(jnp.float32), moved)

    return jax.lax.fori_loop(0, 2 * radius + 1, visit, result)


def _two_nearest(near, next_, other):
    """The nearest two of three (squared distance, id), each id once; an id of 0 is as far as can be."""
    same = other[1] == near[1]
    closer = other[0] < near[0]
    second = tuple(
        jnp.where(same, old, jnp.where(closer, first, jnp.where(other[0] < next_[0], new, old)))
        for old, first, new in zip(next_, near, other, strict=True)
    )
    first = tuple(jnp.where(closer, new, old) for old, new in zip(near, other, strict=True))
    return first, second


def any_in_window(label: Int32[Array, "b *s"], *, window: int) -> Int32[Array, "b *s"]:
    """The largest value of each window of `window` pixels a side, on all of its pixels: what a classifier may know.

    Args:
        label: (B, *S) classes, S multiples of the window; the windows do not overlap.
        window: in pixels.

    Returns:
        The same shape.
    """
    counts = [n // window for n in label.shape[1:]]
    split = label.reshape(label.shape[0], *(n for count in counts for n in (count, window)))
    most = split.max(axis=range(2, split.ndim, 2))
    for axis in range(1, most.ndim):
        most = jnp.repeat(most, window, axis=axis)
    return most
