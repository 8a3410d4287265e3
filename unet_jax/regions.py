"""Overlapping regions: unions of classes, each learnt by a sigmoid output of its own.

The label stays an image of classes; `regions` are tuples of classes, largest first, such as ((1, 2, 3), (2, 3), (3,)):
whole tumour, core, enhancing tumour. Logit r of (B, *S, R) says whether a pixel belongs to region r.
"""

from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, Integer

from unet_jax.losses import Loss
from unet_jax.metrics import confusion

Regions = tuple[tuple[int, ...], ...]
Decide = Callable[[Array], Array]  # logits (B, *S, K) -> classes (B, *S) int32


def inside(
    label: Integer[Array, "*s"] | Integer[np.ndarray, "*s"], members: Sequence[int]
) -> Bool[Array, "*s"] | Bool[np.ndarray, "*s"]:
    """Where the class is one of the members."""
    return sum(label == number for number in members) > 0


def own_classes(regions: Regions) -> tuple[int, ...]:
    """The class of each region that no smaller region has: what a pixel is when that is its innermost region.

    Raises ValueError where regions do not tell the classes apart.
    """
    own = []
    for members in regions:
        smaller = {number for other in regions if set(other) < set(members) for number in other}
        rest = [number for number in members if number not in smaller]
        if len(rest) != 1:
            raise ValueError(
                f"region {members} holds {len(rest)} classes that no region within it has: give regions that differ by "
                "one class each, such as (1, 2, 3), (2, 3), (3,), or learn exclusive classes"
            )
        own.append(rest[0])
    if [len(r) for r in regions] != sorted((len(r) for r in regions), reverse=True) or len(set(own)) < len(own):
        raise ValueError(f"regions {regions}: give them from the largest to the smallest, each once")
    return tuple(own)


def decide(regions: Regions) -> Decide:
    """Logits (B, *S, R) to classes (B, *S): that of the last region whose logit is above 0, else background (0).

    A smaller region wins over a larger one, also where the larger one's logit is below 0 (as nnU-Net decides).
    """
    own = own_classes(regions)

    def classes(logits: Float[Array, "b *s r"]) -> Int32[Array, "b *s"]:
        label = jnp.zeros(logits.shape[:-1], jnp.int32)
        for index, number in enumerate(own):
            label = jnp.where(logits[..., index] > 0, number, label)
        return label

    return classes


def exclusive(logits: Float[Array, "b *s k"]) -> Int32[Array, "b *s"]:
    """The class of the largest logit."""
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def region_loss(loss: Loss, regions: Regions) -> Loss:
    """The mean over the regions of a binary loss of each: (logits (B, *S, R), label, mask) -> (B,)."""

    def total(
        logits: Float[Array, "b *s r"], label: Int32[Array, "b *s"], mask: Bool[Array, "b *s"]
    ) -> Float[Array, " b"]:
        if logits.shape[-1] != len(regions):
            raise ValueError(f"{logits.shape[-1]} logits for {len(regions)} regions: give the model one class a region")
        truths = (inside(label, members).astype(jnp.int32) for members in regions)
        return sum(loss(logits[..., r : r + 1], truth, mask) for r, truth in enumerate(truths)) / len(regions)

    return total


def count_regions(
    logits: Float[Array, "b *s k"],
    label: Int32[Array, "b *s"],
    mask: Bool[Array, "b *s"],
    *,
    decide: Decide,
    regions: Regions,
) -> Int32[Array, "b r 2 2"]:
    """Confusion matrix of each region of the decided classes, rows truth, columns prediction, in pixels that count."""
    predicted = decide(logits)

    def count(members: tuple[int, ...]) -> Array:
        sign = jnp.where(inside(predicted, members), 1.0, -1.0)[..., None]  # a logit that says what was decided
        return confusion(sign, inside(label, members).astype(jnp.int32), mask, num_classes=2)

    return jnp.stack([count(members) for members in regions], axis=1)


def to_spec(regions: Mapping[str, tuple[int, ...]]) -> dict[str, list[int]]:
    """Regions by name, as a card keeps them."""
    return {name: list(members) for name, members in regions.items()}
