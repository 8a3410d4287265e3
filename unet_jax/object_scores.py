"""Scores of objects from counts an image: average precision, F1, panoptic quality, matched IoU, error of the count.

Pooled means that the counts of all images are added before the ratio is taken, mean that the ratio is taken in each
image and averaged; both are reported, for they differ. A match has IoU >= the threshold (`matching.pair`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from unet_jax.matching import Overlap, pair

THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))  # each the double nearest to its decimal
EMPTY_RULE = (
    "an image with neither true nor predicted objects scores 1 in a mean over images and adds nothing to a pooled "
    "score; one with objects in only one of the two scores 0; the matched IoU of an image with objects but without a "
    "match is 0; the relative count error leaves out images without a true object"
)


@dataclass(frozen=True)
class ObjectCounts:
    """Counts of N images at T thresholds: objects (N,), matches and the sum of their IoU (N, T).

    `a + b` adds two counts of the same images, `concatenate` puts images after one another, `counts[rows]` chooses some
    of them and `counts.pooled()` adds them up to one row.
    """

    true: Int64[np.ndarray, " n"]
    predicted: Int64[np.ndarray, " n"]
    tp: Int64[np.ndarray, "n t"]
    iou: Float64[np.ndarray, "n t"]
    thresholds: tuple[float, ...] = THRESHOLDS

    @property
    def fp(self) -> Int64[np.ndarray, "n t"]:
        """Predicted objects without a match."""
        return self.predicted[:, None] - self.tp

    @property
    def fn(self) -> Int64[np.ndarray, "n t"]:
        """True objects without a match."""
        return self.true[:, None] - self.tp

    def __len__(self) -> int:
        """N, the number of images."""
        return len(self.true)

    def __getitem__(self, rows: slice | Sequence[int] | np.ndarray) -> "ObjectCounts":
        """The images at `rows`: a slice, indices or a mask."""
        return ObjectCounts(self.true[rows], self.predicted[rows], self.tp[rows], self.iou[rows], self.thresholds)

    def __add__(self, other: "ObjectCounts") -> "ObjectCounts":
        """Sum, image by image. Raises ValueError for other thresholds or another number of images."""
        _check_alike([self, other])
        if len(self) != len(other):
            raise ValueError(f"counts of {len(self)} and {len(other)} images: add up those of the same images")
        both = zip(self._arrays(), other._arrays(), strict=True)
        return ObjectCounts(*(a + b for a, b in both), self.thresholds)

    def pooled(self) -> "ObjectCounts":
        """The counts of all images as one row."""
        return ObjectCounts(*(array.sum(axis=0, keepdims=True) for array in self._arrays()), self.thresholds)

    def _arrays(self) -> tuple[np.ndarray, ...]:
        return self.true, self.predicted, self.tp, self.iou


def count(overlap: Overlap, *, thresholds: tuple[float, ...] = THRESHOLDS) -> ObjectCounts:
    """Counts of one image at each threshold.

    Args:
        overlap: of the true and the predicted label image, from `matching.overlap`.
        thresholds: T least IoUs of a match, each in (0, 1].

    Returns:
        Counts with one row.

    Raises:
        ValueError: for a threshold outside (0, 1].
    """
    matched = [pair(overlap, threshold=threshold).iou for threshold in thresholds]
    return ObjectCounts(
        true=np.array([len(overlap.truth_ids)], np.int64),
        predicted=np.array([len(overlap.predicted_ids)], np.int64),
        tp=np.array([[len(iou) for iou in matched]], np.int64),
        iou=np.array([[iou.sum() for iou in matched]], np.float64),
        thresholds=thresholds,
    )


def concatenate(counts: Sequence[ObjectCounts]) -> ObjectCounts:
    """The images of all `counts`, in order. Raises ValueError for none, or for thresholds that differ."""
    if not counts:
        raise ValueError("no image to score: check the split and the folder of predictions")
    _check_alike(counts)
    columns = zip(*(part._arrays() for part in counts), strict=True)
    return ObjectCounts(*(np.concatenate(column) for column in columns), counts[0].thresholds)


def average_precision(counts: ObjectCounts) -> Float64[np.ndarray, "n t"]:
    """AP = TP / (TP + FP + FN) of each image at each threshold, the score of the 2018 Data Science Bowl; `EMPTY_RULE`.

    It is no area under a curve, for the objects have no ranks; others call it threat score or critical success index.
    """
    return _ratio(counts, counts.tp, counts.tp + counts.fp + counts.fn)


def f1(counts: ObjectCounts) -> Float64[np.ndarray, "n t"]:
    """F1 = 2 TP / (2 TP + FP + FN), also called recognition quality, of each image at each threshold; `EMPTY_RULE`."""
    return _ratio(counts, 2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn)


def panoptic_quality(counts: ObjectCounts) -> Float64[np.ndarray, "n t"]:
    """PQ = sum of matched IoU / (TP + FP / 2 + FN / 2) of each image at each threshold; `EMPTY_RULE`.

    At 0.5 the score of Kirillov et al. 2019, eq. 1, but that a pair at IoU 0.5 exactly counts as a match.
    """
    return _ratio(counts, counts.iou, counts.tp + (counts.fp + counts.fn) / 2)


def matched_iou(counts: ObjectCounts) -> Float64[np.ndarray, "n t"]:
    """Mean IoU of the matched pairs (segmentation quality) of each image at each threshold; `EMPTY_RULE`."""
    return _ratio(counts, counts.iou, counts.tp)


def count_error(counts: ObjectCounts) -> dict[str, float | None]:
    """How far the number of predicted objects is from that of the true ones, each a mean over images.

    `absolute` is the mean of |predicted - true| in objects, `relative` that of |predicted - true| / true, which leaves
    out images without a true object (None when there is no other).
    """
    off, some = np.abs(counts.predicted - counts.true), counts.true > 0
    relative = float((off[some] / counts.true[some]).mean()) if some.any() else None
    return {"absolute": float(off.mean()), "relative": relative}


def summarise(counts: ObjectCounts) -> dict[str, Any]:
    """The published scores of a set of images.

    Returns:
        `images`, `objects`, `predicted`; `ap_pooled` and `ap_mean` at every threshold ({"0.50": ...}), and their
        averages over the thresholds `ap_pooled_average`, `ap_mean_average`; at 0.5 `f1_`, `pq_` and `matched_iou_`,
        each `pooled` and `mean`; `count_error` as there.

    Raises:
        ValueError: when there is no image, or 0.5 is not among the thresholds.
    """
    if 0.5 not in counts.thresholds or not len(counts):
        raise ValueError(f"{len(counts)} images at {counts.thresholds}: give one or more, and 0.5 among the thresholds")
    at, sums = counts.thresholds.index(0.5), {"pooled": counts.pooled(), "mean": counts}
    result: dict[str, Any] = {
        "images": len(counts),
        "objects": int(counts.true.sum()),
        "predicted": int(counts.predicted.sum()),
    }
    for way, part in sums.items():
        ap = average_precision(part).mean(axis=0)
        result[f"ap_{way}"] = {f"{t:.2f}": float(score) for t, score in zip(counts.thresholds, ap, strict=True)}
        result[f"ap_{way}_average"] = float(ap.mean())
    for name, score in {"f1": f1, "pq": panoptic_quality, "matched_iou": matched_iou}.items():
        result |= {f"{name}_{way}": float(score(part)[:, at].mean()) for way, part in sums.items()}
    return result | {"count_error": count_error(counts)}


def by_group(counts: ObjectCounts, groups: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`summarise` for each group of images, such as the kinds of microscopy, in alphabetical order.

    Args:
        counts: of N images.
        groups: N names.

    Raises:
        ValueError: when there is not one group an image.
    """
    if len(groups) != len(counts):
        raise ValueError(f"{len(groups)} groups for {len(counts)} images: give one an image, in the same order")
    names = np.asarray(groups)
    return {str(name): summarise(counts[names == name]) for name in np.unique(names)}


def _check_alike(counts: Sequence[ObjectCounts]) -> None:
    if others := {part.thresholds for part in counts} - {counts[0].thresholds}:
        raise ValueError(f"counts at the thresholds {counts[0].thresholds} and {others}: count all at the same ones")


def _ratio(counts: ObjectCounts, part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Part / whole, by `EMPTY_RULE`: 1 where there is no object at all, 0 where only the denominator is empty."""
    nothing = (counts.true + counts.predicted == 0)[:, None]
    return np.where(nothing, 1.0, part / np.where(whole == 0, 1, whole))
