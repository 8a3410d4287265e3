"""Predicted label images to be scored: made by a model, or found in a folder."""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unet_jax.data.images import read_label
from unet_jax.data.labels import to_label, values_of
from unet_jax.data.rooms import LABEL_SUFFIXES
from unet_jax.inputs import find_inputs
from unet_jax.outputs import LABELS
from unet_jax.prediction import Predictor
from unet_jax.probabilities import Prediction, class_map

Sample = dict[str, Any]
MANY = 10  # faults that one message lists


class FromModel:
    """Label images of samples by a model: classes where the truth has as many as the model, else objects.

    `kind` says what the numbers mean, "instances" or "classes"; `facts` how they are made; `background` is the class
    that is none, 0, or None where every class is one like any other.
    """

    def __init__(
        self, predictor: Predictor, *, num_classes: int, threshold: float | None = None, background: int | None = 0
    ):
        """Nothing is predicted yet; a `threshold` takes the place of the card's."""
        self.predictor, self.num_classes, self.background = predictor, num_classes, background
        self.threshold = predictor.threshold if threshold is None else threshold
        self.kind = "classes" if num_classes > 2 else "instances"
        self.facts = {
            "model": predictor.fingerprint, "head": predictor.card.get("head", "classes"),
            "separation": {**predictor.separation, "threshold": self.threshold}, "tta": predictor.tta,
            "zoom": predictor.zoom, "tile": list(predictor.input_size), "overlap": predictor.overlap,
        }  # fmt: skip

    def __call__(self, samples: Iterable[Sample]) -> Iterator[np.ndarray]:
        """One label image a sample, in order; ValueError names the image that the model cannot take."""
        for prediction in self.predictor.run(self._prepare(sample) for sample in samples):
            yield self.label(prediction)

    def label(self, prediction: Prediction) -> np.ndarray:
        """Objects, or classes, of one prediction."""
        if self.kind == "classes":
            return class_map(prediction.probabilities, self.threshold)
        return self.predictor.objects(prediction, threshold=self.threshold)

    def _prepare(self, sample: Sample) -> np.ndarray:
        try:
            return self.predictor.prepare(sample["image"])
        except ValueError as error:
            raise ValueError(f"image {sample['id']}: {error}") from error


class FromFolder:
    """Label images in a folder, or in labels/ within it, by the images' names; NAME_mask, _label and _seg serve too.

    They are of the kind of the truth, but that masks of no more than one number, the same in all, are "binary"; class 0
    is the background.

    Args:
        folder: that of `unet-jax predict`, or of any other program.
        samples: the images they are of, all that will be asked for.
        num_classes: above 2, the numbers are classes.

    Raises:
        FileNotFoundError: no folder, or no label image in it for some image.
        ValueError: what is there is of another size, cannot be read, or cannot be ids.
    """

    def __init__(self, folder: Path, samples: Iterable[Sample], *, num_classes: int):
        """Find and check all of them."""
        self.folder = folder / LABELS if (folder / LABELS).is_dir() else folder
        if not self.folder.is_dir():
            raise FileNotFoundError(f"--predictions {folder}: no such folder; name that of the label images")
        found = {unicodedata.normalize("NFC", item.name): item.path for item in find_inputs([str(self.folder)])}
        self._paths: dict[str, Path] = {}
        missing, faults, numbers = [], [], set()
        for sample in samples:
            name = sample["id"]
            path = next((found[name + end] for end in ("", *LABEL_SUFFIXES) if name + end in found), None)
            if path is None:
                missing.append(name)
                continue
            self._paths[name] = path
            try:
                label = self._read(path, sample["label"].shape)
                numbers |= set(values_of(label).values) - {0}
            except ValueError as error:
                faults.append(str(error))
        if missing:
            raise FileNotFoundError(
                f"{self.folder}: no prediction for {len(missing)} of {len(missing) + len(self._paths)} images "
                f"({_some(missing)}): predict them too, or choose another --split"
            )
        if faults:
            raise ValueError("\n  ".join([f"{self.folder}: {len(faults)} predictions cannot be used:", *faults[:MANY]]))
        self.num_classes, self.background = num_classes, 0
        self.kind = "classes" if num_classes > 2 else "binary" if len(numbers) == 1 else "instances"
        self.facts = {"predictions": str(folder), "read_as": self.kind}

    def __call__(self, samples: Iterable[Sample]) -> Iterator[np.ndarray]:
        """One label image a sample, in order."""
        for sample in samples:
            yield self._read(self._paths[sample["id"]], sample["label"].shape)

    def _read(self, path: Path, shape: tuple[int, ...]) -> np.ndarray:
        label = read_label(path)
        if label.shape != shape:
            have, want = ("x".join(map(str, size)) for size in (label.shape, shape))
            raise ValueError(
                f"{path}: {have} pixels, its image {want} (height x width): crop it back to the image, or predict "
                "this very image"
            )
        if label.min(initial=0) < 0 or label.max(initial=0) >= 2**31:
            raise ValueError(f"{path}: ids are 0 to 2**31 - 1: set pixels that are no object to 0")
        return to_label(label, "instances")[0]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
