"""The layers every model is made of: convolution, normalisation, pooling, up-sampling.

Channels last, two or three spatial axes (the rank is read off the input). Parameters are float32 whatever the compute
dtype. How a layer is computed fastest on which platform is the business of `primitives`, not of any model.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from unet_jax.models import primitives

Norm = Literal["none", "batch", "group"]
Padding = Literal["SAME", "VALID"]
Upsample = Literal["transpose", "resize"]

# He et al. 2015, eq. 10: standard deviation sqrt(2 / fan_in), which is also what Ronneberger 2015, section 3, asks for.
kernel_init = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class Conv(nn.Module):
    """Convolution of stride 1: (B, *S, C) -> (B, *S', features)."""

    features: int
    size: int = 3
    padding: Padding = "SAME"
    use_bias: bool = True
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b *s c"]) -> Float[Array, "b *t k"]:
        """Apply the convolution in `dtype`."""
        shape = (self.size,) * (x.ndim - 2) + (x.shape[-1], self.features)
        kernel = self.param("kernel", kernel_init, shape, jnp.float32)
        y = primitives.conv(x.astype(self.dtype), kernel.astype(self.dtype), padding=self.padding)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            y = y + jnp.expand_dims(bias.astype(self.dtype), tuple(range(y.ndim - 1)))
        return y


class UpConv(nn.Module):
    """Up-sampling by two on every spatial axis: (B, *S, C) -> (B, *2S, features).

    "transpose" is the 2×2 up-convolution of Ronneberger 2015; "resize" repeats pixels and convolves 3×3, which leaves
    no checkerboard (Odena et al. 2016).
    """

    features: int
    how: Upsample = "transpose"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b *s c"]) -> Float[Array, "b *t k"]:
        """Double the size and set the number of features."""
        rank = x.ndim - 2
        if self.how == "resize":
            for axis in range(1, rank + 1):
                x = jnp.repeat(x, 2, axis=axis)
            return Conv(self.features, dtype=self.dtype, name="conv")(x)
        kernel = self.param("kernel", kernel_init, (2,) * rank + (x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        y = primitives.up_conv(x.astype(self.dtype), kernel.astype(self.dtype))
        return y + jnp.expand_dims(bias.astype(self.dtype), tuple(range(y.ndim - 1)))


class GroupNorm(nn.Module):
    """Group normalisation: zero mean and unit variance over the pixels of each image and group of channels.

    y = (x - mean) / sqrt(var + 1e-6) * scale + bias, computed as x * a + b with one a and b an image and channel, which
    XLA joins with the activation behind it; var = E[x²] - E[x]² from one pass, in float32. Source: Wu & He 2018, eq. 1-6.
    """

    groups: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b *s c"]) -> Float[Array, "b *s c"]:
        """Normalise each image by itself."""
        channels, pixels = x.shape[-1], tuple(range(1, x.ndim - 1))
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        wide = x.astype(jnp.float32)

        def over_groups(sums: Float[Array, "b c"]) -> Float[Array, "b c"]:
            groups = jnp.mean(sums.reshape(len(x), self.groups, -1), axis=-1)
            return jnp.repeat(groups, channels // self.groups, axis=-1)

        mean, square = over_groups(jnp.mean(wide, pixels)), over_groups(jnp.mean(wide**2, pixels))
        gain = jax.lax.rsqrt(jnp.maximum(square - mean**2, 0) + 1e-6) * scale[None]
        gain, shift = (jnp.expand_dims(v, pixels) for v in (gain, bias[None] - mean * gain))
        return (wide * gain + shift).astype(self.dtype)


class Normalise(nn.Module):
    """Batch (Ioffe 2015) or group (Wu 2018) normalisation, or nothing; the shape stays.

    Running statistics move by a tenth a step, so that they settle within the few hundred steps of a short training.
    """

    norm: Norm = "none"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b *s c"], *, train: bool) -> Float[Array, "b *s c"]:
        """Normalise; batch statistics are updated only in training."""
        if self.norm == "batch":
            return nn.BatchNorm(use_running_average=not train, momentum=0.9, dtype=self.dtype, name="batch")(x)
        if self.norm == "group":
            return GroupNorm(math.gcd(8, x.shape[-1]), self.dtype, name="group")(x)
        return x


class ConvBlock(nn.Module):
    """Two times convolution 3, normalisation, ReLU; then dropout: (B, *S, C) -> (B, *S', features)."""

    features: int
    norm: Norm = "none"
    dropout: float = 0.0
    padding: Padding = "SAME"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b *s c"], *, train: bool) -> Float[Array, "b *t k"]:
        """Apply the block."""
        for i in range(2):
            # A bias before batch normalisation has a zero gradient, which Adam would turn into noise.
            conv = Conv(self.features, 3, self.padding, self.norm != "batch", self.dtype, name=f"conv{i}")
            x = nn.relu(Normalise(self.norm, self.dtype, name=f"norm{i}")(conv(x), train=train))
        return nn.Dropout(self.dropout, deterministic=not train)(x) if self.dropout else x
