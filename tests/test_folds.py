"""Folds by hash, and the experiment over all of them as a user runs it."""

import csv
import dataclasses
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import train_cells
from tests import folders
from tests.test_source import Numbers
from unet_jax import metrics
from unet_jax.data import FolderSource
from unet_jax.data.source import place_of
from unet_jax.evaluation import Evaluation
from unet_jax.folds import fold_of, join, keep, one_fold, part_of, run_folds, split_fold
from unet_jax.object_scores import ObjectCounts
from unet_jax.predicted import FromFolder


def test_every_image_is_tested_once_and_never_by_a_model_that_saw_it():
    ids = [f"image{i}" for i in range(400)]
    parts = [split_fold(Numbers(ids), 5, fold) for fold in range(5)]
    assert sorted(name for part in parts for name in part["test"].ids) == sorted(ids)
    for part in parts:
        assert sorted(part["train"].ids + part["val"].ids + part["test"].ids) == sorted(ids)
        # Binomial: 400 · 0.2 = 80 tested and 400 · 0.8 · 0.15 = 48 for validation, deviations 8 and 6.5; three of them
        assert len(part["test"]) == pytest.approx(80, abs=24)
        assert len(part["val"]) == pytest.approx(48, abs=20)


def test_folds_follow_the_stated_formula():
    """By sha256sum, over 256: "b" 0x3e is at 0.24, "a" 0xca at 0.79, "i" 0xde at 0.87: of five the folds 1, 3 and 4.

    Behind fold 0 (up to 0.2) the next 0.15 · 0.8 = 0.12 are for validation; behind fold 4, going round, the first 0.12.
    """
    assert [fold_of(name, 5) for name in "bai"] == [1, 3, 4]
    assert [part_of("b", 5, fold) for fold in range(5)] == ["val", "test", "train", "train", "train"]
    early = next(str(i) for i in range(99) if place_of(str(i)) < 0.12)
    late = next(str(i) for i in range(99) if 0.12 < place_of(str(i)) < 0.2)
    assert [part_of(name, 5, 4) for name in (early, late)] == ["val", "train"]


def test_an_image_more_moves_no_other():
    ids = [f"image{i}" for i in range(90)]
    for fold in range(3):
        few, many = split_fold(Numbers(ids[:80]), 3, fold), split_fold(Numbers(ids), 3, fold)
        assert all(set(few[part].ids) <= set(many[part].ids) for part in few)


def test_folds_that_cannot_be():
    with pytest.raises(ValueError, match="--fold 0 of how many"):
        one_fold(None, 0)
    with pytest.raises(ValueError, match="--folds 1: give 2"):
        one_fold(1, "all")
    with pytest.raises(ValueError, match="--fold 3 of 3: give 0 to 2"):
        one_fold(3, 3)
    assert (one_fold(3, "all"), one_fold(3, 2), one_fold(None, None)) == (None, 2, None)
    with pytest.raises(ValueError, match=r"2 images split .*or choose fewer than 20 folds"):
        split_fold(Numbers(["a", "b"]), 20, 0)


def test_scores_of_all_folds_are_those_of_all_images(tmp_path):
    """Two folds, kept in their own order, joined in the source's: pixels pooled and mean, objects, label images."""
    source = Numbers([f"image{i}" for i in range(24)])
    rng, counts = np.random.default_rng(0), {}
    for fold in range(2):
        test = split_fold(source, 2, fold)["test"]
        pixels = rng.integers(1, 50, (len(test), 2, 2))
        objects = ObjectCounts(
            *(np.ones(len(test), np.int64),) * 2, *(np.ones((len(test), 10), t) for t in (int, float))
        )
        labels = [np.full((2, 2), int(name[5:]), np.int32) for name in test.ids]
        keep(tmp_path / f"fold{fold}", test, Evaluation(0.5 + fold, pixels, labels), objects, pixels)
        results = {"test": metrics.summarise(pixels), "best": {"epoch": 1}, "epochs": 1, "seconds": {},
                   "device": "cpu", "commit": "abc", "data": "cells"}  # fmt: skip
        (tmp_path / f"fold{fold}" / "results.json").write_text(json.dumps(results))
        counts |= dict(zip(test.ids, pixels, strict=True))
    results = join(tmp_path, source, 2, title="cells")
    assert results["test"] == metrics.summarise(np.stack([counts[name] for name in source.ids]))
    assert results["test_eight_views"] == results["test"]
    assert results["objects"]["objects"] == 24
    assert [row["images"] for row in results["folds"]] == [len(split_fold(source, 2, fold)["test"]) for fold in (0, 1)]
    first, second = (row["iou_pooled"] for row in results["folds"])
    assert results["over_folds"]["iou_pooled"]["deviation"] == pytest.approx(abs(first - second) / 2**0.5)
    rows = list(csv.DictReader((tmp_path / "per_image.csv").read_text().splitlines()))
    assert [(row["id"], row["fold"]) for row in rows] == [(name, str(fold_of(name, 2))) for name in source.ids]
    with pytest.raises(ValueError, match="tested on 24 images, and 1 names differ from the 25"):
        join(tmp_path, Numbers([*source.ids, "new"]), 2, title="cells")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folders.cells(tmp_path_factory.mktemp("cells"), name="image")


