"""What the training and the inference step cost on a TPU, counted by its real compiler; no TPU is needed.

    python -m benchmarks.compiled [--topology v5e:2x2] [--width 64] [--size 256] [--batch-per-chip 8]

Prints operations, bytes moved, temporaries and collectives of one step and chip, for this library and for plain flax.
Needs `pip install libtpu` on an x86 Linux machine. The counts are exact and repeatable; nothing is run.
"""

import dataclasses
import time
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from benchmarks import ours
from benchmarks.plain_flax import PlainUNet
from benchmarks.work import CHANNELS, CLASSES, Work
from unet_jax import parallel, startup, training
from unet_jax.dry_run import analyse, tpu_devices
from unet_jax.logs import write_json


@dataclasses.dataclass(frozen=True)
class Config:
    """Which network to compile, for which TPU."""

    topology: str = "v5e:2x2"
    """Kind and shape of the slice: v5e:2x2, v5e:16x16, v4:2x2x2, v5p:4x4x4, v6e:4x4."""
    width: int = 64
    """Filters of the first level."""
    depth: int = 4
    """Down-samplings."""
    size: int = 256
    """Pixels along each side of an image."""
    batch_per_chip: int = 8
    """Images a chip and step."""
    rank: Literal[2, 3] = 2
    """Spatial axes."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Arithmetic of the network."""
    json: Path | None = None
    """File for the figures."""


def steps(model: nn.Module, work: Work, mesh: Mesh) -> dict[str, Any]:
    """The training and the inference step of `model`, lowered for `mesh` from shapes alone."""
    space = (work.batch, *work.shape)
    batch = {
        "image": jax.ShapeDtypeStruct((*space, CHANNELS), np.uint8),
        "label": jax.ShapeDtypeStruct(space, np.int32),
        "mask": jax.ShapeDtypeStruct(space, np.bool_),
    }
    state = jax.eval_shape(lambda: training.init_state(model, ours.adam(), (*work.shape, CHANNELS), seed=0))
    everywhere, split = parallel.replicated(mesh), parallel.split(mesh)
    train = jax.jit(
        ours.train_step(model), donate_argnums=0, in_shardings=(everywhere, split), out_shardings=everywhere
    )
    infer = jax.jit(ours.infer_step(model), in_shardings=(everywhere, split), out_shardings=split)
    return {"train": train.lower(state, batch), "infer": infer.lower(state, batch)}


def main(config: Config) -> int:
    """Compile, print, and write the figures."""
    mesh = Mesh(np.array(tpu_devices(config.topology)), ("data",))
    work = Work(config.width, config.depth, config.batch_per_chip * mesh.size, config.size, config.rank, config.dtype)
    plain = PlainUNet(work.widths, CLASSES, work.dtype)
    print(
        f"{config.topology}, {mesh.size} chips, {config.batch_per_chip} images of {'×'.join(map(str, work.shape))} "
        f"a chip, width {config.width}, {config.dtype}; one step and chip:"
    )
    print(f"{'':22}{'TFLOP':>8}{'GB moved':>10}{'GiB temporary':>15}{'compiled in':>13}  collectives")
    record: dict[str, Any] = {"config": dataclasses.asdict(config), "jax": jax.__version__, "steps": []}
    for name, model in {"unet_jax": ours.network(work), "plain flax": plain}.items():
        for what, lowered in steps(model, work, mesh).items():
            began = time.perf_counter()
            row = analyse(lowered.compile())
            seconds = time.perf_counter() - began
            record["steps"].append({"name": name, "what": what, **row})
            collectives = ", ".join(f"{n} {kind}" for kind, n in row["collectives"].items()) or "none"
            print(
                f"{name:14}{what:8}{row['flop'] / 1e12:>8.3g}{row['bytes_moved'] / 1e9:>10.2f}"
                f"{row['temporary_bytes'] / 2**30:>15.2f}{seconds:>11.0f} s  {collectives}",
                flush=True,
            )
    if config.json is not None:
        write_json(config.json, record)
    return 0


if __name__ == "__main__":
    startup.run(main, Config, description=__doc__)
