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
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def data_mesh(batch: int) -> Mesh:
    """The mesh for a batch of `batch` examples: as many devices of this process as divide it evenly."""
    devices = jax.local_devices()
    count = max(n for n in range(1, len(devices) + 1) if batch % n == 0)
    return Mesh(np.array(devices[:count]), ("data",))


def shared_mesh(batch: int) -> Mesh:
    """The same over all processes, as many devices of each; ValueError for a batch that they cannot share evenly."""
    several = jax.process_count()
    if batch % several:
        raise ValueError(f"a batch of {batch} is no multiple of {several} processes: choose another --batch")
    each = data_mesh(batch // several).size
    chosen = [[d for d in jax.devices() if d.process_index == i][:each] for i in range(several)]
    return Mesh(np.array(chosen).ravel(), ("data",))


def make_mesh(words: str, batch: int, size: int, *, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh that "data=N" or "data=N,space=M" asks for, with N · M devices.

    Args:
        words: N devices share the batch, M devices each image.
        batch: images a step, a multiple of N.
        size: pixels of an image along its first spatial axis, a multiple of M.
        devices: to choose from; those of all processes, one process after the other, when not given.

    Raises:
        ValueError: for other words, more devices than there are, fewer than reach all processes, or numbers that do
            not divide.
    """
    counts = dict(re.findall(r"(data|space)=([1-9]\d*)", words))
    if words not in (f"data={counts.get('data')}", f"data={counts.get('data')},space={counts.get('space')}"):
        raise ValueError(f"--mesh {words}: give data=N or data=N,space=M, such as data=4,space=2")
    data, space = int(counts["data"]), int(counts.get("space", 1))
    several = 1 if devices is not None else jax.process_count()
    devices = sorted(jax.devices(), key=lambda d: d.process_index) if devices is None else devices
    if data * space > len(devices):
        raise ValueError(f"--mesh {words}: that is {data * space} devices, of {len(devices)}")
    if batch % data:
        raise ValueError(f"--mesh {words}: a batch of {batch} is no multiple of {data}: choose another --batch or mesh")
    if size % space:
        raise ValueError(f"--mesh {words}: images of {size} rows are no multiple of {space}: choose another --patch")
    chosen = devices[: data * space]
    if several > 1 and len({device.process_index for device in chosen}) < several:
        raise ValueError(f"--mesh {words}: that leaves a process without a device; there are {len(devices)} devices")
    return Mesh(np.array(chosen).reshape(data, space), ("data", "space"))


def chosen_mesh(words: str | None, batch: int, size: int, *, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh that --mesh asks for (`make_mesh`), or one of all devices that divide the batch."""
    if words is None and devices is None:
        return shared_mesh(batch)
    return make_mesh(words or f"data={len(devices or ())}", batch, size, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The first axis is split over the mesh's axis "data"."""
    return NamedSharding(mesh, PartitionSpec("data"))


def split_space(mesh: Mesh) -> NamedSharding:
    """The first axis is split over "data", the second, of space, over "space" where the mesh has it."""
    return NamedSharding(mesh, PartitionSpec("data", "space")) if "space" in mesh.axis_names else split(mesh)


def rows_here(mesh: Mesh, batch: int) -> slice:
    """The rows of a batch that the devices of this process hold: those that it is to read."""
    rows = [index[0].indices(batch) for index in split(mesh).addressable_devices_indices_map((batch,)).values()]
    return slice(min(first for first, _, _ in rows), max(last for _, last, _ in rows))


def shard(batch: Mapping[str, Any], mesh: Mesh, *, size: int | None = None) -> dict[str, jax.Array]:
    """Put a host batch on the devices, images and labels split by `split_space`, the rest by its first axis.

    With several processes each gives the whole batch, or of a batch of `size` its own rows (`rows_here`). What is not
    numeric (ids) stays behind.
    """
    arrays = {k: v for k, v in batch.items() if isinstance(v, np.ndarray) and v.dtype.kind in "biuf"}
    where = {k: split_space(mesh) if v.ndim > 2 else split(mesh) for k, v in arrays.items()}
    shapes = {k: (size or len(v), *v.shape[1:]) for k, v in arrays.items()}
    return jax.make_array_from_process_local_data(where, arrays, shapes)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The arrays, equal in all processes, on every device of the mesh."""
    everywhere = replicated(mesh)
    if everywhere.is_fully_addressable:
        return jax.device_put(tree, everywhere)
    host = jax.tree.map(np.asarray, tree)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(everywhere, x, x.shape), host)


def on_host(tree: Any) -> Any:
    """All of the arrays as numpy, in every process, wherever their rows lie."""
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def with_flag(step: Callable[..., Any]) -> Callable[..., Any]:
    """The step, which also takes a batch's "flag" (one number a device, `flag`) and says the largest in its metrics."""

    def flagged(state: Any, batch: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        rest = {name: array for name, array in batch.items() if name != "flag"}
        state, out = step(state, rest)
        return state, {**out, "flag": jnp.max(batch["flag"])}

    return flagged


def flag(number: int, mesh: Mesh) -> jax.Array:
    """This process's number on each of its devices of the mesh: (devices,) int32."""
    each = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    return jax.make_array_from_callback((mesh.size,), each, lambda _: np.full(1, number, np.int32))


def pmapped(step: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """A training step, made with axis_name="data", compiled by `jax.pmap`: called as the one that jit compiles is.

    Loss, gradients and batch statistics are those of the whole batch. Random numbers (augmentation, dropout) are drawn
    device by device, so that they differ from those under jit, and the state is sent to the devices at every step.
    """
    if jax.process_count() > 1:
        raise ValueError("--parallel pmap serves the devices of one process: leave it out, jit serves all")

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
    several = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{jax.device_count()} × {device.device_kind}{cpu}{several}"
