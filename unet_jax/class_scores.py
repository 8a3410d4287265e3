"""Scores class by class, and what to make of classes that are not there.

Pooled: the counts of all images added, then one ratio a class. A class without a pixel in the truth has no score and
enters no mean: it neither rewards nor punishes. What is falsely taken for it costs the class it was taken from; where
that is the background, the IoU of the foreground as a whole tells, and a warning.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from unet_jax import metrics

RULE = (
    "pooled over the images, mean over the classes in their truth, the background, where there is one, left out; an "
    "absent class has no score; iou_foreground: of all classes but the background as one"
)


def by_class(counts: Int[np.ndarray, "n k k"], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Scores of each class by name: iou, dice, precision, recall (None where the truth has none), and its pixels.

    Args:
        counts: confusion matrices, one an image, rows truth and columns prediction.
        names: one a class.
    """
    pooled = counts.astype(np.int64).sum(axis=0)
    truth, predicted = pooled.sum(axis=1), pooled.sum(axis=0)
    scores = {name: score(pooled) for name, score in metrics.SCORES.items()}
    return {
        name: {score: float(values[k]) if truth[k] else None for score, values in scores.items()}
        | {"pixels": int(truth[k]), "predicted": int(predicted[k])}
        for k, name in enumerate(names)
    }


def summarise(counts: Int[np.ndarray, "n k k"], names: Sequence[str], *, background: int | None) -> dict[str, Any]:
    """`metrics.summarise`, and which class is the worst: worst_class and worst_iou, None without a class in the truth.

    The class `background` (0, or None where there is none, whatever its name) is left out; iou_foreground is the pooled
    IoU of all others as one. Raises ValueError when no image has a pixel that counts.
    """
    scores = metrics.summarise(counts, background=background)
    if background is not None:
        scores["iou_foreground"] = metrics.summarise(_as_one(counts))["iou_pooled"]
    rows = by_class(counts, names)
    known = {name: rows[name]["iou"] for k, name in enumerate(names) if k != background and rows[name]["pixels"]}
    worst = min(known, key=lambda name: known[name], default=None)
    return {**scores, "worst_class": worst, "worst_iou": known.get(worst)}


def _as_one(counts: Int[np.ndarray, "n k k"]) -> Int[np.ndarray, "n 2 2"]:
    """Confusion of class 0 and of all others together."""
    rows = np.stack([counts[:, 0], counts[:, 1:].sum(axis=1)], axis=1)
    return np.stack([rows[..., 0], rows[..., 1:].sum(axis=-1)], axis=-1)


def warnings_of(rows: dict[str, dict[str, Any]]) -> list[str]:
    """A line for each class that is in one of truth and prediction alone, and one for those that are in neither."""
    lost = [name for name, row in rows.items() if row["pixels"] and not row["predicted"]]
    made_up = [name for name, row in rows.items() if row["predicted"] and not row["pixels"]]
    absent = [name for name, row in rows.items() if not row["predicted"] and not row["pixels"]]
    lines = [
        f"WARNING: {name} is predicted nowhere, though {rows[name]['pixels']:,} pixels are of it: train longer, or try "
        "--loss tversky+focal, --centred 0.67 or --balance 0.5"
        for name in lost
    ]
    lines += [
        f"WARNING: {name} is predicted for {rows[name]['predicted']:,} pixels, and none is of it: no score tells"
        for name in made_up
    ]
    if absent:
        lines.append(f"not in the truth of these images, and so without a score: {', '.join(absent)}")
    return lines


def table(rows: dict[str, dict[str, Any]]) -> list[str]:
    """The scores of each class as lines of text."""
    width = max(len("class"), *(len(name) for name in rows))
    lines = [f"{'class':<{width}}    IoU   Dice  precision  recall      pixels"]
    for name, row in rows.items():
        cells = ["    –" if row[k] is None else f"{row[k]:.3f}" for k in ("iou", "dice", "precision", "recall")]
        lines.append(f"{name:<{width}}  {cells[0]}  {cells[1]}      {cells[2]}   {cells[3]}  {row['pixels']:>10,}")
    return lines
