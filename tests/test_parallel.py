import jax
import numpy as np
import pytest

from unet_jax import parallel


@pytest.mark.parametrize(("batch", "devices"), [(8, 4), (6, 3), (5, 1), (1, 1), (2, 2)])
def test_as_many_devices_as_divide_the_batch(batch, devices):
    assert jax.device_count() == 4
    assert parallel.data_mesh(batch).size == devices


def test_shard_splits_rows_and_leaves_ids_behind():
    mesh = parallel.data_mesh(8)
    batch = {"image": np.arange(16, dtype=np.uint8).reshape(8, 2), "id": np.array(["a"] * 8)}
    arrays = parallel.shard(batch, mesh)
    assert set(arrays) == {"image"}
    np.testing.assert_array_equal(arrays["image"], batch["image"])
    assert [s.data.shape for s in arrays["image"].addressable_shards] == [(2, 2)] * 4
    whole = jax.device_put(batch["image"], parallel.replicated(mesh))
    assert [s.data.shape for s in whole.addressable_shards] == [(8, 2)] * 4
