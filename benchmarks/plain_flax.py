"""The same U-Net as one writes it in plain flax: nn.Conv, nn.ConvTranspose, nn.max_pool. Its parameters fit `UNet`."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


class PlainBlock(nn.Module):
    """Two times 3×3 convolution and ReLU."""

    features: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b *s c"]) -> Float[Array, "b *s k"]:
        for i in range(2):
            x = nn.relu(nn.Conv(self.features, (3,) * (x.ndim - 2), dtype=self.dtype, name=f"conv{i}")(x))
        return x


class PlainUNet(nn.Module):
    """The padded 2015 network without normalisation; image (B, *S, C) -> logits (B, *S, classes), float32."""

    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    classes: int = 2
    dtype: str = "float32"

    @nn.compact
    def __call__(self, image: Float[Array, "b *s c"], *, train: bool = False) -> Float[Array, "b *s k"]:
        del train
        twice, deepest = (2,) * (image.ndim - 2), len(self.widths) - 1
        x, skips = image, []
        for level in range(deepest):
            skips.append(PlainBlock(self.widths[level], self.dtype, name=f"down{level}")(x))
            x = nn.max_pool(skips[-1], twice, strides=twice)
        x = PlainBlock(self.widths[deepest], self.dtype, name="bottom")(x)
        for level in reversed(range(deepest)):
            up = nn.ConvTranspose(self.widths[level], twice, strides=twice, dtype=self.dtype, name=f"up{level}_conv")
            x = jnp.concatenate([skips[level], up(x)], axis=-1)
            x = PlainBlock(self.widths[level], self.dtype, name=f"up{level}")(x)
        one = (1,) * (image.ndim - 2)
        return nn.Conv(self.classes, one, dtype=self.dtype, name="logits")(x).astype(jnp.float32)
