import csv
import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.folders import save
from tests.trained import SMALL, TILE, bright_variables, card, save_run
from unet_jax import cli
from unet_jax.commands.evaluate import Evaluate, command, evaluate
from unet_jax.data import FolderSource
from unet_jax.data.source import digest_of, parts_of, split_of
from unet_jax.degrade import SEVERITIES
from unet_jax.prediction import Predictor
from unet_jax.robustness import spoiled_iou

SIZES = {"a": (40, 31), "b": (TILE, TILE), "c": (24, 30), "dark": (20, 20)}


def cells(shape, name):
    """Objects 3 and 8, two pixels of ground between them; nothing in `dark`."""
    label = np.zeros(shape, np.uint16)
    if name != "dark":
        label[2:8, 2:6], label[2:8, 8:12] = 3, 8
    return label


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four grey images of four sizes, with instance ids and an index."""
    root = tmp_path_factory.mktemp("data") / "cells"
    for name, shape in SIZES.items():
        label = cells(shape, name)
        ground = 10 + np.indices(shape).sum(axis=0) % 2 * (name != "dark")  # a range of its own would be stretched
        save(root / "images" / f"{name}.png", np.where(label > 0, 240, ground).astype(np.uint8))
        save(root / "labels" / f"{name}.png", label)
    rows = "".join(f"{name},{'dark' if name == 'dark' else 'bright_field'}\n" for name in SIZES)
    (root / "index.csv").write_text("id,kind\n" + rows)
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = save_run(tmp_path_factory.mktemp("run"), bright_variables(SMALL), card(SMALL))
    rows = [{"epoch": i, "train_loss": 1 / i, "val_loss": 1 / i, "val_iou": 0.5, "val_dice": 0.6} for i in (1, 2)]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return workdir


def in_train(name):
    return parts_of(tuple(SIZES))[name] == "train"


def labels(folder, change=lambda label, name: label, room="labels"):
    """A folder of predictions: the truth, changed."""
    for name, shape in SIZES.items():
        save(folder / room / f"{name}.tif", change(cells(shape, name), name))
    return folder


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_a_model_on_its_images(run, data, tmp_path, capsys):
    out = tmp_path / "out"
    assert evaluate(Evaluate(str(data), out, model=run)) == 0
    found = results(out)
    # The foreground is right to the pixel, and the cells do not meet.
    assert found["pixels"]["iou_pooled"] == found["pixels"]["precision_mean"] == 1
    assert found["objects"]["ap_pooled"] == {f"{t / 100:.2f}": 1 for t in range(50, 100, 5)}
    assert found["objects"]["by_kind"]["bright_field"]["objects"] == 6
    assert found["objects"]["by_kind"]["dark"]["ap_mean"]["0.50"] == 1  # nothing there, nothing found
    assert found["about"]["separation"] == {"threshold": 0.5}
    assert found["about"]["notes"] == []
    assert found["rules"]["empty_objects"]
    with (out / "per_image.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["kind"], row["objects"], row["ap_0.75"]) for row in rows] == [
        (name, "dark" if name == "dark" else "bright_field", "0" if name == "dark" else "2", "1.0000") for name in SIZES
    ]
    told = capsys.readouterr().out
    assert "all: 4 images, 6 objects, 6 predicted; AP 1.000 at IoU 0.5" in told
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 2 + 3 + 1  # charts, an example of each group, the training
    assert not re.findall(r"""(?:src|href)=["'](?!data:)|https?://|<script""", page)
    assert {path.name for path in (out / "report").iterdir()} == {
        "ap.png", "size.png", "curves.png", "example_best_1.png", "example_median_1.png", "example_worst_1.png"
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"holds results already: .*--overwrite"):
        evaluate(Evaluate(str(data), out, model=run))


