"""Residual U-Net (Zhang, Liu & Wang 2018, arXiv 1711.10684; in 3-D Milletari et al. 2016, arXiv 1606.04797)."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from unet_jax.models.blocks import Conv, Norm, ResidualBlock, decode, dropout_at, encode
from unet_jax.models.unet import check_size


class ResUNet(nn.Module):
    """A U-Net of `ResidualBlock`s; image (B, *S, C) -> logits (B, *S, classes), float32. Fields as in `UNet`.

    The paper halves the size by a stride in the next block's first convolution, here max-pooling does it as in `UNet`.

    Parameters with one input channel, two classes and no norm; a block from c to w has 9·(c·w + w²) + 2·w, and c·w for
    its shortcut:
      encoder  9·(1·64 + 64²) + 2·64 + 64 = 37,632;  221,440 + 8,192 = 229,632;  885,248 + 32,768 = 918,016
      bottom   3,539,968 + 131,072 = 3,671,040
      decoder  up 524,544 and block 1,769,984 + 131,072 = 1,901,056;  131,200 and 442,624 + 32,768 = 475,392;
               32,832 and 110,720 + 8,192 = 118,912;  last 64·2 + 2 = 130
      sum      8,040,386
    """

    widths: tuple[int, ...] = (64, 128, 256, 512)
    classes: int = 2
    norm: Norm = "none"
    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, image: Float[Array, "b *s c"], *, train: bool = False) -> Float[Array, "b *s k"]:
        """Give the logits; `train` turns on dropout (rng "dropout") and the update of batch statistics."""
        check_size(image.shape[1:-1], self.widths, "SAME")
        deepest = len(self.widths) - 1

        def block(x: Array, level: int, name: str) -> Array:
            dropout = 0.0 if name.startswith("up") else dropout_at(level, self.widths, self.dropout)
            first = name == "down0"
            return ResidualBlock(self.widths[level], self.norm, dropout, self.dtype, first, name=name)(x, train=train)

        x, skips = encode(image, block, deepest)
        x = block(x, deepest, "bottom")
        x = decode(x, skips, block, self.widths, self.dtype)
        return Conv(self.classes, 1, dtype=self.dtype, name="logits")(x).astype(jnp.float32)
