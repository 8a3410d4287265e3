"""Scores class by class on counts made by hand."""

import numpy as np
import pytest

from unet_jax import class_scores, metrics

NAMES = ("background", "road", "house", "lake")
# Rows truth, columns prediction. Road: 6 of 10 found, 2 false; house: all 4 missed; lake: not there, 1 falsely found.
COUNTS = np.array([[[30, 2, 0, 1], [4, 6, 0, 0], [4, 0, 0, 0], [0, 0, 0, 0]]])


def test_by_class():
    rows = class_scores.by_class(COUNTS, NAMES)
    assert rows["road"] == {
        "iou": 6 / 12, "dice": 12 / 18, "precision": 6 / 8, "recall": 6 / 10, "pixels": 10, "predicted": 8,
    }  # fmt: skip
    assert (rows["house"]["iou"], rows["house"]["predicted"]) == (0, 0)
    assert (rows["lake"]["iou"], rows["lake"]["predicted"]) == (None, 1)


def test_absent_classes_neither_reward_nor_punish():
    scores = class_scores.summarise(COUNTS, NAMES, background=0)
    assert scores["iou_pooled"] == (0.5 + 0) / 2
    assert (scores["worst_class"], scores["worst_iou"]) == ("house", 0)
    without = class_scores.summarise(COUNTS[:, :3, :3], NAMES[:3], background=0)
    assert without["iou_pooled"] == scores["iou_pooled"]


def test_the_background_is_left_out_whatever_it_is_called():
    names = ("Void", *NAMES[1:])
    assert class_scores.summarise(COUNTS, names, background=0) == class_scores.summarise(COUNTS, NAMES, background=0)
    # Without a background every class counts: 30 of 41 for the first.
    every = class_scores.summarise(COUNTS, names, background=None)
    assert every["iou_pooled"] == pytest.approx((30 / 41 + 0.5) / 3)
    assert every["iou_mean"] == pytest.approx((30 / 41 + 0.5) / 3)


def test_what_is_made_up_on_the_background_costs_the_foreground():
    counts = np.array([[[2, 0, 98], [0, 20, 0], [0, 0, 0]]])
    scores = class_scores.summarise(counts, NAMES[:3], background=0)
    assert (scores["iou_pooled"], scores["iou_foreground"]) == (1, pytest.approx(20 / 118))
    assert "iou_foreground" not in class_scores.summarise(counts, NAMES[:3], background=None)


def test_means_over_images_take_what_each_holds():
    empty = np.zeros((1, 4, 4), int)
    only_background = empty.copy()
    only_background[0, 0, 0] = 9
    counts = np.concatenate([COUNTS, only_background, empty])
    scores = class_scores.summarise(counts, NAMES, background=0)
    # First image: road 1/2, house 0, a lake that is not there; second: nothing there, nothing found; third: no pixel.
    assert scores["images"] == 2
    assert scores["iou_mean"] == pytest.approx((1 / 4 + 1) / 2)
    np.testing.assert_array_equal(metrics.of_present(metrics.iou(empty), empty), 1)
    only_background[0, 0, 2] = 1
    np.testing.assert_array_equal(metrics.of_present(metrics.iou(only_background), only_background), 0)
    with pytest.raises(ValueError, match="no image with a valid pixel"):
        class_scores.summarise(empty, NAMES, background=0)


def test_a_class_predicted_nowhere_is_warned_of():
    rows = class_scores.by_class(COUNTS, NAMES)
    lost, made_up = class_scores.warnings_of(rows)
    assert lost.startswith("WARNING: house is predicted nowhere, though 4 pixels are of it: train longer")
    assert made_up == "WARNING: lake is predicted for 1 pixels, and none is of it: no score tells"
    (absent,) = class_scores.warnings_of({"lake": rows["lake"] | {"predicted": 0}})
    assert absent == "not in the truth of these images, and so without a score: lake"
    assert class_scores.warnings_of(class_scores.by_class(COUNTS[:, :2, :2], NAMES[:2])) == []
    lines = class_scores.table(rows)
    assert lines[2].split() == ["road", "0.500", "0.667", "0.750", "0.600", "10"]
    assert lines[4].split() == ["lake", "–", "–", "–", "–", "0"]
