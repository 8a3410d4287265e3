"""Exact convolution, pooling and up-convolution in the form each platform runs fastest.

Channels last, two or three spatial axes, kernels (*window, Cin, Cout). On a TPU or GPU every function is the plain XLA
operation, which moves the fewest bytes there. On a CPU it is the same function written so that XLA:CPU takes its fast
kernels: two-dimensional convolutions with more than sixteen channels, and row-major matrix products.
`lax.platform_dependent` chooses when a program is lowered, so an exported model holds each platform's own form. The
batch axis may be sharded: no form gathers it. `conv` differentiates in reverse mode only.
"""

import itertools
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

# Measured on XLA:CPU: up to this sum of channels two pixels at a time are faster than one ...
_FOLD_CHANNELS = 36
# ... and from this many channels on both sides, matrix products beat XLA's own weight gradient, by up to two times.
_PRODUCT_CHANNELS = 64


def conv(
    x: Float[Array, "b *s c"], kernel: Float[Array, "*w c k"], *, padding: Literal["SAME", "VALID"] = "SAME"
) -> Float[Array, "b *t k"]:
    """Convolution of stride 1: y[p] = sum over w, c of x[p + w] kernel[w], as in `flax.linen.Conv`.

    "SAME" pads with zeros and keeps the spatial size; "VALID" shrinks it by window - 1.

    Raises:
        ValueError: if a window size is even.
    """
    window = kernel.shape[:-2]
    if any(n % 2 == 0 for n in window):
        raise ValueError(f"convolution window {window} is even: use odd sizes, whose centre is a pixel")
    return _conv(x, kernel, tuple(n // 2 if padding == "SAME" else 0 for n in window))


def max_pool(x: Float[Array, "b *s c"], window: tuple[int, ...]) -> Float[Array, "b *t c"]:
    """Maximum over disjoint windows: (B, *S, C) -> (B, *(S / window), C).

    Where values tie, the gradient is shared on a CPU and goes to the first on a TPU or GPU; both are subgradients.

    Raises:
        ValueError: if a spatial size is no multiple of its window.
    """
    sizes = x.shape[1:-1]
    if len(window) != len(sizes) or any(s % w for s, w in zip(sizes, window, strict=True)):
        raise ValueError(f"image size {sizes} is no multiple of the pooling window {window}: pad or crop the image")

    def slices(x: Array) -> Array:
        split = x.reshape(x.shape[0], *_interleave(_divide(sizes, window), window), x.shape[-1])
        parts = [split[(slice(None), *_interleave((slice(None),) * len(o), o))] for o in _offsets(window)]
        while len(parts) > 1:  # as a tree, so that ties share their gradient evenly
            parts = [jax.tree.reduce(jnp.maximum, parts[i : i + 2]) for i in range(0, len(parts), 2)]
        return parts[0]

    def plain(x: Array) -> Array:
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *window, 1), "VALID")

    return lax.platform_dependent(x, cpu=slices, default=plain)


def up_conv(x: Float[Array, "b *s c"], kernel: Float[Array, "*w c k"]) -> Float[Array, "b *t k"]:
    """Transposed convolution whose stride is its window: (B, *S, Cin) -> (B, *(S · window), Cout).

    y[s · window + w] = sum over c of x[s] kernel[window - 1 - w], as `flax.linen.ConvTranspose(kernel_size=window,
    strides=window)` computes it.
    """
    window, rank = kernel.shape[:-2], x.ndim - 2

    def product(x: Array, kernel: Array) -> Array:
        matrix = jnp.moveaxis(jnp.flip(kernel, range(rank)), -2, 0)
        y = jnp.tensordot(x, matrix, 1)  # (B, *S, *window, Cout)
        y = y.transpose(0, *_interleave(range(1, 1 + rank), range(1 + rank, 1 + 2 * rank)), 1 + 2 * rank)
        return y.reshape(x.shape[0], *(s * w for s, w in zip(x.shape[1:-1], window, strict=True)), kernel.shape[-1])

    def plain(x: Array, kernel: Array) -> Array:
        return lax.conv_transpose(x, kernel, window, "VALID", dimension_numbers=_dimensions(x.ndim))

    return lax.platform_dependent(x, kernel, cpu=product, default=plain)


