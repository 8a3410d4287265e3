"""Files in, files out (`predict_files`) against the forward pass that it runs, on real images of one tile each."""

import shutil
import tempfile
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np

from unet_jax import parallel
from unet_jax.data.images import read_image
from unet_jax.inputs import Input, find_inputs
from unet_jax.predict_files import predict_files
from unet_jax.prediction import Predictor
from unet_jax.results import Wanted
from unet_jax.views import activate, forward


def load(folder: Path, batch: int) -> Predictor:
    """The model, with the tile of its training."""
    return Predictor.load(folder, batch=batch)


def images_of_one_tile(data: Path, predictor: Predictor) -> list[Path]:
    """The images of a folder (or of its images/) that are exactly as large as the predictor's tile."""
    from PIL import Image

    folder, found = data / "images" if (data / "images").is_dir() else data, []
    for item in find_inputs([str(folder)]):
        with Image.open(item.path) as picture:
            if picture.size[::-1] == predictor.input_size:
                found.append(item.path)
    if len(found) < predictor.batch:
        size = "×".join(map(str, predictor.input_size))
        raise ValueError(f"{folder}: {len(found)} images of {size} pixels, which is no batch: name another --data")
    return found


class Files:
    """Labels, tables and outlines of images, from their files to files; a step is a batch of images."""

    name = "files in, files out"

    def __init__(self, predictor: Predictor, paths: list[Path]):
        self.predictor, self.paths = predictor, paths
        self.objects = 0

    def run(self, steps: int) -> float:
        """Seconds for so many batches, into an empty folder that is taken away afterwards."""
        count = steps * self.predictor.batch
        inputs = [Input(f"{i:06d}", self.paths[i % len(self.paths)]) for i in range(count)]
        folder = Path(tempfile.mkdtemp(prefix="unet_jax_files_"))
        began = time.perf_counter()
        report = predict_files(self.predictor, inputs, folder, Wanted())
        seconds = time.perf_counter() - began
        shutil.rmtree(folder)
        if len(report.done) != count:
            raise ValueError(f"{count - len(report.done)} of {count} images failed, the first: {report.failed[0]}")
        self.objects = sum(int(str(row["objects"])) for row in report.done)
        return seconds


class Forward:
    """Probabilities of one batch that stays on the devices, jitted and spread as the predictor does it."""

    name = "bare forward pass"

    def __init__(self, predictor: Predictor, paths: list[Path]):
        mesh = parallel.data_mesh(predictor.batch)
        batch = np.stack([predictor.prepare(read_image(path)) for path in paths[: predictor.batch]])
        self.batch = jax.device_put(batch, parallel.split(mesh))
        self.variables = jax.device_put(dict(predictor.variables), parallel.replicated(mesh))
        read = predictor.head.values if predictor.head else activate
        self.step = jax.jit(partial(forward, predictor.model, read))

    def run(self, steps: int) -> float:
        """Seconds of so many steps, one always under way."""
        began, pending = time.perf_counter(), None
        for _ in range(steps):
            result = self.step(self.variables, self.batch)
            if pending is not None:
                pending.block_until_ready()
            pending = result
        result.block_until_ready()
        return time.perf_counter() - began
