"""Slices of tissue whose cells only a membrane parts: framed for an unpadded network, and scored whole."""

from collections.abc import Callable
from typing import Any, SupportsIndex

import jax
import numpy as np

from unet_jax import metrics, parallel, training
from unet_jax.blending import predict_probabilities
from unet_jax.data import Normalised, Source
from unet_jax.data.tiles import cut
from unet_jax.models import UNet
from unet_jax.models.unet import margin, output_size
from unet_jax.partition_scores import regions, score_stack
from unet_jax.views import activate

TRIED = (0.3, 0.5, 0.7)  # thresholds of the validation: each takes a while to thin


class Framed(Normalised):
    """Slices with `context` mirrored pixels around, so that a tile's output may lie anywhere in them; pieces numbered.

    `class_weights` are 1 for the commoner class and more for the other, by the shares of their pixels.
    """

    def __init__(self, source: Source, context: int):
        """Number the pieces of all slices and frame them, once."""
        super().__init__(source)
        labels = [source[i]["label"] for i in range(len(source))]
        pixels = np.bincount(np.concatenate([label.ravel() for label in labels]), minlength=2)
        self.class_weights: tuple[float, ...] = tuple((pixels.max() / np.maximum(pixels, 1)).tolist())
        self._frames = []
        for i, label in enumerate(labels):
            sample = {**super().__getitem__(i), "label": regions(label > 0, thin=False)}
            size = [n + 2 * context for n in label.shape]
            frame = {name: cut(sample[name], (-context, -context), size) for name in ("image", "label", "mask")}
            self._frames.append({**frame, "id": sample["id"]})

    def __getitem__(self, index: SupportsIndex, /) -> dict[str, Any]:
        """The sample at `index`, frame and all."""
        return dict(self._frames[index])


def validator(
    model: UNet, source: Source, *, tile: tuple[int, ...], batch: int
) -> Callable[[training.State], dict[str, float]]:
    """A function of the state: loss, IoU and Dice of the membranes at one half, and the best V_rand, of whole slices.

    The unpadded `model` sees `batch` tiles of `tile` pixels at a time.
    """

    @jax.jit
    def forward(variables: Any, image: jax.Array) -> jax.Array:
        return activate(model.apply(variables, training.to_unit(image), train=False))

    mesh = parallel.data_mesh(batch)  # each of several processes scores by itself
    context, rows, everywhere = margin(model.widths), parallel.split(mesh), parallel.replicated(mesh)
    patch = output_size(tile, model.widths, "VALID")

    def validate(state: training.State) -> dict[str, float]:
        variables = jax.device_put(parallel.on_host({"params": state.params, **state.model_state}), everywhere)

        def apply(tiles: np.ndarray) -> jax.Array:
            return forward(variables, jax.device_put(tiles, rows))

        truths, inside = [], []
        for i in range(len(source)):
            image = source[i]["image"]
            found = predict_probabilities(apply, image, patch=patch, overlap=0, batch=batch, context=context)
            truths.append(source[i]["label"] > 0)
            inside.append(found[..., 1])
        loss = np.mean([-np.log(np.where(t, p, 1 - p) + 1e-7).mean() for t, p in zip(truths, inside, strict=True)])
        counts = np.stack([membrane_counts(t, p >= 0.5) for t, p in zip(truths, inside, strict=True)])
        scores = metrics.summarise(counts)
        v_rand = max(row["v_rand"] for row in score_stack(truths, inside, thresholds=TRIED))
        return {
            "val_loss": float(loss), "val_iou": scores["iou_pooled"], "val_dice": scores["dice_pooled"],
            "val_v_rand": v_rand,
        }  # fmt: skip

    return validate


def membrane_counts(truth: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Confusion matrix (2, 2) of one slice, with the membranes as class 1."""
    return metrics.count_pixels((~truth).astype(int), (~inside).astype(int), num_classes=2)