def _divide(sizes: tuple[int, ...], window: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(s // w for s, w in zip(sizes, window, strict=True))


def _interleave(first, second) -> tuple:
    return tuple(itertools.chain.from_iterable(zip(first, second, strict=True)))


def _offsets(window: tuple[int, ...]) -> itertools.product:
    return itertools.product(*(range(w) for w in window))


def _dimensions(ndim: int) -> lax.ConvDimensionNumbers:
    """Channels-last numbering: (B, *S, Cin), (*window, Cin, Cout) -> (B, *S, Cout)."""
    image = (0, ndim - 1, *range(1, ndim - 1))
    return lax.ConvDimensionNumbers(image, (ndim - 1, ndim - 2, *range(ndim - 2)), image)


def _plain_conv(x: Array, kernel: Array, pad: tuple[int, ...], stride: tuple[int, ...] | None = None) -> Array:
    pairs = [(p, p) for p in pad]
    stride = stride or (1,) * len(pad)
    return lax.conv_general_dilated(x, kernel, stride, pairs, dimension_numbers=_dimensions(x.ndim))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: Array, kernel: Array, pad: tuple[int, ...]) -> Array:
    """Convolution of stride 1 with `pad` zeros on both sides of every spatial axis."""
    return lax.platform_dependent(x, kernel, cpu=partial(_cpu_conv, pad=pad), default=partial(_plain_conv, pad=pad))


def _conv_forward(x: Array, kernel: Array, pad: tuple[int, ...]) -> tuple[Array, tuple[Array, Array]]:
    return _conv(x, kernel, pad), (x, kernel)


def _conv_backward(pad: tuple[int, ...], saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    def cpu(x: Array, kernel: Array, g: Array) -> tuple[Array, Array]:
        turned = jnp.flip(kernel, range(len(pad))).swapaxes(-1, -2)
        back = tuple(n - 1 - p for n, p in zip(kernel.shape, pad, strict=False))
        return _cpu_conv(g, turned, back), _cpu_kernel_gradient(x, g, kernel.shape[:-2], pad).astype(kernel.dtype)

    def plain(x: Array, kernel: Array, g: Array) -> tuple[Array, Array]:
        return jax.vjp(partial(_plain_conv, pad=pad), x, kernel)[1](g)

    return lax.platform_dependent(*saved, g, cpu=cpu, default=plain)


_conv.defvjp(_conv_forward, _conv_backward)


def _planes(x: Array, size: int, pad: int) -> list[Array]:
    """For each offset into a window along the first spatial axis, all planes it meets: size × (B · D', H, W, C)."""
    x = jnp.pad(x, [(0, 0), (pad, pad)] + [(0, 0)] * (x.ndim - 2))
    depth = x.shape[1] - size + 1
    return [x[:, i : i + depth].reshape(x.shape[0] * depth, *x.shape[2:]) for i in range(size)]


def _sum(parts: list[Array]) -> Array:
    return jax.tree.reduce(jnp.add, parts)


def _cpu_conv(x: Array, kernel: Array, pad: tuple[int, ...]) -> Array:
    if x.ndim == 5:  # a volume's convolution is a sum of its planes' convolutions, which have the fast kernels
        y = _sum([_cpu_conv(p, k, pad[1:]) for p, k in zip(_planes(x, len(kernel), pad[0]), kernel, strict=True)])
        return y.reshape(x.shape[0], -1, *y.shape[1:])
    rows, columns, channels, features = kernel.shape
    if pad[0] > rows // 2 or pad[1] > columns // 2:  # the fast kernels want an output no larger than the input
        x, pad = jnp.pad(x, [(0, 0), *((p, p) for p in pad), (0, 0)]), (0, 0)
    width = x.shape[2] + 2 * pad[1] - columns + 1
    if channels + features > _FOLD_CHANNELS or columns == 1 or width % 2:
        return _plain_conv(x, kernel, pad)
    # Two neighbouring pixels are two sets of features of one wider window, moved by two.
    more = -channels % 4 if channels > 1 else 0
    x, kernel = (jnp.pad(a, [(0, 0)] * (3 - d) + [(0, more)] + [(0, 0)] * d) for a, d in ((x, 0), (kernel, 1)))
    pair = [jnp.pad(kernel, [(0, 0), (i, 1 - i), (0, 0), (0, 0)]) for i in range(2)]
    y = _plain_conv(x, jnp.concatenate(pair, -1), pad, (1, 2))
    return y.reshape(*y.shape[:2], width, features)


def _cpu_kernel_gradient(x: Array, g: Array, window: tuple[int, ...], pad: tuple[int, ...]) -> Array:
    """dL/dkernel[w] = sum over p of x[p + w - pad] g[p], from g = dL/dy."""
    if x.ndim == 5:
        flat = g.reshape(-1, *g.shape[2:])
        planes = _planes(x, window[0], pad[0])
        return jnp.stack([_cpu_kernel_gradient(p, flat, window[1:], pad[1:]) for p in planes])
    if min(x.shape[-1], g.shape[-1]) >= _PRODUCT_CHANNELS:
        return _kernel_gradient_products(x, g, window, pad)
    zeros = jnp.zeros((*window, x.shape[-1], g.shape[-1]), x.dtype)
    return jax.linear_transpose(lambda k: _plain_conv(x, k, pad), zeros)(g)[0]


def _kernel_gradient_products(x: Array, g: Array, window: tuple[int, int], pad: tuple[int, int]) -> Array:
    """The kernel's gradient as one matrix product a row of the window, its columns stacked: (window, Cin, Cout)."""
    (rows, columns), channels, features = window, x.shape[-1], g.shape[-1]
    if features < channels:  # stack the smaller of the two; the roles are symmetric
        turned = _kernel_gradient_products(g, x, window, (rows - 1 - pad[0], columns - 1 - pad[1]))
        return jnp.flip(turned, (0, 1)).swapaxes(-1, -2)
    height, width = x.shape[1], g.shape[2]
    stacked = jnp.pad(x.transpose(3, 0, 1, 2), [(0, 0)] * 3 + [(pad[1], pad[1])])
    stacked = jnp.concatenate([stacked[..., i : i + width] for i in range(columns)]).reshape(columns * channels, -1)
    margin = rows - 1 - pad[0]
    g = jnp.pad(g, [(0, 0), (margin, margin), (0, 0), (0, 0)])
    shifts = [g[:, rows - 1 - i :][:, :height].reshape(-1, features) for i in range(rows)]
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.stack([jnp.matmul(stacked, s, preferred_element_type=wide) for s in shifts]).reshape(
        *window, channels, features
    )
