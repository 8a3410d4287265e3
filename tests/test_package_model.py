"""A training becomes a model of the package: its files, its card, and every way to use it by its name."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import train_cells
from scripts import package_model
from tests.folders import save
from tests.trained import SMALL, bright_variables, card, save_run
from unet_jax import cli, pretrained
from unet_jax.commands.models import Models
from unet_jax.data.images import read_label
from unet_jax.data.source import split_of
from unet_jax.model_folder import read_model
from unet_jax.startup import flags

ROOT = Path(__file__).parent.parent
NAMES = [name for part in ("train", "val", "test") for name in [f"i{n}" for n in range(60)] if split_of(name) == part]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Sixty images with two squares of 16 pixels each; one kind has no test image."""
    root = tmp_path_factory.mktemp("data") / "cells"
    for name in NAMES:
        label = np.zeros((20, 20), np.uint16)
        label[2:6, 2:6], label[10:14, 9:13] = 1, 2
        save(root / "labels" / f"{name}.png", label)
        save(root / "images" / f"{name}.png", np.where(label > 0, 240, 10).astype(np.uint8))
    kinds = {name: "rare_stain" if i == 0 else "bright" for i, name in enumerate(NAMES)}
    (root / "index.csv").write_text("id,kind\n" + "".join(f"{name},{kind}\n" for name, kind in kinds.items()))
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    """What a training in two runs leaves: the second started from the first."""
    first = tmp_path_factory.mktemp("first")
    run = save_run(tmp_path_factory.mktemp("run"), bright_variables(SMALL), card(SMALL) | {"head": "foreground"})
    results = {
        "epochs": 3, "best": {"epoch": 2, "val_iou": 0.9}, "seconds": {"training": 90.0}, "device": "cpu",
        "commit": "abc", "test": {"images": sum(split_of(name) == "test" for name in NAMES)},
    }  # fmt: skip
    config = train_cells.resolve(train_cells.Config(data=str(data), epochs=3, workdir=first, seed=4), "cpu")
    for folder, init in ((first, None), (run, first)):
        given = {**vars(config), "init": init, "workdir": folder, "augment": folder == first}
        (folder / "config.json").write_text(json.dumps(given, default=str))
        (folder / "results.json").write_text(json.dumps(results))
    return run


@pytest.fixture(scope="module")
def shipped(run, data, tmp_path_factory):
    """The folder of models with the one that was made."""
    output = tmp_path_factory.mktemp("package")
    config = package_model.PackageModel(run, str(data), name="tiny", note="squares", output=output)
    assert package_model.main(config) == 0
    with pytest.raises(ValueError, match=r"tiny exists: .*--overwrite"):
        package_model.main(config)
    return output


def test_the_card_says_all_there_is_to_know(shipped, data):
    told = json.loads((shipped / "tiny" / "card.json").read_text())
    first, second = (row["command"] for row in told["training"])
    assert first == "python -m experiments.train_cells --data FOLDER --preset small --epochs 3 --seed 4"
    assert second == (
        "python -m experiments.train_cells --data FOLDER --preset small --init 'the one before' --epochs 3 "
        "--no-augment --seed 4"
    )
    assert [(row["epochs"], row["minutes"]) for row in told["training"]] == [(3, 1.5)] * 2
    counts = {part: sum(split_of(name) == part for name in NAMES) for part in ("train", "val", "test")}
    assert told["data"]["images"] == counts
    assert told["data"]["objects_in_training"] == 2 * counts["train"]
    assert told["data"]["diameter"]["50 %"] == 4.5  # 2 sqrt(16 / pi)
    assert told["data"]["note"] == "squares"
    # Bright squares are found exactly.
    assert set(told["scores"]["by_kind"]) == {"bright"}
    assert told["scores"]["all"] == {
        "images": counts["test"], "objects": 2 * counts["test"], "ap50": 1, "ap75": 1, "pq": 1, "iou": 1, "dice": 1,
    }  # fmt: skip
    assert any("rare stain: 1 training images, no test image" in line for line in told["not_for"])
    assert not any("bright:" in line for line in told["not_for"]) or counts["train"] <= package_model.FEW
    assert str(data.parent) not in json.dumps(told)
    assert told["bytes"] < 50_000


def test_weights_are_float16_and_come_back(shipped, run):
    with np.load(shipped / "tiny" / "params.npz", allow_pickle=False) as stored:
        assert {stored[name].dtype for name in stored.files} == {np.dtype(np.float16)}
    small, whole = read_model(shipped / "tiny")[0], read_model(run)[0]
    np.testing.assert_array_equal(small["params"]["logits"]["kernel"], whole["params"]["logits"]["kernel"])


