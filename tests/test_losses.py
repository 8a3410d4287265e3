import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unet_jax import losses

LOSSES = {
    "dice": losses.dice,
    "dice, foreground": partial(losses.dice, background=False),
    "cross_entropy": losses.cross_entropy,
    "focal": losses.focal,
    "focal, root": partial(losses.focal, gamma=0.5, alpha=None),
    "tversky": losses.tversky,
    "sum": losses.weighted_sum((1.0, losses.dice), (0.5, losses.cross_entropy)),
}
each_loss = pytest.mark.parametrize("name", LOSSES)
each_k = pytest.mark.parametrize("k", [1, 3])


def case(k, shape=(2, 4, 4)):
    rng = np.random.default_rng(k)
    logits = jnp.asarray(rng.normal(size=(*shape, k)), jnp.float32)
    return logits, jnp.asarray(rng.integers(0, max(k, 2), shape), jnp.int32), jnp.asarray(rng.random(shape) < 0.7)


def square():
    """One 4×4 image with four pixels of class 1, all valid."""
    return jnp.zeros((1, 4, 4), jnp.int32).at[:, 1:3, 1:3].set(1), jnp.ones((1, 4, 4), bool)


def test_dice_by_hand():
    label, mask = square()
    # Probability 1/2 everywhere: I = 4/2, P = 16/2, T = 4, so 1 - (2·2 + 1) / (8 + 4 + 1) = 8/13 for class 1;
    # class 0 has I = 6, P = 8, T = 12, so 1 - 13/21 = 8/21.
    np.testing.assert_allclose(losses.dice(jnp.zeros((1, 4, 4, 1)), label, mask), 8 / 13, rtol=1e-6)
    two = jnp.zeros((1, 4, 4, 2))
    np.testing.assert_allclose(losses.dice(two, label, mask, background=False), 8 / 13, rtol=1e-6)
    np.testing.assert_allclose(losses.dice(two, label, mask), (8 / 13 + 8 / 21) / 2, rtol=1e-6)
    # Only the upper two rows valid: I = 1, P = 4, T = 2, so 1 - 3/7.
    upper = mask.at[:, 2:].set(False)
    np.testing.assert_allclose(losses.dice(two, label, upper, background=False), 4 / 7, rtol=1e-6)


@each_k
def test_dice_of_an_absent_class(k):
    label, mask = jnp.zeros((1, 4, 4), jnp.int32), jnp.ones((1, 4, 4), bool)
    never = jnp.zeros((1, 4, 4, k)).at[..., -1].set(-1e4).at[..., 0].add(1e4 if k > 1 else 0)
    np.testing.assert_array_equal(losses.dice(never, label, mask), 0)
    np.testing.assert_array_equal(losses.tversky(never, label, mask), 0)
    # Class k-1 predicted on all 16 pixels but absent: 16/17. Of k = 3 class 0 is missed, 16/17, and class 1 empty, 0.
    always = jnp.zeros((1, 4, 4, k)).at[..., -1].set(1e4)
    expected = 16 / 17 if k == 1 else (16 / 17 + 0 + 16 / 17) / 3
    np.testing.assert_allclose(losses.dice(always, label, mask), expected, rtol=1e-6)


def test_absent_classes_can_be_left_out_of_the_mean():
    label, mask = square()
    # Of four classes, each with probability 1/4, the label holds 0 and 1: class 0 has I = 3, P = 4, T = 12, so
    # 1 - 7/17 = 10/17, class 1 I = 1, P = 4, T = 4, so 1 - 3/9 = 2/3. Nothing but class 0 is no foreground: 0.
    four = jnp.zeros((1, 4, 4, 4))
    present = partial(losses.dice, present_only=True)
    np.testing.assert_allclose(present(four, label, mask), (10 / 17 + 2 / 3) / 2, rtol=1e-6)
    np.testing.assert_allclose(present(four, label, mask, background=False), 2 / 3, rtol=1e-6)
    np.testing.assert_array_equal(present(four, jnp.zeros_like(label), mask, background=False), 0)
    # Tversky of class 1: 1 - 2 / (1 + 0.3·3 + 0.7·3 + 1) = 1 - 2/5.
    only = losses.tversky(four, label, mask, background=False, present_only=True)
    np.testing.assert_allclose(only, 3 / 5, rtol=1e-6)


