"""Several models as one: which may be averaged, and what their cards say together."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from unet_jax.logs import plain

ALIKE = {"channels": 1, "classes": (), "head": "classes alone", "normalisation": {}}  # entries of a card, if not given


def check_alike(cards: Sequence[Mapping[str, Any]]) -> None:
    """ValueError for a card that does not see images and name classes as the first one does."""
    for number, card in enumerate(cards[1:], start=2):
        for name, default in ALIKE.items():
            first, here = (plain(c.get(name, default)) for c in (cards[0], card))
            if first != here:
                raise ValueError(
                    f"model {number} has the {name} {here}, the first {first}: only models that agree in "
                    f"{', '.join(ALIKE)} can be averaged"
                )


def separation(cards: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How objects are separated: of each option the median over the cards that have it, the lower of two middle ones.

    So every option is one that was tried on validation images.
    """
    found: dict[str, list[float]] = {}
    for card in cards:
        for name, value in card.get("separation", {}).items():
            found.setdefault(name, []).append(value)
    return {name: statistics.median_low(values) for name, values in found.items()}