def test_robustness(run, data, tmp_path):
    out, small = tmp_path / "out", tmp_path / "small"
    for room in ("images", "labels"):
        for name in ("a", "c"):
            (small / room).mkdir(parents=True, exist_ok=True)
            shutil.copy(data / room / f"{name}.png", small / room)
    assert evaluate(Evaluate(str(small), out, model=run, robustness=True)) == 0
    scores = results(out)["robustness"]["scores"]
    assert {kind: len(rows) for kind, rows in scores.items()} == dict.fromkeys(SEVERITIES, 6)
    for rows in scores.values():
        assert rows[0]["pixels"]["iou_pooled"] == 1
        assert rows[0]["objects"]["images"] == rows[5]["objects"]["images"] == 2
    assert scores["blur"][5]["pixels"]["iou_pooled"] < 0.9
    alone = spoiled_iou(FolderSource(small).preload(), Predictor.load(run))
    assert alone == {kind: rows[3]["pixels"]["iou_pooled"] for kind, rows in scores.items()}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<h2>Robustness</h2>" in page
    assert {"robustness.png", "severities.png"} <= {path.name for path in (out / "report").iterdir()}


@pytest.mark.parametrize("room", ["labels", "."])
def test_label_images_of_any_program(data, tmp_path, room):
    folder = labels(tmp_path / "theirs", lambda label, name: np.where(label == 3, 77, label), room)
    shutil.copy(folder / room / "a.tif", folder / room / "extra.tif")  # of an image that is not scored
    assert evaluate(Evaluate(str(data), tmp_path / "out", predictions=folder)) == 0
    found = results(tmp_path / "out")
    assert found["objects"]["ap_pooled"]["0.95"] == 1
    assert found["about"]["read_as"] == "instances"
    assert "model" not in found["about"]


def test_black_and_white_predictions_are_taken_apart_and_it_is_said(data, tmp_path, capsys):
    folder = labels(tmp_path / "theirs", lambda label, name: np.where(label > 0, 255, 0).astype(np.uint8))
    assert evaluate(Evaluate(str(data), tmp_path / "out", predictions=folder)) == 0
    assert results(tmp_path / "out")["objects"]["ap_pooled"]["0.95"] == 1
    assert "note: The predictions hold one number only" in capsys.readouterr().out
    assert "The predictions hold one number only" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_labels_without_ids(data, tmp_path, capsys):
    root = tmp_path / "binary"
    shutil.copytree(data / "images", root / "images")
    for name, shape in SIZES.items():
        label = cells(shape, name)
        label[4, 6:8] = 3 * (name == "a")  # a bridge, so that two become one
        save(root / "labels" / f"{name}.png", np.where(label > 0, 255, 0).astype(np.uint8))
    assert evaluate(Evaluate(str(root), tmp_path / "out", predictions=labels(tmp_path / "p"))) == 0
    found = results(tmp_path / "out")
    assert found["objects"]["objects"] == 1 + 2 + 2
    assert "not which pixels belong to one object" in found["about"]["notes"][0]


def test_a_split_that_the_model_has_seen_is_told(run, data, tmp_path):
    known = shutil.copytree(run, tmp_path / "known")
    shutil.rmtree(known / "checkpoints")
    variables, told = bright_variables(SMALL), card(SMALL) | {"config": {"data": "elsewhere/cells"}}
    save_run(known, variables, told)
    assert evaluate(Evaluate(str(data), tmp_path / "all", model=known)) == 0
    assert re.search(
        "may hold images that it has seen.*--split test is", results(tmp_path / "all")["about"]["notes"][0]
    )
    part = split_of("a")
    evaluate(Evaluate(str(data), tmp_path / "part", model=known, split=part))
    found = results(tmp_path / "part")
    assert found["objects"]["images"] == sum(split_of(name) == part for name in SIZES)
    assert part == "val"
    assert "may hold images by which it was chosen" in found["about"]["notes"][0]
    sure = save_run(tmp_path / "sure", variables, told | {"train_images": digest_of(n for n in SIZES if in_train(n))})
    evaluate(Evaluate(str(shutil.copytree(data, tmp_path / "copied")), tmp_path / "again", model=sure))
    assert "the split all holds images that it has seen" in results(tmp_path / "again")["about"]["notes"][0]
    evaluate(Evaluate(str(shutil.copytree(data, tmp_path / "strange")), tmp_path / "other", model=known))
    assert results(tmp_path / "other")["about"]["notes"] == []


