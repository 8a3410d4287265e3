"""Following a flow: where every pixel of an image ends when it goes with the direction that a network gives it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Bool, Float, Float32

_BUCKET = 256  # sizes are rounded up to multiples of it, so that a folder of sizes compiles few programs


def follow(
    flow: Float[np.ndarray, "*s r"], inside: Bool[np.ndarray, "*s"], *, doublings: int = 7
) -> Float32[np.ndarray, "*s r"]:
    """The whole way of every pixel, in pixels, after 2**doublings steps of its flow; on the device, under jit.

    Outside `inside` the flow is 0, so a pixel that leaves it stays where it left. Between pixels the flow is linear.
    After k doublings d is the way of 2**k steps, and d(x) + d(x + d(x)) that of twice as many.

    Args:
        flow: (*S, r), one component an axis of S, at most about a pixel long.
        inside: (*S).
        doublings: 7 for a way of at most 128 pixels.

    Source: the scaling and squaring of Arsigny et al. 2006, section 3.
    """
    shape = inside.shape
    room = [(0, -n % _BUCKET) for n in shape]
    padded = np.pad(np.where(inside[..., None], flow, 0).astype(np.float32), [*room, (0, 0)])
    return np.asarray(_whole_way(padded, doublings=doublings))[tuple(map(slice, shape))]


@partial(jax.jit, static_argnames="doublings")
def _whole_way(flow: Float32[Array, "*s r"], *, doublings: int) -> Float32[Array, "*s r"]:
    axes = range(flow.ndim - 1)
    here = jnp.stack([jax.lax.broadcasted_iota(jnp.float32, flow.shape[:-1], axis) for axis in axes])

    def double(_, way):
        there = list(here + way)
        return way + jnp.stack([map_coordinates(part, there, order=1, mode="nearest") for part in way])

    return jnp.moveaxis(jax.lax.fori_loop(0, doublings, double, jnp.moveaxis(flow, -1, 0)), 0, -1)
