"""The options with which objects are separated, chosen on validation images."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from unet_jax.data.source import Source
from unet_jax.matching import overlap
from unet_jax.object_scores import THRESHOLDS, ObjectCounts, average_precision, concatenate, count
from unet_jax.prediction import Predictor

IOUS = (0.5, 0.75)
RULE = "the pooled AP of the validation images, the mean of IoU .5 and .75, one option after the other"


def count_objects(
    separate: Callable[..., np.ndarray], values: Iterable[Any], samples: Iterable[Mapping[str, Any]],
    *, thresholds: tuple[float, ...] = IOUS,
) -> ObjectCounts:  # fmt: skip
    """Counts of `separate(values)` against the ids in `samples`, image by image, on all cores; `mask` counts."""

    def one(value: Any, sample: Mapping[str, Any]) -> ObjectCounts:
        mask, label = sample["mask"], separate(value)
        return count(overlap(np.where(mask, sample["label"], 0), np.where(mask, label, 0)), thresholds=thresholds)

    with ThreadPoolExecutor() as pool:
        return concatenate(list(pool.map(one, values, samples)))


def tune(predictor: Predictor, source: Source) -> dict[str, Any]:
    """The card's entries on separation, chosen on the images of `source`: "separation" and "separation_trials".

    Raises ValueError for a model of plain classes, whose card names no head.
    """
    if predictor.head is None:
        raise ValueError("the card names no head: there is nothing to choose")
    samples = [source[i] for i in range(len(source))]
    values = [prediction.values for prediction in predictor.run(sample["image"] for sample in samples)]
    chosen, trials = choose(predictor.head.separate, values, samples, predictor.head.grid)
    return {"separation": chosen, "separation_trials": trials}


def separate_all(predictor: Predictor, source: Source, **options: float) -> tuple[list[np.ndarray], ObjectCounts]:
    """The label image (*S) of every image of a normalised source, and its counts at all IoUs.

    `options` of the separation take the place of the card's.
    """
    samples = [source[i] for i in range(len(source))]
    with ThreadPoolExecutor() as pool:
        labels = list(
            pool.map(partial(predictor.objects, **options), predictor.run(sample["image"] for sample in samples))
        )
    return labels, count_objects(lambda label: label, labels, samples, thresholds=THRESHOLDS)


def choose(
    separate: Callable[..., np.ndarray],
    values: Sequence[Any],
    samples: Sequence[Mapping[str, Any]],
    grid: Mapping[str, Sequence[float]],
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """The options of `grid` that separate best, and a row for every trial with its AP; see `RULE`.

    It begins with the first number of every option, and goes through the options once, in order, each time keeping what
    is better than all before.

    Args:
        separate: (value, **options) -> label image.
        values: what it gets, one an image.
        samples: the same images with "label" (*S) ids and "mask" (*S).
        grid: numbers to choose from, by option.

    Raises:
        ValueError: without an image.
    """
    chosen = {name: numbers[0] for name, numbers in grid.items()}
    rows: list[dict[str, float]] = []

    def score(options: dict[str, float]) -> float:
        counts = count_objects(lambda value: separate(value, **options), values, samples).pooled()
        ap = average_precision(counts)[0]
        rows.append({**options, "ap50": float(ap[0]), "ap75": float(ap[1])})
        return float(ap.mean())

    best = score(chosen)
    for name, numbers in grid.items():
        for number in numbers[1:]:
            trial = {**chosen, name: number}
            if (found := score(trial)) > best:
                best, chosen = found, trial
    return chosen, rows
