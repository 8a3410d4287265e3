import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import train_cells
from unet_jax import parallel
from unet_jax.dry_run import COLLECTIVES, _bytes, analyse


def test_collectives_in_the_compiler_s_words():
    text = """
      %all-reduce.3 = (bf16[64]{0}, f32[2]{0}) all-reduce(%a, %b), channel_id=1
      %s = f32[8] all-reduce-start(%c)
      %d = f32[8] all-reduce-done(%s)
      %g = (f32[8], f32[4,8]{1,0:T(8,128)}) all-gather-start(%all-reduce.3)
    """
    found = COLLECTIVES.findall(text)
    assert [kind for _, kind, _ in found] == ["all-reduce", "all-reduce", "all-gather"]
    # 64 × 2 + 2 × 4 bytes; 8 × 4; the result alone, 4 × 8 × 4
    assert [_bytes(shapes, last=kind != "all-reduce") for shapes, kind, _ in found] == [136, 32, 128]
    assert _bytes("pred[3,5]", last=False) == 15


def test_what_devices_tell_each_other_is_counted():
    """A sum over rows that lie on four devices: every one tells the others its seven partial sums."""
    mesh = parallel.make_mesh("data=4", 4, 1)
    total = jax.jit(
        lambda x: jnp.sum(x, axis=0), in_shardings=parallel.split(mesh), out_shardings=parallel.replicated(mesh)
    )
    row = analyse(total.lower(jax.ShapeDtypeStruct((8, 7), np.float32)).compile())
    assert row["collectives"] == {"all-reduce": 1}
    assert row["collective_bytes"] == {"all-reduce": 7 * 4}
    assert row["memory_bytes"] >= 2 * 7 * 4 + 7 * 4


@pytest.fixture
def config(tmp_path):
    return train_cells.Config(
        workdir=tmp_path / "run", dry_run=True, batch=4, patch=32, widths=(4, 8), augment=False, mesh="data=2,space=2"
    )


def test_dry_run_says_what_a_step_costs_and_writes_nothing(config, capsys):
    assert train_cells.main(config) == 0
    said = capsys.readouterr().out
    assert "mesh data=2, space=2, 4 images a step" in said
    for words in ("GiB a device", "TFLOP", "GB a step", "all-reduce of", "collective-permute of"):
        assert words in said
    assert not config.workdir.exists()


def test_a_topology_is_only_compiled_for(config):
    with pytest.raises(ValueError, match="--topology v5e:4x4 is a TPU to compile for: add --dry-run"):
        train_cells.main(dataclasses.replace(config, dry_run=False, topology="v5e:4x4"))
