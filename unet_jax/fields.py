"""Coordinate fields on the device: where each pixel of a sample looks, (rank, *S) in pixels, and what it sees there."""

from itertools import product
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from scipy.interpolate import CubicSpline

from unet_jax.data.tiles import UNSEEN


def pixels(shape):
    """The coordinates of every pixel, (rank, *S)."""
    return jnp.stack([jax.lax.broadcasted_iota(jnp.float32, shape, axis) for axis in range(len(shape))])


def angles(key, rotation):
    """One angle in radians, or three, each within ± its largest in degrees."""
    if isinstance(rotation, tuple):
        largest = jnp.asarray(rotation, jnp.float32)
        return jax.random.uniform(key, (3,), minval=-largest, maxval=largest) * (np.pi / 180)
    return jax.random.uniform(key, minval=-rotation, maxval=rotation) * (np.pi / 180)


def similarity(shape, angle, factor, spacing=None):
    """How far each pixel must look away to rotate by `angle` (radians) and enlarge by `factor`, (rank, *S)."""
    x = [p - (n - 1) / 2 for p, n in zip(pixels(shape), shape, strict=True)]
    if angle.ndim:
        matrix = jnp.eye(3) / factor
        for axis, (first, second) in enumerate(((1, 2), (0, 2), (0, 1))):
            cos, sin = jnp.cos(angle[axis]), jnp.sin(angle[axis])
            turn = jnp.eye(3).at[first, first].set(cos).at[second, second].set(cos)
            turn = turn.at[first, second].set(-sin).at[second, first].set(sin)
            matrix = jnp.matmul(turn, matrix, precision="highest")
        ratio = np.ones(3) if spacing is None else np.asarray(spacing)
        matrix = matrix * jnp.asarray(ratio[None, :] / ratio[:, None], jnp.float32)  # turned in millimetres
        return jnp.stack([sum((matrix[i, j] - float(i == j)) * x[j] for j in range(3)) for i in range(3)])
    cos, sin = jnp.cos(angle) / factor, jnp.sin(angle) / factor
    outer = [p * (1 / factor - 1) for p in x[:-2]]
    return jnp.stack([*outer, (cos - 1) * x[-2] - sin * x[-1], sin * x[-2] + (cos - 1) * x[-1]])


def elastic(key, shape, sigma, grid):
    """Random displacement in pixels, smooth, (rank, *S)."""
    if sigma == 0:
        return 0.0
    field = min(sigma, min(shape) / 16) * jax.random.normal(key, (len(shape),) + (grid,) * len(shape))
    for n in shape:
        spline = CubicSpline(np.linspace(0, max(n - 1, 1), grid), np.eye(grid), bc_type="natural")(np.arange(n))
        # contracts the first grid axis and appends the pixel axis; full precision, for bfloat16 would jitter the pixels
        field = jnp.tensordot(field, jnp.asarray(spline, jnp.float32), axes=(1, 1), precision="highest")
    return field


def resample(image, label, mask, field):
    """One sample at `field` (rank, *S), in pixels: image linear and mirrored beyond the edge, label and mask nearest.

    Beyond the edge the label is `UNSEEN` and the mask False: an object and its mirror image are not one object.
    """
    shape = label.shape
    position, nearest, seen, fractions = 0, 0, True, []
    for coordinate, n in zip(field, shape, strict=True):
        period = max(2 * (n - 1), 1)
        rest = coordinate - period * jnp.floor(coordinate / period)
        inside = jnp.clip(jnp.minimum(rest, period - rest), 0, n - 1)
        low = jnp.clip(jnp.floor(inside), 0, max(n - 2, 0))
        position = position * n + low.astype(jnp.int32)
        nearest = nearest * n + jnp.floor(inside + 0.5).astype(jnp.int32)
        seen &= (coordinate >= -0.5) & (coordinate <= n - 0.5)
        fractions.append((inside - low)[..., None])
    strides = [prod(shape[axis + 1 :]) for axis in range(len(shape))]
    flat, warped = image.reshape(-1, image.shape[-1]), 0
    for corner in product((0, 1), repeat=len(shape)):
        offset = sum(c * s for c, s, n in zip(corner, strides, shape, strict=True) if n > 1)
        weight = prod(upper if c else 1 - upper for c, upper in zip(corner, fractions, strict=True))
        warped = warped + weight * flat.at[position + offset].get(mode="promise_in_bounds")
    moved, kept = (x.reshape(-1).at[nearest].get(mode="promise_in_bounds") for x in (label, mask))
    return warped, jnp.where(seen, moved, UNSEEN), kept & seen
