"""Images too large for the memory: read, predicted, separated and written in bands of rows."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from unet_jax import outputs
from unet_jax.blending import Band, Count, uncounted
from unet_jax.data.normalisation import Percentiles, grid_step, stretch
from unet_jax.data.rows import HeldRows
from unet_jax.measure import Sums, measure, merge, table
from unet_jax.pictures import OUTLINE_REACH, PREDICTION, for_display, overlay
from unet_jax.polygons import Edges, Polygon, edges, join, polygons, select
from unet_jax.prediction import Predictor
from unet_jax.probabilities import class_map, foreground
from unet_jax.stitching import Separate, Stash, Stitcher, Window, own, windows

_BAND = 256  # rows read at a time where the network is not asked


class PreparedRows:
    """Rows of a file as `Predictor.prepare` would give them for the whole image: channels, and grey levels in 8 bits.

    `sample` has about every pixel of an even grid of 1 Mpx, as in the file.
    Raises ValueError for channels that do not fit the model, and for values that are not finite.
    """

    def __init__(self, rows: HeldRows, predictor: Predictor):
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
            ends = float(band.min()), float(band.max())
            if not np.isfinite(ends).all():
                raise ValueError(
                    f"{self._rows.path}: some values from row {start} on are infinite or not a number (NaN): replace "
                    "them, for example with numpy.nan_to_num"
                )
            least, most = min(least, ends[0]), max(most, ends[1])
            sample.append(band[-start % step :: step, ::step].copy())
        self.sample = np.concatenate(sample)
        bottom, top = np.percentile(self.sample, [low, high])
        return (float(bottom), float(top)) if top > bottom else (least, most)

    def __getitem__(self, rows: slice, /) -> UInt8[np.ndarray, "n w c"]:
        """Rows from rows.start up to rows.stop."""
        return stretch(self._match(self._rows[rows]), *self._range)


def predict_stream(
    predictor: Predictor,
    open_rows: Callable[[], HeldRows],
    paths: Mapping[str, Path],
    *,
    name: str,
    threshold: float,
    separate: Separate | None,
    overlap: int = 1,
    agree: float = 0.0,
    min_area: int = 0,
    count: Count = uncounted,
) -> dict[str, object]:
    """Segment an image a band at a time and write its results tile by tile; memory does not grow with its height.

    What comes out is what the whole image would give: for objects that are connected pieces of the foreground exactly,
    for others where windows that share `overlap` rows agree about them.

    Args:
        predictor: of two-dimensional images.
        open_rows: gives the image from its first row on; called three times.
        paths: of the files to write, by room (`outputs.LABELS` ...), the label image among them.
        name: of the image, for the tables.
        threshold: probability from which a pixel is foreground, for classes instead of objects.
        separate: values (h, W, V) of some rows -> ids (h, W), 0 is background; None for classes.
        overlap: rows that successive windows share, at least 1.
        agree: see `Stitcher`; 0 for connected pieces.
        min_area: in pixels, of what `separate` does not drop itself: it sees but a part of an object at a seam.
        count: counts the tiles.

    Returns:
        The image's row of summary.csv.

    Raises:
        ValueError: the file or its channels cannot be used; nothing is left under the final names.
    """
    labels = paths[outputs.LABELS]
    labels.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        rows, again, third = (stack.enter_context(open_rows()) for _ in range(3))

        def new_stash() -> Stash:
            return Stash(stack.enter_context(TemporaryFile(dir=labels.parent)))

        prepared = PreparedRows(rows, predictor)
        bands = windows(predictor.bands([prepared], count=count), before=(overlap + 1) // 2, after=overlap // 2)
        kept = _Maps(predictor, paths, new_stash)
        if separate is None:
            found = _classes(predictor, kept.keep(bands), new_stash(), threshold)
        else:
            stitcher = Stitcher(separate, agree=agree, min_area=min_area)
            found = _objects(predictor, kept.keep(bands), again, new_stash(), stitcher)
        kept.write(prepared.shape[:2])
        if outputs.OVERLAYS in paths:
            drawn = _drawn(found.labels(), third, prepared.sample, predictor)
            outputs.write_overlay_rows(paths[outputs.OVERLAYS], drawn, prepared.shape[:2])
        _write_objects(found, paths, name, prepared.shape[1], kind=predictor.object_name)
        outputs.write_label_rows(labels, found.labels(), prepared.shape[:2], found.largest)
    objects = "" if found.sums is None else found.largest
    return outputs.summary_row(name, prepared.shape[:2], objects, found.covered)


class _Found(NamedTuple):
    """Label image in bands, which `labels()` gives from the first on; sums over objects, None for classes."""

    labels: Callable[[], Iterator[np.ndarray]]
    largest: int
    covered: int
    sums: Sums | None = None


def _objects(
    predictor: Predictor, bands: Iterable[Window], image: HeldRows, stash: Stash, stitcher: Stitcher
) -> _Found:
    """Objects of windows, numbered through the whole image and measured."""
    parts = list[Sums]()
    for window in bands:
        label, count, given = stitcher.add(window._replace(values=predictor.values(window.values)))
        stash.append(np.where(label > 0, label + np.int32(given), 0).astype(np.int32))
        probability = foreground(predictor.probabilities(own(window)))
        parts.append(measure(label, image[window.start : window.stop], probability, top=window.start, count=count))
    ids, count = stitcher.resolve(np.concatenate([part.area for part in parts]))
    sums = merge(parts, ids[1:].astype(np.int64), count)
    return _Found(lambda: (ids[label] for label in stash), count, int(sums.area.sum()), sums)


def _classes(predictor: Predictor, bands: Iterable[Window], stash: Stash, threshold: float) -> _Found:
    """The class of every pixel."""
    covered = 0
    for window in bands:
        classes = class_map(predictor.probabilities(own(window)), threshold)
        covered += int(np.count_nonzero(classes))
        stash.append(classes)
    return _Found(lambda: iter(stash), 1, covered)


class _Maps:
    """Probabilities, and their spread, put by on their way to the objects where they are to be written."""

    def __init__(self, predictor: Predictor, paths: Mapping[str, Path], new_stash: Callable[[], Stash]):
        self._predictor, self._paths, self._new_stash = predictor, paths, new_stash
        self._kept: dict[str, list[Stash]] = {}

    def keep(self, bands: Iterable[Window]) -> Iterator[Window]:
        """The windows themselves."""
        for window in bands:
            values = own(window)
            maps = {outputs.PROBABILITIES: self._predictor.probabilities(values), outputs.SPREAD: values[..., -1:]}
            for room in maps.keys() & self._paths.keys():
                stashes = self._kept.setdefault(room, [self._new_stash() for _ in range(maps[room].shape[-1])])
                for number, stash in enumerate(stashes):
                    stash.append(maps[room][..., number])
            yield window

    def write(self, shape: tuple[int, int]) -> None:
        """Write all that was kept."""
        for room, stashes in self._kept.items():
            outputs.write_probability_rows(self._paths[room], stashes, shape)


def _drawn(
    labels: Iterable[np.ndarray], image: HeldRows, sample: np.ndarray, predictor: Predictor
) -> Iterator[UInt8[np.ndarray, "n w 3"]]:
    """The image with outlines, in bands."""
    start = 0

    def as_bands() -> Iterator[Band]:
        nonlocal start
        for label in labels:
            yield Band(0, image.shape[:2], start, start + len(label), label)
            start += len(label)

    for window in windows(as_bands(), before=OUTLINE_REACH, after=OUTLINE_REACH):
        picture = for_display(predictor.match_channels(image[window.low : window.high]), sample)
        yield own(window._replace(values=overlay(picture, window.values, PREDICTION)))


def _write_objects(found: _Found, paths: Mapping[str, Path], name: str, width: int, *, kind: str) -> None:
    if found.sums is None:
        return
    columns = table(found.sums)
    if outputs.POLYGONS in paths:
        outlines = _outlines(found.labels(), found.sums, width)
        outputs.write_polygons(paths[outputs.POLYGONS], outlines, columns, name=kind)
    if outputs.OBJECTS in paths:
        outputs.write_objects(paths[outputs.OBJECTS], name, columns)


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
