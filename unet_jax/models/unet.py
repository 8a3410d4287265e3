"""U-Net (Ronneberger, Fischer, Brox 2015, arXiv 1505.04597) and its 3-D form (Çiçek et al. 2016, arXiv 1606.06650)."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from unet_jax.models import primitives
from unet_jax.models.blocks import (
    Conv,
    ConvBlock,
    Norm,
    Padding,
    Skip,
    UpConv,
    Upsample,
    dropout_at,
    sow_aux,
)
from unet_jax.shapes import centre_crop


class UNet(nn.Module):
    """Encoder and decoder joined by concatenated skips; image (B, *S, C) -> logits (B, *S, classes), float32.

    `widths` are the features of the levels, the last one at the bottom: `len(widths) - 1` down-samplings. Images of two
    or three spatial axes go through the same definition. With `padding="VALID"` the output is smaller than the input by
    `margin(widths)` pixels on every side. Dropout acts at the two deepest levels of the encoder, as in the paper.
    With `remat` the gradient computes every level again instead of keeping what it held: the same values, less memory,
    more time.

    `strides`, one tuple a down-sampling, serves volumes of thick slices: ((1, 2, 2), (2, 2, 2)) halves the first axis
    only once. With `deep_supervision` every decoder level but the first sows logits of its own size into "aux" (Lee et
    al. 2015, arXiv 1409.5185), which `training.make_train_step` adds to the loss.

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
    strides: tuple[tuple[int, ...], ...] = ()
    deep_supervision: bool = False

    @nn.compact
    def __call__(self, image: Float[Array, "b *s c"], *, train: bool = False) -> Float[Array, "b *t k"]:
        """Give the logits; `train` turns on dropout (rng "dropout") and the update of batch statistics."""
        check_size(image.shape[1:-1], self.widths, self.padding, self.strides)
        if self.padding == "VALID" and self.deep_supervision:
            raise ValueError('deep supervision needs heads that cover the image: choose padding="SAME"')
        deepest = len(self.widths) - 1
        strides = self.strides or ((2,) * (image.ndim - 2),) * deepest

        def block(x: Array, level: int, name: str) -> Array:
            dropout = 0.0 if name.startswith("up") else dropout_at(level, self.widths, self.dropout)
            return ConvBlock(self.widths[level], self.norm, dropout, self.padding, self.dtype, name=name)(
                x, train=train
            )

        def down(_: nn.Module, x: Array, level: int) -> tuple[Array, Array]:
            skip = block(x, level, f"down{level}")
            return skip, primitives.max_pool(skip, strides[level])

        def bottom(_: nn.Module, x: Array, level: int) -> Array:
            return block(x, level, "bottom")

        def up(_: nn.Module, x: Array, skip: Array, level: int) -> Array:
            x = UpConv(self.widths[level], self.upsample, self.dtype, strides[level], name=f"up{level}_conv")(x)
            x = jnp.concatenate([centre_crop(skip, x.shape[1:-1]), x], axis=-1)
            return block(x, level, f"up{level}")

        def run(part: Callable, level: int, *arrays: Array) -> Any:
            part = partial(part, level=level)
            return nn.remat(part)(self, *arrays) if self.remat else part(self, *arrays)

        x, skips = image, []
        for level in range(deepest):
            skip, x = run(down, level, x)
            skips.append(Skip(name=f"skip{level}")(skip))
        x = run(bottom, deepest, x)
        for level in reversed(range(deepest)):
            x = run(up, level, x, skips[level])
            if self.deep_supervision and level:
                aux = Conv(self.classes, 1, dtype=self.dtype, name=f"logits{level}")(x)
                sow_aux(self, level, aux.astype(jnp.float32))
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


def check_size(
    size: Sequence[int], widths: Sequence[int], padding: Padding, strides: Sequence[Sequence[int]] = ()
) -> None:
    """Refuse a spatial size that the levels do not divide, and say which size to pad to."""
    depth = len(widths) - 1
    if strides and (len(strides) != depth or any(len(s) != len(size) or min(s) < 1 for s in strides)):
        raise ValueError(
            f"strides {tuple(strides)} for {depth} down-samplings of images of {len(size)} axes: give one tuple a "
            "down-sampling, one number from 1 an axis"
        )
    if strides and padding == "VALID":
        raise ValueError('strides of your own need padding="SAME"')
    if strides:
        steps = [math.prod(s[axis] for s in strides) for axis in range(len(size))]
        near = [max(-n // step * -step, step) for n, step in zip(size, steps, strict=True)]
    else:  # sizes that fit repeat every 2**depth pixels; VALID ones start a little above what the blocks take
        least = 2 * margin(widths) if padding == "VALID" else 0
        near = [next(m for m in range(n, max(n, least) + 10 * 2**depth + 8) if _fits(m, depth, padding)) for n in size]
    if list(size) == near:
        return
    have, want = ("×".join(str(n) for n in s) for s in (size, near))
    raise ValueError(
        f"an image of {have} pixels does not fit a network of {depth} down-samplings with {padding} padding: "
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
