"""UNet++ (Zhou et al. 2018, arXiv 1807.10165): nested decoders and dense skips; it can be pruned."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from unet_jax.models import primitives
from unet_jax.models.blocks import Conv, ConvBlock, Norm, Skip, UpConv, dropout_at, sow_aux
from unet_jax.models.unet import check_size


class UNetPP(nn.Module):
    """Every level has a row of blocks; image (B, *S, C) -> logits (B, *S, classes), float32.

    Block (i, 0) is the encoder's at level i; block (i, j) sees all blocks of its level before it, and the enlarged
    (i + 1, j - 1). The logits come from (0, columns), `columns` being `len(widths) - 1` when 0. With
    `deep_supervision` the shallower (0, j) have heads too, which are sown into "aux" and can be cut out by `prune`.

    Parameters with one input channel, two classes and deep supervision; block (i, j) of width w has 9·(w·w·(j + 1) +
    w²) + 2·w, and its up-convolution from width v has 4·v·w + w:
      encoder  9·(1·32 + 32²) + 2·32 = 9,568;  55,424;  221,440;  885,248;  bottom 3,539,968
      j = 1    up 8,224 and block 27,712;  32,832 and 110,720;  131,200 and 442,624;  524,544 and 1,769,984
      j = 2    8,224 and 36,928;  32,832 and 147,584;  131,200 and 590,080
      j = 3    8,224 and 46,144;  32,832 and 184,448
      j = 4    8,224 and 55,360;  four heads of 32·2 + 2 = 66
      sum      9,041,832
    """

    widths: tuple[int, ...] = (32, 64, 128, 256, 512)
    classes: int = 2
    norm: Norm = "none"
    dropout: float = 0.0
    dtype: str = "float32"
    deep_supervision: bool = True
    columns: int = 0

    @nn.compact
    def __call__(self, image: Float[Array, "b *s c"], *, train: bool = False) -> Float[Array, "b *s k"]:
        """Give the logits; `train` turns on dropout (rng "dropout") and the update of batch statistics."""
        check_size(image.shape[1:-1], self.widths, "SAME")
        if len(self.widths) < 2:
            raise ValueError(f"widths {self.widths}: a nested U-Net needs two levels at least")
        last = self.columns or len(self.widths) - 1

        def block(x: Array, level: int, column: int) -> Array:
            dropout = 0.0 if column else dropout_at(level, self.widths, self.dropout)
            name = f"block{level}_{column}"
            return ConvBlock(self.widths[level], self.norm, dropout, dtype=self.dtype, name=name)(x, train=train)

        x, rows = image, []
        for level in range(last + 1):
            x = primitives.max_pool(x, (2,) * (image.ndim - 2)) if level else x
            x = block(x, level, 0)
            rows.append([x])
        for column in range(1, last + 1):
            for level in range(last + 1 - column):
                up = UpConv(self.widths[level], dtype=self.dtype, name=f"up{level}_{column}")(rows[level + 1][-1])
                seen = [Skip(name=f"skip{level}_{i}_{column}")(x) for i, x in enumerate(rows[level])]
                rows[level].append(block(jnp.concatenate([*seen, up], axis=-1), level, column))
        for column in range(1 if self.deep_supervision else last, last + 1):
            head = Conv(self.classes, 1, dtype=self.dtype, name=f"logits{column}")
            logits = head(rows[0][column]).astype(jnp.float32)
            if column < last:
                sow_aux(self, last - column, logits)
        return logits


def prune(module: UNetPP, variables: Any, columns: int) -> tuple[UNetPP, dict[str, Any]]:
    """The smaller network that ends at (0, columns), and the part of `variables` that it needs; Zhou 2018, section 3.3.

    Raises:
        ValueError: when the network has no head there.
    """
    deepest = module.columns or len(module.widths) - 1
    if not 1 <= columns <= deepest or (columns < deepest and not module.deep_supervision):
        raise ValueError(
            f"no head at column {columns} of {deepest}: train with deep_supervision=True, and choose from 1 on"
        )
    small = dataclasses.replace(module, columns=columns)
    channels = variables["params"]["block0_0"]["conv0"]["kernel"].shape[-2]
    rank = variables["params"]["block0_0"]["conv0"]["kernel"].ndim - 2
    blank = jnp.zeros((1, *(2 ** (len(module.widths) - 1),) * rank, channels))
    return small, _part(variables, jax.eval_shape(small.init, jax.random.PRNGKey(0), blank))


def _part(tree: Any, names: Any) -> Any:
    """The entries of nested dicts `tree` that are in `names` too."""
    return {k: _part(tree[k], v) for k, v in names.items()} if isinstance(names, dict) else tree
