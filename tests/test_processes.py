"""Two real processes on this machine train together; one dies, one is stopped, one goes on alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from unet_jax import processes


def run(tmp_path, kind):
    """What tests.several found."""
    environment = {
        "UNET_JAX_SILENCE": "10",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.several", str(tmp_path), kind],
        cwd=Path(__file__).parents[1], env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def check_survivor(end, number):
    assert end["codes"][number] == -9
    assert end["codes"][1 - number] not in (0, "hangs", -9)
    assert end["seconds"] < 60
    assert f"process {number}, pid {end['pid']} on " in end["said"]


def test_two_processes_meet_and_the_death_of_one_ends_the_other_with_its_name(tmp_path):
    found = run(tmp_path, "short")
    for mine, met in enumerate(found["met"]):
        assert (met["first"], met["highest"], met["shared"]) == ("word of 0", 1, 2)
        assert met["made"] == (None if mine else "made")
        assert met["in_turn"] == mine
        rows = [2 * mine, 2 * mine + 2]  # of the batch of 4, of which each device holds 2, or half of every image
        assert met["data=2 own"] == met["data=2 whole"] == [rows, [2, 8, 6, 1], True]
        assert met["data=1,space=2 own"] == met["data=1,space=2 whole"] == [[0, 4], [4, 4, 6, 1], True]
        assert met["data=2 flag"] == met["data=1,space=2 flag"] == 15
        assert "--mesh data=1: that leaves a process without a device; there are 2 devices" in met["one"]
        assert "a batch of 3 is no multiple of 2 processes" in met["odd"]
        assert "is not the same folder on all hosts" in met["other folder"]
        assert met["failure"] == ("process 0 says: " if mine else "") + "invalid literal for int() with base 10: 'x'"
    end = found["other"]
    check_survivor(end, 1)
    assert "has died" in end["said"]
    assert "The others stop: start all of them again with --resume" in end["said"]


@pytest.mark.slow
def test_killed_stopped_resumed_by_one_and_by_two(tmp_path):
    found = run(tmp_path, "long")
    assert found["met_codes"] == [0, 0]
    check_survivor(found["other"], 1)
    check_survivor(found["leader"], 0)
    assert "the leader task is process 0" in found["leader"]["said"]
    assert found["whole_codes"] == found["last"] == [0, 0]
    assert found["stopped"] == [143, 143]  # though only the second was sent SIGTERM
    assert "stopped at step" in found["stop_said"]
    assert found["one_stopped"] == [143]
    assert found["one_codes"] == [0]
    # killed, stopped, gone on as one process and as two again: the same parameters to the last bit
    assert found["run_sums"] == found["whole_sums"] == found["one_sums"]
    assert found["results"]["run"] == found["results"]["whole"] == found["results"]["one"]
    scores = {
        name: [(row["epoch"], row["step"], row["train_loss"], row["val_loss"], row["val_iou"]) for row in rows]
        for name, rows in found["rows"].items()
    }
    assert scores["run"] == scores["whole"] == scores["one"]
    assert "epoch" not in found["silent"]  # the second process prints nothing but who it is


@pytest.mark.parametrize("words", ["2/2@host:1", "0/2", "0/2@host", "yes", "-1/2@host:1"])
def test_words_that_name_no_processes(monkeypatch, words):
    monkeypatch.setenv(processes.VARIABLE, words)
    with pytest.raises(ValueError, match=rf"UNET_JAX_PROCESSES={words}: give auto .*or I/N@HOST:PORT"):
        processes.start()


def test_no_cluster_to_ask(monkeypatch):
    monkeypatch.setenv(processes.VARIABLE, "auto")
    monkeypatch.setattr(jax._src.xla_bridge, "backends_are_initialized", lambda: False)
    for name in ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri", "KUBERNETES_SERVICE_HOST", "JAX_COORDINATOR_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=r"did not find each other .*auto is for Slurm"):
        processes.start()


def test_one_process_agrees_with_itself():
    assert processes.first()
    assert processes.alone()
    assert processes.from_first("x") == "x"
    assert processes.highest(3) == 3
    assert processes.first_does(lambda: 5) == processes.in_turn(lambda: 5) == 5
    with pytest.raises(KeyError, match="no"):
        processes.first_does(lambda: {}["no"])


class Store:
    """The store of two processes, of which this is number 1."""

    def __init__(self, **said):
        self.said = said

    def key_value_set(self, key, value, allow_overwrite=False):
        self.said[key] = value

    def blocking_key_value_get(self, key, wait):
        return next(value for name, value in self.said.items() if key.startswith(name))

    def wait_at_barrier(self, name, wait):
        pass

    def key_value_dir_get(self, room):
        return [(key, value) for key, value in self.said.items() if key.startswith(room)] + [(f"{room}/0", "7")]


@pytest.fixture
def second(monkeypatch):
    """This process as the second of two."""
    store = Store()
    monkeypatch.setattr(processes, "_store", lambda: store)
    monkeypatch.setattr(processes, "_me", lambda: 1)
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "first", lambda: False)
    return store


def test_the_first_process_s_word_counts(second):
    second.said["unet_jax/said"] = json.dumps([1.5, None])
    assert processes.from_first("mine") == [1.5, None]
    assert processes.highest(3) == 7


def test_what_fails_in_the_first_fails_in_all(second):
    second.said["unet_jax/said"] = json.dumps("images/a.png is truncated")
    with pytest.raises(ValueError, match=r"process 0 says: images/a\.png is truncated"):
        processes.first_does(lambda: pytest.fail("the second process did the first one's work"))


def test_the_others_follow_the_first(second):
    second.said["unet_jax/said"] = json.dumps(None)
    assert processes.first_does(lambda: pytest.fail("the second process did the first one's work")) is None
    assert processes.in_turn(lambda: "mine") == "mine"


@pytest.mark.parametrize(
    ("error", "together"),
    [
        (ValueError("UNKNOWN: Gloo AllReduce failed: Connection reset by peer"), True),
        (OSError("a checkpoint could not be written (XlaRuntimeError: Barrier timed out)"), True),
        (ValueError("images/a.png is truncated"), False),
        (None, False),
    ],
)
def test_errors_that_may_come_from_the_death_of_another(error, together):
    assert processes._of_all(error) is together
    outer = RuntimeError("the step failed")
    outer.__cause__ = error
    assert processes._of_all(outer) is together


def test_rows_of_the_only_process():
    from unet_jax import parallel

    mesh = parallel.make_mesh("data=2,space=2", 4, 16)
    assert parallel.rows_here(mesh, 4) == slice(0, 4)
    assert parallel.shared_mesh(6).size == 3
    state = parallel.replicate({"a": np.arange(3)}, mesh)
    np.testing.assert_array_equal(parallel.on_host(state)["a"], np.arange(3))
    assert state["a"].sharding == parallel.replicated(mesh)


def test_a_flag_that_any_device_raises_reaches_the_metrics():
    from unet_jax import parallel

    mesh = parallel.make_mesh("data=2,space=2", 4, 16)
    step = jax.jit(parallel.with_flag(lambda state, batch: (state + batch["x"].sum(), {"loss": state})))
    for number in (0, 15):
        state, out = step(1.0, {"x": np.ones(2), "flag": parallel.flag(number, mesh)})
        assert (float(state), float(out["loss"]), int(out["flag"])) == (3.0, 1.0, number)
