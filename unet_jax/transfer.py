"""Starting from a trained model: what fits of its parameters, for another head, or another number of channels."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from unet_jax.model_folder import read_model
from unet_jax.training import State

_LEAST = 0.5  # share of the numbers that must fit


def start_from(state: State, variables: Mapping[str, Any]) -> tuple[State, list[str]]:
    """The state with all parameters and statistics that `variables` holds in the same shape, and the names of the rest.

    A first convolution of three channels fits images of one, where its kernel is summed over them (as for an image of
    three equal channels), and the reverse, where it is spread evenly. The rest, a head of other outputs as a rule,
    stays as it was drawn.

    Args:
        state: freshly drawn.
        variables: {"params": ...} and model state of a trained model.

    Raises:
        ValueError: when less than half of the numbers fit.
    """
    mine = traverse_util.flatten_dict({"params": state.params, **state.model_state}, sep="/")
    theirs = traverse_util.flatten_dict(dict(variables), sep="/")
    fresh, fitting = [], 0
    for name, old in mine.items():
        new = _fitted(np.asarray(theirs[name]), old.shape) if name in theirs else None
        if new is None:
            fresh.append(name)
        else:
            mine[name] = jnp.asarray(new, old.dtype)
            fitting += old.size
    if fitting < _LEAST * sum(value.size for value in mine.values()):
        raise ValueError(
            f"the model to start from does not fit: {len(fresh)} of {len(mine)} parameters differ, among them "
            f"{fresh[0]}: give the --model, --widths and --norm that it was trained with"
        )
    tree = traverse_util.unflatten_dict(mine, sep="/")
    return state.replace(params=tree.pop("params"), model_state=tree), fresh


def like_init(config: Any) -> Any:
    """A training's config with `model`, `widths` and `norm` of the model in `init`, to start from, where they are None.

    A config without a field `model` takes widths and norm alone.
    """
    names = [name for name in ("model", "widths", "norm") if getattr(config, name, ...) is None]
    if config.init is None or not names:
        return config
    spec = read_model(config.init)[1]["model"]
    spec = {"model": spec["name"], **{k: tuple(v) if isinstance(v, list) else v for k, v in spec.items()}}
    return dataclasses.replace(config, **{name: spec[name] for name in names if name in spec})


def _fitted(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """The array in `shape`, its input channels brought from three to one or back; None if it does not fit."""
    if array.shape == shape:
        return array
    kernel = array.ndim == len(shape) >= 4 and array.shape[:-2] + array.shape[-1:] == shape[:-2] + shape[-1:]
    if not kernel or {array.shape[-2], shape[-2]} != {1, 3}:
        return None
    return array.sum(axis=-2, keepdims=True) if shape[-2] == 1 else np.repeat(array / 3, 3, axis=-2)
