"""Exact convolution, pooling and up-convolution in the form each platform runs fastest.

Channels last, two or three spatial axes, kernels (*window, Cin, Cout). On a TPU or GPU every function is the plain XLA
operation, whose memory traffic is the least there; on a CPU it is the same function through matrix products and strided
slices, whose gradients XLA:CPU runs several times faster. `lax.platform_dependent` chooses when the program is lowered,
so an exported model holds each platform's own form.
"""

import itertools
from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def _dimensions(ndim: int) -> lax.ConvDimensionNumbers:
    """Channels-last numbering: (B, *S, Cin), (*window, Cin, Cout) -> (B, *S, Cout)."""
    lhs = (0, ndim - 1, *range(1, ndim - 1))
    return lax.ConvDimensionNumbers(lhs, (ndim - 1, ndim - 2, *range(ndim - 2)), lhs)


def _plain_conv(x: Array, kernel: Array, padding: str) -> Array:
    return lax.conv_general_dilated(x, kernel, (1,) * (x.ndim - 2), padding, dimension_numbers=_dimensions(x.ndim))


def conv(
    x: Float[Array, "b *s c"], kernel: Float[Array, "*w c k"], *, padding: Literal["SAME", "VALID"] = "SAME"
) -> Float[Array, "b *t k"]:
    """Convolution (cross-correlation) of stride 1: y[p] = sum over w, c of x[p + w, c] kernel[w, c].

    Every window size is odd; "SAME" keeps the spatial size, "VALID" shrinks it by window - 1.
    """
    return _plain_conv(x, kernel, padding)


def conv_concat(
    x1: Float[Array, "b *s c1"], x2: Float[Array, "b *s c2"], kernel: Float[Array, "*w c k"]
) -> Float[Array, "b *s k"]:
    """conv(concatenate([x1, x2], -1), kernel, padding="SAME")."""
    return conv(jnp.concatenate([x1, x2], -1), kernel)


def _per_platform(cpu: Callable[..., Array], default: Callable[..., Array], *args: Array) -> Array:
    return lax.platform_dependent(*args, cpu=cpu, default=default)


def max_pool(x: Float[Array, "b *s c"], window: tuple[int, ...]) -> Float[Array, "b *t c"]:
    """Maximum over disjoint windows: (B, *S, C) -> (B, *S/window, C).

    Raises:
        ValueError: if a spatial size is no multiple of its window.
    """
    sizes = x.shape[1:-1]
    if len(window) != len(sizes) or any(s % w for s, w in zip(sizes, window, strict=True)):
        raise ValueError(f"sizes {sizes} are no multiples of the pooling window {window}: pad or crop the image")

    def slices(x: Array) -> Array:
        split = x.reshape(
            x.shape[0], *(n for s, w in zip(sizes, window, strict=True) for n in (s // w, w)), x.shape[-1]
        )
        y = None
        for offset in itertools.product(*(range(w) for w in window)):
            part = split[(slice(None), *(i for o in offset for i in (slice(None), o)))]
            y = part if y is None else jnp.maximum(y, part)
        return y

    def plain(x: Array) -> Array:
        full = (1, *window, 1)
        return lax.reduce_window(x, -jnp.inf, lax.max, full, full, "VALID")

    return _per_platform(slices, plain, x)


def up_conv(x: Float[Array, "b *s c"], kernel: Float[Array, "*w c k"]) -> Float[Array, "b *t k"]:
    """Transposed convolution whose stride is its window: (B, *S, Cin) -> (B, *(S · window), Cout).

    y[s · window + w] = sum over c of x[s, c] kernel[window - 1 - w, c], as `flax.linen.ConvTranspose(kernel_size=window,
    strides=window)` computes it.
    """
    window, rank = kernel.shape[:-2], x.ndim - 2

    def product(x: Array, kernel: Array) -> Array:
        y = jnp.tensordot(x, jnp.moveaxis(jnp.flip(kernel, range(rank)), -2, 0), 1)  # (B, *S, *window, Cout)
        order = [0, *(a for i in range(rank) for a in (1 + i, 1 + rank + i)), 2 * rank + 1]
        sizes = (s * w for s, w in zip(x.shape[1:-1], window, strict=True))
        return y.transpose(order).reshape(x.shape[0], *sizes, kernel.shape[-1])

    def plain(x: Array, kernel: Array) -> Array:
        return lax.conv_transpose(x, kernel, window, "VALID", dimension_numbers=_dimensions(x.ndim))

    return _per_platform(product, plain, x, kernel)
