"""Trained models for the tests of prediction: one whose answer is known, and one with random weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from unet_jax.checkpoint import Checkpoints
from unet_jax.models import UNet, to_spec
from unet_jax.training import State

TILE = 16


def card(model, channels=1, tile=TILE, rank=2):
    return {
        "model": to_spec(model),
        "channels": channels,
        "normalisation": {"method": "percentile", "low": 0.0, "high": 100.0},
        "classes": ["background", "cell"][-max(model.classes, 1) :],
        "patch": [tile] * rank,
        "version": "0.1.0",
        "commit": "abc",
    }


@functools.cache
def random_variables(model, channels=1, tile=TILE, rank=2):
    """He's normal kernels, random biases, variances of one and the rest zero, without compiling the initialisers."""
    image = jax.ShapeDtypeStruct((1, *([tile] * rank), channels), jnp.float32)
    shapes = jax.eval_shape(lambda key, x: model.init(key, x, train=False), jax.random.PRNGKey(0), image)
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            return rng.normal(0, np.sqrt(2 / np.prod(leaf.shape[:-1])), leaf.shape).astype(np.float32)
        if path[-1].key == "bias":
            return rng.normal(0, 0.1, leaf.shape).astype(np.float32)
        return np.full(leaf.shape, path[-1].key in ("var", "scale"), np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def bright_variables(model, channels=1):
    """Weights with which the foreground's logit over the background's is 40 x - 20, x the first channel in [0, 1].

    The first channel passes every convolution of the full resolution at the kernel's middle; the rest is zero.
    """
    variables = jax.tree.map(lambda a: np.zeros(a.shape, np.float32), random_variables(model, channels))
    params = variables["params"]
    for block in ("down0", "up0"):
        for conv in ("conv0", "conv1"):
            params[block][conv]["kernel"][1, 1, 0, 0] = 1
    params["logits"]["kernel"][0, 0, 0] = [0, 40]
    params["logits"]["bias"][:] = [20, 0]
    return variables


def save_run(workdir, variables, card):
    """A training's folder: two checkpoints, of which the first is the best and the second the latest (all zero)."""
    params = dict(variables)["params"]
    rest = {name: tree for name, tree in variables.items() if name != "params"}
    other = jax.tree.map(jnp.zeros_like, params)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        for step, (weights, score) in enumerate(((params, 0.9), (other, 0.5)), start=1):
            opt_state = {"m": jnp.arange(5.0)}  # nothing that prediction would know
            weights = jax.tree.map(jnp.asarray, weights)
            state = State(jnp.asarray(step, jnp.int32), weights, rest, opt_state, jax.random.PRNGKey(1))
            checkpoints.save(state, {**card, "position": {"step": step}}, score=score)
    return workdir


SMALL = UNet((4, 8))
