"""Attention U-Net (Oktay et al. 2018, arXiv 1804.03999): what a skip carries is weighted pixel by pixel."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from unet_jax.models.blocks import Conv, ConvBlock, Norm, decode, dropout_at, encode
from unet_jax.models.unet import check_size


class AttentionGate(nn.Module):
    """Weight x by a map in (0, 1) of each pixel: x (B, *S, C) and gate g (B, *S, D) -> x · a and a (B, *S, 1).

    a = sigmoid(psi · ReLU(W x + V g + b) + c), W and V to `features`; Oktay 2018, equations 1 and 2. There the map is
    made at the size of the level below and enlarged; here g is enlarged first, so that the map has the skip's detail.
    """

    features: int
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b *s c"], g: Float[Array, "b *s d"]
    ) -> tuple[Float[Array, "b *s c"], Float[Array, "b *s 1"]]:
        """Give the weighted x, and the map."""
        joined = Conv(self.features, 1, use_bias=False, dtype=self.dtype, name="skip")(x)
        joined = nn.relu(joined + Conv(self.features, 1, dtype=self.dtype, name="gate")(g))
        weight = nn.sigmoid(Conv(1, 1, dtype=self.dtype, name="map")(joined))
        return x * weight, weight


class AttentionUNet(nn.Module):
    """A U-Net whose skips go through `AttentionGate`; image (B, *S, C) -> logits (B, *S, classes), float32.

    Fields as in `UNet`. `attention_maps` gives the gates' maps.

    Parameters with one input channel and two classes: the U-Net's 31,030,658, and at each level of width w a gate of
    w/2 features, 2·w·(w/2) + w/2 for its two convolutions and w/2 + 1 for the map, together w² + w + 1:
      64² + 65 = 4,161;  128² + 129 = 16,513;  256² + 257 = 65,793;  512² + 513 = 262,657
      sum      31,379,782
    """

    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
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
            return ConvBlock(self.widths[level], self.norm, dropout, dtype=self.dtype, name=name)(x, train=train)

        def gate(skip: Array, x: Array, level: int) -> Array:
            skip, weight = AttentionGate(self.widths[level] // 2, self.dtype, name=f"gate{level}")(skip, x)
            self.sow("intermediates", f"attention{level}", weight[..., 0].astype(jnp.float32))
            return skip

        x, skips = encode(image, block, deepest)
        x = block(x, deepest, "bottom")
        x = decode(x, skips, block, self.widths, self.dtype, gate)
        return Conv(self.classes, 1, dtype=self.dtype, name="logits")(x).astype(jnp.float32)


def attention_maps(
    module: AttentionUNet, variables: Any, image: Float[Array, "b *s c"]
) -> tuple[Float[Array, "b *s"], ...]:
    """The gates' maps in (0, 1), from the finest level down, each enlarged to the image's size."""
    sown = module.apply(variables, image, mutable=["intermediates"])[1]["intermediates"]
    maps = [sown[f"attention{level}"][0] for level in range(len(module.widths) - 1)]
    return tuple(jax.image.resize(a, image.shape[:-1], "linear") for a in maps)
