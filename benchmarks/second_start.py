"""Seconds from the start of Python to the end of the first training step: the first start, and a second of the same.

python -m benchmarks.second_start [--width 16] [--batch 8] [--size 256]
"""

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.work import Work
from unet_jax import startup
from unet_jax.logs import write_json

CHILD = """
from unet_jax import startup
startup.prepare()
from benchmarks import ours
from benchmarks.work import Work, host_batch
from unet_jax import augment
work = Work(**{fields})
ours.Train(work, host_batch(work), augment.strong()).run(1)
"""


@dataclasses.dataclass(frozen=True)
class Config(Work):
    """Which training to start."""

    width: int = 16
    """Filters of the first level."""
    batch: int = 8
    """Images a step."""
    json: Path | None = None
    """File for the figures."""


def start(work: Work, cache: Path) -> float:
    """Seconds of one start in a new process, whose compiled programs are kept in `cache`."""
    fields = {field.name: getattr(work, field.name) for field in dataclasses.fields(Work)}
    clean = {name: value for name, value in os.environ.items() if name != "JAX_ENABLE_COMPILATION_CACHE"}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(fields=fields)], cwd=Path(__file__).parents[1], check=False,
        env=clean | {"JAX_COMPILATION_CACHE_DIR": str(cache)}, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise OSError(f"the run of {work} ended with code {done.returncode}: {done.stderr.strip()[-500:]}")
    return time.perf_counter() - began


def measure(work: Work) -> dict[str, Any]:
    """Seconds of a first and a second start, with a cache that is empty before."""
    with tempfile.TemporaryDirectory() as cache:
        first, second = (start(work, Path(cache)) for _ in range(2))
    return {"first_seconds": first, "second_seconds": second, "ratio": second / first}


def main(config: Config) -> int:
    """Start twice, print, and write the figures."""
    record = measure(config)
    print(
        f"width {config.width}, batch {config.batch}: first step after {record['first_seconds']:.1f} s, "
        f"in a second start after {record['second_seconds']:.1f} s: {record['ratio']:.2f} of it"
    )
    if config.json is not None:
        write_json(config.json, {"config": config, **record})
    return 0


if __name__ == "__main__":
    startup.run(main, Config, description=__doc__)
