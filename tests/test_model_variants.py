"""What single architectures add to the contract that all of them keep."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.drawn import QUICK, noise, variables_of
from unet_jax import losses, targets, training
from unet_jax.models import UNETR, AttentionUNet, Classifier, UNet, UNetPP
from unet_jax.models.attention_unet import attention_maps
from unet_jax.models.cost import count_flop, count_parameters
from unet_jax.models.fcn import Double, bilinear_init
from unet_jax.models.transunet import positions
from unet_jax.models.unetpp import prune

KEY = jax.random.PRNGKey(0)
pytestmark = pytest.mark.usefixtures("plain_layers")
IMAGE = noise((2, 8, 8, 1))


def test_a_pruned_network_is_the_shallow_head_of_the_whole():
    """UNet++ cut at column 1 gives what the whole network's auxiliary head gave there, from fewer parameters."""
    module = UNetPP((2, 3, 4))
    variables = variables_of(module, IMAGE)
    _, sown = module.apply(variables, IMAGE, mutable=["aux"])
    small, part = prune(module, variables, 1)
    np.testing.assert_allclose(small.apply(part, IMAGE), sown["aux"]["level1"][0], atol=1e-6)
    assert "block1_1" not in part["params"]
    whole, same = prune(module, variables, 2)
    assert jax.tree.structure(same) == jax.tree.structure(variables)
    with pytest.raises(ValueError, match="no head at column 3 of 2"):
        prune(whole, variables, 3)
    with pytest.raises(ValueError, match="train with deep_supervision=True"):
        prune(UNetPP((2, 3, 4), deep_supervision=False), variables, 1)


def test_attention_maps_say_what_each_skip_lets_through():
    module = AttentionUNet((8, 8, 8))
    variables = variables_of(module, IMAGE)
    maps = attention_maps(module, variables, IMAGE)
    assert [a.shape for a in maps] == [(2, 8, 8)] * 2
    assert all(0 < a.min() < a.max() < 1 for a in maps)
    variables["params"]["gate0"]["map"]["bias"] = jnp.full((1,), -50.0)  # sigmoid(-50) is zero
    shut = module.apply(variables, IMAGE)
    kernel = variables["params"]["up0"]["conv0"]["kernel"]
    variables["params"]["up0"]["conv0"]["kernel"] = kernel.at[..., :8, :].set(0)  # those of the skip
    np.testing.assert_allclose(module.apply(variables, IMAGE), shut, atol=1e-6)


def test_doubling_starts_as_linear_interpolation():
    """A transposed convolution of stride 2 with window (1, 3, 3, 1) / 4: between 0 and 4 lie 1 and 3."""
    double = Double().init(KEY, IMAGE)
    kernel = double["params"]["kernel"]
    line = np.array([1, 3, 3, 1]) / 4
    np.testing.assert_allclose(kernel[..., 0, 0], np.outer(line, line))
    two = bilinear_init(KEY, (4, 2, 2))
    out = jax.lax.conv_transpose(jnp.array([0.0, 4.0]).reshape(1, 2, 1), two[..., :1, :1], (2,), "SAME")
    np.testing.assert_allclose(out[0, 1:3, 0], [1, 3])
    assert not two[:, 0, 1].any(), "classes do not mix"


def test_a_window_of_the_classifier_sees_itself_alone():
    module = Classifier((2, 3), window=4)
    variables = variables_of(module, IMAGE)
    logits = module.apply(variables, IMAGE)
    assert all(np.ptp(logits[:, i : i + 4, j : j + 4], axis=(1, 2)).max() == 0 for i in (0, 4) for j in (0, 4))
    assert np.ptp(logits[0, ::4, ::4, 0]) > 0
    other = module.apply(variables, IMAGE.at[:, :4].set(0.5))
    np.testing.assert_array_equal(other[:, 4:], logits[:, 4:])
    assert not np.array_equal(other[:, :4], logits[:, :4])
    np.testing.assert_allclose(Classifier((2, 3)).apply(variables, IMAGE[:, :4, 4:]), logits[:, :4, 4:], atol=1e-6)
    with pytest.raises(ValueError, match="no multiple of the window"):
        Classifier((2, 3), window=6).init(KEY, IMAGE)


