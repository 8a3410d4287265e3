"""The comparison as a user runs it, a few steps a model on tiny images, and what it writes."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from experiments import compare_cells
from tests import folders
from unet_jax import comparison


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folders.cells(tmp_path_factory.mktemp("cells"))


def test_two_models_a_table_and_a_second_start(folder, tmp_path, monkeypatch):
    config = compare_cells.Config(
        tmp_path / "out", str(folder), models=("classifier", "unet-plain"),
        epochs=1, widths=(2, 4), patch=32, window=16, batch=8, learning_rate=0.01,
    )  # fmt: skip
    assert compare_cells.main(config) == 0
    classifier, unet = csv.DictReader((tmp_path / "out" / "table.csv").read_text().splitlines())
    # 9·(2 + 2²) + 4 = 58 of the first block, 9·(8 + 16) + 8 = 224 of the second, normalisations 2·(2·2 + 2·4) = 24
    assert int(classifier["parameters"]) == 58 + 224 + 24 + 4 * 2 + 2
    assert 0 <= float(classifier["accuracy"]) <= 1
    assert unet["accuracy"] == ""
    assert all(0 <= float(row[name]) <= 1 for row in (classifier, unet) for name in ("iou_pooled", "iou_spoiled"))
    assert all(float(row["images_per_second"]) > 0 for row in (classifier, unet))
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| U-Net, no augmentation | 1 |" in table
    assert "| IoU 0.87, Dice 0.91 |" in table
    assert "3 steps of training" in table or "2 steps of training" in table
    assert (tmp_path / "out" / "table.html").read_text().count("data:image/png") == 1
    with Image.open(tmp_path / "out" / "models.png") as picture:
        assert picture.size[0] > 400
    row = json.loads((tmp_path / "out" / "runs" / "classifier-seed0" / "row.json").read_text())
    assert row["steps"] in (2, 3)
    assert row["iou_last"] == pytest.approx(row["iou_pooled"], abs=0.05), "of one epoch: the same weights, other tiles"
    monkeypatch.setattr(compare_cells.train_cells, "main", lambda config: pytest.fail("trained again"))
    assert compare_cells.main(compare_cells.dataclasses.replace(config, models=("classifier",))) == 0
    assert (tmp_path / "out" / "table.md").read_text() == table, "rows of an earlier command stay"
    with pytest.raises(ValueError, match="patch was 32, now 16"):
        compare_cells.main(compare_cells.dataclasses.replace(config, patch=16))


@pytest.mark.slow
def test_every_model_and_a_learning_curve(folder, tmp_path):
    """Each row from training to picture, in two steps (or three, as the split has it)."""
    config = compare_cells.Config(
        tmp_path, str(folder), epochs=1, widths=(2, 4), patch=32, window=16, learning_rate=0.01, learning_curve=(8,)
    )
    assert compare_cells.main(config) == 0
    table = (tmp_path / "table.md").read_text().splitlines()
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == [title for title, _ in compare_cells.ROWS.values()]
    for row in rows:
        assert next(line for line in table if line.startswith(f"| {row['name']} |")).count("|") == table[2].count("|")
        assert float(row["gflop"]) > 0
        for score in ("iou_pooled", "iou_mean", "dice_pooled", "dice_mean", "ap50", "clear"):
            assert 0 <= float(row[score]) <= 1
    assert len({row["parameters"] for row in rows}) == len(rows) - 3  # U-Net twice, UNet++; border, distance
    assert (tmp_path / "table.html").read_text().count("data:image/png") == 2
    with Image.open(tmp_path / "models.png") as picture:
        assert picture.size[1] > len(rows) * 200


def test_what_cannot_be_trained_is_refused_before_anything_is(folder, tmp_path, capsys):
    config = compare_cells.Config(tmp_path / "out", str(folder), models=("unet",), widths=(2, 4), patch=32)
    bad = {
        "--models vnet: choose among classifier, fcn": {"models": ("vnet",)},
        "--models border distance need masks .* these are classes": {
            "models": ("unet", "border", "distance"), "label_kind": "classes",
        },
        "transunet: .*200 features": {"models": ("unet", "transunet"), "widths": (4, 200)},
        "classifier: .*--target foreground": {"models": ("classifier",), "target": "flow", "window": 16},
        "--learning-curve 99: choose 1 to [0-9]+, as there are training images": {"learning_curve": (8, 99)},
        "--learning-curve 0: choose 1 to": {"learning_curve": (0, 8)},
        "--window 24: choose a multiple of 2": {"models": ("classifier",), "window": 24},
    }  # fmt: skip
    for words, options in bad.items():
        with pytest.raises(ValueError, match=words):
            compare_cells.main(compare_cells.dataclasses.replace(config, **options))
    assert not config.workdir.exists()
    assert compare_cells.chosen_rows(None, "binary") == list(compare_cells.ROWS)[:-3]
    assert compare_cells.chosen_rows(None, "instances", "flow") == list(compare_cells.ROWS)[1:]
    assert "without the rows" in capsys.readouterr().out


def test_mean_and_spread_over_seeds():
    """IoU 0.8 and 0.9: mean 0.85, and the deviation of a sample of two is their difference over the root of two."""
    empty = dict.fromkeys(comparison.COLUMNS)
    rows = [{**empty, "name": "a", "seed": seed, "iou_pooled": iou} for seed, iou in enumerate((0.8, 0.9))]
    (entry,) = comparison.over_seeds(rows)
    assert entry["iou_pooled"] == pytest.approx((0.85, 0.1 / 2**0.5))
    texts = dict(zip(["", "seeds", *comparison.COLUMNS, "recipe"], comparison.cells(entry), strict=True))
    assert (texts["seeds"], texts["iou_pooled"], texts["accuracy"]) == ("2", "0.850 ± 0.071", "–")


def test_learning_curves_are_drawn(tmp_path):
    rows = [{"epoch": e, "train_loss": 1 / e, "val_loss": 1 / e + 0.1 * e} for e in range(1, 6)]
    runs = {count: {"with": rows, "without": rows[:3]} for count in (16, 64)}
    test = {count: {"with": {"chosen": 0.8, "last": 0.8}, "without": {"chosen": 0.8, "last": 0.7}} for count in runs}
    comparison.draw_learning_curves(runs, tmp_path / "curve.png", test=test, crops=200)
    with Image.open(tmp_path / "curve.png") as picture:
        assert np.ptp(np.asarray(picture)) > 100
