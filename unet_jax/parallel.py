"""Where arrays live: one mesh whose axis "data" the batch is split over; parameters are on every device.

A second axis "space" splits large images and volumes along their first spatial axis. Inside jit the partitioner does
the rest: gradients and batch statistics are those of the whole batch on any mesh, and a convolution gets the rows of
the neighbouring device that it needs.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def data_mesh(batch: int) -> Mesh:
    """The mesh for a batch of `batch` examples: as many devices as divide it evenly."""
    devices = jax.devices()
    count = max(n for n in range(1, len(devices) + 1) if batch % n == 0)
    return Mesh(np.array(devices[:count]), ("data",))


def make_mesh(words: str, batch: int, size: int, *, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh that "data=N" or "data=N,space=M" asks for, with N · M devices.

    Args:
        words: N devices share the batch, M devices each image.
        batch: images a step, a multiple of N.
        size: pixels of an image along its first spatial axis, a multiple of M.
        devices: to choose from; those of this machine (of all processes) when not given.

    Raises:
        ValueError: for other words, more devices than there are, or numbers that do not divide.
    """
    counts = dict(re.findall(r"(data|space)=([1-9]\d*)", words))
    if words not in (f"data={counts.get('data')}", f"data={counts.get('data')},space={counts.get('space')}"):
        raise ValueError(f"--mesh {words}: give data=N or data=N,space=M, such as data=4,space=2")
    data, space = int(counts["data"]), int(counts.get("space", 1))
    devices = jax.devices() if devices is None else devices
    if data * space > len(devices):
        raise ValueError(f"--mesh {words}: that is {data * space} devices, of {len(devices)}")
    if batch % data:
        raise ValueError(f"--mesh {words}: a batch of {batch} is no multiple of {data}: choose another --batch or mesh")
    if size % space:
        raise ValueError(f"--mesh {words}: images of {size} rows are no multiple of {space}: choose another --patch")
    return Mesh(np.array(devices[: data * space]).reshape(data, space), ("data", "space"))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The first axis is split over the mesh's axis "data"."""
    return NamedSharding(mesh, PartitionSpec("data"))


def split_space(mesh: Mesh) -> NamedSharding:
    """The first axis is split over "data", the second, of space, over "space" where the mesh has it."""
    return NamedSharding(mesh, PartitionSpec("data", "space")) if "space" in mesh.axis_names else split(mesh)


def shard(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """Put a host batch on the devices, images and labels split by `split_space`, the rest by its first axis.

    What is not numeric (ids) stays behind.
    """
    arrays = {k: v for k, v in batch.items() if isinstance(v, np.ndarray) and v.dtype.kind in "biuf"}
    return jax.device_put(arrays, {k: split_space(mesh) if v.ndim > 2 else split(mesh) for k, v in arrays.items()})


def pmapped(step: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """A training step, made with axis_name="data", compiled by `jax.pmap`: called as the one that jit compiles is.

    Loss, gradients and batch statistics are those of the whole batch. Random numbers (augmentation, dropout) are drawn
    device by device, so that they differ from those under jit, and the state is sent to the devices at every step.
    """

    def on_one(state: Any, batch: Any) -> Any:
        with nn.intercept_methods(_over_devices):
            return step(state, batch)

    mapped = jax.pmap(on_one, "data", in_axes=(None, 0), out_axes=None, devices=list(mesh.devices.flat))

    def run(state: Any, batch: Any) -> Any:
        parts = jax.tree.map(lambda x: x.reshape(mesh.size, -1, *x.shape[1:]), batch)
        return jax.device_put(mapped(state, parts), replicated(mesh))

    return run


def _over_devices(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
    if isinstance(context.module, nn.BatchNorm):
        object.__setattr__(context.module, "axis_name", "data")  # its own field for this; modules are frozen
    return call(*args, **kwargs)


def device_name() -> str:
    """Number and kind of the devices, as results quote it."""
    device = jax.devices()[0]
    cpu = f" on {os.cpu_count()} cores" if device.platform == "cpu" else ""
    return f"{jax.device_count()} × {device.device_kind}{cpu}"
