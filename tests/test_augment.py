from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from unet_jax import augment

KEY = jax.random.key(7)
SHAPE = (4, 16, 16, 3)
GEOMETRIC = {
    "flips": augment.flips,
    "quarter_turns": augment.quarter_turns,
    "warp": partial(augment.warp, rotation=45.0, scale=(0.8, 1.25), elastic_sigma=2.0),
}
INTENSITY = {name: getattr(augment, name) for name in ("brightness", "contrast", "gamma", "noise", "blur")}
STEPS = {**GEOMETRIC, **INTENSITY, "strong": augment.strong()}


def batch(shape=SHAPE, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.random(shape, np.float32)
    return image, rng.integers(0, 500, shape[:-1], np.int32), rng.random(shape[:-1]) < 0.8


@cache
def compiled(name):
    """Each step is compiled once for SHAPE and used by many tests."""
    return jax.jit(STEPS[name])


def equal(got, wanted):
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", STEPS)
def test_keeps_the_contract_and_is_drawn_by_the_key(name):
    step, given = compiled(name), batch()
    result = step(KEY, *given)
    assert [(x.shape, x.dtype) for x in result] == [(x.shape, x.dtype) for x in given]
    assert float(result[0].min()) >= 0
    assert float(result[0].max()) <= 1
    equal(step(KEY, *given), result)
    others = [step(jax.random.key(i), *given)[0] for i in range(4)]
    assert any(np.abs(other - result[0]).max() > 0.01 for other in others)
    if name in INTENSITY:
        equal(result[1:], given[1:])


@pytest.mark.parametrize("name", ["quarter_turns", "warp", "noise"])
def test_a_sample_does_not_depend_on_the_rest_of_the_batch(name):
    given = batch()
    whole = compiled(name)(KEY, *given)
    other = [np.concatenate([x[:2], y[2:]]) for x, y in zip(given, batch(seed=1), strict=True)]
    equal([x[:2] for x in compiled(name)(KEY, *other)], [x[:2] for x in whole])
    part = jax.jit(STEPS[name])(KEY, *(x[:2] for x in given))
    np.testing.assert_allclose(part[0], whole[0][:2], atol=2e-5)
    equal(part[1:], [x[:2] for x in whole[1:]])
    twins = compiled(name)(KEY, *(np.repeat(x[:1], 4, 0) for x in given))
    assert len({np.asarray(x).tobytes() for x in twins[0]}) > 1


@pytest.mark.parametrize("name", ["warp", *INTENSITY])
def test_with_probability_zero_nothing_changes_by_a_bit(name):
    given = batch()
    equal(jax.jit(partial(STEPS[name], probability=0.0))(KEY, *given), given)


def test_old_style_keys_serve_too():
    given = batch()
    raw = compiled("flips")(jax.random.key_data(KEY), *given)
    equal(raw, compiled("flips")(KEY, *given))


def test_flips_twice_is_the_identity_and_all_arrays_move_together():
    given = batch()
    given[0][..., 0] = given[1] / 500
    once = compiled("flips")(KEY, *given)
    np.testing.assert_allclose(once[0][..., 0] * 500, once[1], rtol=1e-6)
    equal(compiled("flips")(KEY, *once), given)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 2)])
def test_flips_reach_every_corner_equally_often(shape):
    n = 1024
    label = np.zeros((n, *shape), np.int32)
    label[(slice(None), *(0 for _ in shape))] = 1
    _, moved, _ = jax.jit(augment.flips)(KEY, np.zeros((n, *shape, 1), np.float32), label, label == 1)
    counts = np.asarray(moved).sum(0)[tuple(slice(None, None, s - 1) for s in shape)]
    corners = 2 ** len(shape)
    assert counts.sum() == n
    # Binomial: n/4 ± 4 sigma of 14, n/8 ± 4 sigma of 11
    np.testing.assert_allclose(counts, n / corners, atol=4 * np.sqrt(n / corners))


