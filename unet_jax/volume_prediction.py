"""From a trained model and the files of a patient to a label in the files' own space."""

import dataclasses
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Shaped, UInt8

from unet_jax import parallel, regions
from unet_jax.data.nifti import Grid
from unet_jax.data.normalisation import ZScore
from unet_jax.data.volumes import prepare
from unet_jax.prediction import Predictor
from unet_jax.sliding import sliding_window
from unet_jax.training import to_unit


@dataclasses.dataclass(frozen=True, eq=False)
class VolumePredictor:
    """A trained model of volumes: `predictor(image, grid)` gives the class of every voxel as it lies in the file.

    Args:
        predictor: parameters and card; its tile and batch are those of the sliding window.
        overlap: share of a tile that its neighbour covers too, along each axis.
    """

    predictor: Predictor
    overlap: float = 0.5

    def __post_init__(self):
        """Raises ValueError for a card that is not one of volumes."""
        if len(self.predictor.input_size) != 3 or not isinstance(self.predictor.normalisation, ZScore):
            raise ValueError("this model was trained on pictures, not on volumes: use unet-jax predict")
        if missing := [name for name in ("modalities", "regions", "outputs") if name not in self.predictor.card]:
            raise ValueError(f"the card says nothing about {', '.join(missing)}: train the model again")

    @classmethod
    def load(cls, folder: str | Path, *, overlap: float = 0.5, batch: int = 2, **options: Any) -> "VolumePredictor":
        """The model in a folder (see `model_folder.read_model`); options are `tile` and `which`."""
        return cls(Predictor.load(folder, batch=batch, **options), overlap)

    @property
    def card(self) -> dict[str, Any]:
        """What the training says of the model."""
        return dict(self.predictor.card)

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the channels are called, in the training's order."""
        return tuple(self.card["modalities"])

    @property
    def regions(self) -> dict[str, tuple[int, ...]]:
        """Classes of every region by its name, largest first."""
        return {name: tuple(members) for name, members in self.card["regions"].items()}

    def __call__(self, image: Shaped[np.ndarray, "x y z c"], grid: Grid) -> UInt8[np.ndarray, "x y z"]:
        """Class of every voxel, from the modalities in the training's order, all as they lie in the files.

        Raises ValueError for another number of modalities, and for values that cannot be normalised.
        """
        if image.shape[-1] != self.card["channels"]:
            names = ", ".join(self.modalities)
            raise ValueError(f"{image.shape[-1]} modalities: the model was trained with {names}, in this order")
        spacing = self.card.get("spacing")
        seen, frame = prepare(
            image, grid, spacing=tuple(spacing) if spacing else None, normalise=self.predictor.normalisation
        )
        found = sliding_window(
            self._forward, seen, patch=self.predictor.output_size, overlap=self.overlap, batch=self.predictor.batch
        )
        if frame.resamples:  # classes cannot be interpolated, probabilities can
            return np.asarray(self._classes(frame.back(np.asarray(found))), np.uint8)
        return frame.back(np.asarray(self._classes(found), np.uint8))

    @cached_property
    def _forward(self):
        """Tiles to probabilities, compiled, parameters on every device."""
        mesh = parallel.data_mesh(self.predictor.batch)
        variables = jax.device_put(dict(self.predictor.variables), parallel.replicated(mesh))
        activate = jax.nn.sigmoid if self.card["outputs"] == "regions" else jax.nn.softmax
        model = self.predictor.model

        @jax.jit
        def forward(variables: Any, tiles: Array) -> Array:
            return activate(model.apply(variables, to_unit(tiles), train=False))

        return partial(forward, variables)

    @cached_property
    def _classes(self):
        """Probabilities (*S, K) to classes (*S)."""
        if self.card["outputs"] != "regions":
            return jax.jit(regions.exclusive)
        decide = regions.decide(tuple(self.regions.values()))
        return jax.jit(lambda probabilities: decide(probabilities - 0.5))
