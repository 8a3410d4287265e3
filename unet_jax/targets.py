"""What a head learns from a label: `label (B, *S) -> target (B, *S)`, pure and cheap enough for the step."""

import jax.numpy as jnp
from jaxtyping import Array, Int32


def foreground(label: Int32[Array, "*s"]) -> Int32[Array, "*s"]:
    """1 where the label is an object, 0 on the background, from instance ids (0 is background) or a binary label.

    Args:
        label: (B, *S), or one image, of ids.

    Returns:
        The same shape, in {0, 1}.
    """
    return (label > 0).astype(jnp.int32)
