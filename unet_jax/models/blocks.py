"""The layers every model is made of: convolution, normalisation, pooling, up-sampling.

Channels last, two or three spatial axes (the rank is read off the input). Parameters are float32 whatever the compute
dtype. How a layer is computed fastest on which platform is the business of `primitives`, not of any model.
"""

import math
from collections.abc import Callable, Sequence
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
    """Up-sampling by `stride` (two on every axis when empty): (B, *S, C) -> (B, *(S · stride), features).

    "transpose" is the 2×2 up-convolution of Ronneberger 2015; "resize" repeats pixels and convolves 3×3, which leaves
    no checkerboard (Odena et al. 2016).
    """

    features: int
    how: Upsample = "transpose"
    dtype: str = "float32"
    stride: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: Float[Array, "b *s c"]) -> Float[Array, "b *t k"]:
        """Enlarge, and set the number of features."""
        stride = self.stride or (2,) * (x.ndim - 2)
        if self.how == "resize":
            for axis, times in enumerate(stride, start=1):
                x = jnp.repeat(x, times, axis=axis)
            return Conv(self.features, dtype=self.dtype, name="conv")(x)
        kernel = self.param("kernel", kernel_init, (*stride, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        y = primitives.up_conv(x.astype(self.dtype), kernel.astype(self.dtype))
        return y + jnp.expand_dims(bias.astype(self.dtype), tuple(range(y.ndim - 1)))


class GroupNorm(nn.Module):
    """Group normalisation: zero mean and unit variance over the pixels of each image and group of channels.

    y = (x - mean) / sqrt(var + 1e-6) * scale + bias, computed as x * a + b with one a and b an image and channel, which
    XLA joins with the activation behind it; var = E[x²] - E[x]² in float32. Source: Wu & He 2018, equations 1-6.
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


class ResidualBlock(nn.Module):
    """Two times normalisation, ReLU, convolution 3, added to the input; then dropout: (B, *S, C) -> (B, *S, features).

    Where the features change, a 1×1 convolution takes the input to them. With `first` the input, an image, is convolved
    as it is. Source: He et al. 2016 (arXiv 1603.05027), figure 4 (e), as Zhang 2018 uses it.
    """

    features: int
    norm: Norm = "none"
    dropout: float = 0.0
    dtype: str = "float32"
    first: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b *s c"], *, train: bool) -> Float[Array, "b *s k"]:
        """Apply the block."""
        y = x
        for i in range(2):
            if i or not self.first:
                y = nn.relu(Normalise(self.norm, self.dtype, name=f"norm{i}")(y, train=train))
            bias = i == 1 or self.norm != "batch"
            y = Conv(self.features, use_bias=bias, dtype=self.dtype, name=f"conv{i}")(y)
        if x.shape[-1] != self.features:
            x = Conv(self.features, 1, use_bias=False, dtype=self.dtype, name="shortcut")(x)
        y = y + x.astype(self.dtype)
        return nn.Dropout(self.dropout, deterministic=not train)(y) if self.dropout else y


class Skip(nn.Module):
    """The identity under a name: what a skip connection carries, where `flax.linen.intercept_methods` can cut it."""

    @nn.compact
    def __call__(self, x: Float[Array, "b *s c"]) -> Float[Array, "b *s c"]:
        """Give `x`."""
        return x


def encode(
    image: Float[Array, "b *s c"], block: Callable[[Array, int, str], Array], depth: int
) -> tuple[Float[Array, "b *t k"], list[Array]]:
    """The encoder of a U-Net, called within a module: `block(x, level, name)`, its `Skip`, and pooling, `depth` times.

    Returns what goes to the bottom, and the skips from the finest level down.
    """
    x, skips = image, []
    for level in range(depth):
        x = block(x, level, f"down{level}")
        skips.append(Skip(name=f"skip{level}")(x))
        x = primitives.max_pool(x, (2,) * (image.ndim - 2))
    return x, skips


def decode(
    x: Float[Array, "b *s c"],
    skips: Sequence[Array],
    block: Callable[[Array, int, str], Array],
    widths: Sequence[int],
    dtype: str,
    gate: Callable[[Array, Array, int], Array] | None = None,
) -> Float[Array, "b *t k"]:
    """The decoder to `encode`, called within a module: up-convolution, the skip beside it, `block`, finest level last.

    `gate(skip, x, level)`, x being what has been enlarged to the skip's size, gives what is put in the skip's place.
    """
    for level in reversed(range(len(skips))):
        x = UpConv(widths[level], dtype=dtype, name=f"up{level}_conv")(x)
        skip = skips[level] if gate is None else gate(skips[level], x, level)
        x = block(jnp.concatenate([skip, x], axis=-1), level, f"up{level}")
    return x


def dropout_at(level: int, widths: tuple[int, ...], rate: float) -> float:
    """Dropout acts at the two deepest levels, as in Ronneberger 2015: `rate` there, 0 above."""
    return rate if level >= len(widths) - 2 else 0.0


def sow_aux(module: nn.Module, level: int, logits: Float[Array, "b *s k"]) -> None:
    """Put the logits of an auxiliary head (deep supervision; 1 is the one nearest to the output) into "aux".

    Nobody computes them who does not ask for that collection: `module.apply(..., mutable=["aux"])`.
    """
    if not module.is_initializing():
        module.sow("aux", f"level{level}", logits)
