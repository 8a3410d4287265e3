"""Segmentation scores from one confusion matrix an image: counts on the device, ratios and means on the host.

`confusion` runs inside the evaluation step; the rest takes its counts, converted to numpy, in matrices (..., K, K)
whose row is the truth and whose column is the prediction. Pooled means that the counts of all images are added before
the ratio is taken, mean that the ratio is taken in each image; both are reported, for they differ.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float64, Int, Int32, Int64, Integer

EMPTY_RULE = (
    "a class absent from the truth has no score and enters no mean; where the truth has none of the classes, the score "
    "is 1 if the prediction has none either, else 0 (precision and recall included); an image without a valid pixel is "
    "left out"
)


def confusion(
    logits: Float[Array, "b *s k"], label: Int32[Array, "b *s"], mask: Bool[Array, "b *s"], *, num_classes: int
) -> Int32[Array, "b {num_classes} {num_classes}"]:
    """Confusion matrix of each image: how many valid pixels of class i are predicted as class j.

    The prediction is the class of the largest logit; with one logit, class 1 where it is above 0 (probability 0.5).

    Args:
        logits: (B, *S, K).
        label: (B, *S) classes; a label outside 0..num_classes-1 counts nowhere.
        mask: (B, *S), True where the pixel counts.
        num_classes: K, or 2 for one logit.

    Returns:
        (B, num_classes, num_classes) exact counts in pixels, rows truth, columns prediction.

    Raises:
        ValueError: when the logits are not of `num_classes` classes.
    """
    channels = logits.shape[-1]
    if num_classes != max(channels, 2):
        raise ValueError(
            f"num_classes={num_classes} but the logits hold {max(channels, 2)} classes ({channels} channels)"
        )
    predicted = logits[..., 0] > 0 if channels == 1 else jnp.argmax(logits, axis=-1)
    valid = mask & (label >= 0) & (label < num_classes)
    bins = num_classes**2
    cell = jnp.where(valid, label * num_classes + predicted.astype(jnp.int32), bins)  # the last bin is thrown away
    counts = jax.vmap(lambda c: jnp.zeros(bins + 1, jnp.int32).at[c.reshape(-1)].add(1))(cell)
    return counts[:, :-1].reshape(-1, num_classes, num_classes)


def iou(confusion: Int[np.ndarray, "*n k k"]) -> Float64[np.ndarray, "*n k"]:
    """Intersection over union of each class, TP / (TP + FP + FN); 1 where it is nowhere.

    Args:
        confusion: (..., K, K) counts.

    Returns:
        (..., K) in [0, 1].
    """
    hit, truth, predicted = _counts(confusion)
    return _ratio(hit, truth + predicted - hit, truth + predicted)


def dice(confusion: Int[np.ndarray, "*n k k"]) -> Float64[np.ndarray, "*n k"]:
    """Dice coefficient (F1) of each class, 2 TP / (2 TP + FP + FN); 1 where it is nowhere.

    Args:
        confusion: (..., K, K) counts.

    Returns:
        (..., K) in [0, 1].
    """
    hit, truth, predicted = _counts(confusion)
    return _ratio(2 * hit, truth + predicted, truth + predicted)


def precision(confusion: Int[np.ndarray, "*n k k"]) -> Float64[np.ndarray, "*n k"]:
    """Share of the predicted pixels of each class that are right, TP / (TP + FP); 1 where it is nowhere.

    Args:
        confusion: (..., K, K) counts.

    Returns:
        (..., K) in [0, 1].
    """
    hit, truth, predicted = _counts(confusion)
    return _ratio(hit, predicted, truth + predicted)


def recall(confusion: Int[np.ndarray, "*n k k"]) -> Float64[np.ndarray, "*n k"]:
    """Share of the true pixels of each class that are found, TP / (TP + FN); 1 where it is nowhere.

    Args:
        confusion: (..., K, K) counts.

    Returns:
        (..., K) in [0, 1].
    """
    hit, truth, predicted = _counts(confusion)
    return _ratio(hit, truth, truth + predicted)


SCORES = {"iou": iou, "dice": dice, "precision": precision, "recall": recall}


def summarise(confusion: Int[np.ndarray, "n k k"], *, background: int | None = 0) -> dict[str, int | float]:
    """The published scores of a set of images, each averaged over the classes with equal weight; see `EMPTY_RULE`.

    Args:
        confusion: (N, K, K), one matrix an image; those without a valid pixel (padding of the last batch) are left out.
        background: 0, the class that is left out, or None where every class counts.

    Returns:
        `images` (how many took part), and of `SCORES` each `_pooled` (counts of all images added first) and `_mean` (a
        score an image, then the mean over the images): `iou_pooled` ... `recall_mean`.

    Raises:
        ValueError: when no image has a valid pixel.
    """
    counted = confusion[_counted(confusion)].astype(np.int64)
    if not len(counted):
        raise ValueError("no image with a valid pixel to score: check the split and the ignore label")
    means = {"pooled": counted.sum(axis=0, keepdims=True), "mean": counted}
    scores = {
        f"{name}_{how}": float(values.mean())
        for how, counts in means.items()
        for name, values in per_image(counts, background=background).items()
    }
    return {"images": len(counted), **scores}


def of_present(
    values: Float64[np.ndarray, "n k"], confusion: Int[np.ndarray, "n k k"], *, background: int | None = 0
) -> Float64[np.ndarray, " n"]:
    """One score an image: the mean over the classes that its truth holds; see `EMPTY_RULE`.

    A pixel that is falsely of a class that is not there costs the class it was taken from; as a score of 0 for that
    other class it would weigh, among many classes, as much as all that is right. Where it was taken from the background
    it costs nothing here: `class_scores` tells what of the foreground, whatever its class, is right.

    Args:
        values: (N, K) scores of each class, as `iou` gives them.
        confusion: (N, K, K), the counts they come from.
        background: 0, the class that is left out, or None where every class counts.
    """
    first = 0 if background is None else 1
    present, found = (confusion.any(axis=axis)[:, first:] for axis in (-1, -2))
    total = np.where(present, values[:, first:], 0).sum(axis=-1)
    none = np.where(found.any(axis=-1), 0.0, 1.0)
    return np.where(present.any(axis=-1), total / np.maximum(present.sum(axis=-1), 1), none)


def per_image(
    confusion: Int[np.ndarray, "n k k"], *, background: int | None = 0
) -> dict[str, Float64[np.ndarray, " n"]]:
    """Each of `SCORES` of each image, the mean over the classes that its truth holds; NaN without a valid pixel."""
    counted = _counted(confusion)
    return {
        name: np.where(counted, of_present(score(confusion), confusion, background=background), np.nan)
        for name, score in SCORES.items()
    }


def by_group(
    confusion: Int[np.ndarray, "n k k"], groups: Sequence[str], *, background: int | None = 0
) -> dict[str, dict[str, int | float]]:
    """`summarise` for each group of images, such as the kinds of microscopy, in alphabetical order.

    Args:
        confusion: (N, K, K), one matrix an image.
        groups: N names; a group without a valid pixel has no entry.
        background: 0, the class that is left out, or None where every class counts.

    Returns:
        Group to the scores of `summarise`.

    Raises:
        ValueError: when there is not one group an image.
    """
    if len(groups) != len(confusion):
        raise ValueError(f"{len(groups)} groups for {len(confusion)} images: give one an image, in the same order")
    names, counted = np.asarray(groups), _counted(confusion)
    return {str(name): summarise(confusion[names == name], background=background) for name in np.unique(names[counted])}


def count_pixels(
    truth: Integer[np.ndarray, "*s"],
    prediction: Integer[np.ndarray, "..."],
    *,
    num_classes: int,
    mask: Bool[np.ndarray, "*s"] | None = None,
) -> Int64[np.ndarray, "{num_classes} {num_classes}"]:
    """`confusion` of one image on the host, from the classes of its pixels.

    Args:
        truth: (*S) classes.
        prediction: (*S) classes, 0..num_classes-1.
        num_classes: K; a truth outside 0..K-1 counts nowhere.
        mask: (*S), True where the pixel counts; None for all.

    Returns:
        (K, K) counts in pixels, rows truth, columns prediction.

    Raises:
        ValueError: when a predicted class that counts is not among the K.
    """
    valid = (truth >= 0) & (truth < num_classes)
    valid = valid if mask is None else valid & mask
    predicted = prediction[valid].astype(np.int64)
    if predicted.size and not 0 <= predicted.min() <= predicted.max() < num_classes:
        raise ValueError(f"predicted classes {predicted.min()} to {predicted.max()}, and there are {num_classes}")
    counts = np.bincount(truth[valid].astype(np.int64) * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


def _counted(confusion):
    """Which matrices hold a pixel at all, (N,)."""
    return confusion.any(axis=(-2, -1))


def _counts(confusion):
    """True positives, pixels of the truth and pixels of the prediction, each (..., K) int64."""
    confusion = confusion.astype(np.int64)
    return np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-1), confusion.sum(-2)


def _ratio(part, whole, present):
    """Part / whole: 1 where the class is nowhere present, 0 where only the denominator is empty."""
    return np.where(present == 0, 1.0, part / np.maximum(whole, 1))
