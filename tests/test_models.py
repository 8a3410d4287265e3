import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.fixtures import make_simple_unet
from unet_jax.models import UNet, from_spec
from unet_jax.models.blocks import GroupNorm
from unet_jax.models.unet import margin, output_size

TINY = (4, 6, 8)


def init(model, shape, **options):
    return model.init(jax.random.PRNGKey(0), jnp.zeros(shape, jnp.float32), **options)


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


@pytest.mark.parametrize("options", [{"norm": "group"}, {"upsample": "resize"}])
def test_options_keep_the_contract(options):
    module = UNet(TINY, **options)
    image = jax.random.uniform(jax.random.PRNGKey(1), (2, 8, 8, 1))
    variables = init(module, image.shape)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    logits = jax.jit(module.apply)(variables, image)
    assert (logits.shape, logits.dtype) == ((2, 8, 8, 2), jnp.float32)


def test_size_that_does_not_divide_names_the_mend():
    with pytest.raises(ValueError, match=r"10×12 pixels.*2 down-samplings.*pad it to 12×12, or use widths with fewer"):
        init(UNet(TINY), (1, 10, 12, 1))
    with pytest.raises(ValueError, match="pad it to 572×572"):
        output_size((570, 570), (64, 128, 256, 512, 1024), "VALID")


def test_a_spec_of_another_program():
    with pytest.raises(ValueError, match="unknown model 'VNet'"):
        from_spec({"name": "VNet"})


def test_group_normalisation_is_that_of_flax():
    x = 3 * jax.random.normal(jax.random.PRNGKey(0), (2, 4, 4, 8)) + 1
    variables = {"params": {"scale": jnp.arange(1.0, 9), "bias": jnp.arange(8.0)}}
    reference, ours = nn.GroupNorm(num_groups=4), GroupNorm(4)

    def slope(module):
        return jax.grad(lambda x: jnp.sum(jnp.sin(module.apply(variables, x))))(x)

    np.testing.assert_allclose(ours.apply(variables, x), reference.apply(variables, x), atol=1e-5)
    np.testing.assert_allclose(slope(ours), slope(reference), atol=1e-5)
