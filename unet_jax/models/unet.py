"""U-Net (Ronneberger, Fischer, Brox 2015, arXiv 1505.04597) and its 3-D form (Çiçek et al. 2016, arXiv 1606.06650)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from unet_jax.models import primitives
from unet_jax.models.blocks import Conv, ConvBlock, Norm, Padding, UpConv, Upsample
from unet_jax.shapes import centre_crop


class UNet(nn.Module):
    """Encoder and decoder joined by concatenated skips; image (B, *S, C) -> logits (B, *S, classes), float32.

    `widths` are the features of the levels, the last one at the bottom: `len(widths) - 1` down-samplings. Images of two
    or three spatial axes go through the same definition. With `padding="VALID"` the output is smaller than the input by
    `margin(widths)` pixels on every side. Dropout acts at the two deepest levels, as in the paper. With `remat` the
    gradient computes every level again instead of keeping what it held: the same values, less memory, more time.

    Parameters of the paper's network, one input channel, two classes (convolution: 9·in·out + out):
      encoder  9·(1·64 + 64²) + 2·64 = 37,568;  9·(64·128 + 128²) + 256 = 221,440;  885,248;  3,539,968
      bottom   9·(512·1024 + 1024²) + 2·1024 = 14,157,824
      decoder  up 4·1024·512 + 512 = 2,097,664 and block 9·(1024·512 + 512²) + 1024 = 7,078,912;
               524,544 and 1,769,984;  131,200 and 442,624;  32,832 and 110,720;  last 64·2 + 2 = 130
      sum      31,030,658
    """

    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    classes: int = 2
    norm: Norm = "none"
    dropout: float = 0.0
    padding: Padding = "SAME"
    upsample: Upsample = "transpose"
    dtype: str = "float32"
    remat: bool = False

    @nn.compact
    def __call__(self, image: Float[Array, "b *s c"], *, train: bool = False) -> Float[Array, "b *t k"]:
        """Give the logits; `train` turns on dropout (rng "dropout") and the update of batch statistics."""
        check_size(image.shape[1:-1], self.widths, self.padding)
        deepest = len(self.widths) - 1

        def block(x: Array, level: int, name: str) -> Array:
            dropout = self.dropout if level >= deepest - 1 and name.startswith(("down", "bottom")) else 0.0
            return ConvBlock(self.widths[level], self.norm, dropout, self.padding, self.dtype, name=name)(
                x, train=train
            )

        def down(_: nn.Module, x: Array, level: int) -> tuple[Array, Array]:
            skip = block(x, level, f"down{level}")
            return skip, primitives.max_pool(skip, (2,) * (image.ndim - 2))

        def bottom(_: nn.Module, x: Array, level: int) -> Array:
            return block(x, level, "bottom")

        def up(_: nn.Module, x: Array, skip: Array, level: int) -> Array:
            x = UpConv(self.widths[level], self.upsample, self.dtype, name=f"up{level}_conv")(x)
            x = jnp.concatenate([centre_crop(skip, x.shape[1:-1]), x], axis=-1)
            return block(x, level, f"up{level}")

        def run(part: Callable, level: int, *arrays: Array) -> Any:
            part = partial(part, level=level)
            return nn.remat(part)(self, *arrays) if self.remat else part(self, *arrays)

        x, skips = image, []
        for level in range(deepest):
            skip, x = run(down, level, x)
            skips.append(skip)
        x = run(bottom, deepest, x)
        for level in reversed(range(deepest)):
            x = run(up, level, x, skips[level])
        return Conv(self.classes, 1, dtype=self.dtype, name="logits")(x).astype(jnp.float32)


def output_size(size: Sequence[int], widths: Sequence[int], padding: Padding) -> tuple[int, ...]:
    """Spatial size of the logits for an input of `size` pixels; ValueError when the levels do not divide it."""
    check_size(size, widths, padding)
    lost = 2 * margin(widths) if padding == "VALID" else 0
    return tuple(n - lost for n in size)


def _fits(n: int, depth: int, padding: Padding) -> bool:
    """Whether `n` pixels along an axis come down evenly; two unpadded 3×3 convolutions take 4 pixels a block."""
    if padding == "SAME":
        return n > 0 and n % 2**depth == 0
    for _ in range(depth):
        n -= 4
        if n <= 0 or n % 2:
            return False
        n //= 2
    n -= 4  # the bottom, whose output must outlast what the decoder's blocks take
    return n > sum(4 / 2**level for level in range(1, depth + 1))


def check_size(size: Sequence[int], widths: Sequence[int], padding: Padding) -> None:
    """Refuse a spatial size that the levels do not divide, and say which size to pad to."""
    depth = len(widths) - 1
    if all(_fits(n, depth, padding) for n in size):
        return
    # Sizes that fit repeat every 2**depth pixels; VALID ones start a little above the pixels that the blocks take.
    near = [next(m for m in range(n, n + 10 * 2**depth + 8) if _fits(m, depth, padding)) for n in size]
    have, want = ("×".join(str(n) for n in s) for s in (size, near))
    raise ValueError(
        f"an image of {have} pixels does not fit a U-Net of {depth} down-samplings with {padding} padding: "
        f"pad it to {want}, or use widths with fewer levels"
    )


def margin(widths: Sequence[int]) -> int:
    """Pixels lost on every side with `padding="VALID"`: 92 for the paper's network (572 in, 388 out)."""
    depth = len(widths) - 1
    # Blocks take 4 pixels at scale 2**level on the way down and at the bottom, and again on the way up.
    return (sum(4 * 2**level for level in range(depth + 1)) + sum(4 * 2**level for level in range(depth))) // 2


VARIANTS: dict[str, dict[str, object]] = {
    "paper2015": {"widths": (64, 128, 256, 512, 1024), "padding": "VALID", "dropout": 0.5},
    "padded": {"widths": (64, 128, 256, 512, 1024), "padding": "SAME"},
    "simple": {"widths": (64, 128, 256), "padding": "SAME"},  # the two-level teaching network
    "small": {"widths": (16, 32, 64, 128, 256), "padding": "SAME", "norm": "batch"},  # for a CPU
}
