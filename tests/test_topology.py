"""Training steps compiled for 16 chips of a TPU by the TPU's own compiler, without a TPU: libtpu must be installed."""

import importlib.util
import re

import jax
import optax
import pytest

from experiments import train_cells
from unet_jax import losses, parallel, training
from unet_jax.dry_run import analyse, lower_step, tpu_devices
from unet_jax.models import UNet

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="no TPU compiler: pip install libtpu"),
]
GIB = {"v5e:4x4": 16, "v4:2x2x4": 32}  # memory of a chip


def test_images_on_16_chips(capsys):
    """The teaching recipe at full width, two chips an image."""
    config = train_cells.Config(dry_run=True, topology="v5e:4x4", mesh="data=8,space=2", batch=64)
    assert train_cells.main(config) == 0
    said = capsys.readouterr().out
    assert "v5e:4x4, bfloat16" in said
    assert "mesh data=8, space=2, 64 images a step" in said
    memory = float(re.search(r"memory +(\S+) GiB a device", said)[1])
    assert 0.1 < memory < GIB["v5e:4x4"]
    assert "all-reduce of" in said  # the gradients
    assert "collective-permute of" in said  # the rows of the neighbour
    assert "all-gather" not in said
    # the centres of objects need whole label images, of which a chip has four: 1 MB and a little more, three times
    assert sum(map(float, re.findall(r"all-to-all of (\S+) MB", said))) < 5


def test_volumes_on_16_chips():
    """Two volumes of 128³ and four channels for every pair of chips."""
    patch = (128, 128, 128)
    model = UNet((32, 64, 128, 256, 320), classes=4, norm="group", dtype="bfloat16")
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.scale_by_adam(), training.scheduled(1e-3, planned_steps=1000)
    )
    loss = losses.weighted_sum((1.0, losses.dice), (1.0, losses.cross_entropy))
    step = training.make_train_step(model, optimizer, loss, target=lambda label: label)
    mesh = parallel.make_mesh("data=8,space=2", 16, 128, devices=tpu_devices("v4:2x2x4"))
    state = jax.eval_shape(lambda: training.init_state(model, optimizer, (*patch, 4), seed=0))
    found = analyse(lower_step(step, state, mesh, batch=16, patch=patch, channels=4).compile())
    assert found["memory_bytes"] < GIB["v4:2x2x4"] * 2**30
    assert found["collectives"]["all-reduce"] >= 1  # the gradients
    assert found["collectives"]["collective-permute"] >= 1  # the planes of the neighbour
    assert not {"all-gather", "all-to-all"} & found["collectives"].keys()
