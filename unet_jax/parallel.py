"""Where arrays live: one mesh whose axis "data" the batch is split over; parameters are on every device.

Inside jit the partitioner does the rest: gradients and batch statistics are those of the whole batch on any number of
devices.
"""

import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def data_mesh(batch: int) -> Mesh:
    """The mesh for a batch of `batch` examples: as many devices as divide it evenly."""
    devices = jax.devices()
    count = max(n for n in range(1, len(devices) + 1) if batch % n == 0)
    return Mesh(np.array(devices[:count]), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The first axis is split over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def shard(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """Put a host batch on the devices, its first axis split over them; what is not numeric (ids) stays behind."""
    arrays = {k: v for k, v in batch.items() if isinstance(v, np.ndarray) and v.dtype.kind in "biuf"}
    return jax.device_put(arrays, split(mesh))


def device_name() -> str:
    """Number and kind of the devices, as results quote it."""
    device = jax.devices()[0]
    cpu = f" on {os.cpu_count()} cores" if device.platform == "cpu" else ""
    return f"{jax.device_count()} × {device.device_kind}{cpu}"
