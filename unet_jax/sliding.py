"""A volume of any size through a network of one tile size, cut, weighted and added up on the device.

The geometry and the weights are those of `blending`, which does the same on the host for images that are larger than
any memory; here the whole volume and its result lie on the device, and only they cross the bus.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Shaped

from unet_jax import parallel
from unet_jax.blending import shares
from unet_jax.data.tiles import cut, tiles


def sliding_window(
    forward: Callable[[Array], Array],
    image: Shaped[np.ndarray, "*s c"],
    *,
    patch: Sequence[int],
    overlap: float = 0.5,
    batch: int = 2,
) -> Float32[Array, "*s k"]:
    """Result of `forward` for a whole volume, on the first device.

    Tiles overlap by at least `overlap` of the patch along each axis; each voxel is the mean of its tiles, weighted with
    a Gaussian about a tile's middle. Along an axis where the volume is smaller than the patch it is mirrored around.

    Args:
        forward: maps (B, *patch, C) to (B, *patch, K), its batch split over the devices; B = batch always.
        image: (*S, C).
        patch: voxels of a tile along each axis.
        overlap: 0 <= overlap < 1.
        batch: tiles a call.

    Raises:
        ValueError: for an overlap, a batch or a patch that cannot be.

    Source: Isensee et al. 2021, nnU-Net, sliding-window inference.
    """
    if not 0 <= overlap < 1 or batch < 1:
        raise ValueError(f"overlap {overlap}, batch {batch}: choose 0 <= overlap < 1 and batch >= 1")
    size, patch = image.shape[:-1], tuple(patch)
    room = tuple(max(n, p) for n, p in zip(size, patch, strict=True))
    start = tuple((n - r) // 2 for n, r in zip(size, room, strict=True))  # 0, or before the volume
    origins, weights = _plan(room, patch, overlap)
    mesh, home = parallel.data_mesh(batch), jax.local_devices()[0]
    volume = jax.device_put(np.ascontiguousarray(cut(image, start, room)), home)
    canvas = None
    for first in range(0, len(origins), batch):
        chosen = np.arange(first, first + batch) % len(origins)
        real = np.arange(first, first + batch) < len(origins)
        here = jnp.asarray(origins[chosen])
        result = forward(jax.device_put(_gather(volume, here, patch), parallel.split(mesh)))
        result = jax.device_put(result, home)
        if canvas is None:
            canvas = jax.device_put(jnp.zeros((*room, result.shape[-1]), jnp.float32), home)
        canvas = _add(canvas, here, [w[chosen] for w in weights], real.astype(np.float32), result)
    inside = tuple(slice(-s, -s + n) for s, n in zip(start, size, strict=True))
    return canvas[inside]


def margins(patch: Sequence[int], overlap: float) -> list[int]:
    """Voxels at each end of a tile's axes that its neighbours cover too."""
    return [min(math.ceil(overlap * p / 2), (p - 1) // 2) for p in patch]


def _plan(room: tuple[int, ...], patch: tuple[int, ...], overlap: float) -> tuple[np.ndarray, list[np.ndarray]]:
    """Corners of all tiles (N, rank), and along each axis the share of each in the voxels it covers (N, patch)."""
    found = tiles(room, patch=patch, margin=margins(patch, overlap))
    axes = [sorted({tile.origin[axis] for tile in found}) for axis in range(len(room))]
    tables = [shares(n, p, origins) for n, p, origins in zip(room, patch, axes, strict=True)]
    origins = np.array(list(itertools.product(*axes)), np.int32)
    weights = [np.stack([table[int(o)] for o in origins[:, axis]]) for axis, table in enumerate(tables)]
    return origins, weights


@partial(jax.jit, static_argnums=2)
def _gather(volume: Array, origins: Array, patch: tuple[int, ...]) -> Array:
    """Tiles (B, *patch, C) at the corners."""
    shape = (*patch, volume.shape[-1])
    return jax.vmap(lambda at: jax.lax.dynamic_slice(volume, (*at, jnp.int32(0)), shape))(origins)


@partial(jax.jit, donate_argnums=0)
def _add(canvas: Array, origins: Array, weights: list[Array], real: Array, values: Array) -> Array:
    """Add the weighted tiles one after the other, for they overlap."""
    rank = len(weights)
    for row in range(values.shape[0]):
        along = [t[row].reshape([-1 if a == axis else 1 for a in range(rank + 1)]) for axis, t in enumerate(weights)]
        at = (*origins[row], jnp.int32(0))
        part = jax.lax.dynamic_slice(canvas, at, values.shape[1:]) + real[row] * math.prod(along) * values[row]
        canvas = jax.lax.dynamic_update_slice(canvas, part, at)
    return canvas
