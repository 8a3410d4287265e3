import types

import jax
import jax.numpy as jnp
import pytest

from unet_jax import memory
from unet_jax.memory import Need

MENDS = "--remat, --accumulate 2"


@pytest.mark.parametrize("donate", [(), (0,)])
def test_what_the_compiler_counts(donate):
    # 1 MiB goes in and 1 MiB comes out, into new memory unless the first may be overwritten
    compiled = jax.jit(lambda x: x * 2 + 1, donate_argnums=donate).lower(jnp.ones(2**18)).compile()
    need = Need.of(compiled)
    assert need.held == 2**20
    assert need.scratch == pytest.approx(0 if donate else 2**20, abs=4096)


def test_a_platform_that_does_not_count():
    assert Need.of(types.SimpleNamespace(memory_analysis=lambda: None)) is None


def test_warns_only_of_what_does_not_fit():
    need = Need(held=2**27, scratch=3 * 2**30)
    one = memory.describe(need, 4 * 2**30, 1, MENDS)
    assert one == "memory: state and batch 0.12 GiB, a training step 3.00 GiB more; 4.00 GiB free"
    line, warning = memory.describe(need, 2 * 2**30, 2, MENDS).split("\n")
    assert line.startswith("memory on each of 2 devices: state")
    assert warning == f"WARNING: this may not fit. To mend: {MENDS}"
    assert memory.describe(need, None, 1, MENDS).endswith("3.00 GiB more")
    assert memory.size(14155776) == "13.5 MiB"


def device(platform, stats=None):
    return types.SimpleNamespace(platform=platform, memory_stats=lambda: stats)


def test_free_memory(monkeypatch):
    text = "MemTotal: 9000 kB\nMemFree: 1000 kB\nMemAvailable: 6000 kB\n"
    monkeypatch.setattr(memory.Path, "read_text", lambda path: text)
    assert memory.free_bytes([device("cpu")] * 4) == 6000 * 1024 // 4
    full, empty = ({"bytes_limit": 100, "bytes_in_use": used} for used in (90, 20))
    assert memory.free_bytes([device("gpu", empty), device("gpu", full)]) == 10
    assert memory.free_bytes([device("gpu", empty), device("gpu")]) is None


def test_the_step_is_compiled_once_and_measured_before_it_runs():
    events = []

    def step(state, batch):
        events.append("traced")
        return state + batch.sum()

    run = memory.measured(jax.jit(step), jax.devices()[:1], mends=MENDS, say=events.append)
    assert events == []
    state = run(jnp.zeros(()), jnp.ones(4))
    assert float(run(state, jnp.ones(4))) == 8.0
    assert events[0] == "traced"
    assert events[1].startswith("memory: state and batch 0.0 MiB")
    assert len(events) == 2


@pytest.mark.parametrize(
    "error",
    [
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9000 bytes.\nmore lines"),
        MemoryError("Unable to allocate 3 GiB"),
    ],
)
def test_running_out_of_memory_names_the_mend(error):
    with pytest.raises(MemoryError, match=r"allocat.*To mend: --remat, --accumulate 2") as caught, memory.mended(MENDS):
        raise error
    assert "\n" not in str(caught.value)


def test_other_errors_pass():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), memory.mended(MENDS):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")