def test_tversky_by_hand():
    label, mask = square()
    # Probability 1/2: I = 2, FP = 8 - 2 = 6, FN = 4 - 2 = 2: 1 - (2 + 1) / (2 + 0.3·6 + 0.7·2 + 1) = 1 - 3/6.2.
    half = jnp.zeros((1, 4, 4, 1))
    np.testing.assert_allclose(losses.tversky(half, label, mask), 1 - 3 / 6.2, rtol=1e-6)
    as_dice = losses.tversky(half, label, mask, alpha=0.5, beta=0.5, smooth=0.5)
    np.testing.assert_allclose(as_dice, losses.dice(half, label, mask), rtol=1e-6)


def test_cross_entropy_by_hand():
    label, mask = square()
    four = jnp.zeros((1, 4, 4, 4))
    np.testing.assert_allclose(losses.cross_entropy(four, label, mask), math.log(4), rtol=1e-6)
    # Weight 3 on class 1 (4 of 16 pixels): log 4 · (12 + 3·4) / 16.
    weighted = losses.cross_entropy(four, label, mask, class_weights=(1.0, 3.0, 1.0, 1.0))
    np.testing.assert_allclose(weighted, math.log(4) * 24 / 16, rtol=1e-6)
    # A weight map that holds NaN where the mask is False: 12 valid pixels of weight 2.
    weight, part = jnp.full((1, 4, 4), 2.0).at[:, 0].set(jnp.nan), mask.at[:, 0].set(False)
    np.testing.assert_allclose(losses.cross_entropy(four, label, part, weight=weight), 2 * math.log(4), rtol=1e-6)
    # One logit of log 3 has probability 3/4: 4 pixels -log(3/4), 12 pixels -log(1/4) = log 4, twice for class 0.
    one = jnp.full((1, 4, 4, 1), math.log(3))
    binary = losses.cross_entropy(one, label, mask, class_weights=(2.0, 1.0))
    np.testing.assert_allclose(binary, (4 * math.log(4 / 3) + 2 * 12 * math.log(4)) / 16, rtol=1e-6)


def test_cross_entropy_gradient_is_probability_minus_truth():
    logits, label, mask = case(3)
    grad = jax.grad(lambda x: jnp.sum(losses.cross_entropy(x, label, mask)))(logits)
    valid = mask.sum((1, 2)).reshape(2, 1, 1, 1)
    expected = (jax.nn.softmax(logits) - jax.nn.one_hot(label, 3)) * mask[..., None] / valid
    np.testing.assert_allclose(grad, expected, atol=1e-7)


def test_focal_by_hand():
    label, mask = square()
    # p = 1/2: (1/2)^2 log 2, times 1/4 on 4 pixels of class 1 and 3/4 on 12 of class 0.
    expected = math.log(2) / 4 * (4 * 0.25 + 12 * 0.75) / 16
    np.testing.assert_allclose(losses.focal(jnp.zeros((1, 4, 4, 1)), label, mask), expected, rtol=1e-6)


@each_k
def test_focal_against_its_formula_and_cross_entropy(k):
    logits, label, mask = case(k)
    z = np.asarray(logits, np.float64)
    p = np.concatenate([1 / (1 + np.exp(z)), 1 / (1 + np.exp(-z))], -1) if k == 1 else np.exp(z)
    p = np.take_along_axis(p / p.sum(-1, keepdims=True), np.asarray(label)[..., None], -1)[..., 0]
    expected = [(-((1 - p) ** 1.5) * np.log(p))[i][np.asarray(mask)[i]].mean() for i in range(2)]
    np.testing.assert_allclose(losses.focal(logits, label, mask, gamma=1.5, alpha=None), expected, rtol=1e-5)
    plain = losses.focal(logits, label, mask, gamma=0.0, alpha=None)
    np.testing.assert_allclose(plain, losses.cross_entropy(logits, label, mask), rtol=1e-5)


