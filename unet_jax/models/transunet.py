"""U-Nets with a transformer: TransUNet (Chen et al. 2021, arXiv 2102.04306), UNETR (Hatamizadeh 2022, 2103.10504)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from unet_jax.models.blocks import Conv, ConvBlock, Norm, ResidualBlock, Skip, UpConv, decode, dropout_at, encode
from unet_jax.models.classifier import cut
from unet_jax.models.unet import check_size


class Layer(nn.Module):
    """Self-attention and a two-layer network, each normalised first and added: tokens (B, T, W) -> (B, T, W).

    12·W² + 10·W parameters: 3·W² for queries, keys and values (without biases: a key's would cancel), W² + W behind
    them, 8·W² + 5·W for the network of four times the width, 4·W for the two normalisations. Source: Dosovitskiy et al.
    2021 (arXiv 2010.11929), equations 2 and 3.
    """

    head_width: int
    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b t w"], *, train: bool) -> Float[Array, "b t w"]:
        """Apply the layer."""
        width = x.shape[-1]
        heads = max(1, width // self.head_width)
        if width % heads:
            raise ValueError(f"{width} features for {heads} heads: choose a last width that {self.head_width} divides")

        def dense(features: int, name: str, use_bias: bool = True) -> nn.Dense:
            return nn.Dense(features, use_bias, self.dtype, name=name)

        def drop(y: Array) -> Array:
            return nn.Dropout(self.dropout, deterministic=not train)(y) if self.dropout else y

        y = nn.LayerNorm(dtype=self.dtype, name="norm0")(x)
        y = dense(3 * width, "qkv", use_bias=False)(y).reshape(*y.shape[:2], heads, -1)
        y = jax.nn.dot_product_attention(*jnp.split(y, 3, axis=-1)).reshape(x.shape)
        x = x + drop(dense(width, "out")(y))
        y = dense(4 * width, "mlp0")(nn.LayerNorm(dtype=self.dtype, name="norm1")(x))
        return x + drop(dense(width, "mlp1")(nn.gelu(y)))


def positions(size: tuple[int, ...], width: int) -> Float[np.ndarray, "t w"]:
    """Sines and cosines of each token's place, a share of the features for each axis; zeros where it does not divide.

    Fixed, where ViT learns them, so that one set of weights serves images of any size. Source: Vaswani et al. 2017,
    section 3.5.
    """
    count = width // (2 * len(size))
    rate = 10000.0 ** -(np.arange(count) / max(count, 1))
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), axis=-1).reshape(-1, len(size), 1)
    waves = np.concatenate([np.sin(grid * rate), np.cos(grid * rate)], axis=-1).reshape(len(grid), -1)
    return np.pad(waves, [(0, 0), (0, width - waves.shape[1])]).astype(np.float32)


class TransUNet(nn.Module):
    """A U-Net whose bottom is a transformer over its pixels; image (B, *S, C) -> logits (B, *S, classes), float32.

    The last of the `widths` is the tokens'. The paper's stem is a ResNet-50 trained on ImageNet, this one is the
    U-Net's encoder, trained from nothing. Attention has a head for every `head_width` features; dropout acts in the
    transformer and at the deepest level before it.

    Parameters with one input channel and two classes:
      encoder      37,568;  221,440;  885,248;  3,539,968, as in `UNet`
      tokens       512·768 + 768 = 393,984;  12 layers of 12·768² + 10·768 = 7,085,568;  last norm 2·768 = 1,536
      decoder      up 4·768·512 + 512 = 1,573,376 and block 7,078,912;  524,544 and 1,769,984;  131,200 and 442,624;
                   32,832 and 110,720;  last 64·2 + 2 = 130
      sum          101,770,882
    """

    widths: tuple[int, ...] = (64, 128, 256, 512, 768)
    classes: int = 2
    norm: Norm = "none"
    dropout: float = 0.0
    dtype: str = "float32"
    layers: int = 12
    head_width: int = 64

    @nn.compact
    def __call__(self, image: Float[Array, "b *s c"], *, train: bool = False) -> Float[Array, "b *s k"]:
        """Give the logits; `train` turns on dropout (rng "dropout") and the update of batch statistics."""
        check_size(image.shape[1:-1], self.widths, "SAME")
        deepest = len(self.widths) - 1

        def block(x: Array, level: int, name: str) -> Array:
            dropout = 0.0 if name.startswith("up") else dropout_at(level, self.widths, self.dropout)
            return ConvBlock(self.widths[level], self.norm, dropout, dtype=self.dtype, name=name)(x, train=train)

        x, skips = encode(image, block, deepest)
        size = x.shape[1:-1]
        x = _tokens(x.reshape(x.shape[0], -1, x.shape[-1]), size, self.widths[-1], self.dtype)
        for i in range(self.layers):
            x = Layer(self.head_width, self.dropout, self.dtype, name=f"layer{i}")(x, train=train)
        x = nn.LayerNorm(dtype=self.dtype, name="norm")(x).reshape(x.shape[0], *size, -1)
        x = decode(x, skips, block, self.widths, self.dtype)
        return Conv(self.classes, 1, dtype=self.dtype, name="logits")(x).astype(jnp.float32)


class UNETR(nn.Module):
    """The encoder is a transformer alone, over square pieces; image (B, *S, C) -> logits (B, *S, classes), float32.

    A token is a piece of 2**(len(widths) - 1) pixels a side. The skip of level 0 comes from the image, that of level i
    from the tokens after a share i of the layers, enlarged step by step. Other fields as in `TransUNet`.

    Parameters with one input channel, two classes and no norm; a residual block from c to w has 9·(c·w + w²) + 2·w +
    c·w, an up-convolution 4·c·w + w:
      tokens       256·768 + 768 = 197,376;  12 layers of 7,085,568;  last norm 1,536
      skips        0: 9·(1·16 + 16²) + 2·16 + 16 = 2,496;  1: 98,336 + 2·32·(4·32 + 1) = 106,592;
                   2: 196,672 + 64·(4·64 + 1) = 213,120;  3: 393,344
      decoder      up 393,344 and block 475,392;  32,832 and 118,912;  8,224 and 29,760;  2,064 and 7,456;
                   last 16·2 + 2 = 34
      sum          87,009,298
    """

    widths: tuple[int, ...] = (16, 32, 64, 128, 768)
    classes: int = 2
    norm: Norm = "none"
    dropout: float = 0.0
    dtype: str = "float32"
    layers: int = 12
    head_width: int = 64

    @nn.compact
    def __call__(self, image: Float[Array, "b *s c"], *, train: bool = False) -> Float[Array, "b *s k"]:
        """Give the logits; `train` turns on dropout (rng "dropout") and the update of batch statistics."""
        check_size(image.shape[1:-1], self.widths, "SAME")
        deepest, rank = len(self.widths) - 1, image.ndim - 2
        if not 1 <= deepest <= self.layers:
            raise ValueError(
                f"{len(self.widths)} widths and {self.layers} layers: give two widths at least, and at most one more "
                "than there are layers, whose outputs the skips are"
            )
        size = tuple(n // 2**deepest for n in image.shape[1:-1])

        def block(x: Array, level: int, name: str, first: bool = False) -> Array:
            return ResidualBlock(self.widths[level], self.norm, 0.0, self.dtype, first, name=name)(x, train=train)

        pieces = cut(image, (2**deepest,) * rank).reshape(image.shape[0], int(np.prod(size)), -1)
        x = _tokens(pieces, size, self.widths[-1], self.dtype)
        skips = [block(image, 0, "skip0_block", first=True)]
        taps = {round(self.layers * level / deepest): level for level in range(1, deepest)}
        for i in range(1, self.layers + 1):
            x = Layer(self.head_width, self.dropout, self.dtype, name=f"layer{i - 1}")(x, train=train)
            if i in taps:
                y = x.reshape(x.shape[0], *size, -1)
                for step in range(deepest - taps[i]):
                    y = UpConv(self.widths[taps[i]], dtype=self.dtype, name=f"skip{taps[i]}_up{step}")(y)
                skips.append(y)
        x = nn.LayerNorm(dtype=self.dtype, name="norm")(x).reshape(x.shape[0], *size, -1)
        skips = [Skip(name=f"skip{level}")(skip) for level, skip in enumerate(skips)]
        x = decode(x, skips, block, self.widths, self.dtype)
        return Conv(self.classes, 1, dtype=self.dtype, name="logits")(x).astype(jnp.float32)


def _tokens(x: Array, size: tuple[int, ...], width: int, dtype: str) -> Array:
    """Tokens (B, T, C) to `width` features, and their places added; call it within a module."""
    x = nn.Dense(width, dtype=dtype, name="embed")(x)
    return x + jnp.asarray(positions(size, width), x.dtype)[None]
