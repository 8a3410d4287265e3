"""Minutes until the validation Dice first reaches a score, here and in PyTorch. The method: benchmarks/README.md.

python -m benchmarks.time_to_score --data FOLDER --score 0.90 [--peer-python PYTHON]
"""

import contextlib
import dataclasses
import datetime
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks import timing
from benchmarks.peer import PyTorch
from benchmarks.race import Stream
from benchmarks.throughput import check_platform, same, usable_cores
from benchmarks.work import CLASSES
from unet_jax import startup
from unet_jax.logs import duration, write_json

# Nothing here imports jax at the top: startup.prepare() must come first.


@dataclasses.dataclass(frozen=True)
class Config:
    """What to learn, until when, against whom."""

    data: str
    """A folder of images/ and labels/ (or masks/), synthetic, dsb2018, or a stage1_train.zip."""
    score: float = 0.90
    """Pooled Dice of the validation images at which the clock stops."""
    width: int = 16
    """Filters of the first level; four down-samplings."""
    norm: Literal["batch", "group", "none"] = "group"
    """Normalisation of both networks; group is what train_cells takes."""
    batch: int = 8
    """Images a step."""
    patch: int = 256
    """Side of the training crop in pixels."""
    epochs: int = 20
    """Passes over the training images at most; the learning rate falls to zero at their end (cosine)."""
    every: int = 25
    """Steps between two validations."""
    learning_rate: float = 2e-3
    """Adam's step size at its highest."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Our arithmetic; None: whichever trains faster here, in a trial of ten steps that is not counted."""
    peer: Literal["pytorch", "none"] = "pytorch"
    """Whom to race."""
    peer_dtype: Literal["float32", "bfloat16"] | None = None
    """PyTorch's arithmetic (bfloat16: autocast); None: whichever trains faster here."""
    peer_python: str = sys.executable
    """A Python that has PyTorch and numpy."""
    scratch: Path | None = None
    """Where the batches are kept during the run, about 2 MiB a step; a temporary folder when not given."""
    json: Path | None = None
    """File for the figures."""


TRIAL = 10  # steps, of which the first half warms up
DTYPES = ("float32", "bfloat16")


class Theirs:
    """PyTorch at the other end of a pipe, from our weights."""

    def __init__(self, process: PyTorch, config: Config, folder: Path, *, gpu: bool):
        self.process, self.name = process, process.name
        if gpu and not process.cuda:
            raise ValueError(f"{self.name} sees no GPU: install its CUDA build, pip install torch==2.13.0")
        self.options = {
            "widths": [config.width * 2**level for level in range(5)], "classes": CLASSES, "norm": config.norm,
            "stream": str(folder), "weights": str(folder / "weights.npz"),
            "device": "cuda" if gpu else "cpu", "threads": usable_cores(),
        }  # fmt: skip

    def setup(self, dtype: str) -> None:
        """Fresh weights, ours."""
        self.process.ask("setup", dtype=dtype, **self.options)

    def losses(self, steps: int) -> dict[str, Any]:
        """The losses of the first steps, and the median seconds of a step in their second half."""
        return self.process.ask("losses", steps=steps)

    def race(self, **limits: Any) -> list[dict[str, Any]]:
        """Rows of `race.race`."""
        return self.process.ask("race", **limits)["rows"]


def main(config: Config) -> int:
    """Write the stream, race, print; 0 when every side reached the score, 1 otherwise."""
    busy = timing.busy_share()
    if busy is not None and busy > 0.1:
        print(f"WARNING: other programs use {busy:.0%} of this machine: the figures will be wrong", file=sys.stderr)
    with contextlib.ExitStack() as stack:
        process = None
        if config.peer == "pytorch":
            process = stack.enter_context(PyTorch(config.peer_python, "peer_score.py"))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stream_", dir=config.scratch)))
        from benchmarks import score_ours

        platform, record = check_platform(config), header(config)
        print(f"width {config.width}, batch {config.batch} of {config.patch}², {record['device']}, {record['date']}")
        began = time.perf_counter()
        steps = score_ours.write_stream(folder, config)
        print(f"{steps} batches augmented and written for both in {duration(time.perf_counter() - began)}")
        mine = score_ours.Ours(config, Stream(folder))
        sides, dtypes = [mine], [config.dtype]
        if process is not None:
            mine.setup("float32")
            np.savez(folder / "weights.npz", **mine.weights())
            sides.append(Theirs(process, config, folder, gpu=platform == "gpu"))
            dtypes.append(config.peer_dtype)
        trials = [trial(side, dtype, min(TRIAL, steps)) for side, dtype in zip(sides, dtypes, strict=True)]
        check_same(trials)
        record["sides"] = [timed(side, runs, config, steps) for side, runs in zip(sides, trials, strict=True)]
    if config.json is not None:
        write_json(config.json, record)
    return conclude(record["sides"], config.score)


def header(config: Config) -> dict[str, Any]:
    """What is raced, where, when, and with which code."""
    import jax

    from unet_jax import parallel
    from unet_jax.checkpoint import provenance

    today = datetime.date.today().isoformat()
    what = {"config": config, "device": parallel.device_name(), "jax": jax.__version__, "date": today}
    return what | provenance()


def trial(side: Any, dtype: str | None, steps: int) -> dict[str, dict[str, Any]]:
    """Losses and seconds of the first `steps` in `dtype`, or in every dtype when None."""
    runs = {}
    for name in (dtype,) if dtype else DTYPES:
        side.setup(name)
        runs[name] = side.losses(steps)
        print(f"{side.name} {name}: {timing.number(runs[name]['seconds'])} s a step in a trial", flush=True)
    return runs


def check_same(trials: list[dict[str, dict[str, Any]]]) -> None:
    """The first two losses of both sides agree, as exactly as a dtype that both have tried allows."""
    common = [dtype for dtype in DTYPES if all(dtype in runs for runs in trials)]
    if len(trials) == 2:
        pair = [runs[common[0]] if common else next(iter(runs.values())) for runs in trials]
        tolerance = 1e-3 if common[:1] == ["float32"] else 2e-2
        same("the first losses", pair[0]["losses"][:2], pair[1]["losses"][:2], tolerance)


def timed(side: Any, runs: dict[str, dict[str, Any]], config: Config, steps: int) -> dict[str, Any]:
    """Race in the dtype that was fastest in the trial, from the start."""
    dtype = min(runs, key=lambda name: runs[name]["seconds"])
    side.setup(dtype)
    rows = side.race(steps=steps, every=config.every, score=config.score)
    best = max(rows, key=lambda row: row["dice"])
    reached = rows[-1]["seconds"] if rows[-1]["dice"] >= config.score else None
    words = duration(reached) if reached else f"not reached, best {best['dice']:.4f}"
    print(f"{side.name} {dtype}: Dice {config.score} after {rows[-1]['step']} steps: {words}", flush=True)
    return {"name": side.name, "dtype": dtype, "reached_seconds": reached, "rows": rows, "trials": runs}


def conclude(sides: list[dict[str, Any]], score: float) -> int:
    """Print the ratio of the two times; 1 when a side did not reach the score."""
    seconds = [side["reached_seconds"] for side in sides]
    if None in seconds:
        print(f"no ratio: raise --epochs, or lower --score {score}", file=sys.stderr)
        return 1
    if len(seconds) == 2:
        print(f"PyTorch's time over ours: {seconds[1] / seconds[0]:.2f}")
    return 0


if __name__ == "__main__":
    startup.prepare()
    os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")  # a first start, compilation and all
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leave a GPU's memory to the peer
    startup.run(main, Config, description=__doc__)