@pytest.mark.parametrize("name", ["dice, foreground", "cross_entropy", "focal", "focal, root"])
def test_one_logit_equals_two_whose_first_is_zero(name):
    logits, label, mask = case(1)
    two = jnp.concatenate([jnp.zeros_like(logits), logits], -1)
    np.testing.assert_allclose(LOSSES[name](logits, label, mask), LOSSES[name](two, label, mask), rtol=1e-5)


@cache
def value_and_gradient(name):
    """The (B,) losses and the gradient of their sum, compiled once a loss and number of classes for all tests."""
    loss = LOSSES[name]
    return jax.jit(lambda *batch: (loss(*batch), jax.grad(lambda x: jnp.sum(loss(x, *batch[1:])))(batch[0])))


@each_k
@each_loss
def test_masked_pixels_and_other_images_have_no_part(name, k):
    logits, label, mask = (np.array(x) for x in case(k))
    step = value_and_gradient(name)
    value, grad = step(logits, label, mask)
    assert value.dtype == jnp.float32
    assert value.shape == (2,)
    assert np.isfinite(grad).all()
    assert np.abs(grad[mask]).max() > 0
    np.testing.assert_array_equal(grad[~mask], 0)
    for bad in (np.nan, np.inf, -np.inf):  # and 255, an ignore label
        dirty = np.where(mask[..., None], logits, np.float32(bad)), np.where(mask, label, 255).astype(np.int32)
        other_value, other_grad = step(*dirty, mask)
        np.testing.assert_array_equal(other_value, value)
        np.testing.assert_array_equal(other_grad, grad)
    logits[1] += label[1][..., None]
    other_value, _ = step(logits, 1 - np.minimum(label, 1), mask)
    own_value, _ = step(logits, np.stack([label[0], 1 - np.minimum(label[1], 1)]), mask)
    assert own_value[0] == value[0]
    assert own_value[1] == other_value[1] != value[1]


@each_k
@each_loss
def test_extreme_logits_and_empty_images(name, k):
    logits, label, mask = (np.array(x) for x in case(k))
    step = value_and_gradient(name)
    for x in (np.sign(logits) * 1e4, np.full_like(logits, -1e4)):
        value, grad = step(x.astype(np.float32), label, mask)
        assert np.isfinite(value).all()
        assert np.isfinite(grad).all()
    value, grad = step(logits, label, np.zeros_like(mask))
    np.testing.assert_array_equal(value, 0)
    np.testing.assert_array_equal(grad, 0)


@each_loss
def test_same_in_3d_under_vmap_and_from_bfloat16(name):
    loss, batch = LOSSES[name], case(3, (2, 2, 4, 4))

    def variants(logits, label, mask):
        stacked = jax.vmap(loss)(logits[:, None], label[:, None], mask[:, None])[:, 0]
        flat = loss(logits.reshape(2, 8, 4, 3), label.reshape(2, 8, 4), mask.reshape(2, 8, 4))
        return loss(logits, label, mask), stacked, flat, loss(logits.astype(jnp.bfloat16), label, mask)

    volume, stacked, flat, half = jax.jit(variants)(*batch)
    np.testing.assert_allclose(stacked, volume, rtol=1e-5)
    np.testing.assert_allclose(flat, volume, rtol=1e-5)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, volume, rtol=0.02)


def test_same_without_jit():
    logits, label, mask = case(3)
    for name in ("dice", "cross_entropy", "focal"):
        compiled, _ = value_and_gradient(name)(logits, label, mask)
        np.testing.assert_allclose(LOSSES[name](logits, label, mask), compiled, rtol=1e-5)


def test_weighted_sum():
    batch = case(1)
    both = losses.weighted_sum((2.0, losses.dice), (0.5, losses.focal))(*batch)
    np.testing.assert_allclose(both, 2 * losses.dice(*batch) + 0.5 * losses.focal(*batch), rtol=1e-6)
    with pytest.raises(ValueError, match="at least one"):
        losses.weighted_sum()


def test_class_weights_of_another_length_are_refused():
    with pytest.raises(ValueError, match="3 values for 2 classes"):
        losses.cross_entropy(*case(1), class_weights=(1.0, 1.0, 1.0))
