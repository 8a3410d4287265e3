import dataclasses
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from benchmarks import race, time_to_score
from benchmarks.race import IGNORED, Stream
from benchmarks.time_to_score import Config, check_same, conclude, timed


def test_the_race_ends_at_the_first_score_that_is_reached():
    trained = []
    # Dice 2·1/(4+4) = 0.25, then 2·3/(4+4) = 0.75
    counts = iter([(1, 4, 4), (3, 4, 4), (4, 4, 4)])
    rows = race.race(trained.append, lambda: next(counts), steps=9, every=2, score=0.7)
    assert [(row["step"], row["dice"]) for row in rows] == [(2, 0.25), (4, 0.75)]
    assert trained == [0, 1, 2, 3]
    assert 0 < rows[0]["seconds"] < rows[1]["seconds"]


def test_the_last_step_is_validated_and_nothing_predicted_scores_0():
    rows = race.race(lambda step: None, lambda: (0, 0, 0), steps=5, every=3, score=0.5)
    assert [(row["step"], row["dice"]) for row in rows] == [(3, 0.0), (5, 0.0)]


class Side:
    name = "side"

    def setup(self, dtype):
        self.dtype = dtype

    def race(self, *, steps, every, score):
        return [{"step": steps, "seconds": 60.0, "dice": 0.8}]


def test_the_dtype_of_the_faster_trial_races(capsys):
    side, runs = Side(), {"float32": {"seconds": 2.0}, "bfloat16": {"seconds": 1.0}}
    row = timed(side, runs, Config(data="x", score=0.8), 10)
    assert (row["dtype"], side.dtype, row["reached_seconds"]) == ("bfloat16", "bfloat16", 60.0)
    missed = timed(side, runs, Config(data="x", score=0.9), 10)
    assert missed["reached_seconds"] is None
    assert "not reached, best 0.8000" in capsys.readouterr().out
    assert conclude([row, {"reached_seconds": 90.0}], 0.8) == 0
    assert "ours: 1.50" in capsys.readouterr().out
    assert conclude([row, missed], 0.9) == 1


def test_sides_that_do_not_learn_the_same_are_refused():
    ours = {"float32": {"losses": [1.0, 0.9, 5.0]}, "bfloat16": {"losses": [1.1, 0.7]}}
    check_same([ours])
    check_same([ours, {"float32": {"losses": [1.0005, 0.9005, 7.0]}}])
    with pytest.raises(ArithmeticError, match="first losses"):
        check_same([ours, {"float32": {"losses": [1.0, 0.95]}}])


@pytest.fixture(scope="module")
def config():
    """Seven steps teach too little for a true score: every score reaches 0."""
    return Config(data="synthetic", width=2, batch=4, patch=32, epochs=1, every=100, score=0.0, peer="none")


@pytest.fixture(scope="module")
def raced(config, tmp_path_factory):
    """The figures of a race without a peer, on the first few made-up cells, and what the stream held."""
    from benchmarks import score_ours
    from unet_jax.data.synthetic import SyntheticCells

    file, kept = tmp_path_factory.mktemp("race") / "record.json", {}
    write = score_ours.write_stream

    def keep(folder, config):
        steps = write(folder, config)
        stream = Stream(folder)
        kept["stream"] = {name: np.array(getattr(stream, name)) for name in race.ARRAYS} | {"rates": stream.rates}
        return steps

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score_ours, "write_stream", keep)
        patch.setattr(score_ours, "open_named", lambda data, say: SyntheticCells(count=24, size=64))
        assert time_to_score.main(dataclasses.replace(config, json=file)) == 0
    return json.loads(file.read_text()), kept["stream"]


@pytest.mark.slow
def test_race_without_a_peer(raced):
    record, stream = raced
    (side,) = record["sides"]
    assert [row["step"] for row in side["rows"]] == [len(stream["rates"])]
    assert set(side["trials"]) == {"float32", "bfloat16"}
    steps = len(stream["rates"])
    assert stream["image"].shape == (steps, 4, 32, 32, 3)
    assert set(np.unique(stream["label"])) <= {0, 1, IGNORED}
    assert 0.05 < (stream["label"] == 1).mean() < 0.9
    # every validation pixel counts exactly once
    assert (stream["val_label"] != IGNORED).sum() % (64 * 64) == 0
    # a rise over a twentieth of the plan, at least one step, then half a cosine
    assert stream["rates"] == pytest.approx(0.5 * 2e-3 * (1 + np.cos(np.pi * np.arange(steps) / steps)), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["none", "batch", "group"])
def test_race_against_pytorch(config, norm, capsys, monkeypatch):
    python = os.environ.get("UNET_JAX_TORCH_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import torch"], capture_output=True, check=False).returncode:
        pytest.skip("no PyTorch: name a Python that has it with UNET_JAX_TORCH_PYTHON")
    assert jax.default_backend() == "cpu"
    from benchmarks import score_ours
    from unet_jax.data.synthetic import SyntheticCells

    monkeypatch.setattr(score_ours, "open_named", lambda data, say: SyntheticCells(count=24, size=64))
    assert time_to_score.main(dataclasses.replace(config, norm=norm, peer="pytorch", peer_python=python)) == 0
    out = capsys.readouterr().out
    assert "PyTorch's time over ours" in out
