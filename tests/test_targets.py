import jax.numpy as jnp
import numpy as np

from unet_jax import targets


def test_foreground_of_instances_and_of_a_binary_label():
    ids = jnp.asarray([[[0, 7], [300, 1]]], jnp.int32)
    result = targets.foreground(ids)
    assert result.dtype == jnp.int32
    np.testing.assert_array_equal(result, [[[0, 1], [1, 1]]])
    np.testing.assert_array_equal(targets.foreground(result), result)