@dataclasses.dataclass(frozen=True)
class Small:
    """The options that folds look at, and one that may not change."""

    workdir: Path | None = None
    folds: int = 2
    fold: int | None = None
    resume: bool = False
    data: str = "cells"
    model: str = "UNet"
    seed: int = 0
    target: str = "auto"


def trained(config, source):
    """What a training leaves of its fold."""
    test = split_fold(source, config.folds, config.fold)["test"]
    pixels = np.full((len(test), 2, 2), 1 + config.fold)
    (config.workdir).mkdir(parents=True, exist_ok=True)
    keep(config.workdir, test, Evaluation(0.0, pixels, [np.ones((2, 2), np.uint8)] * len(test)), None)
    facts = {"best": {"epoch": 1}, "epochs": 1, "seconds": {}, "device": "cpu", "commit": "abc", "data": "cells"}
    (config.workdir / "results.json").write_text(json.dumps({"test": metrics.summarise(pixels), **facts}))


def test_folds_go_on_where_they_were_stopped(tmp_path):
    """Fold 1 by itself, as on another machine; then all, stopped in fold 0; then that fold by its own folder's name."""
    source, said, starts = Numbers([f"image{i}" for i in range(24)]), [], []

    def train(config, code=0):
        starts.append((config.workdir.name, config.fold, config.resume, config.target))
        config.workdir.mkdir(parents=True, exist_ok=True)
        (config.workdir / "config.json").write_text(
            json.dumps({"target": "flow", "fold": config.fold})
        )  # chosen on the data
        if code == 0:
            trained(config, source)
        return code

    def start(config, code=0):
        options = {"open_source": lambda: source, "may_change": {"workdir", "resume"}, "say": said.append}
        return run_folds(config, partial(train, code=code), **options)

    root = tmp_path / "run"
    with pytest.raises(FileNotFoundError, match="holds no run to resume"):
        start(Small(root, resume=True))
    assert start(Small(root, fold=1)) == 0
    assert said[-1] == "not trained yet: fold 0; with the last one the scores are joined"
    assert start(Small(root), code=143) == 143
    assert said[-1] == f"to go on with all folds: --workdir {root} --resume"
    with pytest.raises(ValueError, match="seed was 0, now 1"):
        start(Small(root, seed=1))
    assert not (root / "results.json").exists()
    assert start(Small(root / "fold0", fold=0, resume=True)) == 0
    first = [("fold1", 1, False, "auto"), ("fold0", 0, False, "auto")]
    assert starts == [*first, ("fold0", 0, True, "flow")]
    assert json.loads((root / "results.json").read_text())["test"]["images"] == 24
    assert start(Small(root)) == 0
    assert len(starts) == 3


def test_two_folds_of_an_experiment(folder, tmp_path, capsys, plain_layers):
    root = tmp_path / "run"
    options = {"epochs": 1, "batch": 4, "patch": 32, "widths": (2, 4), "learning_rate": 0.01}
    options |= {"augment": False, "target": "foreground", "tta": False}
    assert train_cells.main(train_cells.Config(data=str(folder), workdir=root, folds=2, **options)) == 0
    assert "each by the one of 2 models that has not seen it" in capsys.readouterr().out
    results = json.loads((root / "results.json").read_text())
    source = FolderSource(folder)
    assert results["test"]["images"] == len(source) == 24
    assert "2 folds by a hash" in results["rules"]["split"]
    assert json.loads((root / "fold0" / "results.json").read_text())["rules"] == results["rules"]
    assert results["objects"]["objects"] == 48
    with Image.open(root / "report" / "examples.png") as picture:
        assert picture.size[0] > 300
    samples = [source[i] for i in range(24)]
    assert len(list(FromFolder(root, samples, num_classes=2)(samples))) == 24  # for `evaluate --predictions`
    assert train_cells.resolve(train_cells.Config(workdir=root, resume=True), "cpu").folds == 2
