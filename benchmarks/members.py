"""Several models of one shape at once: a loop over them, one program vmapped over them, or one member a device.

    python -m benchmarks.members [--what train] [--members 2] [--width 16] [--batch 8] [--json FILE]

Images a second of all members together. In the loop and under vmap every batch is split over the devices; one member a
device splits the members. --what predict: the mean of the members' probabilities, by a loop or under vmap.
"""

from unet_jax import startup

if __name__ == "__main__":
    startup.prepare()

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import ours, throughput
from benchmarks.work import CHANNELS, Work, host_batch
from unet_jax import members, parallel, training
from unet_jax.logs import write_json
from unet_jax.views import activate, forward, mean_and_spread


@dataclasses.dataclass(frozen=True)
class Config(Work):
    """Which members, and how long to measure."""

    what: Literal["train", "predict"] = "train"
    """A step of every member's training, or the mean of their predictions."""
    members: int = 2
    """Models of one shape."""
    pairs: int = 5
    """Rounds, in each of which every way has its turn."""
    seconds: float = 10.0
    """A turn lasts at least so long."""
    json: Path | None = None
    """File for the figures."""


class Side:
    """A way to advance all members; one step is always under way while the host waits for the one before."""

    def __init__(self, step: Callable[[Any, Any], tuple[Any, Any]], state: Any, batch: Any):
        self.step, self.state, self.batch = step, state, batch

    def run(self, steps: int) -> float:
        """Seconds of so many steps of all members."""
        began, pending = time.perf_counter(), None
        for _ in range(steps):
            self.state, out = self.step(self.state, self.batch)
            jax.block_until_ready(pending)
            pending = out
        jax.block_until_ready((self.state, out))
        return time.perf_counter() - began


def train_sides(config: Config) -> dict[str, Side]:
    """The three ways to train."""
    model, batch, count = ours.network(config), host_batch(config), config.members
    step, mesh = ours.train_step(model), parallel.data_mesh(config.batch)
    everywhere, alone = parallel.replicated(mesh), members.member_mesh(count)
    jitted = jax.jit(step, donate_argnums=0, out_shardings=everywhere)
    vmapped = jax.jit(jax.vmap(step), donate_argnums=0, out_shardings=everywhere)

    def states() -> list[training.State]:
        shape = (*config.shape, CHANNELS)
        return [training.init_state(model, ours.adam(), shape, seed=seed) for seed in range(count)]

    def each(several: list[training.State], shared: Any) -> tuple[list[training.State], list[Any]]:
        done = [jitted(state, shared) for state in several]
        return [state for state, _ in done], [out for _, out in done]

    batches, second = members.stack([batch] * count), NamedSharding(mesh, PartitionSpec(None, "data"))
    own = NamedSharding(alone, PartitionSpec("member"))
    return {
        "loop": Side(each, jax.device_put(states(), everywhere), parallel.shard(batch, mesh)),
        "vmapped": Side(vmapped, jax.device_put(members.stack(states()), everywhere), jax.device_put(batches, second)),
        f"members on {alone.size} devices": Side(
            members.together(step, alone), jax.device_put(members.stack(states()), own), jax.device_put(batches, own)
        ),
    }


def predict_sides(config: Config) -> dict[str, Side]:
    """The two ways to average predictions."""
    model, mesh = ours.network(config), parallel.data_mesh(config.batch)
    image = parallel.shard(host_batch(config), mesh)["image"]
    shape = (*config.shape, CHANNELS)
    several = [training.init_state(model, ours.adam(), shape, seed=seed).params for seed in range(config.members)]
    several = jax.device_put([{"params": params} for params in several], parallel.replicated(mesh))
    plain = partial(forward, model, activate)
    jitted, average = jax.jit(plain), jax.jit(partial(mean_and_spread, classes=None, stacked=False))

    @jax.jit
    def vmapped(variables: Any, image: jax.Array) -> jax.Array:
        return mean_and_spread([jax.vmap(plain, in_axes=(0, None))(variables, image)], classes=None, stacked=True)

    return {
        "loop": Side(lambda v, x: (v, average([jitted(one, x) for one in v])), several, image),
        "vmapped": Side(lambda v, x: (v, vmapped(v, x)), members.stack(several), image),
    }


def main(config: Config) -> int:
    """Time the ways turn about, and print them."""
    sides = train_sides(config) if config.what == "train" else predict_sides(config)
    images = config.members * config.batch
    record = throughput.against_the_first(config, sides, "loop", least=3, images=images)
    if config.json is not None:
        write_json(config.json, record | {"members": config.members})
    return 0


if __name__ == "__main__":
    startup.run(main, Config, description=__doc__)