@pytest.mark.parametrize(("shape", "turns"), [((3, 3), 4), ((2, 3), 2), ((2, 3, 3), 4)])
def test_quarter_turns_are_equally_likely_rotations(shape, turns):
    n = 512
    label = np.broadcast_to(np.arange(np.prod(shape), dtype=np.int32).reshape(shape), (n, *shape))
    image = label[..., None].astype(np.float32)
    turned, moved, mask = (np.asarray(x) for x in jax.jit(augment.quarter_turns)(KEY, image, label, label % 2 == 0))
    np.testing.assert_array_equal(turned[..., 0], moved)
    np.testing.assert_array_equal(mask, moved % 2 == 0)
    allowed = [np.rot90(label[0], k, (-2, -1)) for k in range(0, 4, 4 // turns)]
    counts = [np.sum((moved == one).all(tuple(range(1, moved.ndim)))) for one in allowed]
    assert sum(counts) == n
    np.testing.assert_allclose(counts, n / turns, atol=4 * np.sqrt(n / turns))


def middle(step, **options):
    """Values between 0.3 and 0.7, so that nothing is clipped, before and after a step that is always taken."""
    image, label, mask = batch((16, 32, 32, 2))
    image = 0.3 + 0.4 * image
    return image, np.asarray(jax.jit(partial(step, probability=1.0, **options))(KEY, image, label, mask)[0]), mask


def test_brightness_goes_a_share_of_the_way_to_white_or_black_and_clips_nothing():
    before, after, _ = middle(augment.brightness, amount=0.2)
    way = np.where(after > before, 1 - before, before)
    share = ((after - before) / way).reshape(16, -1)
    np.testing.assert_allclose(share, np.repeat(share[:, :1], share.shape[1], 1), atol=1e-5)
    assert -0.2 <= share.min() < -0.05
    assert 0.05 < share.max() <= 0.2 + 1e-6
    faint = np.tile(np.float32([0, 0.02, 0.98, 1]), (16, 1)).reshape(16, 2, 2, 1)
    given = [jnp.asarray(x) for x in (faint, np.zeros((16, 2, 2), np.int32), np.ones((16, 2, 2), bool))]
    moved, _, _ = augment.brightness(KEY, *given, probability=1.0)
    apart = np.diff(np.asarray(moved).reshape(16, 4), axis=1)
    assert apart.min() > 0.015  # what is faint against black, or white, stays so


def test_contrast_keeps_the_mean_of_the_valid_pixels():
    before, after, mask = middle(augment.contrast, amount=0.3)
    for b, a, m in zip(before, after, mask, strict=True):
        np.testing.assert_allclose(a[m].mean(0), b[m].mean(0), atol=1e-5)
    gain = (after.std((1, 2)) / before.std((1, 2)))[:, 0]
    assert 0.7 <= gain.min() < 0.9
    assert 1.1 < gain.max() <= 1.3


def test_gamma_is_a_power():
    before, after, _ = middle(augment.gamma, exponent=(0.5, 2.0))
    power = (np.log(after) / np.log(before)).reshape(16, -1)
    np.testing.assert_allclose(power, np.repeat(power[:, :1], power.shape[1], 1), rtol=1e-4)
    assert 0.5 <= power.min() < 0.8
    assert 1.25 < power.max() <= 2.0
    ends = np.tile(np.array([0, 1], np.float32), (2, 4, 2, 1)).reshape(2, 4, 4, 1)
    given = [jnp.asarray(x) for x in (ends, np.zeros((2, 4, 4), np.int32), np.ones((2, 4, 4), bool))]
    np.testing.assert_array_equal(
        augment.gamma(KEY, *given, probability=1.0)[0], ends
    )  # not compiled as a whole, either


def test_noise_is_close_to_normal_and_of_the_level_asked():
    before, after, _ = middle(augment.noise, amount=0.05)
    noise = (after - before).reshape(16, -1)
    level = noise.std(1)
    assert level.max() <= 0.052
    assert level.max() > 0.035
    assert level.min() < 0.015
    unit = noise / level[:, None]
    assert abs(unit.mean()) < 4 / np.sqrt(unit.size)
    # A normal number is within one sigma 68.3 % of the time, within two 95.4 %
    assert np.mean(np.abs(unit) < 1) == pytest.approx(0.683, abs=0.02)
    assert np.mean(np.abs(unit) < 2) == pytest.approx(0.954, abs=0.01)
    across = np.corrcoef(unit)
    assert np.abs(across - np.eye(16)).max() < 5 / np.sqrt(unit.shape[1])


@pytest.mark.parametrize("shape", [(2, 12, 17, 2), (1, 6, 8, 9, 1)])
def test_blur_equals_a_gaussian_filter(shape):
    given = batch(shape)
    blurred, _, _ = jax.jit(partial(augment.blur, sigma=(1.2, 1.2), probability=1.0))(KEY, *given)
    sigma = (0, *(1.2 for _ in shape[1:-1]), 0)
    expected = gaussian_filter(given[0], sigma, mode="nearest", radius=[4 * (s > 0) for s in sigma])
    np.testing.assert_allclose(blurred, expected, atol=1e-5)


def test_strong_serves_volumes():
    given = batch((2, 4, 12, 12, 1))
    result = jax.eval_shape(augment.strong(), KEY, *given)
    assert [(x.shape, x.dtype) for x in result] == [(x.shape, x.dtype) for x in given]


def test_steps_of_a_chain_draw_apart():
    given = batch((64, 4, 4, 1))
    _, twice, _ = jax.jit(augment.chain(augment.flips, augment.flips))(KEY, *given)
    changed = (np.asarray(twice) != given[1]).any((1, 2))
    assert 0.5 < changed.mean() < 0.95  # 3/4 when the two are independent, 0 when they share a key


def test_sharded_over_the_batch_nothing_is_communicated():
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    given = batch()
    sharded = [jax.device_put(x, rows) for x in given]
    step = jax.jit(STEPS["strong"], out_shardings=rows).lower(KEY, *sharded).compile()
    text = step.as_text()
    assert "f32[1,16,16,3]" in text  # one sample a device
    assert not [word for word in ("all-reduce", "all-gather", "permute", "all-to-all") if word in text]
    result, alone = step(KEY, *sharded), compiled("strong")(KEY, *given)
    np.testing.assert_allclose(result[0], alone[0], atol=2e-5)
    equal(result[1:], alone[1:])
