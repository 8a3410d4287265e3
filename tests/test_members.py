"""Members trained in one program, and the benchmark of the ways to do so."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import Mesh

from benchmarks import members as benchmark
from unet_jax import losses, members, targets, training


class Point(nn.Module):
    """A 1×1 convolution with dropout: the smallest model that has all a step looks at."""

    @nn.compact
    def __call__(self, image, *, train=False):
        x = nn.Dropout(0.3, deterministic=not train)(nn.Dense(4)(image))
        return nn.Dense(2)(nn.relu(x))


@pytest.fixture(scope="module")
def three():
    """A step, and three members' states and batches."""
    optimizer = optax.chain(optax.scale_by_adam(), training.scheduled(0.1, 10))
    model = Point()
    step = training.make_train_step(model, optimizer, losses.dice, target=targets.foreground)
    states = [training.init_state(model, optimizer, (4, 4, 1), seed=seed) for seed in range(3)]
    rng = np.random.default_rng(0)
    batches = []
    for _ in range(3):
        image = rng.random((2, 4, 4, 1), np.float32)
        label = (image[..., 0] > 0.5).astype(np.int32)
        batches.append({"image": image, "label": label, "mask": np.ones(label.shape, bool)})
    return step, states, batches


@pytest.mark.parametrize("devices", [3, 1])
def test_every_member_learns_as_it_does_alone(three, devices):
    """One member a device, and all on one: two steps, dropout and all."""
    step, states, batches = three
    mesh = members.member_mesh(3) if devices == 3 else Mesh(np.array(jax.devices()[:1]), ("member",))
    assert mesh.size == devices
    both, state, batch = members.together(step, mesh), members.stack(states), members.stack(batches)
    for _ in range(2):
        state, out = both(state, batch)
    assert out["loss"].shape == (3,)
    alone = jax.jit(step)
    for i in range(3):
        one = states[i]
        for _ in range(2):
            one, said = alone(one, batches[i])
        np.testing.assert_allclose(out["loss"][i], said["loss"], rtol=1e-5)
        for a, b in zip(jax.tree.leaves(members.take(state, i)), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    kernels = jax.tree.leaves(state.params)
    assert not jnp.allclose(kernels[1][0], kernels[1][1])


def test_members_share_the_devices_evenly():
    assert [members.member_mesh(count).size for count in (1, 2, 3, 4, 5, 6, 8)] == [1, 2, 3, 4, 1, 3, 4]  # of four


@pytest.mark.parametrize("what", ["train", "predict"])
def test_the_benchmark_times_all_ways(what, tmp_path, capsys):
    file = tmp_path / "record.json"
    tiny = {"width": 1, "depth": 0, "size": 4, "batch": 2, "pairs": 1, "seconds": 0.001}
    assert benchmark.main(benchmark.Config(what=what, json=file, **tiny)) == 0
    record = json.loads(file.read_text())
    ways = ["loop", "vmapped", "members on 2 devices"][: 3 if what == "train" else 2]
    assert [side["name"] for side in record["sides"]] == ways
    assert all(side["images_per_second"]["median"] > 0 for side in record["sides"])
    assert "vmapped" in capsys.readouterr().out
