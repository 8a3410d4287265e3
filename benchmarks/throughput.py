"""Time this library and PyTorch at the same work, turn about, in one run. The method stands in benchmarks/README.md.

python -m benchmarks.throughput                                    # training, width 64, batch 4, against PyTorch
python -m benchmarks.throughput --what infer --width 16 --batch 8
python -m benchmarks.throughput --peer-dtype bfloat16              # ours as it is, theirs in its autocast
python -m benchmarks.throughput --what pipeline                    # the training loop against the bare step
python -m benchmarks.throughput --what scaling --width 16          # devices, batch, size, width, depth
python -m benchmarks.throughput --what predict --batch 8 --model WORKDIR --data FOLDER   # files against forward pass
"""

import contextlib
import dataclasses
import datetime
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks import timing
from benchmarks.peer import PyTorch
from benchmarks.work import Work, flops, host_batch
from unet_jax import startup
from unet_jax.logs import write_json

# Nothing here imports jax at the top: startup.prepare() must come first, so `ours` is imported where it is used.

WARM_UP = 10  # steps of each side before its first turn: on a CPU the heap finds its size in them


@dataclasses.dataclass(frozen=True)
class Config(Work):
    """What to time, how large, against whom."""

    what: Literal["train", "infer", "pipeline", "scaling", "predict"] = "train"
    """train, infer: one step; pipeline: the training loop against its step; scaling: how the cost grows; predict: files
    in, files out against the forward pass."""
    peer: Literal["pytorch", "none"] = "pytorch"
    """Whom to time against, in train and infer."""
    peer_dtype: Literal["float32", "bfloat16"] | None = None
    """Arithmetic of the peer; None: the same as ours."""
    peer_python: str = sys.executable
    """A Python that has PyTorch and numpy."""
    pairs: int = 5
    """Turns of each side."""
    seconds: float = 1.0
    """A turn lasts this long at least, and three steps at least."""
    model: Path | None = None
    """Of predict: the folder of a trained model, whose own width, depth and tile count."""
    data: Path | None = None
    """Of predict: a folder of images, of which those of the tile's size are used."""
    json: Path | None = None
    """File for the figures."""


def main(config: Config) -> int:
    """Time, print, and write the figures; 0 when done."""
    busy = timing.busy_share()
    if busy is not None and busy > 0.1:
        print(f"WARNING: other programs use {busy:.0%} of this machine: the figures will be wrong", file=sys.stderr)
    record = {"scaling": scale, "pipeline": pipeline, "predict": predict}.get(config.what, compare)(config)
    if config.json is not None:
        write_json(config.json, record | {"others_busy": busy})
    return 0


def scale(config: Config) -> dict[str, Any]:
    """How the cost of training grows."""
    from benchmarks import scaling

    return scaling.sweep(config)


def compare(config: Config) -> dict[str, Any]:
    """Train or infer, ours and (unless peer is none) theirs."""
    with contextlib.ExitStack() as stack:
        theirs = stack.enter_context(PyTorch(config.peer_python)) if config.peer == "pytorch" else None
        from benchmarks import ours

        platform = check_platform(config)
        batch, start = host_batch(config), timing.memory()
        mine = (ours.Infer if config.what == "infer" else ours.Train)(config, batch)
        sides, dtypes = [mine], [config.dtype]
        if theirs is not None:
            sides.append(theirs)
            dtypes.append(config.peer_dtype or config.dtype)
            params, one, gpu = mine.weights(), batch["image"][:1], platform == "gpu"
            theirs.setup(config, config.what, dtypes[1], gpu=gpu, threads=usable_cores(), params=params, batch=batch)
            same("logits", ours.exact_logits(config, params, one), theirs.exact_logits(one), 1e-4)
        first = [side.run(1) for side in sides]
        check_losses(sides, dtypes, "the first loss")
        for side in sides:
            side.run(1)
        check_losses(sides, dtypes, "the loss after an update")
        for side in sides:
            side.run(WARM_UP)
        rounds = timing.alternate([s.run for s in sides], pairs=config.pairs, seconds=config.seconds)
        memories = [memory_row(mine.device_peak(), start, timing.memory())]
        if theirs is not None:
            memories.append(memory_row(theirs.device_peak(), theirs.start_memory, theirs.memory()))
        ceilings = measure_ceilings(set(dtypes), theirs)  # last, for its matrices are large
    work, speeds, rows = flops(config, train=config.what == "train"), timing.rates(rounds, images=config.batch), []
    for side, dtype, speed, began, memory in zip(sides, dtypes, speeds, first, memories, strict=True):
        rate = work / config.batch * speed.median
        row = {"name": side.name, "dtype": dtype, "images_per_second": speed, "first_step_seconds": began}
        rows.append(row | {"flops_per_second": rate, "share_of_ceiling": rate / ceilings[dtype]} | memory)
    record = header(config) | {"flops": work, "ceilings": ceilings, "sides": rows, "seconds_a_step": rounds}
    if theirs is not None:
        record["ratio"] = timing.ratio(rounds)
    show(record)
    return record


