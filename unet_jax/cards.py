"""What a model's card may say: types and sizes, checked before anything is built by it."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

NEEDED = ("model", "channels", "normalisation", "classes", "patch")  # of a card, to predict
MOST_TILE = 2**28  # numbers in a tile: its pixels times its channels or classes
_MOST_FIELD = 1024  # of a number in a model's spec that no array of the file explains
_MOST_OPTION = 10_000  # areas in pixels; all others are far less


def check_card(card: Mapping[str, Any], variables: Any) -> None:
    """ValueError for a card that lacks what prediction needs, or that no training of these variables writes.

    A card decides how much memory a prediction takes: tiles, filters and classes are held to what can be meant.
    """
    if missing := [name for name in NEEDED if name not in card]:
        raise ValueError(f"the card says nothing about {', '.join(missing)}: train the model again")
    if wrong := [name for name, right in _RIGHT.items() if name in card and not right(card[name])]:
        words = ", ".join(f"{name} {str(card[name])[:80]}" for name in wrong)
        raise ValueError(f"the card says {words}, which no training writes: ask for the model again")
    tile = math.prod(card["patch"]) * max(card["channels"], len(card["classes"]))
    if tile > MOST_TILE:
        raise ValueError(
            f"the card says patch {card['patch']} with {card['channels']} channels and {len(card['classes'])} classes, "
            "more than the memory of any training: ask for the model again"
        )
    axes = [n for array in jax.tree.leaves(variables) for n in np.shape(array)]
    most = max([_MOST_FIELD, *axes])
    if large := [n for n in _numbers(card["model"]) if not 0 <= n <= most]:
        raise ValueError(
            f"the card says model {str(card['model'])[:80]} with {large[0]}, and no parameter of the file has such a "
            "size: ask for the model again"
        )


def _count(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _words(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(word, str) for word in value)


def _plain(value: object, depth: int = 0) -> bool:
    """Whether a field of a spec is a number, a word, or a short list of such."""
    if isinstance(value, list | tuple):
        return len(value) <= 32 and depth < 3 and all(_plain(inner, depth + 1) for inner in value)
    return value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _options(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(n, int | float) and 0 <= n <= _MOST_OPTION for n in value.values()
    )


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _numbers(inner)
    elif isinstance(value, int | float):
        yield value


_RIGHT: dict[str, Callable[[Any], bool]] = {
    "model": lambda v: isinstance(v, Mapping) and all(_plain(field) for field in v.values()),
    "channels": lambda v: _count(v, 4096),
    "normalisation": lambda v: isinstance(v, Mapping),
    "classes": lambda v: _words(v) and _count(len(v), 65535),
    "patch": lambda v: isinstance(v, list | tuple) and 2 <= len(v) <= 3 and all(_count(n, 2**14) for n in v),
    "head": lambda v: v is None or isinstance(v, str),
    "separation": _options,
    "modalities": _words,
    "regions": lambda v: (
        isinstance(v, Mapping)
        and all(isinstance(members, list | tuple) and all(_count(n, 65535) for n in members) for members in v.values())
    ),
    "spacing": lambda v: (
        v is None
        or (isinstance(v, list | tuple) and len(v) == 3 and all(isinstance(n, int | float) and n > 0 for n in v))
    ),
}
