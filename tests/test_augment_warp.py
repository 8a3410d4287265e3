from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.ndimage import map_coordinates
from scipy import ndimage

from tests.test_augment import KEY, batch, equal
from unet_jax import augment, fields, targets
from unet_jax.data.tiles import UNSEEN


def cells(n, size):
    """Images that are their own label: one disc an image with its own id, image 1 inside; the mask is the disc too."""
    y, x = np.mgrid[:size, :size]
    centre = np.random.default_rng(0).uniform(0.3 * size, 0.7 * size, (n, 2, 1, 1))
    disc = (y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2 < (size / 5) ** 2
    ids = np.arange(100, 100 + n).reshape(n, 1, 1)
    return disc[..., None].astype(np.float32), np.where(disc, ids, 0).astype(np.int32), disc


def test_warp_without_options_is_the_identity():
    given = batch((2, 5, 9, 2))
    equal(jax.jit(augment.warp)(KEY, *given), given)
    equal(jax.jit(augment.chain())(KEY, *given), given)


@pytest.mark.parametrize("shape", [(7, 12), (4, 5, 6), (1, 6)])
def test_resampling_equals_map_coordinates(shape):
    rng = np.random.default_rng(0)
    image, label, mask = batch((*shape, 2))
    field = jnp.asarray(np.stack([rng.uniform(-2.7 * n, 3.7 * n, shape) for n in shape]), jnp.float32)
    warped, moved, kept = jax.jit(fields.resample)(image, label, mask, field)
    for channel in range(2):
        linear = map_coordinates(image[..., channel], list(field), order=1, mode="mirror")
        np.testing.assert_allclose(warped[..., channel], linear, atol=2e-5)
    inside = np.all([(c >= -0.5) & (c <= n - 0.5) for c, n in zip(field, shape, strict=True)], axis=0)
    nearest = map_coordinates(jnp.asarray(label), list(field), order=0, mode="mirror")
    np.testing.assert_array_equal(moved, np.where(inside, nearest, UNSEEN))
    counted = map_coordinates(jnp.asarray(mask, jnp.int32), list(field), order=0, mode="mirror") == 1
    np.testing.assert_array_equal(kept, inside & counted)


def test_any_number_of_an_object_outlives_a_warp():
    label = jnp.asarray([[0, 2**30 + 5, 2**31 - 1]], jnp.int32)
    field = fields.pixels(label.shape)
    _, moved, kept = fields.resample(jnp.zeros((1, 3, 1)), label, label > 0, field)
    np.testing.assert_array_equal(moved, label)
    np.testing.assert_array_equal(kept, label > 0)


def test_what_is_counted_after_a_warp_flows_to_the_middle_of_its_own_piece():
    """An object at the edge, turned away from it, comes in twice: itself, and its mirror image that does not count."""
    y, x = np.mgrid[:64, :64]
    ids = np.where((y - 12) ** 2 + (x - 30) ** 2 < 64, 7, 0) + np.where((y - 40) ** 2 + (x - 55) ** 2 < 64, 9, 0)
    image, label = np.zeros((4, 64, 64, 1), np.float32), np.broadcast_to(ids, (4, 64, 64)).astype(np.int32)
    warp = partial(augment.warp, rotation=45.0, scale=(0.6, 0.6))
    _, moved, kept = jax.jit(warp)(KEY, image, label, np.ones_like(label, bool))
    flow, moved, kept = np.asarray(targets.flow(moved)), np.asarray(moved), np.asarray(kept)
    assert kept.mean() < 0.5  # at this scale a good half lies beyond the edge
    for i in range(4):
        pieces, count = ndimage.label((moved[i] > 0) & kept[i])
        assert count == 2
        for piece, centre in enumerate(ndimage.center_of_mass(pieces > 0, pieces, [1, 2]), start=1):
            place = np.argwhere(pieces == piece)
            offset = centre - place
            expected = offset / np.maximum(np.linalg.norm(offset, axis=1, keepdims=True), 4)
            np.testing.assert_allclose(flow[i][tuple(place.T)], expected, atol=1e-4)


def test_warp_keeps_image_label_and_mask_aligned_and_ids_intact():
    image, label, mask = cells(8, 48)
    warp = partial(augment.warp, rotation=180.0, scale=(0.7, 1.4), elastic_sigma=10.0)
    warped, moved, kept = (np.asarray(x) for x in jax.jit(warp)(KEY, image, label, mask))
    assert np.mean(moved != label) > 0.05
    np.testing.assert_array_equal(moved > 0, kept)
    for before, after in zip(label, moved, strict=True):
        assert set(np.unique(after)) - {UNSEEN} == set(np.unique(before))  # no id is lost, none invented
    # Where all the corners that the interpolation used agree, the nearest one does.
    seen = moved != UNSEEN
    certain = (np.abs(warped[..., 0] - 0.5) > 0.5 - 1e-5) & seen
    assert certain[seen].mean() > 0.85
    np.testing.assert_array_equal((warped[..., 0] > 0.5)[certain], kept[certain])


def coordinates(shape, n=1, **options):
    """The field of a warp, read from an image of ramps along the axes: linear interpolation gives the coordinate."""
    ramps = np.stack(np.meshgrid(*(np.arange(s, dtype=np.float32) for s in shape), indexing="ij"), -1)
    image = np.broadcast_to(ramps, (n, *ramps.shape))
    label = np.zeros(image.shape[:-1], np.int32)
    field, _, _ = jax.jit(partial(augment.warp, **options))(KEY, image, label, label == 0)
    return np.moveaxis(np.asarray(field), -1, 0), np.moveaxis(ramps, -1, 0)


def test_scale_above_one_enlarges_about_the_centre():
    field, ramp = coordinates((9, 13), scale=(2.0, 2.0))
    centre = np.array([4, 6]).reshape(2, 1, 1)
    np.testing.assert_allclose(field[:, 0], centre + (ramp - centre) / 2, atol=1e-5)
    field, ramp = coordinates((5, 9, 9), scale=(2.0, 2.0))
    np.testing.assert_allclose(field[0, 0], 2 + (ramp[0] - 2) / 2, atol=1e-5)


@pytest.mark.parametrize("shape", [(33, 33), (3, 33, 33)])
def test_rotation_keeps_distances_in_the_plane_and_slices_apart(shape):
    field, ramp = coordinates(shape, n=32, rotation=90.0)
    y, x = field[-2:] - 16
    inner = np.hypot(*(ramp[-2:] - 16)) < 15
    np.testing.assert_allclose(
        np.hypot(y, x)[:, inner], np.hypot(*(ramp[-2:] - 16))[inner] + 0 * y[:, inner], atol=1e-4
    )
    right = (*(1 for _ in shape[:-2]), 16, 26)
    angles = np.degrees(np.arctan2(y[(slice(None), *right)], x[(slice(None), *right)]))
    # 32 uniform angles in ±90: the mean has sigma 90 / sqrt(3 · 32) = 9, and the extremes lie near the ends
    assert abs(angles.mean()) < 36
    assert angles.min() < -60
    assert angles.max() > 60
    if len(shape) == 3:
        np.testing.assert_allclose(field[0], np.broadcast_to(ramp[0], field[0].shape), atol=1e-5)


@pytest.mark.parametrize("sigma", [3.0, 50.0])
def test_elastic_displacement_has_its_size_and_does_not_fold(sigma):
    size, n = 64, 64
    field, ramp = coordinates((size, size), n=n, elastic_sigma=sigma)
    centre = (field - ramp[:, None])[:, :, size // 2 - 1, size // 2 - 1]  # close to the middle point of the 3 × 3 grid
    expected = min(sigma, size / 16)
    # The standard deviation of 2 · 64 normal numbers is known to 1 / sqrt(256) = 6 %
    np.testing.assert_allclose(centre.std(), expected, rtol=0.25)
    inner = slice(16, -16)  # away from the mirrored border
    dy, dx = np.gradient(field, axis=(2, 3))
    jacobian = (dy[0] * dx[1] - dx[0] * dy[1])[:, inner, inner]
    assert np.mean(jacobian <= 0) < 0.001


def test_probability_is_the_share_of_samples_changed():
    n = 256
    given = batch((n, 6, 6, 1))
    warped, _, _ = jax.jit(partial(augment.warp, rotation=90.0, probability=0.25))(KEY, *given)
    changed = (np.asarray(warped) != given[0]).any((1, 2, 3))
    assert abs(changed.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / n)


def test_warp_refuses_what_makes_no_sense():
    with pytest.raises(ValueError, match="0 < low <= high"):
        jax.eval_shape(partial(augment.warp, scale=(0.0, 1.0)), KEY, *batch())
    with pytest.raises(ValueError, match="at least 2 points"):
        jax.eval_shape(partial(augment.warp, elastic_grid=1), KEY, *batch())


def test_three_angles_turn_a_volume_about_its_axes():
    """By ± 90 degrees about one axis, a voxel next to the middle comes to lie where the turn brings it."""
    for axis in range(3):
        planes = [a for a in range(3) if a != axis]
        angle = jnp.zeros(3).at[axis].set(np.pi / 2)
        moved = fields.similarity((3, 3, 3), angle, 1.0) + fields.pixels((3, 3, 3))
        volume = np.arange(27, dtype=np.float32).reshape(3, 3, 3)
        label = volume.astype(np.int32)
        turned, same, _ = fields.resample(*map(jnp.asarray, (volume[..., None], label, label < 99)), moved)
        np.testing.assert_allclose(turned[..., 0], np.rot90(volume, -1, planes), atol=1e-4)
        np.testing.assert_array_equal(same, np.rot90(label, -1, planes))


def test_thick_slices_are_turned_in_millimetres():
    """A voxel 2 mm up, in slices of 2 mm, comes to lie 2 mm aside: two voxels of 1 mm."""
    field = fields.similarity((5, 5, 5), jnp.array([np.pi / 2, 0, 0]), 1.0, (1.0, 1.0, 2.0))
    look = np.asarray(field)[:, 2, 4, 2] + (2, 4, 2)  # two voxels aside along the second axis
    assert sorted(np.abs(look - 2).round(4)) == [0, 0, 1]
    assert abs(look[2] - 2) == pytest.approx(1, abs=1e-4)  # one slice along the third


def test_three_angles_need_a_volume():
    with pytest.raises(ValueError, match="give one angle, or a volume"):
        augment.warp(KEY, *map(jnp.asarray, batch((2, 5, 9, 2))), rotation=(1.0, 2.0, 3.0))
