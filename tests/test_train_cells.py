"""The experiment as a user runs it, on a folder of tiny images: once through, stopped, resumed, and misused."""

import collections
import csv
import dataclasses
import json
import os
import re
import signal
import warnings

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tyro
from PIL import Image

from experiments import train_cells
from tests import folders
from unet_jax import cli, session
from unet_jax.data import FolderSource, split
from unet_jax.loop import NonFiniteLoss

EPOCHS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """24 images of 40×36 with two bright squares each: smaller than the patch along one axis."""
    second = (slice(20, 33), slice(16, 30))
    folder = folders.cells(tmp_path_factory.mktemp("cells"), shape=(40, 36), second=second)
    rows = ["id,kind", *(f"c{i},{'odd' if i % 2 else 'even'}" for i in range(24))]
    (folder / "index.csv").write_text("\n".join(rows) + "\n")
    return folder


def config(folder, workdir, **changes):
    tiny = {"epochs": EPOCHS, "batch": 4, "patch": 40, "widths": (4, 8), "dropout": 0.2, "learning_rate": 0.02}
    quick = {"target": "foreground", "tta": False}
    return train_cells.Config(data=str(folder), workdir=workdir, **tiny | quick | changes)


@pytest.fixture(scope="module")
def traces():
    """How often Python went through each step function: once a compilation."""
    return collections.Counter()


