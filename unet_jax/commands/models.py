"""`unet-jax models`: the trained models that come with the package, the architectures, and what each costs."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Models:
    """The trained models that come with the package, and the architectures at their papers' widths.

    Of an architecture: parameters, operations an image, source. A GFLOP is 10^9 operations, a multiplication and an
    addition being two, on the way from one image to its logits. Nothing is compiled or run.
    """

    card: str | None = None
    """Print the card of a trained model: its training, data, licence, scores, and what it is not good for."""
    size: tuple[int, ...] = (256, 256)
    """Pixels along each axis of the image: two numbers, or three for volumes."""
    channels: int = 3
    """Channels of the image."""
    widths: tuple[int, ...] | None = None
    """Filters of each level instead of the paper's, the last at the bottom; the same for all models."""


def models(config: Models) -> int:
    """Run `unet-jax models`."""
    import json

    from unet_jax import pretrained

    if config.card is not None:
        print(json.dumps(pretrained.card(config.card), indent=2, ensure_ascii=False))
        return 0
    if len(config.size) not in (2, 3) or config.channels < 1:
        raise ValueError(
            f"--size {config.size}, --channels {config.channels}: give two or three sizes, a channel or more"
        )
    if pretrained.names():
        print("trained, for --model NAME and --init NAME (--card NAME tells all):")
        for name in pretrained.names():
            print(f"{name:<14}{_summary(pretrained.card(name))}")
        print()
    _architectures(config)
    return 0


def _summary(card: dict[str, Any]) -> str:
    """A trained model in a line."""
    scores, size = card["scores"]["all"], card["bytes"] / 1e6
    return (
        f"{card['summary']}; {card.get('head', 'classes')}, {size:.1f} MB; AP {scores['ap50']:.3f} at IoU 0.5, pixel "
        f"IoU {scores['iou']:.3f} on {scores['images']} test images"
    )


def _architectures(config: Models) -> None:
    import sys

    from unet_jax import models as package
    from unet_jax.models.cost import count_flop, count_parameters

    shape = (*config.size, config.channels)
    print(f"{'':<14}{'parameters':>12}{'GFLOP':>9}  source, for an image of {'×'.join(map(str, shape))}")
    for model in package.MODELS:
        module = model(config.widths) if config.widths else model()
        try:
            cost = f"{count_parameters(module, shape):>12,}{count_flop(module, shape) / 1e9:>9,.1f}"
        except ValueError as error:
            cost = f"{'–':>12}{'–':>9}  ({error})\n{'':<35}"
        source = (sys.modules[model.__module__].__doc__ or "").split("\n")[0].removesuffix(".")
        print(f"{model.__name__:<14}{cost}  {source}")
