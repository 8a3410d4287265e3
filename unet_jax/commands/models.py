"""`unet-jax models`: what models there are, and what each costs."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Models:
    """The architectures of this version at their papers' widths: parameters, operations an image, source.

    A GFLOP is 10^9 operations, a multiplication and an addition being two, on the way from one image to its logits.
    Nothing is compiled or run.
    """

    size: tuple[int, ...] = (256, 256)
    """Pixels along each axis of the image: two numbers, or three for volumes."""
    channels: int = 3
    """Channels of the image."""
    widths: tuple[int, ...] | None = None
    """Filters of each level instead of the paper's, the last at the bottom; the same for all models."""


def models(config: Models) -> int:
    """Run `unet-jax models`."""
    import sys

    from unet_jax import models as package
    from unet_jax.models.cost import count_flop, count_parameters

    if len(config.size) not in (2, 3) or config.channels < 1:
        raise ValueError(
            f"--size {config.size}, --channels {config.channels}: give two or three sizes, a channel or more"
        )
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
    return 0