def usable_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_platform(config: Config) -> str:
    """The platform jax runs on; ValueError where the peer could not do the same work on the same device."""
    import jax

    platform = jax.default_backend()
    if config.peer == "pytorch" and platform not in ("cpu", "gpu"):
        raise ValueError(f"PyTorch cannot be timed on a {platform}: add --peer none")
    if config.peer == "pytorch" and platform == "gpu" and jax.device_count() > 1:
        raise ValueError(f"{jax.device_count()} GPUs against one would be no comparison: set CUDA_VISIBLE_DEVICES=0")
    return platform


def same(name: str, ours: Any, theirs: Any, tolerance: float) -> None:
    """ArithmeticError when two results differ by more than `tolerance` of the larger one's magnitude."""
    scale = max(float(np.max(np.abs(ours))), float(np.max(np.abs(theirs))))
    apart = float(np.max(np.abs(np.asarray(ours) - np.asarray(theirs)))) / max(scale, 1e-30)
    if not apart <= tolerance:  # a NaN is not the same either
        raise ArithmeticError(f"{name} of the two differ by {apart:.1e} of their size, more than {tolerance:.0e}")


def check_losses(sides: list[Any], dtypes: list[str], name: str) -> None:
    """Both have learned the same from the same batch, as exactly as their arithmetic allows."""
    if len(sides) == 2 and sides[0].loss is not None:
        same(name, sides[0].loss, sides[1].loss, 1e-4 if set(dtypes) == {"float32"} else 5e-3)


def measure_ceilings(dtypes: set[str], theirs: PyTorch | None) -> dict[str, float]:
    """Operations a second of large matrix products in each dtype, in whichever library is faster."""
    from benchmarks import ours

    out = {}
    for dtype in sorted(dtypes):
        out[dtype] = timing.ceiling(ours.product(dtype))
        if theirs is not None:
            out[dtype] = max(out[dtype], timing.ceiling(lambda n, dtype=dtype: theirs.product(n, dtype)))
    return out


def memory_row(device: int | None, start: tuple[int, int] | None, end: tuple[int, int] | None) -> dict[str, Any]:
    """Peak bytes on an accelerator; on a CPU those of the process, and how far above its start they lie."""
    if device is not None or start is None or end is None:
        return {"peak_bytes": device, "peak_above_start_bytes": None}
    return {"peak_bytes": end[1], "peak_above_start_bytes": end[1] - start[0]}


def pipeline(config: Config) -> dict[str, Any]:
    """The training loop, data and all, against the step it runs and against the bare step."""
    if config.rank != 2:
        raise ValueError("--what pipeline feeds made-up images, which have two axes: leave out --rank 3")
    from benchmarks import ours

    return against_the_first(config, ours.pipeline_sides(config, host_batch(config)), "loop", least=10)


