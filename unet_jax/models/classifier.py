"""The classic image classifier, slid over the image: it says whether a window holds a cell, and not where."""

import itertools

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from unet_jax.models import primitives
from unet_jax.models.blocks import ConvBlock, Norm, dropout_at
from unet_jax.models.unet import check_size


class Classifier(nn.Module):
    """One verdict a window, written on all of its pixels; image (B, *S, C) -> logits (B, *S, classes), float32.

    Convolutions and pooling as in the U-Net's encoder, then the mean over all positions and a linear layer (Lin et al.
    2014, arXiv 1312.4400). The windows have `window` pixels a side and do not overlap; with 0 the image is the window.

    Parameters with one input channel and two classes:
      encoder  9·(1·32 + 32²) + 2·32 = 9,568;  9·(32·64 + 64²) + 128 = 55,424;  221,440;  885,248
      last     256·2 + 2 = 514
      sum      1,172,194
    """

    widths: tuple[int, ...] = (32, 64, 128, 256)
    classes: int = 2
    norm: Norm = "none"
    dropout: float = 0.0
    dtype: str = "float32"
    window: int = 0

    @nn.compact
    def __call__(self, image: Float[Array, "b *s c"], *, train: bool = False) -> Float[Array, "b *s k"]:
        """Give the logits; `train` turns on dropout (rng "dropout") and the update of batch statistics."""
        size = image.shape[1:-1]
        window = (self.window,) * len(size) if self.window else size
        check_size(window, self.widths, "SAME")
        if any(n % w for n, w in zip(size, window, strict=True)):
            raise ValueError(f"an image of {size} pixels is no multiple of the window {window}: pad or crop it")
        x = cut(image, window)
        for level, width in enumerate(self.widths):
            x = primitives.max_pool(x, (2,) * len(size)) if level else x
            dropout = dropout_at(level, self.widths, self.dropout)
            x = ConvBlock(width, self.norm, dropout, dtype=self.dtype, name=f"down{level}")(x, train=train)
        x = nn.Dense(self.classes, dtype=self.dtype, name="logits")(x.mean(axis=range(1, 1 + len(size))))
        x = x.reshape(image.shape[0], *(n // w for n, w in zip(size, window, strict=True)), self.classes)
        for axis, times in enumerate(window, start=1):
            x = jnp.repeat(x, times, axis=axis)
        return x.astype(jnp.float32)


def cut(image: Float[Array, "b *s c"], window: tuple[int, ...]) -> Float[Array, "n *w c"]:
    """Cut images into windows that do not overlap, those of an image together: (B, *S, C) -> (B · windows, *w, C)."""
    rank = len(window)
    counts = [n // w for n, w in zip(image.shape[1:-1], window, strict=True)]
    split = image.reshape(image.shape[0], *itertools.chain(*zip(counts, window, strict=True)), image.shape[-1])
    split = split.transpose(0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2), 2 * rank + 1)
    return split.reshape(-1, *window, image.shape[-1])
