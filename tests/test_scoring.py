import numpy as np
import pytest

from unet_jax import hard_cases
from unet_jax.scoring import Truth, concatenate, per_image, read_as, summarise


def sample(label, *, mask=None, image=None):
    label = np.asarray(label, np.int32)
    return {
        "image": np.where(label > 0, 200, 20).astype(np.uint8)[..., None] if image is None else image,
        "label": label,
        "mask": np.ones(label.shape, bool) if mask is None else mask,
        "id": "a",
    }


def two_cells():
    """Objects 5 and 9 of 4 x 4 pixels side by side, and 2 of 2 x 2 far away."""
    label = np.zeros((12, 24), np.int32)
    label[2:6, 2:6], label[2:6, 6:10], label[8:10, 20:22] = 5, 9, 2
    return label


def test_one_label_read_in_two_ways():
    label = np.array([[7, 7, 0, 3], [0, 7, 0, 3], [0, 0, 0, 0], [3, 0, 7, 7]], np.int32)
    instances = read_as(label, "instances")
    assert instances.objects is label
    np.testing.assert_array_equal(instances.classes, label != 0)
    pieces = [[1, 1, 0, 2], [0, 1, 0, 2], [0, 0, 0, 0], [3, 0, 4, 4]]
    np.testing.assert_array_equal(read_as(label, "binary").objects, pieces)
    mask = label != 3
    assert read_as(label, "instances", mask=mask).objects.max() == 7
    assert read_as(label, "binary", mask=mask).objects.max() == 2
    # Two classes that touch are two objects, unless only foreground and background are told apart.
    touching = np.array([[1, 1, 2, 2]], np.int32)
    np.testing.assert_array_equal(read_as(touching, "classes", num_classes=3).objects, [[1, 1, 2, 2]])
    np.testing.assert_array_equal(read_as(touching, "classes", num_classes=3).classes, touching)
    np.testing.assert_array_equal(read_as(touching, "classes", num_classes=2).objects, [[1, 1, 1, 1]])


def test_scores_by_hand_and_on_permuted_ids():
    truth = Truth.of(sample(two_cells()), "instances")
    guess = np.zeros((12, 24), np.int32)
    guess[2:6, 2:6] = 1  # 5 exactly
    guess[2:6, 6:9] = 2  # three of four columns of 9: IoU 0.75
    guess[0:1, 20:22] = 3  # nothing there; 2 is missed
    scores = concatenate([truth.score(guess, "instances"), truth.score(np.choose(guess, [0, 30, 10, 20]), "instances")])
    # Pixels: 28 of 36 found, 2 false, of 288.
    np.testing.assert_array_equal(scores.pixels, [[[250, 2], [8, 28]]] * 2)
    assert scores.objects.tp[:, [0, 5, 6]].tolist() == [[2, 2, 1]] * 2  # at 0.50, 0.75 and 0.80
    result = summarise(scores, kinds=["x", "y"], classes=["ground", "cell"])
    assert result["objects"]["ap_pooled"]["0.50"] == pytest.approx(2 / 4)
    assert result["objects"]["ap_pooled"]["0.80"] == pytest.approx(1 / 5)
    assert result["objects"]["by_kind"]["y"] == {**result["objects"]["by_kind"]["x"]}
    assert result["pixels"]["by_class"]["cell"]["recall"] == pytest.approx(28 / 36)
    assert result["pixels"]["by_class"]["ground"]["iou"] == pytest.approx(250 / 260)
    assert result["pixels"]["precision_pooled"] == pytest.approx(28 / 30)
    assert result["cases"]["touching_pairs"] == {"images": 2, "objects": 2, "found": 2, "rate": 1.0}
    assert result["cases"]["clear"]["rate"] == 0  # 2 alone, which is missed
    assert result["cases"]["by_kind"]["x"]["touching"]["found"] == 2
    assert result["recall_by_area"]["area < 32"] == {"images": 2, "objects": 6, "found": 4, "rate": 4 / 6}
    table = per_image(scores)
    assert [table[name][0] for name in ("objects", "predicted", "matched", "missed", "false")] == [3, 3, 2, 1, 1]
    assert table["ap_0.80"][1] == pytest.approx(1 / 5)
    assert table["matched_iou"][0] == pytest.approx((1 + 0.75) / 2)
    assert {len(column) for column in table.values()} == {2}


def test_two_that_come_out_as_one_are_both_missed():
    truth = Truth.of(sample(two_cells()), "instances")
    merged = truth.score((two_cells() > 0).astype(np.uint8), "binary")
    assert merged.objects.tp[0, 0] == 2  # the union of two equal halves has IoU 0.5 with one of them, and 2 is found
    assert merged.cases.found[0, merged.cases.names.index(hard_cases.PAIRS)] == 0
    assert merged.pixels[0, 1, 1] == 36


def test_ignored_pixels_count_nowhere():
    mask = np.ones((12, 24), bool)
    mask[:, 12:] = False
    truth = Truth.of(sample(two_cells(), mask=mask), "instances")
    guess = np.where(mask, two_cells(), 4)  # nonsense where nothing counts
    scores = truth.score(guess, "instances")
    assert scores.pixels.sum() == 12 * 12
    assert (scores.objects.true[0], scores.objects.predicted[0], scores.objects.tp[0, -1]) == (2, 2, 2)


def test_classes():
    label = np.zeros((6, 8), np.int32)
    label[1:3, 1:3], label[4:6, 4:8] = 1, 2
    guess = np.where(label == 2, 1, label).astype(np.uint8)
    guess[4, 4] = 2
    scores = Truth.of(sample(label), "classes", num_classes=3).score(guess, "classes")
    np.testing.assert_array_equal(scores.pixels[0], [[36, 0, 0], [0, 4, 0], [0, 7, 1]])
    assert (scores.objects.predicted[0], scores.objects.tp[0, 0]) == (3, 2)  # 7 of 8 pixels are one piece
    found = summarise(scores)["pixels"]
    assert list(found["by_class"]) == ["class 0", "class 1", "class 2"]
    assert (found["iou_pooled"], found["worst_class"]) == (pytest.approx((4 / 11 + 1 / 8) / 2), "class 2")
    assert summarise(scores, background=None)["pixels"]["iou_mean"] == pytest.approx((1 + 4 / 11 + 1 / 8) / 3)
    assert per_image(scores, background=None)["iou"] == pytest.approx((1 + 4 / 11 + 1 / 8) / 3)
    with pytest.raises(ValueError, match="predicted classes 0 to 5, and there are 3"):
        Truth.of(sample(label), "classes", num_classes=3).score(np.where(label > 0, 5, label), "classes")


def test_nothing_anywhere():
    blank = Truth.of(sample(np.zeros((9, 9))), "instances").score(np.zeros((9, 9), np.uint8), "instances")
    result = summarise(blank)
    assert result["objects"]["ap_mean"]["0.95"] == result["pixels"]["iou_mean"] == 1
    assert result["cases"]["all"]["rate"] is None
    assert result["objects"]["by_kind"] == {}
    with pytest.raises(ValueError, match="no image to score"):
        concatenate([])


def test_a_prediction_of_another_size():
    with pytest.raises(ValueError, match=r"the prediction is of 12x20 pixels, the image of 12x24 .*crop it back"):
        Truth.of(sample(two_cells()), "instances").score(np.zeros((12, 20), np.uint8), "instances")