def predict(config: Config) -> dict[str, Any]:
    """Images a second of `predict_files`, from files to files, against the bare forward pass."""
    if config.model is None or config.data is None:
        raise ValueError("--what predict needs --model, the folder of a trained model, and --data, one of images")
    from benchmarks import files

    predictor = files.load(config.model, config.batch)
    paths = files.images_of_one_tile(config.data, predictor)
    widths = predictor.card["model"]["widths"]
    work = dataclasses.replace(config, width=widths[0], depth=len(widths) - 1, size=predictor.input_size[0])
    sides = [files.Files(predictor, paths), files.Forward(predictor, paths)]
    return against_the_first(work, {side.name: side for side in sides}, "files", least=3)


def against_the_first(
    config: Any, sides: Mapping[str, Any], first: str, *, least: int, images: int | None = None
) -> dict[str, Any]:
    """Time the sides turn about; print and return the speed of every one, and the first one's as a share of it.

    A step has `images` images, the batch when not given.
    """
    for side in sides.values():
        side.run(WARM_UP)
    runs = [side.run for side in sides.values()]
    rounds = timing.alternate(runs, pairs=config.pairs, seconds=config.seconds, least=least)
    speeds = timing.rates(rounds, images=images or config.batch)
    record = header(config) | {"seconds_a_step": rounds, "sides": []}
    print(title(record))
    print(f"{'':24}{'images/s':>24}{f'{first} against it':>26}")
    for i, (name, speed) in enumerate(zip(sides, speeds, strict=True)):
        against = timing.ratio(rounds, 0, i)
        record["sides"].append({"name": name, "images_per_second": speed, f"{first}_against_it": against})
        print(f"{name:24}{speed.text():>24}{against.text() if i else '':>26}")
    return record


def header(config: Any) -> dict[str, Any]:
    """What was timed, where, when, and with which code."""
    import jax

    from unet_jax.checkpoint import provenance

    device = jax.devices()[0]
    return {
        "what": config.what,
        "work": {field.name: getattr(config, field.name) for field in dataclasses.fields(Work)},
        "platform": device.platform,
        "device": f"{jax.device_count()} × {device.device_kind}",
        "jax": jax.__version__,
        "date": datetime.date.today().isoformat(),
        **provenance(),
    }


def title(record: Mapping[str, Any]) -> str:
    """One line that says what the table below it is about."""
    work = record["work"]
    size = "×".join([str(work["size"])] * work["rank"])
    return (
        f"{record['what']}, width {work['width']}, {work['depth']} levels, batch {work['batch']} of {size}×3, "
        f"{work['dtype']}; {record['device']}, jax {record['jax']}, {record['date']}, commit {record['commit'] or '?'}"
    )


def show(record: Mapping[str, Any]) -> None:
    """Print the table of a comparison."""
    ceilings = ", ".join(f"{timing.number(rate / 1e9)} GFLOP/s {dtype}" for dtype, rate in record["ceilings"].items())
    print(title(record))
    print(f"{timing.number(record['flops'] / 1e9)} GFLOP a step; matrix product: {ceilings}")
    print(
        f"{'':20}{'dtype':>9}{'images/s':>26}{'first step':>12}{'of product':>12}{'peak memory':>13}{'above start':>13}"
    )
    for row in record["sides"]:
        sizes = [row["peak_bytes"], row["peak_above_start_bytes"]]
        gigabytes = "".join(f"{'–' if n is None else f'{n / 2**30:.2f} GiB':>13}" for n in sizes)
        print(
            f"{row['name']:20}{row['dtype']:>9}{row['images_per_second'].text():>26}"
            f"{row['first_step_seconds']:>10.1f} s{row['share_of_ceiling']:>12.0%}{gigabytes}"
        )
    if "ratio" in record:
        print(f"ratio to PyTorch: {record['ratio'].text()}, {len(record['seconds_a_step'])} pairs")


if __name__ == "__main__":
    startup.prepare()
    os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")  # so that the first step holds a true compilation
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leave a GPU's memory to the peer
    startup.run(main, Config, description=__doc__)
