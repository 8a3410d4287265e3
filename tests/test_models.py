import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.fixtures import make_simple_unet
from unet_jax.models import MODELS, UNet, from_spec, to_spec
from unet_jax.models.blocks import GroupNorm
from unet_jax.models.unet import margin, output_size

TINY = (4, 6, 8)
SHAPES = {"2d": (2, 8, 12, 3), "3d": (1, 4, 8, 4, 2)}


def init(model, shape, **options):
    return model.init(jax.random.PRNGKey(0), jnp.zeros(shape, jnp.float32), **options)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_parameters_of_the_paper_network():
    # The derivation stands in UNet's docstring: 31,030,658 with one channel and two classes, whatever the padding.
    for padding, size in (("SAME", 16), ("VALID", 188)):
        shapes = jax.eval_shape(lambda p=padding, s=size: init(UNet(padding=p), (1, s, s, 1)))
        assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == 31_030_658


def test_sizes_of_the_paper_network():
    assert margin((64, 128, 256, 512, 1024)) == 92
    assert output_size((572, 572), (64, 128, 256, 512, 1024), "VALID") == (388, 388)
    logits = jax.eval_shape(
        lambda: UNet(padding="VALID").init_with_output(jax.random.PRNGKey(0), jnp.zeros((1, 572, 572, 1)))[0]
    )
    assert logits.shape == (1, 388, 388, 2)


def test_valid_sizes_agree_with_the_network():
    model = UNet(TINY, padding="VALID")
    for n in range(20, 60):
        try:
            expected = output_size((n, n), TINY, "VALID")
        except ValueError:
            continue
        logits = jax.eval_shape(lambda n=n: model.init_with_output(jax.random.PRNGKey(0), jnp.zeros((1, n, n, 1)))[0])
        assert logits.shape[1:3] == expected
        assert min(expected) > 0


def test_same_output_as_pytorch():
    """Weights transplanted from an equal PyTorch network (fixtures/make_simple_unet.py) give its output."""
    w = make_simple_unet.weights()
    params = {}
    for name in ("down0", "down1", "bottom", "up1", "up0"):
        params[name] = {
            f"conv{i}": {"kernel": w[f"{name}.{i}"].transpose(2, 3, 1, 0), "bias": w[f"{name}.{i}.bias"]}
            for i in range(2)
        }
    for level in (1, 0):
        # A transposed convolution is a gradient: PyTorch flips the kernel against flax, and keeps (in, out) first.
        kernel = w[f"up{level}.conv"][:, :, ::-1, ::-1].transpose(2, 3, 0, 1)
        params[f"up{level}_conv"] = {"kernel": kernel, "bias": w[f"up{level}.conv.bias"]}
    params["logits"] = {"kernel": w["logits"].transpose(2, 3, 1, 0), "bias": w["logits.bias"]}
    kept = np.load(make_simple_unet.FILE)
    model = UNet(make_simple_unet.WIDTHS, classes=1)
    image = jnp.asarray(kept["image"].transpose(0, 2, 3, 1))
    assert jax.tree.structure(params) == jax.tree.structure(init(model, image.shape)["params"])
    logits = jax.jit(model.apply)({"params": params}, image)
    expected = kept["logits"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("rank", SHAPES)
@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)
def test_contract(model, rank):
    """Shape, float32 logits, every skip and every parameter alive, batch statistics and dropout only in training."""
    shape = SHAPES[rank]
    module = model(TINY, classes=3, norm="batch", dropout=0.5)
    image = jax.random.uniform(jax.random.PRNGKey(1), shape)
    variables = init(module, shape)
    logits = jax.jit(module.apply)(variables, image)
    assert logits.shape == (*shape[:-1], 3)
    assert logits.dtype == jnp.float32

    def objective(params, key, train):
        out, changed = module.apply(
            {**variables, "params": params}, image, train=train, rngs={"dropout": key}, mutable=["batch_stats"]
        )
        return jnp.sum(out * jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)), (out, changed)

    run = jax.jit(jax.value_and_grad(objective, has_aux=True), static_argnums=2)
    (_, (first, changed)), grads = run(variables["params"], jax.random.PRNGKey(2), True)
    (_, (second, _)), _ = run(variables["params"], jax.random.PRNGKey(3), True)
    assert not np.allclose(first, second), "dropout acts in training"
    assert not np.allclose(jax.tree.leaves(changed)[0], jax.tree.leaves(variables["batch_stats"])[0]), (
        "batch statistics move in training"
    )
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.any(np.abs(grad) > 0), f"{jax.tree_util.keystr(path)} gets no gradient"
    again = jax.jit(module.apply)(variables, image)
    np.testing.assert_array_equal(logits, again)
    np.testing.assert_allclose(module.apply(variables, image), logits, atol=1e-5)


