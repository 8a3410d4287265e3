"""Files in, files out: every image of a list through a predictor, its results under its own name in a folder."""

import contextlib
import dataclasses
import errno
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from unet_jax.attention import AttentionMaps, draw_attention
from unet_jax.blending import Count, uncounted
from unet_jax.data.normalisation import Percentiles
from unet_jax.data.stored import is_nifti
from unet_jax.inputs import Input, Reader
from unet_jax.prediction import Predictor
from unet_jax.probabilities import Prediction
from unet_jax.results import Form, Results, Wanted
from unet_jax.streaming import predict_stream

STREAM_PIXELS = 2**25  # an image above this is done in bands
_HELD_PIXELS = 2**25  # of results that wait to be written
_UNUSABLE = (ValueError, OSError, MemoryError, jax.errors.JaxRuntimeError)  # what one image may raise
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # no image after this one could be written either


@dataclasses.dataclass
class Report:
    """What became of the images: rows of summary.csv of those done, names kept, (path, reason) of those that failed."""

    done: list[dict[str, object]] = dataclasses.field(default_factory=list)
    kept: list[str] = dataclasses.field(default_factory=list)
    failed: list[tuple[Path, str]] = dataclasses.field(default_factory=list)


def predict_files(
    predictor: Predictor,
    inputs: Sequence[Input],
    folder: Path,
    wanted: Wanted,
    *,
    threshold: float = 0.5,
    images: Count = uncounted,
    tiles: Count = uncounted,
) -> Report:
    """Predict all images and write their results; an image that cannot be used stops none of the others.

    Files are read, and results written, by threads beside the network. Images of more than `STREAM_PIXELS` are done in
    bands, last, if their grey levels are stretched by percentiles, which need not see them whole. What is in the folder
    is kept, unless it is to be overwritten.

    Args:
        predictor: of images, or of volumes.
        inputs: image files; see `inputs.find_inputs`. Every page of a stack is an image of its own.
        folder: of the results; see `results.Results`.
        wanted: what to write.
        threshold: probability from which a pixel is foreground.
        images: told how many images (pages) there are, and of every one that is done.
        tiles: the same for the network's tiles.

    Raises:
        ValueError: the folder holds results that were made in another way, the model takes scans of several files, or
            has no attention maps to draw.
        OSError: the results cannot be written (a full disk).
    """
    if predictor.card.get("modalities"):  # their scans may come in several files, and need one spacing of voxels
        raise ValueError("this model was trained on scans of named modalities: use unet-jax predict-volumes")
    settings = {
        "model": predictor.fingerprint, "tile": predictor.input_size, "overlap": predictor.overlap,
        "tta": predictor.tta, "threshold": threshold, "instances": wanted.instances,
        "separation": predictor.separation, "zoom": predictor.zoom,
    }  # fmt: skip
    maps = AttentionMaps(predictor) if wanted.attention else None
    run = _Run(predictor, Results(folder, wanted, settings), threshold, Report(), images, tiles, maps)
    with Reader(len(predictor.input_size)) as reader:
        small, large = run.choose(inputs, reader)
        run.predict_small(small, reader)
        for item in large:
            run.predict_large(item, reader)
    run.results.summarise(run.report.done)
    return run.report


