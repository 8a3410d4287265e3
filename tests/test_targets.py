import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from unet_jax import targets


def test_foreground_of_instances_and_of_a_binary_label():
    ids = jnp.asarray([[[0, 7], [300, 1]]], jnp.int32)
    result = targets.foreground(ids)
    assert result.dtype == jnp.int32
    np.testing.assert_array_equal(result, [[[0, 1], [1, 1]]])
    np.testing.assert_array_equal(targets.foreground(result), result)


def test_a_window_holds_what_any_of_its_pixels_holds():
    label = jnp.zeros((1, 4, 4), jnp.int32).at[0, 1, 2].set(1)
    expected = np.zeros((1, 4, 4), np.int32)
    expected[0, :2, 2:] = 1
    np.testing.assert_array_equal(targets.any_in_window(label, window=2), expected)
    assert targets.any_in_window(jnp.ones((2, 4, 6, 2), jnp.int32), window=2).shape == (2, 4, 6, 2)


@pytest.fixture(scope="module")
def discs():
    """Overlapping discs, some cut by the edge; later ones lie on top. (1, 24, 30)."""
    rng, label = np.random.default_rng(0), np.zeros((1, 24, 30), np.int32)
    y, x = np.mgrid[:24, :30]
    for number in range(1, 9):
        centre, radius = rng.integers(0, (24, 30)), rng.integers(2, 6)
        label[0][(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2] = number
    return label


def test_border_is_on_objects_where_a_square_holds_two(discs):
    label, found = discs[0], np.asarray(targets.border(jnp.asarray(discs)))[0]
    for y, x in np.ndindex(label.shape):
        near = np.unique(label[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3])
        expected = int(label[y, x] > 0) * (2 if (near > 0).sum() > 1 else 1)
        assert found[y, x] == expected


def test_weight_map_is_equation_two(discs):
    label = discs[0]
    far = np.sort([ndimage.distance_transform_edt(label != number) for number in np.unique(label)[1:]], axis=0)
    expected = 1 + 10 * np.exp(-((far[0] + far[1]) ** 2) / (2 * 5**2))
    np.testing.assert_allclose(targets.weight_map(jnp.asarray(discs), radius=30)[0], expected, rtol=1e-5)


def test_one_object_has_no_border_and_no_weight():
    alone = jnp.zeros((1, 9, 9), jnp.int32).at[0, 2:5, 2:5].set(3)
    assert targets.border(alone).max() == 1
    np.testing.assert_array_equal(targets.weight_map(alone), np.ones((1, 9, 9)))


def test_distance_is_euclidean_to_the_nearest_pixel_that_is_not_of_the_object(discs):
    label, expected = discs[0], np.zeros((24, 30))
    for number in np.unique(label)[1:]:
        beyond = np.pad(label == number, 40, constant_values=True)  # beyond the edge nothing is seen
        expected += (ndimage.distance_transform_edt(beyond)[40:-40, 40:-40]) * (label == number)
    np.testing.assert_allclose(targets.distance(jnp.asarray(discs))[0], np.minimum(expected, 16), rtol=1e-6)


def test_offsets_lead_to_the_centre_of_mass_and_flows_along_them(discs):
    label, offset = discs[0], np.asarray(targets.centre_offset(jnp.asarray(discs))[0])
    for number in np.unique(label)[1:]:
        pixels = np.argwhere(label == number)
        np.testing.assert_allclose(
            pixels + offset[label == number], np.tile(pixels.mean(axis=0), (len(pixels), 1)), atol=1e-5
        )
    assert not offset[label == 0].any()
    flow, length = np.asarray(targets.flow(jnp.asarray(discs))[0]), np.linalg.norm(offset, axis=-1)
    np.testing.assert_allclose(np.linalg.norm(flow, axis=-1), np.minimum(length / 4, 1), atol=1e-5)
    np.testing.assert_allclose(flow * length[..., None], offset * np.linalg.norm(flow, axis=-1)[..., None], atol=1e-5)


def test_a_volume_is_measured_like_an_image():
    # A cube of side 3: its middle is 2 pixels from the outside, the others 1; all offsets point to the middle.
    cube = jnp.zeros((1, 5, 5, 5), jnp.int32).at[0, 1:4, 1:4, 1:4].set(9)
    distance = np.asarray(targets.distance(cube))[0]
    assert distance[2, 2, 2] == 2
    assert distance.sum() == 2 + 26
    np.testing.assert_array_equal(targets.centre_offset(cube)[0, 1, 2, 3], [1, 0, -1])
