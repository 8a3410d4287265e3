"""Fully convolutional network (Long, Shelhamer & Darrell 2015, arXiv 1411.4038): scores of three scales, added."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from unet_jax.models import primitives
from unet_jax.models.blocks import Conv, ConvBlock, Norm, Skip, dropout_at
from unet_jax.models.unet import check_size


def bilinear_init(key: Array, shape: tuple[int, ...], dtype: object = jnp.float32) -> Array:
    """Kernel (4, 4, K, K) of a transposed convolution of stride 2 that interpolates each class linearly by itself."""
    del key
    line, window = np.array([0.25, 0.75, 0.75, 0.25]), np.ones(())
    for _ in shape[:-2]:
        window = np.multiply.outer(window, line)
    return jnp.asarray(np.multiply.outer(window, np.eye(shape[-1])), dtype)


class Double(nn.Module):
    """Learnt doubling of the size that starts as linear interpolation: (B, *S, K) -> (B, *2S, K)."""

    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b *s k"]) -> Float[Array, "b *t k"]:
        """Apply the transposed convolution, window 4, stride 2."""
        rank = x.ndim - 2
        kernel = self.param("kernel", bilinear_init, (4,) * rank + (x.shape[-1],) * 2, jnp.float32)
        image = (0, x.ndim - 1, *range(1, x.ndim - 1))
        dims = lax.ConvDimensionNumbers(image, (x.ndim - 1, x.ndim - 2, *range(rank)), image)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        return lax.conv_transpose(x, kernel, (2,) * rank, "SAME", dimension_numbers=dims)


class FCN(nn.Module):
    """Encoder, and class scores of its three deepest levels fused; image (B, *S, C) -> logits (B, *S, classes).

    The default has strides up to 32; the scores at strides 32, 16 and 8 are doubled and added, and those at 8 enlarged
    linearly to the image (FCN-8s). No features are concatenated, so nothing finer than a stride of 8 is drawn: its
    masks are blurred. The paper starts from VGG-16, this from nothing, with blocks of the U-Net's kind.

    Parameters with one input channel and two classes:
      encoder  9·(1·64 + 64²) + 2·64 = 37,568;  221,440;  885,248;  3,539,968;  512 to 512 9·2·512² + 1024 = 4,719,616
      bottom   9·(512·1024 + 1024²) + 2048 = 14,157,824
      scores   1024·2 + 2 = 2,050, and twice 512·2 + 2 = 1,026;  twice a doubling 4·4·2·2 = 64
      sum      23,565,894
    """

    widths: tuple[int, ...] = (64, 128, 256, 512, 512, 1024)
    classes: int = 2
    norm: Norm = "none"
    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, image: Float[Array, "b *s c"], *, train: bool = False) -> Float[Array, "b *s k"]:
        """Give the logits; `train` turns on dropout (rng "dropout") and the update of batch statistics."""
        check_size(image.shape[1:-1], self.widths, "SAME")
        deepest, x, scores = len(self.widths) - 1, image, []
        for level, width in enumerate(self.widths):
            x = primitives.max_pool(x, (2,) * (image.ndim - 2)) if level else x
            dropout = dropout_at(level, self.widths, self.dropout)
            x = ConvBlock(width, self.norm, dropout, dtype=self.dtype, name=f"down{level}")(x, train=train)
            if level >= deepest - 2:
                seen = x if level == deepest else Skip(name=f"skip{level}")(x)
                scores.append(Conv(self.classes, 1, dtype=self.dtype, name=f"score{level}")(seen))
        fused = scores.pop()
        for level in reversed(range(deepest - len(scores), deepest)):
            fused = Double(self.dtype, name=f"double{level}")(fused) + scores.pop()
        size = (image.shape[0], *image.shape[1:-1], self.classes)
        return jax.image.resize(fused.astype(jnp.float32), size, "linear")
