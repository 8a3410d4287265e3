"""What the last layer of a network says, and how it is learnt and read: classes of pixels, and maps beside them.

A head is a bundle of functions of arrays. Its logits (B, *S, outputs) hold `classes` logits, background first, and
behind them the components of a map. The experiment composes it with a model and a loss; the card of a checkpoint holds
its name, by which prediction finds it again.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, UInt8

from unet_jax import instances, losses, metrics, targets
from unet_jax.losses import Loss

Logits = Float[Array, "b *s o"]
_PIXELS = 8.0  # of distance to one unit of the network's output


class Head(NamedTuple):
    """How logits become values (classes' probabilities, then the map), and values objects.

    `separate(values (*S, V), **options)` gives a label image, on the host; `grid` holds for each of its options the
    numbers to choose from on validation images, the first being the one to begin with.
    """

    target: Callable[[Array], Any]  # label (B, *S) of ids -> what `loss` compares with
    loss: Callable[..., Array]  # (base loss, logits, target, mask) -> (B,)
    separate: Callable[..., Any]
    grid: Mapping[str, tuple[float, ...]]
    classes: int = 2  # the leading logits, background first
    map_size: Callable[[int], int] = lambda rank: 0  # components of the map
    scale: float = 1.0  # of the map, from the network's output to values
    vectors: bool = False  # the map is a vector an axis, which turns with the image

    def outputs(self, rank: int) -> int:
        """Channels of the network's last layer for images of `rank` spatial axes."""
        return self.classes + self.map_size(rank)

    def values(self, logits: Logits) -> Logits:
        """Probabilities of the classes, then the map in its own unit."""
        probabilities = jax.nn.softmax(logits[..., : self.classes], axis=-1)
        return jnp.concatenate([probabilities, logits[..., self.classes :] * self.scale], axis=-1)

    def binary(self, logits: Logits) -> Float[Array, "b *s 2"]:
        """Logits of background and of all other classes together."""
        return _binary(logits[..., : self.classes])

    def count(self, logits: Logits, target: Any, mask: Array) -> Int32[Array, "b 2 2"]:
        """Confusion counts of background and object, whatever else the head tells apart."""
        classes = target["classes"] if isinstance(target, Mapping) else target
        return metrics.confusion(self.binary(logits), targets.foreground(classes), mask, num_classes=2)

    def classify(self, logits: Logits) -> UInt8[Array, "b *s"]:
        """1 where an object is likelier than the background."""
        return jnp.argmax(self.binary(logits), axis=-1).astype(jnp.uint8)


def _binary(logits: Array) -> Array:
    return jnp.stack([logits[..., 0], jax.nn.logsumexp(logits[..., 1:], axis=-1)], axis=-1)


def _pixels_only(base: Loss, logits: Array, target: Array, mask: Array) -> Array:
    return base(logits, target, mask)


def _weighted(base: Loss, logits: Array, target: dict[str, Array], mask: Array) -> Array:
    """Ronneberger 2015: cross-entropy under the weight map; `base` looks after object against background."""
    border = losses.cross_entropy(logits, target["classes"], mask, weight=target["weight"])
    return base(_binary(logits), targets.foreground(target["classes"]), mask) + border


def _with_map(base: Loss, logits: Array, target: dict[str, Array], mask: Array) -> Array:
    """`base` on the classes, and the squared error of the map, a mean over the pixels of objects."""
    counted = mask & (target["classes"] > 0)
    wanted = target["map"].reshape(*mask.shape, -1)
    error = jnp.sum((logits[..., 2:] - wanted) ** 2, axis=-1)
    axes = tuple(range(1, mask.ndim))
    error = jnp.sum(jnp.where(counted, error, 0), axes) / jnp.maximum(jnp.sum(counted, axes), 1)
    return base(logits[..., :2], target["classes"], mask) + error


def _border_target(label: Array) -> dict[str, Array]:
    return {"classes": targets.border(label), "weight": targets.weight_map(label)}


def _map_target(of: Callable[[Array], Array], label: Array) -> dict[str, Array]:
    return {"classes": targets.foreground(label), "map": of(label)}


THRESHOLDS = (0.5, 0.4, 0.6, 0.7)

HEADS: dict[str, Head] = {
    "foreground": Head(
        targets.foreground,
        _pixels_only,
        lambda values, **options: instances.separate_foreground(1 - values[..., 0], **options),
        {"threshold": THRESHOLDS, "min_area": (0, 10, 20, 40)},
    ),
    "border": Head(
        _border_target,
        _weighted,
        instances.separate_border,
        {"seed": (0.5, 0.6, 0.7, 0.8), "threshold": THRESHOLDS, "min_area": (0, 10, 20, 40)},
        classes=3,
    ),
    "distance": Head(
        partial(_map_target, lambda label: targets.distance(label) / _PIXELS),
        _with_map,
        lambda values, **options: instances.separate_distance(1 - values[..., 0], values[..., 2], **options),
        {"depth": (0.75, 0.4, 1.2), "sigma": (1.0, 0.5, 2.0), "threshold": THRESHOLDS, "min_area": (0, 10, 20, 40)},
        map_size=lambda rank: 1,
        scale=_PIXELS,
    ),
    "flow": Head(
        partial(_map_target, targets.flow),
        _with_map,
        lambda values, **options: instances.separate_flow(1 - values[..., 0], values[..., 2:], **options),
        {
            "doublings": (3, 5, 7),
            "sigma": (1.0, 1.5, 0.7),
            "saddle": (0.5, 0.4, 0.65),
            "threshold": THRESHOLDS,
            "min_area": (0, 10, 20, 40),
        },
        map_size=lambda rank: rank,
        vectors=True,
    ),
}
"""Heads by name, simple to strong:

* foreground: object or background; touching objects come out as one.
* border: background, inside, border between touching objects, under the weight map of the 2015 paper.
* distance: object or background, and the distance to the object's edge; a watershed from its summits.
* flow: object or background, and the direction to the object's centre, which every pixel follows to where it belongs.
"""


def head_of(card: Mapping[str, Any]) -> Head | None:
    """The head that a card names, or None for a network of plain classes; ValueError for an unknown name."""
    name = card.get("head")
    if name is None:
        return None
    if name not in HEADS:
        raise ValueError(f"the card names a head {name!r}, which this version does not know: {', '.join(HEADS)}")
    return HEADS[name]


def tells_objects(card: Mapping[str, Any]) -> bool:
    """Whether a model's foreground is objects of one kind, which can be numbered, or its head tells them apart."""
    return head_of(card) is not None or len(card["classes"]) <= 2
