import json

import numpy as np
import pytest

from unet_jax import matching, object_scores

LINE = np.zeros((1, 12), np.int32)


def line(**runs):
    """A label image of one row: a1=(0, 3) sets pixels 0, 1, 2 to 1."""
    label = LINE.copy()
    for name, (start, stop) in runs.items():
        label[0, start:stop] = int(name[1:])
    return label


def counted(truth, guess, **options):
    return object_scores.count(matching.overlap(truth, guess), **options)


# Image 1: of three objects one is met exactly (IoU 1), one in 3 of 5 pixels (IoU .6), one missed. Image 2: no object,
# one predicted. Image 3: nothing in either.
FIRST = line(a1=(0, 2), a2=(3, 8), a3=(9, 12)), line(a9=(0, 2), a4=(3, 6))
SECOND = LINE, line(a1=(2, 5))
COUNTS = object_scores.concatenate([counted(*FIRST), counted(*SECOND), counted(LINE, LINE)])


def test_counts_of_each_image_at_each_threshold():
    assert object_scores.THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
    assert len(COUNTS) == 3
    np.testing.assert_array_equal(COUNTS.tp, [[2, 2, 2, *[1] * 7], [0] * 10, [0] * 10])  # 3/5 reaches 0.60
    np.testing.assert_array_equal(COUNTS.fp, [[0, 0, 0, *[1] * 7], [1] * 10, [0] * 10])
    np.testing.assert_array_equal(COUNTS.fn, [[1, 1, 1, *[2] * 7], [0] * 10, [0] * 10])
    np.testing.assert_allclose(COUNTS.iou[0], [1.6, 1.6, 1.6, *[1.0] * 7])


def test_average_precision_by_hand():
    scores = object_scores.summarise(COUNTS)
    # At .5: TP 2, FN 1, FP 1. At .75: TP 1, FN 2, FP 2. The three images: 2/3, 0, 1 and 1/4, 0, 1.
    assert scores["ap_pooled"]["0.50"] == pytest.approx(2 / 4)
    assert scores["ap_mean"]["0.50"] == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert scores["ap_pooled"]["0.75"] == pytest.approx(1 / 5)
    assert scores["ap_mean"]["0.75"] == pytest.approx((1 / 4 + 0 + 1) / 3)
    assert scores["ap_pooled_average"] == pytest.approx((3 * 1 / 2 + 7 * 1 / 5) / 10)
    assert scores["ap_mean_average"] == pytest.approx((3 * 5 / 9 + 7 * 5 / 12) / 10)
    assert (scores["images"], scores["objects"], scores["predicted"]) == (3, 3, 3)


def test_f1_panoptic_quality_and_matched_iou_by_hand():
    scores = object_scores.summarise(COUNTS)
    # Pooled: sum of IoU 1.6, TP 2, FP 1, FN 1. Images: 1.6 / (2 + 1/2) = .64, 0, 1; F1 4/5, 0, 1; IoU .8, 0, 1.
    assert scores["pq_pooled"] == pytest.approx(1.6 / 3)
    assert scores["pq_mean"] == pytest.approx((0.64 + 0 + 1) / 3)
    assert scores["f1_pooled"] == pytest.approx(4 / 6)
    assert scores["f1_mean"] == pytest.approx((0.8 + 0 + 1) / 3)
    assert scores["matched_iou_pooled"] == pytest.approx(0.8)
    assert scores["matched_iou_mean"] == pytest.approx((0.8 + 0 + 1) / 3)
    # Kirillov et al. 2019, eq. 2: panoptic = segmentation x recognition quality.
    part = COUNTS[:2].pooled()
    product = object_scores.matched_iou(part) * object_scores.f1(part)
    np.testing.assert_allclose(object_scores.panoptic_quality(part), product)


def test_count_error_by_hand():
    # 2 of 3, 1 of 0, 0 of 0: off by 1, 1, 0; relative only in the first.
    assert object_scores.count_error(COUNTS) == pytest.approx({"absolute": 2 / 3, "relative": 1 / 3})
    assert object_scores.count_error(COUNTS[[1, 2]]) == {"absolute": 0.5, "relative": None}


def test_empty_images():
    missed = counted(FIRST[0], LINE)
    scores = (
        object_scores.average_precision,
        object_scores.f1,
        object_scores.panoptic_quality,
        object_scores.matched_iou,
    )
    for score in scores:
        np.testing.assert_array_equal(score(missed), np.zeros((1, 10)))
        np.testing.assert_array_equal(score(COUNTS[1:]), [[0] * 10, [1] * 10])
        np.testing.assert_array_equal(score(COUNTS[:2].pooled()), score(COUNTS.pooled()))  # nothing adds nothing
    assert "scores 1 in a mean" in object_scores.EMPTY_RULE


def test_counts_merge():
    part = COUNTS[:2] + COUNTS[1:]
    np.testing.assert_array_equal(part.true, [3, 0])
    np.testing.assert_array_equal(part.predicted, [3, 1])
    np.testing.assert_array_equal(part.tp, COUNTS.tp[:2])
    np.testing.assert_array_equal(COUNTS.pooled().fp, COUNTS.fp.sum(0)[None])
    groups = object_scores.by_group(COUNTS, ["b", "a", "b"])
    assert list(groups) == ["a", "b"]
    assert groups["b"] == object_scores.summarise(COUNTS[[0, 2]])
    assert json.loads(json.dumps(groups)) == groups


def test_what_cannot_be_merged_is_refused():
    other = counted(*FIRST, thresholds=(0.3, 0.7))
    np.testing.assert_array_equal(other.tp, [[2, 1]])
    with pytest.raises(ValueError, match="at the same ones"):
        object_scores.concatenate([COUNTS, other])
    with pytest.raises(ValueError, match=r"0\.5 among the thresholds"):
        object_scores.summarise(other)
    with pytest.raises(ValueError, match="counts of 3 and 2 images"):
        COUNTS + COUNTS[:2]
    with pytest.raises(ValueError, match="no image to score"):
        object_scores.concatenate([])
    with pytest.raises(ValueError, match="0 images"):
        object_scores.summarise(COUNTS[:0])
    with pytest.raises(ValueError, match="1 groups for 3 images"):
        object_scores.by_group(COUNTS, ["a"])