def test_it_is_used_by_its_name(shipped, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pretrained, "_HERE", shipped)
    monkeypatch.chdir(tmp_path)
    image = data / "images" / f"{NAMES[0]}.png"
    assert cli.predict(cli.Predict(input=(str(image),), model=(Path("tiny"),), batch=2)) == 0
    found = read_label(tmp_path / "predicted" / "labels" / f"{NAMES[0]}.tif")
    np.testing.assert_array_equal(found, read_label(data / "labels" / f"{NAMES[0]}.png"))
    assert cli.models(Models(size=(8, 8), widths=(2, 4))) == 0
    assert "tiny          squares; foreground, 0.0 MB; AP 1.000 at IoU 0.5" in capsys.readouterr().out
    assert cli.models(Models(card="tiny")) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "tiny"
    with pytest.raises(ValueError, match="no model 'other' comes with the package: tiny"):
        cli.models(Models(card="other"))
    config = train_cells.resolve(train_cells.Config(init="tiny"), "tpu")
    assert (config.model, config.widths, config.norm) == ("UNet", SMALL.widths, SMALL.norm)
    assert config.learning_rate == pytest.approx(train_cells.resolve(train_cells.Config(), "tpu").learning_rate / 10)
    card_of = shipped / "tiny" / "card.json"
    told = json.loads(card_of.read_text())
    card_of.write_text(json.dumps(told | {"model": told["model"] | {"name": "AttentionUNet"}}))
    assert train_cells.resolve(train_cells.Config(init="tiny"), "tpu").model == "AttentionUNet"
    card_of.write_text(json.dumps(told))
    assert train_cells.resolve(train_cells.Config(init="tiny", norm="batch"), "cpu").norm == "batch"


def test_the_first_model_asked_for_is_nuclei():
    assert cli.Predict(input=("x.png",)).model == (Path("nuclei"),)


def test_what_may_not_be_shipped(run, data, tmp_path, monkeypatch):
    def make(**changes):
        given = {"workdir": run, "data": str(data), "name": "x", "output": tmp_path / "out"} | changes
        return package_model.main(package_model.PackageModel(**given))

    with pytest.raises(FileNotFoundError, match=r"config.json is not there: name the --workdir of a finished"):
        make(workdir=shutil.copytree(run / "checkpoints", tmp_path / "bare" / "checkpoints").parent)
    with pytest.raises(ValueError, match="names a place on this machine: 'in /home/me'"):
        make(note="in /home/me")
    fewer = shutil.copytree(data, tmp_path / "fewer")
    name = next(name for name in NAMES if split_of(name) == "test")
    for room in ("images", "labels"):
        (fewer / room / f"{name}.png").unlink()
    (fewer / "index.csv").unlink()
    with pytest.raises(ValueError, match="give the --data of the training"):
        make(data=str(fewer))
    monkeypatch.setattr(package_model, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="train with fewer --widths"):
        make()
    assert not (tmp_path / "out").exists()


def test_words_of_a_command_line():
    defaults = {"data": "a", "augment": True, "profile": False, "widths": None, "split": (1, 2)}
    given = {"data": "b", "augment": False, "profile": True, "widths": [4, 8], "split": [1, 2], "other": None}
    assert flags(given, defaults) == ["--data", "b", "--no-augment", "--profile", "--widths", "4", "8"]


def test_models_are_in_the_wheel(tmp_path):
    """The files that setuptools would put into a wheel, asked of a copy with one model in it."""
    pytest.importorskip("setuptools")  # Python 3.12 leaves it out of new environments
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(re.sub("(?m)^license.*$", "", text))  # which old setuptools cannot read
    for file in ("README.md", "unet_jax/__init__.py", "unet_jax/pretrained/__init__.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    (tmp_path / "unet_jax" / "pretrained" / "tiny").mkdir()
    for file in ("card.json", "params.npz"):
        (tmp_path / "unet_jax" / "pretrained" / "tiny" / file).touch()
    ask = (
        "from setuptools.dist import Distribution; d = Distribution({'script_name': 'setup.py'}); "
        "d.parse_config_files(['pyproject.toml']); b = d.get_command_obj('build_py'); b.ensure_finalized(); "
        "print(*b.get_outputs(), sep='\\n')"
    )
    told = subprocess.run([sys.executable, "-c", ask], cwd=tmp_path, capture_output=True, text=True)
    assert {"card.json", "params.npz"} == {
        Path(line).name for line in told.stdout.splitlines() if "pretrained/tiny/" in line
    }, told.stderr


@pytest.mark.parametrize("name", pretrained.names())
def test_what_comes_with_the_package_keeps_its_promises(name):
    told = pretrained.card(name)
    folder = pretrained.resolve(name)
    assert package_model.check(told, folder) <= package_model.MOST_BYTES
    assert told["data"]["licence"] == "CC0 1.0"
    assert told["training"]
    assert told["not_for"]
    assert told["scores"]["by_kind"]
    assert read_model(name)[1] == told
