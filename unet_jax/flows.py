"""Following a flow: where every pixel of an image ends when it goes with the direction that a network gives it."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int32

_LEAST = 2**12  # pixels; numbers of them are rounded up to powers of two, so that few programs are compiled
_STILL = 0.05  # pixels: when nobody goes further in as many steps as were made so far, all have arrived


def follow(
    flow: Float[np.ndarray, "*s r"], inside: Bool[np.ndarray, "*s"], *, doublings: int = 7
) -> Float32[np.ndarray, "n r"]:
    """The whole way of every pixel of `inside`, in pixels, after 2**doublings steps of its flow; on the device, in jit.

    Outside `inside`, and outside the image, the flow is 0, so a pixel that leaves it stays where it left. Between
    pixels the flow is linear.
    After k doublings d is the way of 2**k steps, and d(x) + d(x + d(x)) that of twice as many; it ends early where all
    have come to rest.

    Args:
        flow: (*S, r), one component an axis of S, at most about a pixel long.
        inside: (*S), N pixels of which are followed.
        doublings: 7 for a way of at most 128 pixels; 3, of 8, is enough to tell small objects apart.

    Returns:
        (N, r), in the order of `np.argwhere(inside)`.

    Source: the scaling and squaring of Arsigny et al. 2006, section 3.
    """
    places = np.argwhere(inside)
    count = len(places)
    rows = _rounded(count + 1)  # the first is that of all pixels outside
    number = np.zeros(_rounded(inside.size), np.int32)
    number[np.flatnonzero(inside)] = np.arange(1, count + 1)
    way, place = np.zeros((2, rows, inside.ndim), np.float32)
    way[1 : count + 1], place[1 : count + 1] = flow[inside], places
    shape = np.array(inside.shape, np.int32)
    return np.asarray(_whole_way(way, place, number, shape, np.int32(doublings)))[1 : count + 1]


def _rounded(count: int) -> int:
    return max(_LEAST, 1 << (count - 1).bit_length())


@jax.jit
def _whole_way(
    way: Float32[Array, "n r"], place: Float32[Array, "n r"], number: Int32[Array, " g"], shape: Int32[Array, " r"],
    doublings: Int32[Array, ""],
) -> Float32[Array, "n r"]:  # fmt: skip
    """The way of each pixel from its first step; `number` is the row of each pixel of the image, 0 for none."""
    rank = way.shape[1]
    strides = jnp.stack([jnp.prod(shape[axis + 1 :]) for axis in range(rank)])
    moving = jnp.any(way != 0, axis=1, keepdims=True)

    def there(way: Array) -> Array:
        """The way of each pixel's place so far, between the pixels around it."""
        at = place + way
        low = jnp.floor(at)
        far = at - low
        total = jnp.zeros_like(way)
        for corner in itertools.product((0, 1), repeat=rank):
            pixel = low.astype(jnp.int32) + jnp.array(corner)[None]
            here = jnp.all((pixel >= 0) & (pixel < shape[None]), axis=1)
            weight = math.prod(far[:, a] if c else 1 - far[:, a] for a, c in enumerate(corner))
            total += weight[:, None] * way[jnp.where(here, number[pixel @ strides], 0)]
        return jnp.where(moving, total, 0)

    def on(state):
        done, _, further = state
        return (done < doublings) & (jnp.max(jnp.abs(further)) > _STILL)

    def double(state):
        done, way, _ = state
        further = there(way)
        return done + 1, way + further, further

    return jax.lax.while_loop(on, double, (0, way, jnp.full_like(way, 1)))[1]
