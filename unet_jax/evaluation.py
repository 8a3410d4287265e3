"""Scores of whole images: tiles of one shape through the network, every pixel of every image counted once."""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int, Int64, Integer

from unet_jax import metrics, parallel
from unet_jax.data.pipeline import eval_tiles
from unet_jax.data.source import Source
from unet_jax.prediction import Predictor
from unet_jax.training import State


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Mean loss over the pixels, counts of each image (N, K, K) or of its regions (N, R, 2, 2), predicted classes."""

    loss: float
    counts: Int[np.ndarray, "n *r k k"]
    predictions: list[Integer[np.ndarray, "..."]]


def evaluate(
    eval_step: Callable[[State, Any], dict[str, Any]],
    state: State,
    source: Source,
    *,
    patch: tuple[int, ...],
    batch: int,
    margin: int | Sequence[int],
    mesh: Mesh,
    keep_predictions: bool = False,
) -> Evaluation:
    """Run `eval_step`, whose output has the size of its input, over all tiles of all images of `source`.

    Tiles of `patch` pixels overlap, so that the `margin` pixels at a tile's edge, which lack context, come from its
    neighbour. Whole predictions are put together only on request. Every process gets the result.
    """
    counts: np.ndarray | None = None
    predictions = [np.zeros(source[i]["label"].shape, np.uint8) for i in range(len(source) if keep_predictions else 0)]
    loss_sum, pixels = 0.0, 0
    for tiles in eval_tiles(source, patch=patch, batch=batch, margin=margin):
        out = parallel.on_host(eval_step(state, parallel.shard(tiles, mesh)))
        if counts is None:
            counts = np.zeros((len(source), *out["counts"].shape[1:]), np.int64)
        real = tiles["index"] >= 0
        np.add.at(counts, tiles["index"][real], out["counts"][real])
        weight = tiles["mask"].sum(axis=tuple(range(1, tiles["mask"].ndim)))
        loss_sum += float((out["loss"] * weight).sum())
        pixels += int(weight.sum())
        for row in np.flatnonzero(real) if keep_predictions else ():
            _paste(predictions[tiles["index"][row]], out["prediction"][row], tiles["owned"][row], tiles["origin"][row])
    if counts is None:
        raise ValueError("nothing to evaluate: the split holds no image")
    return Evaluation(loss_sum / max(pixels, 1), counts, predictions)


def validation_row(result: Evaluation, *, background: int | None = 0) -> dict[str, float]:
    """The scores of an epoch for `loop.fit` and the log: loss, IoU and Dice, pooled; see `metrics.summarise`."""
    scores = metrics.summarise(result.counts, background=background)
    return {"val_loss": result.loss, "val_iou": scores["iou_pooled"], "val_dice": scores["dice_pooled"]}


def _paste(whole: np.ndarray, tile: np.ndarray, owned: np.ndarray, origin: np.ndarray) -> None:
    """Write the box of pixels that the tile owns into the image."""
    pixels = np.argwhere(owned)
    first, last = pixels.min(axis=0), pixels.max(axis=0) + 1
    here = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
    there = tuple(slice(a, b) for a, b in zip(first + origin, last + origin, strict=True))
    whole[there] = tile[here]


def count_foreground(predictor: Predictor, samples: Iterable[Mapping[str, Any]]) -> Int64[np.ndarray, "n 2 2"]:
    """Confusion counts of background and object at one half, of every sample, its image normalised."""
    truths: deque[tuple[np.ndarray, np.ndarray]] = deque()  # of the few images under way

    def images() -> Iterator[np.ndarray]:
        for sample in samples:
            truths.append(((sample["label"] > 0) * 1, sample["mask"]))
            yield sample["image"]

    counts = []
    for prediction in predictor.run(images()):
        truth, mask = truths.popleft()
        counts.append(metrics.count_pixels(truth, (prediction.foreground >= 0.5) * 1, num_classes=2, mask=mask))
    return np.stack(counts)
