"""The folder of a prediction's results.

labels/NAME.tif, objects/NAME.csv, polygons/NAME.geojson, on request overlays/NAME.png, attention/NAME.png,
probabilities/NAME.tif and spread/NAME.tif; objects.csv and summary.csv over all images in it; predict.json, which says
how they were made. Volumes have no polygons and overlays; those read from NIfTI give labels/NAME.nii.gz (and
probabilities, spread) on their grid.
"""

import csv
import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unet_jax import outputs
from unet_jax.data.images import read_label
from unet_jax.data.stored import is_nifti
from unet_jax.inputs import is_image, name_of
from unet_jax.logs import plain, write_json
from unet_jax.measure import measure, table
from unet_jax.polygons import trace
from unet_jax.probabilities import Prediction, class_map, foreground

Format = Literal["tif", "png"]
Form = Literal["image", "large", "volume", "nifti"]


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What to write, and whether over what is there."""

    instances: bool = True
    overlay: bool = False
    probabilities: bool = False
    spread: bool = False
    attention: bool = False
    format: Format = "tif"
    overwrite: bool = False


class Results:
    """The results in a folder, made in one way: `settings` say which, and predict.json keeps them.

    Raises ValueError when the folder holds results made in another way, and they are not to be overwritten.
    """

    def __init__(self, folder: Path, wanted: Wanted, settings: Mapping[str, Any]):
        """Write predict.json."""
        self.folder, self.wanted = folder, wanted
        self._volumes = len(settings["tile"]) == 3
        settings, path = plain(settings), folder / "predict.json"
        if path.exists() and not wanted.overwrite and any((folder / outputs.LABELS).rglob("*.*")):
            before = json.loads(path.read_text(encoding="utf-8"))
            if differs := [name for name in settings if before.get(name) != settings[name]]:
                words = "; ".join(f"{name} was {before.get(name)!r}, now {settings[name]!r}" for name in differs)
                raise ValueError(
                    f"{folder} holds results made in another way ({words}): name another --output, or add --overwrite"
                )
        write_json(path, settings)

    def paths(self, name: str, form: Form = "image") -> dict[str, Path]:
        """Files of the results of one image, by room, the label image last: when that is there, all are.

        A large image has its label image and its overlay in tiled TIFF, whatever was asked for.
        """
        wanted, volume = self.wanted, form in ("volume", "nifti")
        asked = {
            outputs.OBJECTS: wanted.instances,
            outputs.POLYGONS: wanted.instances and not volume,
            outputs.OVERLAYS: wanted.overlay and not volume,
            outputs.PROBABILITIES: wanted.probabilities,
            outputs.SPREAD: wanted.spread,
            outputs.ATTENTION: wanted.attention and form in ("image", "volume"),
        }
        endings = outputs.ENDINGS | {outputs.LABELS: f".{wanted.format}" if form == "image" else ".tif"}
        if form == "large":
            endings[outputs.OVERLAYS] = ".tif"
        if form == "nifti":
            endings |= dict.fromkeys((outputs.LABELS, outputs.PROBABILITIES, outputs.SPREAD), ".nii.gz")
        rooms = [*(room for room, on in asked.items() if on), outputs.LABELS]
        return {room: self.folder / room / f"{name}{endings[room]}" for room in rooms}

    def missing(self, name: str, form: Form = "image") -> dict[str, Path]:
        """Those of the files that are to be written."""
        paths = self.paths(name, form)
        return {room: path for room, path in paths.items() if self.wanted.overwrite or not path.exists()}

    def clear(self, name: str, form: Form = "image") -> None:
        """Remove what contradicts the files of an image.

        A label image in another format and, with `overwrite`, all that an earlier run wrote of it and this one does
        not.
        """
        kept = set(self.paths(name, form).values())
        for room in (outputs.LABELS, *(outputs.ENDINGS if self.wanted.overwrite else ())):
            for ending in {*outputs.ENDINGS.values(), ".nii.gz"}:
                if (path := self.folder / room / f"{name}{ending}") not in kept:
                    path.unlink(missing_ok=True)

    def write(
        self,
        name: str,
        image: np.ndarray,
        prediction: Prediction,
        *,
        separate: Callable[..., np.ndarray],
        threshold: float,
        kind: str,
        grid: Any = None,
        draw_attention: Callable[..., None] | None = None,
    ) -> dict[str, object]:
        """Write what is missing of one image or volume, and give its row of summary.csv.

        `kind` is what an object is called, `grid` where the voxels of a NIfTI volume lie in its file,
        `draw_attention(path=, image=, title=)` makes that picture.
        """
        label = separate(prediction) if self.wanted.instances else class_map(prediction.probabilities, threshold)
        if grid is not None:
            return self._write_nifti(name, image, prediction, label, grid)
        columns = self._table(label, image, prediction.foreground, "zyx"[-label.ndim :])
        writers = {
            outputs.OBJECTS: partial(outputs.write_objects, image=name, columns=columns),
            outputs.POLYGONS: lambda path: outputs.write_polygons(path, trace(label).items(), columns, name=kind),
            outputs.OVERLAYS: partial(outputs.write_overlay, image=image, label=label),
            outputs.PROBABILITIES: lambda path: outputs.write_probabilities(path, prediction.probabilities),
            outputs.SPREAD: lambda path: outputs.write_probabilities(path, prediction.spread[..., None]),
            outputs.ATTENTION: lambda path: draw_attention(path=path, image=image, title=name),
            outputs.LABELS: partial(outputs.write_label, label=label),
        }
        return self._write_missing(name, "volume" if label.ndim == 3 else "image", writers, label, columns)

    def _write_nifti(
        self, name: str, image: np.ndarray, prediction: Prediction, label: np.ndarray, grid: Any
    ) -> dict[str, object]:
        """The same for a volume that was turned as models see it: turned back, in the axes of its file."""
        from unet_jax.data.nifti import from_ras, write_label, write_values

        label, image, probabilities = (from_ras(a, grid) for a in (label, image, prediction.probabilities))
        columns = self._table(label, image, foreground(probabilities), "xyz")
        writers = {
            outputs.OBJECTS: partial(outputs.write_objects, image=name, columns=columns),
            outputs.PROBABILITIES: lambda path: write_values(path, probabilities, grid),
            outputs.SPREAD: lambda path: write_values(path, from_ras(prediction.spread, grid), grid),
            outputs.LABELS: lambda path: write_label(path, label, grid),
        }
        return self._write_missing(name, "nifti", writers, label, columns)

    def _write_missing(
        self, name: str, form: Form, writers: Mapping[str, Callable], label: np.ndarray, columns: Mapping
    ) -> dict[str, object]:
        for room, path in self.missing(name, form).items():
            writers[room](path)
        self.clear(name, form)
        shape = label.shape[::-1] if form == "nifti" else label.shape
        count = len(columns["id"]) if self.wanted.instances else ""
        return outputs.summary_row(name, shape, count, int(np.count_nonzero(label)))

    def _table(self, label: np.ndarray, image: np.ndarray, probability: np.ndarray, axes: str) -> dict[str, np.ndarray]:
        return table(measure(label, image, probability), axes) if self.wanted.instances else {}

    def summarise(self, done: Iterable[Mapping[str, object]]) -> None:
        """Write summary.csv and objects.csv over all label images in the folder; `done` are the rows of this run."""
        path, labels = self.folder / "summary.csv", self.folder / outputs.LABELS
        rows: dict[str, Mapping[str, object]] = {}
        if path.exists():
            with path.open(encoding="utf-8", newline="") as file:
                rows = {row["image"]: row for row in csv.DictReader(file)}
        rows |= {str(row["image"]): row for row in done}
        files = {name_of(file, labels): file for file in sorted(labels.rglob("*")) if is_image(file)}
        for name, file in files.items():
            if name not in rows:  # a run was cut off after it wrote the label image
                rows[name] = self._row_of(name, file)
        if files:
            outputs.write_summary(path, (rows[name] for name in files))
            outputs.join_objects(self.folder, files)

    def _row_of(self, name: str, file: Path) -> dict[str, object]:
        label = _read_label(file, volume=self._volumes)
        instances = (self.folder / outputs.OBJECTS / f"{name}.csv").exists()
        count = len(np.unique(label[label > 0])) if instances else ""
        return outputs.summary_row(name, label.shape, count, int(np.count_nonzero(label)))


def _read_label(file: Path, *, volume: bool) -> np.ndarray:
    """A label image or volume that was written here, (H, W) or (D, H, W)."""
    if is_nifti(file):
        from unet_jax.data.nifti import read_nifti

        return read_nifti(file)[0][..., 0].T
    if volume:
        import tifffile

        return tifffile.imread(file)
    return read_label(file)
