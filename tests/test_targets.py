import jax.numpy as jnp
import numpy as np

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
