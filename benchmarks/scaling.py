"""How the cost of a training step grows: with devices, batch, size, width and depth. Every run is a new process."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import timing
from benchmarks.work import Work

DEVICES = (1, 2, 4, 8)


def cases(work: Work) -> list[tuple[str, int, Work]]:
    """What varies, its value, and the work then; one quantity at a time, the others as in `work`."""
    out = [("devices", n, dataclasses.replace(work, batch=max(work.batch, DEVICES[-1]))) for n in DEVICES]
    values = {
        "batch": {max(work.batch // 2, 1), work.batch, 2 * work.batch},
        "size": {max(work.size // 2, 2**work.depth), work.size, 2 * work.size},
        "width": {max(work.width // 2, 1), work.width, 2 * work.width},
        "depth": {max(work.depth - 2, 0), max(work.depth - 1, 0), work.depth},
    }
    for name, several in values.items():
        out += [(name, value, dataclasses.replace(work, **{name: value})) for value in sorted(several)]
    return out


def with_devices(count: int) -> dict[str, str]:
    """This environment with so many CPU devices."""
    flags = re.sub(r"--xla_force_host_platform_device_count=\S*", "", os.environ.get("XLA_FLAGS", ""))
    flags = f"{flags} --xla_force_host_platform_device_count={count}".strip()
    return {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def measure(work: Work, *, pairs: int, seconds: float, environment: dict[str, str]) -> dict[str, Any]:
    """The record of one `benchmarks.throughput --what train --peer none`, in its own process."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "record.json"
        options = {**dataclasses.asdict(work), "pairs": pairs, "seconds": seconds, "json": file}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.throughput", "--what", "train", "--peer", "none", *words],
            cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise OSError(f"the run of {work} ended with code {done.returncode}: {done.stderr.strip()[-500:]}")
        return json.loads(file.read_text())


def sweep(config: Any) -> dict[str, Any]:
    """Measure every case of a `throughput.Config`, and print a line as soon as one is done."""
    work = Work(**{field.name: getattr(config, field.name) for field in dataclasses.fields(Work)})
    print(f"{'':16}{'ms/step':>10}{'images/s':>10}{'GFLOP/step':>12}{'of product':>12}{'peak memory':>13}")
    rows = []
    for name, value, case in cases(work):
        environment = with_devices(value) if name == "devices" else dict(os.environ)
        record = measure(case, pairs=config.pairs, seconds=config.seconds, environment=environment)
        side = record["sides"][0]
        rows.append({"varied": name, "value": value, **record})
        peak = "–" if side["peak_bytes"] is None else f"{side['peak_bytes'] / 2**30:.2f} GiB"
        print(
            f"{name:8}{value:>8}{1000 * case.batch / side['images_per_second']['median']:>10.1f}"
            f"{timing.number(side['images_per_second']['median']):>10}{timing.number(record['flops'] / 1e9):>12}"
            f"{side['share_of_ceiling']:>12.0%}{peak:>13}",
            flush=True,
        )
    return {"what": "scaling", "rows": rows}