def test_bad_input(run, data, tmp_path):
    config = Evaluate(str(data), tmp_path / "out", model=run)
    part = labels(tmp_path / "part")
    (part / "labels" / "b.tif").unlink()
    wide = labels(tmp_path / "wide", lambda label, name: np.pad(label, ((0, 0), (0, name == "c"))))
    no_card = shutil.copytree(run, tmp_path / "no_card")
    for step in ("1", "2"):
        shutil.rmtree(no_card / "checkpoints" / step / "card", ignore_errors=True)
    colours = save_run(tmp_path / "colours", bright_variables(SMALL, 2), card(SMALL, channels=2))
    alone = tmp_path / "alone"
    for room in ("images", "labels"):
        (alone / room).mkdir(parents=True)
        shutil.copy(data / room / "a.png", alone / room)
    absent = "val" if split_of("a") == "test" else "test"
    for changes, words in (
        ({"predictions": part}, "both --model and --predictions are given"),
        ({"model": None}, "neither --model nor --predictions is given"),
        ({"model": None, "predictions": part}, r"no prediction for 1 of 4 images \(b\)"),
        ({"model": None, "predictions": wide}, r"c.tif: 24x31 pixels, its image 24x30 .*crop it back"),
        ({"model": None, "predictions": tmp_path / "absent"}, "absent: no such folder"),
        ({"model": None, "predictions": part, "robustness": True}, "need a model"),
        ({"model": no_card}, "holds no card"),
        ({"model": tmp_path / "absent"}, "holds no model"),
        ({"model": colours}, "image a: the image has 1 channels, the model was trained with 2"),
        ({"threshold": 1.5}, "probability between 0 and 1"),
        ({"data": str(tmp_path / "absent")}, "does not exist; give a folder"),
        ({"split": absent, "data": str(alone), "label_kind": "instances"}, f"--split {absent}: none of the 1 images"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=re.compile(words, re.DOTALL)):
            evaluate(dataclasses.replace(config, **changes))
    assert not (tmp_path / "out").exists()


def test_classes_by_name(tmp_path):
    """Three classes in every image; a model of three classes whose answer is background everywhere."""
    root = tmp_path / "organs"
    label = np.zeros((20, 22), np.uint8)
    for row in (2, 10):
        label[row : row + 3, 2:5], label[row : row + 3, 8:12] = 1, 2
    for name in ("a", "b"):
        save(root / "images" / f"{name}.png", np.where(label > 0, 200, 9).astype(np.uint8))
        save(root / "labels" / f"{name}.png", label)
        save(tmp_path / "theirs" / f"{name}_mask.png", np.where(label == 2, 0, label).astype(np.uint8))
    assert evaluate(Evaluate(str(root), tmp_path / "out", predictions=tmp_path / "theirs")) == 0
    found = results(tmp_path / "out")
    assert [row["iou"] for row in found["pixels"]["by_class"].values()] == [
        pytest.approx((440 - 42) / (440 - 18)), 1, 0
    ]  # fmt: skip
    assert found["objects"]["ap_pooled"]["0.50"] == 0.5  # two of four objects an image
    assert "whatever their class" in found["about"]["notes"][0]
    save(tmp_path / "theirs" / "a_mask.png", label + 2)
    with pytest.raises(ValueError, match="image a: predicted classes 2 to 4, and there are 3"):
        evaluate(Evaluate(str(root), tmp_path / "again", predictions=tmp_path / "theirs"))


def test_the_command_told_again():
    config = Evaluate("my data", Path("out"), model=Path("runs/m"), split="test", tta=True)
    assert command(config) == "unet-jax evaluate --data 'my data' --output out --model runs/m --split test --tta"
    assert cli.COMMANDS["evaluate"] == (Evaluate, evaluate)


def test_names_are_text_on_the_page(data, tmp_path):
    root = shutil.copytree(data, tmp_path / "named")
    for room in ("images", "labels"):
        (root / room / "a.png").rename(root / room / "a<b>&.png")
    (root / "index.csv").unlink()
    folder = labels(tmp_path / "p")
    (folder / "labels" / "a.tif").rename(folder / "labels" / "a<b>&.tif")
    assert evaluate(Evaluate(str(root), tmp_path / "out", predictions=folder)) == 0
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "a&lt;b&gt;&amp;" in page
    assert "a<b>" not in page
