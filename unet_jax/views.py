"""What a network says of a batch, seen as it is or from eight sides (test-time augmentation)."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import NamedSharding
from jaxtyping import Array, Float

from unet_jax.training import to_unit

VIEWS = 8  # of test-time augmentation


def activate(logits: Float[Array, "b *s k"]) -> Float[Array, "b *s k"]:
    """Probabilities: the sigmoid of a single logit, else the softmax."""
    return jax.nn.sigmoid(logits) if logits.shape[-1] == 1 else jax.nn.softmax(logits, axis=-1)


def forward(model: nn.Module, read: Callable[[Array], Array], variables: Any, image: Array) -> Array:
    """`read(logits)` of a batch of images."""
    return read(model.apply(variables, to_unit(image), train=False))


def forward_views(
    plain: Callable[[Any, Array], Array], rows: NamedSharding, variables: Any, image: Array, *, vectors: int
) -> Float[Array, "n b *s v"]:
    """What the network says of each view, turned back; all views in one call of the network.

    The last `vectors` values are the components of a vector, which turns with its view.
    """
    axes = tuple(range(1, image.ndim - 1))
    views = list(itertools.product((False, True), repeat=3))  # two axes: swap them, flip each; three: flip each
    seen = jnp.concatenate([_turn(image, view, axes) for view in views])
    seen = plain(variables, jax.lax.with_sharding_constraint(seen, rows))
    back = [_turn_back(part, view, axes, vectors) for part, view in zip(jnp.split(seen, VIEWS), views, strict=True)]
    return jnp.stack(back)


def mean_and_spread(found: Sequence[Float[Array, "..."]], *, classes: int | None, stacked: bool) -> Float[Array, "..."]:
    """Mean (B, *S, V) over arrays, or over all that they stack, and behind it one more value, the standard deviation.

    It is that of the value where it is largest; what lies behind the first `classes`, a map, has no part in it.
    """
    stack = jnp.concatenate(found) if stacked else jnp.stack(found)
    spread = stack[..., :classes].std(axis=0).max(axis=-1, keepdims=True)
    return jnp.concatenate([stack.mean(axis=0), spread], axis=-1)


def _turn(image: Array, view: tuple[bool, ...], axes: tuple[int, ...]) -> Array:
    if len(axes) == 2 and view[0]:
        image = image.swapaxes(*axes)
    return jnp.flip(image, [axis for axis, on in zip(axes, view[-len(axes) :], strict=True) if on])


def _turn_back(image: Array, view: tuple[bool, ...], axes: tuple[int, ...], vectors: int) -> Array:
    flipped, swapped = view[-len(axes) :], len(axes) == 2 and view[0]
    image = jnp.flip(image, [axis for axis, on in zip(axes, flipped, strict=True) if on])
    if vectors:
        signs = np.where(flipped, -1.0, 1.0).astype(np.float32).reshape((1,) * (image.ndim - 1) + (-1,))
        way = image[..., -vectors:] * signs
        image = jnp.concatenate([image[..., :-vectors], way[..., ::-1] if swapped else way], axis=-1)
    return image.swapaxes(*axes) if swapped else image
