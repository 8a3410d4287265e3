import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from unet_jax.profiling import Profile


def profiled(folder, calls, **options):
    """Run a donating step so many times under a profile; what it said."""
    said = []
    step = jax.jit(lambda x: (x + 1, x.sum()), donate_argnums=0)
    with Profile(folder, say=said.append, **options) as profile:
        run, state = profile.watch(step), jnp.zeros(4)
        for _ in range(calls):
            state, _ = run(state)
    assert float(state[0]) == calls
    return said


def steps_in(folder):
    """Numbers of the steps that the trace for Perfetto holds."""
    (file,) = folder.glob("plugins/profile/*/*.trace.json.gz")
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    return sorted({int(e["args"]["step_num"]) for e in events if e.get("name") == "train" and "args" in e})


@pytest.mark.parametrize(("calls", "traced"), [(9, [2, 3, 4]), (4, [2, 3])], ids=["whole", "run ends within"])
def test_traces_the_steps_after_the_warm_up(tmp_path, calls, traced):
    assert profiled(tmp_path, calls, warm_up=2, steps=3) == [f"profile of {len(traced)} steps: {tmp_path}"]
    assert steps_in(tmp_path) == traced
    assert list(tmp_path.glob("plugins/profile/*/*.xplane.pb"))


def test_nothing_to_trace_is_said(tmp_path):
    assert profiled(tmp_path, 2, warm_up=2, steps=3) == ["no profile: the run ended before step 3"]
    assert profiled(tmp_path, 5, steps=0) == []
    assert not list(tmp_path.iterdir())


def test_an_error_within_the_trace_ends_it(tmp_path):
    def broken(x):
        raise MemoryError

    with pytest.raises(MemoryError), Profile(tmp_path, say=print, warm_up=0) as profile:
        profile.watch(broken)(jnp.zeros(2))
    assert profiled(tmp_path, 2, warm_up=0, steps=1)  # a trace that still ran would refuse a second
