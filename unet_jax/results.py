"""The folder of a prediction's results.

labels/NAME.tif, objects/NAME.csv, polygons/NAME.geojson, on request overlays/NAME.png, probabilities/NAME.tif and
spread/NAME.tif; objects.csv and summary.csv over all images in it; predict.json, which says how they were made.
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
from unet_jax.inputs import is_image, name_of
from unet_jax.logs import plain, write_json
from unet_jax.measure import measure, table
from unet_jax.polygons import trace
from unet_jax.prediction import Prediction, class_map


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What to write, and whether over what is there."""

    instances: bool = True
    overlay: bool = False
    probabilities: bool = False
    spread: bool = False
    format: Literal["tif", "png"] = "tif"
    overwrite: bool = False


class Results:
    """The results in a folder, made in one way: `settings` say which, and predict.json keeps them.

    Raises ValueError when the folder holds results made in another way, and they are not to be overwritten.
    """

    def __init__(self, folder: Path, wanted: Wanted, settings: Mapping[str, Any]):
        """Write predict.json."""
        self.folder, self.wanted = folder, wanted
        settings, path = plain(settings), folder / "predict.json"
        if path.exists() and not wanted.overwrite and any((folder / outputs.LABELS).rglob("*.*")):
            before = json.loads(path.read_text(encoding="utf-8"))
            if differs := [name for name in settings if before.get(name) != settings[name]]:
                words = "; ".join(f"{name} was {before.get(name)!r}, now {settings[name]!r}" for name in differs)
                raise ValueError(
                    f"{folder} holds results made in another way ({words}): name another --output, or add --overwrite"
                )
        write_json(path, settings)

    def paths(self, name: str, *, large: bool = False) -> dict[str, Path]:
        """Files of the results of one image, by room, the label image last: when that is there, all are.

        A large image has a label image in TIFF and, where objects are wanted, their table and outlines; no pictures.
        """
        wanted = self.wanted
        rooms = [outputs.OBJECTS, outputs.POLYGONS] if wanted.instances else []
        if not large:
            asked = {
                outputs.OVERLAYS: wanted.overlay,
                outputs.PROBABILITIES: wanted.probabilities,
                outputs.SPREAD: wanted.spread,
            }
            rooms += [room for room, on in asked.items() if on]
        ending = "tif" if large else wanted.format
        paths = {room: self.folder / room / f"{name}{outputs.ENDINGS[room]}" for room in rooms}
        return paths | {outputs.LABELS: self.folder / outputs.LABELS / f"{name}.{ending}"}

    def missing(self, name: str, *, large: bool = False) -> dict[str, Path]:
        """Those of the files that are to be written."""
        paths = self.paths(name, large=large)
        return {room: path for room, path in paths.items() if self.wanted.overwrite or not path.exists()}

    def write(
        self,
        name: str,
        image: np.ndarray,
        prediction: Prediction,
        *,
        separate: Callable[..., np.ndarray],
        threshold: float,
        kind: str,
    ) -> dict[str, object]:
        """Write what is missing of one image, and give its row of summary.csv; `kind` is what an object is called."""
        if self.wanted.instances:
            label = separate(prediction)
            columns = table(measure(label, image, prediction.foreground))
        else:
            label, columns = class_map(prediction.probabilities, threshold), {}
        writers = {
            outputs.OBJECTS: partial(outputs.write_objects, image=name, columns=columns),
            outputs.POLYGONS: lambda path: outputs.write_polygons(path, trace(label).items(), columns, name=kind),
            outputs.OVERLAYS: partial(outputs.write_overlay, image=image, label=label),
            outputs.PROBABILITIES: partial(outputs.write_probabilities, values=prediction.probabilities),
            outputs.SPREAD: partial(outputs.write_probabilities, values=prediction.spread),
            outputs.LABELS: partial(outputs.write_label, label=label),
        }
        for room, path in self.missing(name).items():
            writers[room](path)
        count = len(columns["id"]) if self.wanted.instances else ""
        return outputs.summary_row(name, label.shape, count, int(np.count_nonzero(label)))

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
        label = read_label(file)
        instances = (self.folder / outputs.OBJECTS / f"{name}.csv").exists()
        count = len(np.unique(label[label > 0])) if instances else ""
        return outputs.summary_row(name, label.shape, count, int(np.count_nonzero(label)))
