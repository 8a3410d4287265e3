import json
import os
import subprocess
import sys
from pathlib import Path

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


def test_a_mesh_in_words():
    mesh = parallel.make_mesh("data=2,space=2", 4, 16)
    assert mesh.shape == {"data": 2, "space": 2}
    assert parallel.make_mesh("data=3", 6, 5).shape == {"data": 3, "space": 1}
    arrays = parallel.shard({"image": np.zeros((4, 16, 8, 1), np.uint8), "index": np.arange(4)}, mesh)
    assert {s.data.shape for s in arrays["image"].addressable_shards} == {(2, 8, 8, 1)}
    assert {s.data.shape for s in arrays["index"].addressable_shards} == {(2,)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("data=8", "that is 8 devices, of 4"),
        ("data=3", "a batch of 4 is no multiple of 3"),
        ("data=1,space=3", "images of 16 rows are no multiple of 3"),
        ("space=2", "give data=N or data=N,space=M"),
        ("data=0", "give data=N"),
        ("data=2 space=2", "give data=N"),
    ],
)
def test_a_mesh_that_cannot_be(words, message):
    with pytest.raises(ValueError, match=f"--mesh {words}: .*{message}"):
        parallel.make_mesh(words, 4, 16)


@pytest.mark.parametrize(
    ("how", "meshes"),
    [
        ("plain", ["data=1", "data=8", "data=4,space=2"]),
        pytest.param(
            "augmented", ["data=1", "data=2", "data=8", "data=1,space=2", "data=4,space=2"], marks=pytest.mark.slow
        ),
    ],
)
def test_the_curve_does_not_depend_on_the_mesh(how, meshes):
    """Twenty steps of SGD with batch statistics, dropout and uneven masks, on eight devices."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.meshes", how, *meshes], cwd=Path(__file__).parents[1],
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    one = found["data=1"]
    assert len(one["losses"]) == 20
    assert one["losses"][-1] < one["losses"][0] - 0.02
    for words in meshes[1:]:
        np.testing.assert_allclose(found[words]["losses"], one["losses"], atol=1e-5, err_msg=words)
        np.testing.assert_allclose(found[words]["statistics"], one["statistics"], rtol=1e-4, err_msg=words)
    assert found["data=4,space=2"]["rows"] == [[2, 8]] * 8
