"""What a model costs, without running or compiling it: parameters, and operations for an image."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn


def count_parameters(module: nn.Module, shape: tuple[int, ...]) -> int:
    """Numbers that training changes, for images of `shape` (*S, C); ValueError for a size the model refuses."""
    variables = jax.eval_shape(module.init, jax.random.PRNGKey(0), jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


def count_flop(module: nn.Module, shape: tuple[int, ...]) -> float:
    """Floating-point operations of one image of `shape` (*S, C) on its way to the logits.

    A multiplication and an addition count two; XLA counts them in the program as it is lowered for an accelerator
    (within 0.5 % of the convolutions' own, for the U-Net), where no form for speed on a CPU adds any.
    """
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.PRNGKey(0), image)
    lowered = jax.jit(module.apply).trace(variables, image).lower(lowering_platforms=("tpu",))
    return float(lowered.cost_analysis()["flops"])
