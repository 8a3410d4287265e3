"""Files in, files out: every image of a list through a predictor, its results under its own name in a folder."""

import dataclasses
import errno
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from unet_jax import outputs
from unet_jax.data.images import read_image
from unet_jax.data.rows import tiff_pixels
from unet_jax.inputs import Input
from unet_jax.prediction import Predictor
from unet_jax.results import Results, Wanted
from unet_jax.streaming import Progress, predict_stream, predict_stream_classes

STREAM_PIXELS = 2**25  # a TIFF above this is done in bands
_HELD_PIXELS = 2**25  # of results that wait to be written
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # no image after this one could be written either


@dataclasses.dataclass
class Report:
    """What became of the images: rows of summary.csv of those done, names kept, (path, reason) of those that failed."""

    done: list[dict[str, object]] = dataclasses.field(default_factory=list)
    kept: list[str] = dataclasses.field(default_factory=list)
    failed: list[tuple[Path, str]] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


def predict_files(
    predictor: Predictor,
    inputs: Sequence[Input],
    folder: Path,
    wanted: Wanted,
    *,
    threshold: float = 0.5,
    tick: Callable[[], Any] = lambda: None,
    progress: Progress = iter,
) -> Report:
    """Predict all images and write their results; an image that cannot be used stops none of the others.

    Files are read, and results written, by threads beside the network. TIFFs of more than `STREAM_PIXELS` are done in
    bands, last. What is in the folder is kept, unless it is to be overwritten.

    Args:
        predictor: of two-dimensional images.
        inputs: image files; see `inputs.find_inputs`.
        folder: of the results; see `results.Results`.
        wanted: what to write.
        threshold: probability from which a pixel is foreground.
        tick: called after every image.
        progress: wraps the bands of a large image.

    Raises:
        ValueError: the folder holds results that were made in another way.
        OSError: the results cannot be written (a full disk).
    """
    settings = {
        "model": predictor.fingerprint, "tile": predictor.input_size, "overlap": predictor.overlap,
        "tta": predictor.tta, "threshold": threshold, "instances": wanted.instances,
    }  # fmt: skip
    results, report = Results(folder, wanted, settings), Report()
    small, large = [], []
    for item in inputs:
        is_large = item.path.suffix.lower() in (".tif", ".tiff") and tiff_pixels(item.path) > STREAM_PIXELS
        if results.missing(item.name, large=is_large):
            (large if is_large else small).append(item)
        else:
            report.kept.append(item.name)
            tick()
    _predict_small(predictor, small, results, threshold, report, tick)
    for item in large:
        _predict_large(predictor, item, results, threshold, report, progress)
        tick()
    results.summarise(report.done)
    return report


def _predict_small(
    predictor: Predictor, items: Sequence[Input], results: Results, threshold: float, report: Report, tick: Callable
) -> None:
    """Whole images, their tiles packed into common batches; reading and writing go on meanwhile."""
    under_way: deque[tuple[Input, np.ndarray]] = deque()
    options = {
        "separate": partial(predictor.objects, threshold=threshold),
        "threshold": threshold,
        "kind": predictor.object_name,
    }

    def read(item: Input) -> tuple[np.ndarray, np.ndarray]:
        image = read_image(item.path)
        return image, predictor.prepare(image)

    def prepared() -> Iterator[np.ndarray]:
        for item, future in _ahead(read, items):
            try:
                image, ready = future.result()
            except (ValueError, OSError) as error:
                report.failed.append((item.path, str(error)))
                tick()
                continue
            under_way.append((item, image))
            yield ready

    jobs = ((*under_way.popleft(), prediction) for prediction in predictor.run(prepared()))
    written = _ahead(
        lambda job: results.write(job[0].name, job[1], job[2], **options),
        jobs,
        threads=4,  # which wait for the disk, mostly
        weight=lambda job: job[1].size,
    )
    for (item, _, _), future in written:
        try:
            report.done.append(future.result())
        except ValueError as error:
            report.failed.append((item.path, str(error)))
        tick()


def _ahead(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    *,
    threads: int = 1,
    weight: Callable[[Any], int] = lambda item: 0,
) -> Iterator[tuple[Any, Future]]:
    """Every item with its result under way, in order; threads are a few items ahead, and few heavy ones wait."""
    waiting: deque[tuple[Any, Future]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            while waiting and (len(waiting) > 4 * threads or sum(weight(held) for held, _ in waiting) > _HELD_PIXELS):
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()


def _predict_large(
    predictor: Predictor, item: Input, results: Results, threshold: float, report: Report, progress: Progress
) -> None:
    paths = results.paths(item.name, large=True)
    if left_out := results.paths(item.name).keys() - paths.keys():
        report.notes.append(f"{item.path}: too large for {', '.join(sorted(left_out))}, which were left out")
    options = {"name": item.name, "progress": progress}
    try:
        if results.wanted.instances:
            rooms = {"objects": paths[outputs.OBJECTS], "shapes": paths[outputs.POLYGONS]}
            options |= {"separate": partial(predictor.separate, threshold=threshold), **rooms, **predictor.stitching}
            row = predict_stream(predictor, item.path, paths[outputs.LABELS], **options)
        else:
            row = predict_stream_classes(predictor, item.path, paths[outputs.LABELS], threshold=threshold, **options)
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno in _FULL:
            raise
        report.failed.append((item.path, str(error)))
    else:
        report.done.append(row)
