"""The scores of a model on the same images, spoiled in five ways and five severities."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from unet_jax import metrics
from unet_jax.data.source import Source
from unet_jax.degrade import MEANING, SEVERITIES, degrade
from unet_jax.evaluation import count_foreground
from unet_jax.predicted import FromModel, Sample
from unet_jax.prediction import Predictor
from unet_jax.scoring import Scores, Truth, concatenate, summarise

SHOWN = ("AP at IoU 0.5", "pixel IoU")


def spoiled(source: Source, predictor: Predictor, kind: str, severity: int, *, seed: int) -> Iterator[Sample]:
    """The samples of a source, their images stretched as the model sees them, then degraded."""
    for i in range(len(source)):
        sample = source[i]
        image = predictor.prepare(sample["image"])  # its channels too: noise would make grey colourful
        yield {**sample, "image": degrade(image, kind, severity, name=sample["id"], seed=seed)}


def measure_robustness(
    source: Source,
    truths: Sequence[Truth],
    model: FromModel,
    clean: Scores,
    *,
    seed: int = 0,
    tick: Callable[[], Any] = lambda: None,
) -> dict[str, Any]:
    """Score all images under every way and severity.

    Args:
        source: N images.
        truths: N, what they are scored against; hard cases are those of the image as it was read.
        model: that predicts.
        clean: scores of the images as they are.
        seed: of all random numbers.
        tick: called after every image.

    Returns:
        {"seed", "measures", "severities", "scores": {way: [severity 0 (as it is), 1, ..., 5]}}, each score as
        `scoring.summarise` gives it, without groups.
    """
    scores: dict[str, list[dict[str, Any]]] = {}
    for kind in SEVERITIES:
        scores[kind] = [summarise(clean, background=model.background)]
        for severity in range(1, 6):
            rows = []
            labels = model(spoiled(source, model.predictor, kind, severity, seed=seed))
            for truth, label in zip(truths, labels, strict=True):
                rows.append(truth.score(label, model.kind))
                tick()
            scores[kind].append(summarise(concatenate(rows), background=model.background))
    return {"seed": seed, "measures": MEANING, "severities": SEVERITIES, "scores": scores}


def spoiled_iou(source: Source, predictor: Predictor, *, severity: int = 3, seed: int = 0) -> dict[str, float]:
    """Pooled IoU of the foreground, a pixel at one half and more, with all images of a source spoiled: by way."""
    found = {}
    for kind in SEVERITIES:
        seen = spoiled(source, predictor, kind, severity, seed=seed)
        samples = (sample | {"image": predictor.prepare(sample["image"])} for sample in seen)
        found[kind] = float(metrics.summarise(count_foreground(predictor, samples))["iou_pooled"])
    return found


def chart_lines(result: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """What the chart shows of a result: the pooled scores of `SHOWN`, six values a way."""
    return {
        kind: {
            SHOWN[0]: [row["objects"]["ap_pooled"]["0.50"] for row in rows],
            SHOWN[1]: [row["pixels"]["iou_pooled"] for row in rows],
        }
        for kind, rows in result["scores"].items()
    }


def gallery(image: np.ndarray, label: np.ndarray, *, name: str, seed: int, side: int = 120, gap: int = 4) -> np.ndarray:
    """The fullest crop of a stretched image, spoiled: (H, W, 3), a row a way, severities 0 to 5 from left to right."""
    from unet_jax.pictures import for_display

    h, w = (min(side, size) for size in image.shape[:2])
    full = ndimage.uniform_filter((label > 0).astype(np.float64), (h, w), origin=(-(h // 2), -(w // 2)))
    full = full[: image.shape[0] - h + 1, : image.shape[1] - w + 1]  # of the window that begins at each place
    top, left = np.unravel_index(np.argmax(full), full.shape)
    sheet = np.full((len(SEVERITIES) * (side + gap) - gap, 6 * (side + gap) - gap, 3), 255, np.uint8)
    for row, kind in enumerate(SEVERITIES):
        for severity in range(6):
            picture = degrade(image, kind, severity, name=name, seed=seed)[top : top + h, left : left + w]
            y, x = row * (side + gap), severity * (side + gap)
            sheet[y : y + h, x : x + w] = picture if picture.shape[-1] == 3 else for_display(picture)
    return sheet
