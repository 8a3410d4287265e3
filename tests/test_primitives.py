"""Every form of a primitive against autodiff of the plain operation, in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unet_jax.models import primitives


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def numbers(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def axes(ndim: int) -> tuple[str, str, str]:
    space = "DHW"[-(ndim - 2) :]
    return f"N{space}C", f"{space}IO", f"N{space}C"


def plain_conv(x: jax.Array, kernel: jax.Array, padding: str) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (1,) * (x.ndim - 2), padding, dimension_numbers=axes(x.ndim))


def plain_up(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_transpose(x, kernel, kernel.shape[:-2], "VALID", dimension_numbers=axes(x.ndim))


def plain_pool(x: jax.Array, window: tuple[int, ...]) -> jax.Array:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *window, 1), "VALID")


def value_and_gradients(f, *args: jax.Array) -> list[jax.Array]:
    """f's value, and its gradients against a fixed random cotangent."""
    y, back = jax.vjp(f, *args)
    return [y, *back(numbers(*y.shape, seed=9).astype(y.dtype))]


def assert_same(f, plain, *args: jax.Array) -> None:
    expected = jax.jit(partial(value_and_gradients, plain))(*args)
    for got, want in zip(jax.jit(partial(value_and_gradients, f))(*args), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10)


# (spatial sizes, window, channels, features): folded, folded with padded channels, odd width, window 5 and 1,
# unequal windows; many channels, where the kernel's gradient is a matrix product, in both orders; volumes.
CONVOLUTIONS = [
    ((6, 8), (3, 3), 4, 5),
    ((6, 8), (3, 3), 3, 5),
    ((5, 7), (3, 3), 1, 2),
    ((7, 8), (5, 5), 2, 3),
    ((4, 6), (1, 1), 3, 2),
    ((6, 9), (5, 3), 20, 24),
    ((5, 6), (3, 3), 64, 66),
    ((6, 5), (5, 3), 66, 64),
    ((4, 5, 6), (3, 3, 3), 2, 3),
    ((4, 3, 5), (1, 3, 3), 3, 2),
    ((3, 4, 5), (3, 3, 3), 64, 64),
]


@pytest.mark.parametrize(
    ("size", "window", "channels", "features", "padding"),
    [(*case, "SAME") for case in CONVOLUTIONS] + [(*case, "VALID") for case in CONVOLUTIONS[::2]],
)
def test_conv_and_both_gradients(size, window, channels, features, padding):
    x, kernel = numbers(2, *size, channels), numbers(*window, channels, features, seed=1)
    assert_same(partial(primitives.conv, padding=padding), partial(plain_conv, padding=padding), x, kernel)


def test_a_convolution_by_hand():
    # Ones everywhere: a corner sees 2×2 pixels of the padded 3×3 window, an edge 2×3, the inside 3×3.
    y = primitives.conv(jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1)))
    np.testing.assert_allclose(y[0, :, :, 0], [[4, 6, 6, 4], [6, 9, 9, 6], [6, 9, 9, 6], [4, 6, 6, 4]])


def test_an_even_window_is_refused():
    with pytest.raises(ValueError, match="window \\(2, 2\\) is even"):
        primitives.conv(numbers(1, 4, 4, 1), numbers(2, 2, 1, 1))


@pytest.mark.parametrize(
    ("size", "window"), [((6, 8), (2, 2)), ((9, 4), (3, 2)), ((4, 6, 2), (2, 2, 2)), ((3, 4, 6), (1, 2, 2))]
)
def test_max_pool_and_up_conv(size, window):
    x, kernel = numbers(2, *size, 3), numbers(*window, 3, 5, seed=1)
    assert_same(partial(primitives.max_pool, window=window), partial(plain_pool, window=window), x)
    assert_same(primitives.up_conv, plain_up, x, kernel)


def test_tied_maxima_share_one_gradient():
    gradient = jax.grad(lambda x: primitives.max_pool(x, (2, 2)).sum())(jnp.zeros((1, 2, 2, 1)))
    np.testing.assert_allclose(gradient, jnp.full((1, 2, 2, 1), 0.25))


def test_pooling_of_an_indivisible_size_is_refused():
    with pytest.raises(ValueError, match=r"\(5, 4\) is no multiple of the pooling window \(2, 2\)"):
        primitives.max_pool(numbers(1, 5, 4, 1), (2, 2))


def network(x: jax.Array, kernel: jax.Array, up: jax.Array, wide: jax.Array) -> jax.Array:
    y = primitives.conv(x, kernel)
    y = primitives.conv(primitives.max_pool(y, (2,) * (x.ndim - 2)), wide)
    return primitives.up_conv(y, up)


def weights(rank: int) -> tuple[jax.Array, ...]:
    shapes = ((3,) * rank + (3, 8), (2,) * rank + (64, 2), (3,) * rank + (8, 64))
    return tuple(numbers(*shape, seed=i) for i, shape in enumerate(shapes))


def test_vmap_over_images_is_the_batch():
    x, kernels = numbers(3, 4, 8, 3), weights(2)
    one = jax.vmap(lambda image: network(image[None], *kernels)[0])
    assert_same(one, lambda x: network(x, *kernels), x)


def test_vmap_over_kernels_gives_each_its_gradient():
    x, kernels = numbers(2, 4, 6, 3), numbers(4, 3, 3, 3, 5)

    def gradient(kernel: jax.Array) -> jax.Array:
        return jax.grad(lambda k: jnp.sum(primitives.conv(x, k) ** 2))(kernel)

    np.testing.assert_allclose(jax.jit(jax.vmap(gradient))(kernels), lax.map(gradient, kernels), rtol=1e-10)


@pytest.mark.parametrize(("devices", "rank"), [(2, 2), (4, 2), (4, 3)])
def test_a_sharded_batch_is_never_gathered(devices, rank):
    x, kernels = numbers(4, *(4,) * rank, 3), weights(rank)
    step = partial(value_and_gradients, network)
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    placed = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    copies = jax.device_put(kernels, NamedSharding(mesh, PartitionSpec()))
    compiled = jax.jit(step).lower(placed, *copies).compile()
    moves = [op for op in ("all-gather", "all-to-all", "collective-permute") if f" {op}(" in compiled.as_text()]
    assert not moves
    for got, want in zip(compiled(placed, *copies), jax.jit(step)(x, *kernels), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_dtype_stays(dtype):
    x, kernels = numbers(1, 4, 4, 3).astype(dtype), [k.astype(dtype) for k in weights(2)]
    assert {a.dtype.name for a in jax.jit(partial(value_and_gradients, network))(x, *kernels)} == {dtype}


def test_other_platforms_keep_the_plain_operations():
    x, kernels = numbers(2, 4, 4, 3).astype("float32"), [k.astype("float32") for k in weights(2)]

    def step(x: jax.Array, *kernels: jax.Array) -> list[jax.Array]:
        y, back = jax.vjp(network, x, *kernels)
        return [y, *back(y)]

    texts = {p: jax.jit(step).trace(x, *kernels).lower(lowering_platforms=(p,)).as_text() for p in ("tpu", "cpu")}
    counts = {p: [t.count(f"stablehlo.{op}") for op in ("reduce_window", "dot_general")] for p, t in texts.items()}
    assert counts["tpu"] == [1, 0]
    assert counts["cpu"][0] == 0
    assert counts["cpu"][1] > 0
