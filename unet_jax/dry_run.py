"""What a training step costs on a mesh, said by the compiler before anything is run; no TPU is needed for a TPU's.

Memory, operations, bytes moved and what the devices tell each other, all for one step and device.
"""

import collections
import importlib.util
import math
import os
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh

from unet_jax import parallel, training

COLLECTIVES = re.compile(r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?\(")
_SHAPE = re.compile(r"([a-z]+)(\d*)\w*\[([\d,]*)\]")


def tpu_devices(topology: str) -> list[Any]:
    """Descriptions of the chips of a TPU slice, to compile for; ValueError with the mend where libtpu is missing."""
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            "the TPU compiler is not installed: pip install libtpu (on x86 Linux; pip install 'jax[tpu]' takes the "
            "version that suits jax)"
        )
    # libtpu would else ask the cloud which machine it is on, and wait for the answer
    for name, value in {
        "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
    }.items():  # fmt: skip
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")
    from jax.experimental import topologies

    return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)


def lower_step(
    step: Callable[..., Any], state: training.State, mesh: Mesh, *, batch: int, patch: tuple[int, ...], channels: int
) -> Any:
    """The training step lowered for `mesh` from shapes alone, as `fit` compiles it."""
    everywhere, split = parallel.replicated(mesh), parallel.split_space(mesh)
    shapes = {
        "image": jax.ShapeDtypeStruct((batch, *patch, channels), np.uint8),
        "label": jax.ShapeDtypeStruct((batch, *patch), np.int32),
        "mask": jax.ShapeDtypeStruct((batch, *patch), np.bool_),
    }
    jitted = jax.jit(step, donate_argnums=0, in_shardings=(everywhere, split), out_shardings=everywhere)
    return jitted.lower(state, shapes)


def analyse(compiled: Any) -> dict[str, Any]:
    """Operations, bytes moved, memory, and number and bytes of the collectives of a compiled step, for one device."""
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    found = COLLECTIVES.findall(compiled.as_text())
    size: collections.Counter[str] = collections.Counter()
    for result, kind, start in found:
        size[kind] += _bytes(result, last=bool(start) and kind != "all-reduce")
    arguments = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return {
        "flop": cost["flops"],
        "bytes_moved": cost["bytes accessed"],
        "temporary_bytes": memory.temp_size_in_bytes,
        "memory_bytes": memory.temp_size_in_bytes + arguments,
        "collectives": dict(collections.Counter(kind for _, kind, _ in found)),
        "collective_bytes": dict(size),
    }


def describe(
    model: nn.Module, optimizer: optax.GradientTransformation, step: Callable[..., Any], mesh: Mesh,
    *, batch: int, patch: tuple[int, ...], channels: int,
) -> str:  # fmt: skip
    """Compile the training step for the mesh and say in lines what it costs; nothing is run."""
    state = jax.eval_shape(lambda: training.init_state(model, optimizer, (*patch, channels), seed=0))
    lowered = lower_step(step, state, mesh, batch=batch, patch=patch, channels=channels)
    axes = ", ".join(f"{name}={size}" for name, size in mesh.shape.items())
    return "\n".join([f"mesh {axes}, {batch} images a step", *lines(analyse(lowered.compile()))])


def _bytes(shapes: str, *, last: bool) -> int:
    """Bytes of the arrays in HLO's words for a result; of the largest alone where operands stand beside it."""
    each = [
        max(int(bits or 8) // 8, 1) * math.prod(int(n) for n in sizes.split(",") if n)
        for _, bits, sizes in _SHAPE.findall(shapes)
    ]
    return max(each, default=0) if last else sum(each)


def lines(row: dict[str, Any]) -> list[str]:
    """The figures of `analyse` for people."""
    words = [
        f"{count} {kind} of {row['collective_bytes'][kind] / 1e6:.3g} MB together"
        for kind, count in row["collectives"].items()
    ]
    memory, scratch = row["memory_bytes"] / 2**30, row["temporary_bytes"] / 2**30
    return [
        f"memory         {memory:.3g} GiB a device, {scratch:.3g} of it scratch",
        f"arithmetic     {row['flop'] / 1e12:.3g} TFLOP a step and device",
        f"bytes moved    {row['bytes_moved'] / 1e9:.3g} GB a step and device",
        f"collectives    {', '.join(words) or 'none'}",
    ]