def test_anisotropic_strides():
    """The first axis, halved once in two down-samplings, may have six planes; sizes that do not divide are refused."""
    module = UNet((2, 3, 4), strides=((1, 2, 2), (2, 2, 2)))
    logits = jax.eval_shape(lambda: module.init_with_output(KEY, jnp.zeros((1, 6, 8, 8, 1)))[0])
    assert logits.shape == (1, 6, 8, 8, 2)
    for image, message in (
        ((1, 5, 8, 8, 1), "5×8×8 .*pad it to 6×8×8"),
        ((1, 8, 8, 1), "images of 2 axes: give one tuple a down-sampling"),
    ):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(module.init, KEY, jnp.zeros(image))
    with pytest.raises(ValueError, match='need padding="SAME"'):
        jax.eval_shape(
            UNet((2, 3, 4), strides=module.strides, padding="VALID").init, KEY, jnp.zeros((1, 60, 60, 60, 1))
        )
    kernels = jax.eval_shape(module.init, KEY, jnp.zeros((1, 6, 8, 8, 1)))["params"]
    assert kernels["up0_conv"]["kernel"].shape == (1, 2, 2, 3, 2)
    assert kernels["up1_conv"]["kernel"].shape == (2, 2, 2, 4, 3)


def test_places_of_tokens_differ():
    for size, width in (((3, 5), 8), ((2, 3, 4), 9)):
        places = positions(size, width)
        assert places.shape == (np.prod(size), width)
        assert len(np.unique(places.round(4), axis=0)) == len(places)


def test_heads_must_divide_the_tokens():
    with pytest.raises(ValueError, match="100 features for 3 heads: choose a last width that 32 divides"):
        jax.eval_shape(UNETR((2, 3, 100), head_width=32, layers=2).init, KEY, IMAGE)


def test_cost_by_hand():
    """A 1x1 image: one block 1 -> 2 -> 2 at the centre of its kernels, its biases and rectifiers, and the head.

    9·1·2 + 2 + 9·2·2 + 2 + 2·2 + 2 = 64 parameters; 2·(2 + 4 + 4) products and sums, 2 + 2 + 2 biases, 2 + 2 maxima.
    """
    assert count_parameters(UNet((2,)), (1, 1, 1)) == 64
    assert count_flop(UNet((2,)), (1, 1, 1)) == 30


def step_of(module, **options):
    optimizer = optax.chain(optax.identity(), training.scheduled(0.1, 10, warmup=1))
    state = training.init_state(module, optimizer, (8, 8, 1), seed=0)
    step = training.make_train_step(module, optimizer, losses.dice, target=targets.foreground, **options)
    label = (np.arange(64).reshape(1, 8, 8) % 3 == 0).astype(np.int32).repeat(2, 0)
    batch = {"image": IMAGE, "label": jnp.asarray(label), "mask": jnp.ones(label.shape, bool)}
    return state, batch, jax.jit(step, compiler_options=QUICK)(state, batch)


def test_sown_logits_take_part_in_the_loss():
    """Loss = (main + aux / 2) / (1 + 1/2), the auxiliary logits at every second pixel of the label."""
    module = UNet((2, 3, 4), deep_supervision=True)
    state, batch, (after, out) = step_of(module)
    logits, sown = module.apply({"params": state.params}, IMAGE, mutable=["aux"])
    (aux,) = sown["aux"]["level1"]
    assert aux.shape == (2, 4, 4, 2)
    main = losses.dice(logits, batch["label"], batch["mask"]).mean()
    coarse = losses.dice(aux, batch["label"][:, ::2, ::2], batch["mask"][:, ::2, ::2]).mean()
    np.testing.assert_allclose(out["loss"], (main + coarse / 2) / 1.5, rtol=1e-5)
    head = "logits1"
    assert not np.array_equal(after.params[head]["kernel"], state.params[head]["kernel"])
    assert after.model_state == {}
    _, _, (left, out) = step_of(module, aux_weight=0.0)
    np.testing.assert_allclose(out["loss"], main, rtol=1e-5)
    np.testing.assert_array_equal(left.params[head]["kernel"], state.params[head]["kernel"])
