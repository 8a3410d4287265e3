"""What a training step costs a chip on TPU slices of growing size, and what that says of their efficiency.

    python -m benchmarks.pods [--topologies v5e:2x2 v5e:4x4 v5e:8x8 v5e:16x16]

Compiled by the TPU's own compiler (`pip install libtpu`, x86 Linux), with the same batch a chip on every slice; nothing
is run. benchmarks/scaling.md says what the estimate assumes.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from benchmarks import compiled, ours
from benchmarks.work import Work
from unet_jax import parallel, startup
from unet_jax.dry_run import analyse, tpu_devices
from unet_jax.logs import write_json

# of a TPU v5e chip, as Google states them: bfloat16 operations and bytes of memory a second, bytes a second of one of
# its four links to other chips, in one direction
FLOPS, MEMORY, LINK, LINKS = 197e12, 819e9, 50e9, 4


@dataclasses.dataclass(frozen=True)
class Config:
    """Which network to compile, for which slices."""

    topologies: tuple[str, ...] = ("v5e:2x2", "v5e:4x4", "v5e:8x8", "v5e:16x16")
    """Slices of TPU v5e, whose figures the estimate takes."""
    width: int = 64
    """Filters of the first level."""
    depth: int = 4
    """Down-samplings."""
    size: int = 256
    """Pixels along each side of an image."""
    batch_per_chip: int = 8
    """Images a chip and step."""
    json: Path | None = None
    """File for the figures."""


def estimate(row: dict[str, Any], chips: int) -> dict[str, float]:
    """Seconds of arithmetic, memory and talk of a step and chip, and the share of the time that is not talk.

    An all-reduce of B bytes over n chips sends 2 (n - 1) / n B through every chip, whatever the order; it takes the
    longest over one link, and a fourth of that over all. Nothing is taken to overlap.
    """
    work = max(row["flop"] / FLOPS, row["bytes_moved"] / MEMORY)
    sent = 2 * (chips - 1) / chips * sum(row["collective_bytes"].values())
    return {
        "arithmetic_s": row["flop"] / FLOPS,
        "memory_s": row["bytes_moved"] / MEMORY,
        "sent_bytes": sent,
        "efficiency_one_link": work / (work + sent / LINK),
        "efficiency_all_links": work / (work + sent / LINK / LINKS),
    }


def main(config: Config) -> int:
    """Compile for every slice, print a row of the table of scaling.md for each, and write the figures."""
    print("| slice | chips | GiB | TFLOP | GB moved | collectives | MB together | efficiency, one link to all |")
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    for topology in config.topologies:
        devices = tpu_devices(topology)
        work = Work(config.width, config.depth, config.batch_per_chip * len(devices), config.size, 2, "bfloat16")
        mesh = parallel.make_mesh(f"data={len(devices)}", work.batch, work.size, devices=devices)
        row = analyse(compiled.steps(ours.network(work), work, mesh)["train"].compile())
        row |= {"topology": topology, "chips": len(devices), **estimate(row, len(devices))}
        rows.append(row)
        kinds = ", ".join(f"{count} {kind}" for kind, count in row["collectives"].items())
        print(
            f"| {topology} | {len(devices)} | {row['memory_bytes'] / 2**30:.2f} | {row['flop'] / 1e12:.3f} "
            f"| {row['bytes_moved'] / 1e9:.2f} | {kinds} | {sum(row['collective_bytes'].values()) / 1e6:.1f} "
            f"| {row['efficiency_one_link']:.0%} to {row['efficiency_all_links']:.0%} |",
            flush=True,
        )
    if config.json is not None:
        write_json(config.json, {"config": dataclasses.asdict(config), "jax": jax.__version__, "rows": rows})
    return 0


if __name__ == "__main__":
    startup.run(main, Config, description=__doc__)
