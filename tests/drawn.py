"""Variables of a model, drawn by numpy: compiling a model's own initialisation takes longer than the model."""

import jax
import numpy as np

QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # compiling is what takes time


def noise(shape, seed=1):
    return jax.numpy.asarray(np.random.default_rng(seed).random(shape, np.float32))


def fill(shapes):
    """Variables of these shapes: kernels as He drew them, scales and variances near 1, the rest near 0."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if leaf.ndim == 1:
            one = path[-1].key in ("scale", "var")
            return np.float32(one) + 0.1 * rng.standard_normal(leaf.shape, np.float32)
        return rng.standard_normal(leaf.shape, np.float32) * np.float32((2 / np.prod(leaf.shape[:-1])) ** 0.5)

    return jax.device_put(jax.tree_util.tree_map_with_path(draw, shapes))


def variables_of(module, image):
    """Variables of `module` for images like this one."""
    return fill(jax.eval_shape(module.init, jax.random.PRNGKey(0), image))
