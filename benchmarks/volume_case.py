"""Seconds and peak memory of labelling one MRI case as scanners give it: 240×240×155 voxels, four modalities.

python -m benchmarks.volume_case [--preset full] [--shape 240 240 155] [--overlap 0.5] [--batch 2]

The head is made up and the parameters are random: neither changes the time. The case is read from its NIfTI file,
normalised, cut to the head, predicted in overlapping tiles and turned back. The operations tell what a faster device
would need, where it is as well used as --tflops says.
"""

from unet_jax import startup

if __name__ == "__main__":
    startup.prepare()

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from experiments.brain_config import PRESETS
from unet_jax import memory, parallel
from unet_jax.data import normalisation
from unet_jax.data.tiles import tiles
from unet_jax.data.volume_folders import MODALITIES, TUMOUR, TUMOUR_REGIONS, find_cases
from unet_jax.data.volumes import BRAIN, prepare, read_image
from unet_jax.logs import write_json
from unet_jax.models import UNet, to_spec
from unet_jax.models.cost import count_flop
from unet_jax.prediction import Predictor
from unet_jax.sliding import margins
from unet_jax.volume_planning import plan_volumes
from unet_jax.volume_prediction import VolumePredictor

WRITE = "import sys; from unet_jax.data.phantom import write_phantoms; write_phantoms(sys.argv[1], 1, shape={shape})"


@dataclasses.dataclass(frozen=True)
class Config:
    """Which network, on which case."""

    preset: Literal["small", "full"] = "small"
    """Filters and patch of this preset of train_brain_tumour."""
    shape: tuple[int, int, int] = (240, 240, 155)
    """Voxels of the case, of a millimetre each."""
    overlap: float = 0.5
    """Share of a tile that its neighbour covers too."""
    batch: int = 2
    """Tiles a step."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the network on an accelerator."""
    tflops: float = 50.0
    """Operations a second, in 10¹², that the device of the estimate sustains."""
    json: Path | None = None
    """File for the figures."""


def make_predictor(config: Config) -> VolumePredictor:
    """A network of random parameters, with the card that a training would write."""
    preset = PRESETS[config.preset]
    widths = preset["widths"]
    plan = plan_volumes(preset["patch"], (1.0, 1.0, 1.0), depth=len(widths) - 1, most=preset["patch"])
    model = UNet(widths, len(TUMOUR_REGIONS), "group", dtype=config.dtype, strides=plan.strides)
    image = jnp.zeros((1, *plan.patch, len(MODALITIES)))
    variables = jax.jit(lambda: model.init(jax.random.key(0), image))()
    card: dict[str, Any] = {
        "model": to_spec(model), "channels": len(MODALITIES), "modalities": MODALITIES, "classes": TUMOUR,
        "normalisation": normalisation.to_spec(BRAIN), "outputs": "regions", "regions": TUMOUR_REGIONS,
        "patch": plan.patch, "spacing": None,
    }  # fmt: skip
    return VolumePredictor(Predictor(variables, card, batch=config.batch), config.overlap)


def measure(config: Config) -> dict[str, Any]:
    """Seconds of reading, of a first case (which compiles) and of a second; peak bytes; operations of a case."""
    predictor = make_predictor(config)
    with tempfile.TemporaryDirectory() as folder:
        # in a process of its own, whose memory is not this one's
        subprocess.run(
            [sys.executable, "-c", WRITE.format(shape=config.shape), folder], check=True,
            cwd=Path(__file__).parents[1], env=os.environ,
        )  # fmt: skip
        began = time.perf_counter()
        image, grid = read_image(find_cases(folder).cases[0], MODALITIES)
        seconds = [time.perf_counter() - began]
    seen, _ = prepare(image, grid)
    patch = predictor.predictor.output_size
    room = [max(n, p) for n, p in zip(seen.shape[:-1], patch, strict=True)]
    count = len(tiles(room, patch=patch, margin=margins(patch, config.overlap)))
    del seen
    for _ in range(2):
        began = time.perf_counter()
        predictor(image, grid)
        seconds.append(time.perf_counter() - began)
    flop = count * count_flop(predictor.predictor.model, (*patch, len(MODALITIES)))
    names = ("reading_seconds", "first_seconds", "seconds")
    return dict(zip(names, seconds, strict=True)) | {
        "tiles": count, "tflop": flop / 1e12, "estimate_seconds": flop / config.tflops / 1e12,
        "peak_bytes": memory.peak_bytes(), "device": parallel.device_name(),
    }  # fmt: skip


def main(config: Config) -> int:
    """Measure, print, and write the figures where asked to."""
    found = measure(config)
    print(
        f"{'×'.join(map(str, config.shape))}, preset {config.preset}, on {found['device']}: {found['seconds']:.1f} s a "
        f"case of {found['tiles']} tiles (the first {found['first_seconds']:.1f} s; reading "
        f"{found['reading_seconds']:.1f} s), peak memory {memory.size(found['peak_bytes'] or 0)}\n"
        f"{found['tflop']:.1f} TFLOP a case: {found['estimate_seconds']:.2f} s where {config.tflops:g} TFLOP/s are "
        "sustained (an estimate)"
    )
    if config.json:
        write_json(config.json, {**dataclasses.asdict(config), "json": str(config.json), **found})
    return 0


if __name__ == "__main__":
    startup.run(main, Config, description=__doc__)
