"""Several models of one shape trained in one program: their states stacked, each device at work on its own members.

mesh = members.member_mesh(len(states))
step, state = members.together(training.make_train_step(...), mesh), members.stack(states)
state, metrics = step(state, members.stack(batches))     # metrics["loss"] (M,)
first = members.take(state, 0)
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import PyTree

from unet_jax.training import Step


def stack(trees: Sequence[PyTree]) -> PyTree:
    """States or batches of M members as one, every array (M, ...)."""
    return jax.tree.map(lambda *arrays: jnp.stack(arrays), *trees)


def take(tree: PyTree, member: int) -> PyTree:
    """One member's state, or what else was stacked."""
    return jax.tree.map(lambda array: array[member], tree)


def member_mesh(count: int) -> Mesh:
    """A mesh over as many devices as divide `count` members evenly."""
    devices = jax.devices()
    most = max(n for n in range(1, len(devices) + 1) if count % n == 0)
    return Mesh(np.array(devices[:most]), ("member",))


def together(step: Step, mesh: Mesh) -> Callable[[Any, Any], tuple[Any, dict[str, Any]]]:
    """The training step of all members, compiled: (stacked states, stacked batches) -> the same, and their metrics.

    Each is what the step gives for that member alone. Members are split over the mesh's axis "member" and never talk to
    each other; a device with several of them does one after the other, in the memory of one.
    """

    def on_one(states: Any, batches: Any) -> Any:
        return jax.lax.map(lambda pair: step(*pair), (states, batches))

    over = PartitionSpec("member")
    spread = jax.shard_map(on_one, mesh=mesh, in_specs=over, out_specs=over, check_vma=False)
    return jax.jit(spread, donate_argnums=0)