@dataclasses.dataclass(frozen=True)
class _Run:
    """What all images of a run share."""

    predictor: Predictor
    results: Results
    threshold: float
    report: Report
    images: Count
    tiles: Count
    maps: AttentionMaps | None

    def fail(self, item: Input, error: Exception) -> None:
        """Remember what became of an image; a full disk is no matter of one image."""
        if isinstance(error, OSError) and error.errno in _FULL:
            raise error
        self.report.failed.append((item.path, str(error) or type(error).__name__))
        self.images(1, 0)

    def choose(self, inputs: Sequence[Input], reader: Reader) -> tuple[list[Input], list[Input]]:
        """The images to predict whole and those to predict in bands, less those whose results are there."""
        small, large, names = [], [], dict[str, Path]()
        in_bands = isinstance(self.predictor.normalisation, Percentiles)
        for file in inputs:
            try:
                found = reader.images(file)
            except _UNUSABLE as error:
                self.images(0, 1)
                self.fail(file, error)
                continue
            self.images(0, len(found))
            for item in found:
                zoom, pixels = self.predictor.zoom, reader.pixels(item)
                is_large = in_bands and zoom == 1 and pixels > STREAM_PIXELS
                if names.setdefault(item.name, item.path) != item.path:
                    self.fail(item, ValueError(f"its results would be those of {names[item.name]}: rename one"))
                elif zoom != 1 and pixels * zoom**2 > STREAM_PIXELS:
                    most = f"{STREAM_PIXELS / zoom**2 / 1e6:.1f} megapixels"
                    self.fail(
                        item, ValueError(f"--zoom {zoom:g} serves images of up to {most}: cut it, or scale the file")
                    )
                elif self.results.missing(item.name, self.form(item, large=is_large)):
                    (large if is_large else small).append(item)
                else:
                    self.report.kept.append(item.name)
                    self.images(1, 0)
        return small, large

    def form(self, item: Input, *, large: bool = False) -> Form:
        """How the results of an image are stored."""
        if len(self.predictor.input_size) == 3:
            return "nifti" if is_nifti(item.path) else "volume"
        return "large" if large else "image"

    def predict_small(self, items: Sequence[Input], reader: Reader) -> None:
        """Whole images, their tiles packed into common batches; reading and writing go on meanwhile."""
        under_way: deque[tuple[Input, np.ndarray, Any]] = deque()

        def read(item: Input) -> tuple[np.ndarray, np.ndarray, Any]:
            image = reader.read(item)
            return image, self.predictor.prepare(image), reader.grid(item)

        def prepared() -> Iterator[np.ndarray]:
            for item, future in _ahead(read, items):
                try:
                    image, ready, grid = future.result()
                except _UNUSABLE as error:
                    self.fail(item, error)
                    continue
                under_way.append((item, image, grid))
                yield ready

        predictions = self.predictor.run(prepared(), count=self.tiles)
        jobs = ((*under_way.popleft(), prediction) for prediction in predictions)
        options = {"threads": 4, "weight": lambda job: job[1].size}  # the threads wait for the disk, mostly
        with contextlib.closing(_ahead(self.write, jobs, **options)) as written:  # closed: no thread writes on
            for (item, *_), future in written:
                try:
                    self.report.done.append(future.result())
                except _UNUSABLE as error:
                    if isinstance(error, OSError) and error.errno != errno.ENAMETOOLONG:
                        raise
                    self.fail(item, error)
                else:
                    self.images(1, 0)

    def write(self, job: tuple[Input, np.ndarray, Any, Prediction]) -> dict[str, object]:
        """Write the results of an image that was predicted whole."""
        item, image, grid, prediction = job
        options = {"separate": partial(self.predictor.objects, threshold=self.threshold), "threshold": self.threshold}
        options |= {"kind": self.predictor.object_name, "grid": grid, "draw_attention": self.draw_attention}
        return self.results.write(item.name, image, prediction, **options)

    def draw_attention(self, *, path: Path, image: np.ndarray, title: str) -> None:
        """The picture of the network's gates, which see the image once more for it."""
        draw_attention(image, self.maps(image), path, title=title)

    def predict_large(self, item: Input, reader: Reader) -> None:
        """An image in bands."""
        stitching = self.predictor.stitching
        small = {"min_area": 0} if "min_area" in stitching else {}
        separate = partial(self.predictor.separate, threshold=self.threshold, **small)
        try:
            row = predict_stream(
                self.predictor,
                lambda: reader.rows(item),
                self.results.paths(item.name, "large"),
                name=item.name,
                threshold=self.threshold,
                separate=separate if self.results.wanted.instances else None,
                count=self.tiles,
                **stitching,
            )
        except _UNUSABLE as error:
            self.fail(item, error)
        else:
            self.results.clear(item.name, "large")
            self.report.done.append(row)
            self.images(1, 0)


def _ahead(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    *,
    threads: int = 1,
    weight: Callable[[Any], int] = lambda item: 0,
) -> Generator[tuple[Any, Future], None, None]:
    """Every item with its result under way, in order; threads are a few items ahead, and few heavy ones wait."""
    waiting: deque[tuple[Any, Future]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            while waiting and (len(waiting) > 4 * threads or sum(weight(held) for held, _ in waiting) > _HELD_PIXELS):
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