def test_every_skip_is_alive():
    """Without an encoder level's half of the concatenation the output changes, at every level."""
    module = UNet(TINY)
    image = jax.random.uniform(jax.random.PRNGKey(1), (1, 8, 8, 1))
    params = init(module, image.shape)["params"]
    run = jax.jit(module.apply)
    whole = run({"params": params}, image)
    for level, width in enumerate(TINY[:-1]):
        kernel = params[f"up{level}"]["conv0"]["kernel"]
        cut = jax.tree.map(lambda x: x, params)
        cut[f"up{level}"]["conv0"]["kernel"] = kernel.at[..., :width, :].set(0.0)
        assert not np.allclose(run({"params": cut}, image), whole), f"the skip of level {level} is dead"


@pytest.mark.parametrize("options", [{"norm": "group"}, {"upsample": "resize"}, {"dtype": "bfloat16"}])
def test_options_keep_the_contract(options):
    module = UNet(TINY, **options)
    image = jax.random.uniform(jax.random.PRNGKey(1), (2, 8, 8, 1))
    variables = init(module, image.shape)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    logits = jax.jit(module.apply)(variables, image)
    assert (logits.shape, logits.dtype) == ((2, 8, 8, 2), jnp.float32)
    if "dtype" in options:  # eight bits of mantissa through ten layers
        exact = jax.jit(UNet(TINY).apply)(variables, image)
        np.testing.assert_allclose(logits, exact, atol=0.05 * np.abs(exact).max())
        assert not np.array_equal(logits, exact)


def test_size_that_does_not_divide_names_the_mend():
    with pytest.raises(ValueError, match=r"10×12 pixels.*2 down-samplings.*pad it to 12×12, or use widths with fewer"):
        init(UNet(TINY), (1, 10, 12, 1))
    with pytest.raises(ValueError, match="pad it to 572×572"):
        output_size((570, 570), (64, 128, 256, 512, 1024), "VALID")


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)
def test_spec_round_trip_through_json(model):
    module = model(TINY, classes=5)
    assert from_spec(json.loads(json.dumps(to_spec(module)))) == module
    with pytest.raises(ValueError, match="unknown model 'VNet'"):
        from_spec({"name": "VNet"})
    with pytest.raises(ValueError, match="no field depth"):
        from_spec({"name": model.__name__, "depth": 3})


def test_group_normalisation_is_that_of_flax():
    x = 3 * jax.random.normal(jax.random.PRNGKey(0), (2, 4, 4, 8)) + 1
    variables = {"params": {"scale": jnp.arange(1.0, 9), "bias": jnp.arange(8.0)}}
    reference, ours = nn.GroupNorm(num_groups=4), GroupNorm(4)

    def slope(module):
        return jax.grad(lambda x: jnp.sum(jnp.sin(module.apply(variables, x))))(x)

    np.testing.assert_allclose(ours.apply(variables, x), reference.apply(variables, x), atol=1e-5)
    np.testing.assert_allclose(slope(ours), slope(reference), atol=1e-5)