@pytest.fixture(scope="module")
def whole_run(folder, traces, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "whole"

    def counted(make):
        def make_counted(*args, **options):
            step = make(*args, **options)

            def traced(*arrays):
                traces[make.__name__] += 1
                return step(*arrays)

            return traced

        return make_counted

    with pytest.MonkeyPatch.context() as patch:
        for name in ("make_train_step", "make_eval_step"):
            patch.setattr(train_cells.training, name, counted(getattr(train_cells.training, name)))
        assert train_cells.main(config(folder, workdir)) == 0
    return workdir


def latest_arrays(workdir):
    """Step and arrays of the newest checkpoint, read without knowing the network."""
    step = max(int(p.name) for p in (workdir / "checkpoints").iterdir())
    handler = ocp.PyTreeCheckpointer()
    with warnings.catch_warnings():  # it says that it takes the devices from the file
        warnings.simplefilter("ignore", UserWarning)
        return step, jax.tree.leaves(handler.restore(workdir / "checkpoints" / str(step) / "state"))


def test_everything_a_run_leaves(whole_run, folder):
    rows = [json.loads(line) for line in (whole_run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    results = json.loads((whole_run / "results.json").read_text())
    test = split(FolderSource(folder))["test"]
    assert results["test"]["images"] == len(test)
    assert set(results["by_kind"]) == set(test.columns["kind"])
    assert results["test"]["iou_pooled"] > 0.3
    assert "enters no mean" in results["rules"]["empty"]
    table = list(csv.DictReader((whole_run / "per_image.csv").read_text().splitlines()))
    assert [row["id"] for row in table] == list(test.ids)
    assert [row["kind"] for row in table] == list(test.columns["kind"])
    assert np.mean([float(row["iou"]) for row in table]) == pytest.approx(results["test"]["iou_mean"], abs=1e-4)
    for picture in ("curves.png", "examples.png"):
        with Image.open(whole_run / "report" / picture) as image:
            assert image.size[0] > 300
    assert json.loads((whole_run / "config.json").read_text())["widths"] == [4, 8]
    assert list((whole_run / "tensorboard").iterdir())


def test_no_step_is_compiled_twice(whole_run, traces):
    """Four epochs, validation with a last batch that is not full, another split of other sizes: one program each."""
    assert traces == {"make_train_step": 1, "make_eval_step": 1}


def test_a_run_killed_and_resumed_ends_bit_for_bit_the_same(whole_run, folder, tmp_path, monkeypatch):
    calls = 0
    put = train_cells.parallel.shard

    def die(batch, mesh, **options):
        nonlocal calls
        calls += 1
        if calls == 17:  # in the third epoch, validation batches counted
            raise ConnectionError("killed")
        return put(batch, mesh, **options)

    workdir = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(train_cells.parallel, "shard", die)
        with pytest.raises(ConnectionError):
            train_cells.main(config(folder, workdir))
    step, _ = latest_arrays(workdir)
    assert 0 < step < latest_arrays(whole_run)[0]
    assert train_cells.main(config(folder, workdir, resume=True)) == 0
    for a, b in zip(latest_arrays(whole_run)[1], latest_arrays(workdir)[1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_sigterm_saves_in_mid_epoch_and_says_so(whole_run, folder, tmp_path, monkeypatch, capsys):
    calls = 0
    put = train_cells.parallel.shard

    def stop(batch, mesh, **options):
        nonlocal calls
        calls += 1
        if calls == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return put(batch, mesh, **options)

    workdir = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(train_cells.parallel, "shard", stop)
        assert train_cells.main(config(folder, workdir)) == 143
    assert f"--workdir {workdir} --resume" in capsys.readouterr().out
    assert latest_arrays(workdir)[0] == 3
    assert train_cells.main(config(folder, workdir, resume=True)) == 0
    for a, b in zip(latest_arrays(whole_run)[1], latest_arrays(workdir)[1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_ctrl_c_saves_too(folder, tmp_path, monkeypatch):
    calls, put = [], train_cells.parallel.shard

    def stop(batch, mesh, **options):
        calls.append(batch)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return put(batch, mesh, **options)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    try:
        monkeypatch.setattr(train_cells.parallel, "shard", stop)
        assert train_cells.main(config(folder, tmp_path / "stopped")) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert latest_arrays(tmp_path / "stopped")[0] == 2


def test_a_workdir_is_not_trained_over(whole_run, folder):
    before = (whole_run / "config.json").read_bytes()
    with pytest.raises(FileExistsError, match="holds another run: add --resume"):
        train_cells.main(config(folder, whole_run))
    with pytest.raises(ValueError, match=r"seed was 0, now 1.*give the same options"):
        train_cells.main(config(folder, whole_run, resume=True, seed=1))
    assert (whole_run / "config.json").read_bytes() == before


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(folder, tmp_path, monkeypatch):
    real = session.fit

    def fit(state, position, *, step, **others):
        def breaks_in_epoch_2(state, batch):
            state, out = step(state, batch)
            return state, {**out, "loss": out["loss"] / (state.step != 6)}

        return real(state, position, step=breaks_in_epoch_2, **others)

    monkeypatch.setattr(session, "fit", fit)
    with pytest.raises(NonFiniteLoss, match=r"inf .*at step 6, in the batch of the images 'c\d+', 'c\d+'"):
        train_cells.main(config(folder, tmp_path / "nan"))
    step, arrays = latest_arrays(tmp_path / "nan")
    assert step == 4
    assert all(np.isfinite(array).all() for array in arrays)


@pytest.mark.parametrize("data", ["missing", "empty"])
def test_bad_folder_leaves_nothing_behind(tmp_path, data):
    (tmp_path / "empty").mkdir()
    with pytest.raises((FileNotFoundError, ValueError), match=data):
        train_cells.main(config(tmp_path / data, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_patch_that_the_levels_do_not_divide(folder, tmp_path):
    with pytest.raises(ValueError, match=r"41×41.*pad it to 42×42"):
        train_cells.main(dataclasses.replace(config(folder, tmp_path / "run"), patch=41))
    assert not (tmp_path / "run").exists()


def test_impossible_values_and_names_are_refused_at_once(folder, tmp_path):
    for changes, message in (
        ({"epochs": 0}, "--epochs 0: give 1 or more"),
        ({"dropout": 1.0}, "--dropout 1.0: give a share"),
        ({"data": "sinthetic"}, "sinthetic: this does not exist; give a folder .* synthetic, or dsb2018"),
        ({"data": str(folder / "index.csv")}, "this is a file"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            train_cells.main(dataclasses.replace(config(folder, tmp_path / "run"), **changes))
    assert not (tmp_path / "run").exists()


def test_resume_needs_no_option_but_the_workdir(whole_run, capsys):
    """The finished run is not trained on, only scored again."""
    assert train_cells.main(train_cells.Config(workdir=whole_run, resume=True)) == 0
    assert "resumed after 4 epochs" in capsys.readouterr().out
    assert json.loads((whole_run / "config.json").read_text())["epochs"] == EPOCHS


def test_unknown_flag_suggests_the_nearest(capsys):
    with pytest.raises(SystemExit):
        tyro.cli(train_cells.Config, args=["--width", "4"])
    assert "--widths" in capsys.readouterr().err


def test_presets_fill_in_what_was_not_said():
    small = train_cells.resolve(train_cells.Config(), "cpu")
    paper = train_cells.resolve(train_cells.Config(), "gpu")
    assert (small.preset, small.dtype, small.loss) == ("small", "float32", "dice+bce")
    assert (paper.preset, paper.dtype, paper.loss) == ("paper", "bfloat16", "dice")
    assert (paper.widths, paper.epochs, paper.learning_rate) == ((64, 128, 256, 512, 1024), 100, 1e-4)
    assert train_cells.resolve(train_cells.Config(epochs=3), "cpu").max_minutes is None
    heads = {kind: train_cells.choose_target(small, kind).target for kind in ("instances", "binary", "classes")}
    assert heads == {"instances": "flow", "binary": "foreground", "classes": "foreground"}
    assert train_cells.choose_target(dataclasses.replace(small, model="Classifier"), "instances").target == "foreground"
    assert train_cells.resolve(train_cells.Config(max_minutes=45), "cpu").epochs == 1000


def test_less_memory_on_request_and_a_profile(folder, tmp_path, capsys):
    workdir = tmp_path / "run"
    options = {
        "remat": True,
        "accumulate": 2,
        "profile": True,
        "tta": True,
        "augment": False,
        "crops": 24,
        "target": "flow",
    }
    frugal = dataclasses.replace(config(folder, workdir, **options), epochs=2)
    assert train_cells.main(frugal) == 0
    out = capsys.readouterr().out
    assert re.search(r"memory on each of 2 devices: state and batch .* GiB free", out)
    results = json.loads((workdir / "results.json").read_text())
    assert 0 <= results["objects"]["ap_pooled"]["0.50"] <= 1
    predict = cli.Predict(model=(workdir,), input=(str(folder / "images"),), output=tmp_path / "out", tta=True)
    assert cli.predict(predict) == 0
    assert len(list((tmp_path / "out" / "labels").iterdir())) == 24
    assert results["test_eight_views"]["images"] == results["test"]["images"]
    assert f"eight views (--tta): IoU {results['test_eight_views']['iou_pooled']:.4f} pooled" in out
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert "an epoch is 24 crops of 40×40, so that every image is seen 1.5 times" in out
    traced = rows[-1]["step"] - 5  # the run ends before fifteen steps
    assert traced == 2 * 24 // 4 - 5
    assert f"profile of {traced} steps: {workdir / 'profile'}" in out
    assert list((workdir / "profile").glob("plugins/profile/*/*.trace.json.gz"))
    with pytest.raises(ValueError, match="--accumulate 3 does not divide --batch 4 into equal parts"):
        train_cells.main(dataclasses.replace(frugal, accumulate=3, workdir=tmp_path / "other"))


def test_memory_that_runs_out_names_the_options(whole_run, folder, tmp_path, monkeypatch, capsys):
    """Twice: no checkpoint was written, so the second start begins with the model it was given too."""

    def fit(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.")

    monkeypatch.setattr(session, "fit", fit)
    for resume in (False, True):
        with pytest.raises(MemoryError, match=r"allocate 9 bytes.*--remat, --accumulate .*--batch"):
            train_cells.main(config(folder, tmp_path / "full", init=str(whole_run), resume=resume))
        assert f"starting from {whole_run}" in capsys.readouterr().out
