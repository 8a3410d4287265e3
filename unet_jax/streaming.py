"""Images too large for the memory: read, predicted, separated and written in bands of rows."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from jaxtyping import UInt8

from unet_jax import outputs
from unet_jax.data.normalisation import Percentiles, grid_step, stretch
from unet_jax.data.rows import TiffRows
from unet_jax.measure import Sums, measure, merge, table
from unet_jax.polygons import Edges, Polygon, edges, join, polygons, select
from unet_jax.prediction import Predictor, class_map, foreground
from unet_jax.stitching import Separate, Stash, Stitcher, windows

Progress = Callable[[Iterable[Any]], Iterable[Any]]
_BAND = 256  # rows read at a time where the network is not asked


class PreparedRows:
    """Rows of a file as `Predictor.prepare` would give them for the whole image: channels, and grey levels in 8 bits.

    Raises ValueError for channels that do not fit the model, and for values that are not finite.
    """

    def __init__(self, rows: TiffRows, predictor: Predictor):
        """Reads the file once, for the percentiles."""
        self._rows, self._match = rows, predictor.match_channels
        self.shape = (*rows.shape[:2], int(predictor.card["channels"]))
        how = predictor.normalisation
        if not isinstance(how, Percentiles):
            raise ValueError(
                f"{rows.path}: the model normalises by {type(how).__name__}, for which it reads images whole"
            )
        self._range = self._measure(how.low, how.high)

    def _measure(self, low: float, high: float) -> tuple[float, float]:
        step, height = grid_step(self.shape[:2]), self.shape[0]
        sample, least, most = [], np.inf, -np.inf
        for start in range(0, height, _BAND):
            band = self._match(self._rows[start : min(start + _BAND, height)])
            least, most = min(least, float(band.min())), max(most, float(band.max()))
            if not np.isfinite([least, most]).all():
                raise ValueError(f"{self._rows.path}: values that are infinite or not a number: replace them")
            sample.append(band[-start % step :: step, ::step].copy())
        bottom, top = np.percentile(np.concatenate(sample), [low, high])
        return (float(bottom), float(top)) if top > bottom else (least, most)

    def __getitem__(self, rows: slice, /) -> UInt8[np.ndarray, "n w c"]:
        """Rows from rows.start up to rows.stop."""
        return stretch(self._match(self._rows[rows]), *self._range)


def predict_stream(
    predictor: Predictor,
    path: str | Path,
    labels: Path,
    *,
    name: str,
    separate: Separate,
    objects: Path | None = None,
    shapes: Path | None = None,
    overlap: int = 1,
    agree: float = 0.0,
    progress: Progress = iter,
) -> dict[str, object]:
    """Segment a TIFF a band at a time and write its label image tile by tile; memory does not grow with its height.

    What comes out is what the whole image would give: for objects that are connected pieces of the foreground exactly,
    for others where windows that share `overlap` rows agree about them.

    Args:
        predictor: of two-dimensional images.
        path: tiled TIFF, or another that `TiffRows` reads.
        labels: TIFF to write.
        name: of the image, for the tables.
        separate: values (h, W, V) of some rows -> ids (h, W), 0 is background.
        objects: table (CSV) to write.
        shapes: outlines (GeoJSON) to write.
        overlap: rows that successive windows share, at least 1.
        agree: see `Stitcher`; 0 for connected pieces.
        progress: wraps the bands, to show a progress bar.

    Returns:
        The image's row of summary.csv.

    Raises:
        ValueError: the file or its channels cannot be used; nothing is left under the final names.
    """
    stitcher, parts = Stitcher(separate, agree=agree), list[Sums]()
    labels.parent.mkdir(parents=True, exist_ok=True)
    with TiffRows(path) as rows, TiffRows(path) as again, TemporaryFile(dir=labels.parent) as file:
        stash, prepared = Stash(file), PreparedRows(rows, predictor)
        bands = progress(predictor.bands([prepared]))
        for window in windows(bands, before=(overlap + 1) // 2, after=overlap // 2):
            label, count, given = stitcher.add(window._replace(values=predictor.values(window.values)))
            stash.append(np.where(label > 0, label + np.int32(given), 0).astype(np.int32))
            own = predictor.probabilities(window.values[window.start - window.low : window.stop - window.low])
            image = again[window.start : window.stop]
            parts.append(measure(label, image, foreground(own), top=window.start, count=count))
        ids, count = stitcher.resolve(np.concatenate([part.area for part in parts]))
        sums = merge(parts, ids[1:].astype(np.int64), count)
        columns = table(sums)
        if shapes is not None:
            outlines = _outlines((ids[label] for label in stash), sums, rows.shape[1])
            outputs.write_polygons(shapes, outlines, columns, name=predictor.object_name)
        if objects is not None:
            outputs.write_objects(objects, name, columns)
        outputs.write_label_rows(labels, (ids[label] for label in stash), rows.shape[:2], count)
    return outputs.summary_row(name, rows.shape[:2], count, int(sums.area.sum()))


def predict_stream_classes(
    predictor: Predictor, path: str | Path, labels: Path, *, name: str, threshold: float, progress: Progress = iter
) -> dict[str, object]:
    """The same for classes instead of objects: writes the map of classes."""
    covered = 0

    def rows_of_classes() -> Iterator[np.ndarray]:
        nonlocal covered
        for band in progress(predictor.bands([prepared])):
            classes = class_map(predictor.probabilities(band.values), threshold)
            covered += int(np.count_nonzero(classes))
            yield classes

    with TiffRows(path) as rows:
        prepared = PreparedRows(rows, predictor)
        outputs.write_label_rows(labels, rows_of_classes(), rows.shape[:2], 1)
    return outputs.summary_row(name, rows.shape[:2], "", covered)


def _outlines(labels: Iterable[np.ndarray], sums: Sums, width: int) -> Iterator[tuple[int, list[Polygon]]]:
    """Polygons of every object as soon as the rows are past it."""
    above, top = np.zeros(width, np.int32), 0
    waiting: list[Edges] = []
    for label in _closed(labels, width):
        waiting.append(edges(label, above=above, top=top))
        above, top = label[-1], top + len(label)
        sides = join(waiting)
        done = sums.high[sides.id - 1, 0] < top
        yield from polygons(select(sides, done)).items()
        waiting = [select(sides, ~done)]


def _closed(labels: Iterable[np.ndarray], width: int) -> Iterator[np.ndarray]:
    yield from labels
    yield np.zeros((1, width), np.int32)
