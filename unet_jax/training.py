"""The training state and the pure functions that move it: a step of learning, a step of evaluation.

Nothing here knows a model, a data set or a folder. Batches are dicts of arrays: image (B, *S, C) uint8 or float32 in
[0, 1], label (B, *S) int32, mask (B, *S) bool.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float, PyTree

from unet_jax.shapes import centre_crop

Batch = Mapping[str, Any]  # of arrays, on the device or about to be
Loss = Callable[..., Array]
Augment = Callable[[Array, Array, Array, Array], tuple[Array, Array, Array]]
Step = Callable[["State", Batch], tuple["State", dict[str, Array]]]


class State(struct.PyTreeNode):
    """Everything a step changes, as arrays (in transforms, whatever stands for them): all that resuming needs."""

    step: Any  # () int32, updates done
    params: PyTree  # float32
    model_state: PyTree  # batch statistics
    opt_state: PyTree
    key: Any  # (2,) uint32, constant: each step folds its own number into it


def init_state(
    model: nn.Module, optimizer: optax.GradientTransformation, shape: tuple[int, ...], *, seed: int
) -> State:
    """Fresh state for images of `shape` (*S, C); `seed` decides the weights and every later random number."""
    init_key, key = jax.random.split(jax.random.PRNGKey(seed))
    variables = jax.jit(lambda k: model.init(k, jnp.zeros((1, *shape), jnp.float32), train=False))(init_key)
    params = variables.pop("params")
    return State(jnp.zeros((), jnp.int32), params, variables, jax.jit(optimizer.init)(params), key)


def to_unit(image: Array) -> Float[Array, "b *s c"]:
    """Uint8 grey levels to float32 in [0, 1]; float images pass."""
    return image.astype(jnp.float32) / 255.0 if image.dtype == jnp.uint8 else image.astype(jnp.float32)


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    *,
    target: Callable[[Array], Any],
    augment: Augment | None = None,
    refine: tuple[Augment, float] | None = None,
    accumulate: int = 1,
    axis_name: str | None = None,
    aux_weight: float = 0.5,
) -> Callable[[State, Batch], tuple[State, dict[str, Array]]]:
    """One step of gradient descent: (state, batch) -> (state, {"loss", "grad_norm"}), pure, for jit over any mesh.

    The images are scaled to [0, 1], augmented, and given to the model; `target` turns the (augmented) label into what
    `loss` compares with. The loss of each image counts once, images without a valid pixel not at all.
    Under `parallel.pmapped`, where every device sees its part of the batch, `axis_name` says over what to add up.

    `refine` = (changes, share) takes the place of `augment` in the last share of the planned steps (`scheduled`), so
    that a network that strong changes have kept from learning by heart ends on images such as it will be given.

    With `accumulate` = n the gradients of n equal parts of the batch, one after the other in the memory of one, are
    summed before the one update: the gradient of the whole batch. What looks at several images sees a part's only:
    batch statistics are those of each part, and their running values move n times. Dropout draws anew for each part.

    Logits that the model sows into "aux" (deep supervision) are scored too, the first with `aux_weight`, each further
    one with that share of the one before; the weights are scaled to add up to one. 0 leaves them out.
    """

    def everywhere(part: PyTree) -> PyTree:
        return part if axis_name is None else jax.lax.psum(part, axis_name)

    def objective(
        params: PyTree, model_state: PyTree, batch: tuple[Array, Array, Array], key: Array, images: Array
    ) -> tuple[Array, PyTree]:
        image, label, mask = batch
        logits, changed = model.apply(
            {"params": params, **model_state}, image, train=True, rngs={"dropout": key}, mutable=[*model_state, "aux"]
        )
        heads = [logits, *jax.tree.leaves(changed.pop("aux", {}))]
        size = logits.shape[1:-1]
        per_image = _over_heads(loss, heads, target(centre_crop(label, size)), centre_crop(mask, size), aux_weight)
        return jnp.sum(per_image * _counted(mask)) / images, changed

    gradient = jax.value_and_grad(objective, has_aux=True)

    def step(state: State, batch: Batch) -> tuple[State, dict[str, Array]]:
        key = jax.random.fold_in(state.key, state.step)
        if axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
        augment_key, dropout_key = jax.random.split(key)
        image, label, mask = to_unit(batch["image"]), batch["label"], batch["mask"]
        if augment is not None:
            changed = _changing(state, augment, refine)
            image, label, mask = changed(augment_key, image, label, mask)
        images = jnp.maximum(everywhere(jnp.sum(_counted(mask))), 1)

        def add(sums: PyTree, part: PyTree) -> tuple[PyTree, None]:
            value, model_state, grads = sums
            (more, model_state), more_grads = gradient(state.params, model_state, *part, images)
            return (value + more, model_state, jax.tree.map(jnp.add, grads, more_grads)), None

        if accumulate == 1:
            (value, model_state), grads = gradient(
                state.params, state.model_state, (image, label, mask), dropout_key, images
            )
        else:
            parts = jax.tree.map(lambda x: _parts(x, accumulate), (image, label, mask))
            start = (jnp.zeros(()), state.model_state, jax.tree.map(jnp.zeros_like, state.params))
            keys = jax.random.split(dropout_key, accumulate)
            (value, model_state, grads), _ = jax.lax.scan(add, start, (parts, keys))
        value, grads = everywhere((value, grads))
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": value, "grad_norm": optax.tree.norm(grads)}
        return State(state.step + 1, params, model_state, opt_state, state.key), metrics

    return step


def _changing(state: State, augment: Augment, refine: tuple[Augment, float] | None) -> Augment:
    """The augmentation of this step: the first, or near the planned end the second."""
    if refine is None or not refine[1]:
        return augment
    later, share = refine
    planned = optax.tree_utils.tree_get(state.opt_state, "planned_steps")
    return partial(jax.lax.cond, state.step < (1 - share) * planned, augment, later)


def likeliest(logits: Array) -> Array:
    """The class of each pixel: the largest logit, or whether the only one is above 0."""
    return jnp.argmax(logits, axis=-1) if logits.shape[-1] > 1 else logits[..., 0] > 0


def _counted(mask: Array) -> Array:
    """Which images have a valid pixel: (B, *S) -> (B,)."""
    return jnp.any(mask, axis=tuple(range(1, mask.ndim)))


def _parts(x: Array, count: int) -> Array:
    """(B, ...) -> (count, B / count, ...), every count-th image in a part, so that a split first axis stays split."""
    if x.shape[0] % count:
        raise ValueError(f"a batch of {x.shape[0]} images has no {count} equal parts: choose one that {count} divides")
    return jnp.moveaxis(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 1, 0)


def skipping_nonfinite(step: Step) -> Step:
    """The same step, which learns nothing from a batch whose loss or gradient is not finite: only `state.step` moves.

    Its metrics still say so, for `loop.fit` to count.
    """

    def guarded(state: State, batch: Batch) -> tuple[State, dict[str, Array]]:
        new, out = step(state, batch)
        good = jnp.isfinite(out["loss"]) & jnp.isfinite(out["grad_norm"])
        return jax.tree.map(lambda n, o: jnp.where(good, n, o), new, state).replace(step=new.step), out

    return guarded


def _over_heads(loss: Loss, heads: list[Array], wanted: PyTree, mask: Array, weight: float) -> Array:
    """Weighted mean (B,) of the losses of logits of several sizes; coarse ones are to hit every n-th pixel."""
    weights = [weight**i for i in range(len(heads) if weight else 1)]

    def one(logits: Array) -> Array:
        every = tuple(slice(None, None, n // m) for n, m in zip(mask.shape[1:], logits.shape[1:-1], strict=True))
        return loss(logits, *jax.tree.map(lambda x: x[:, *every], (wanted, mask)))

    return sum(share / sum(weights) * one(logits) for share, logits in zip(weights, heads, strict=False))


def make_eval_step(
    model: nn.Module,
    loss: Loss,
    count: Callable[[Array, Any, Array], Array],
    *,
    target: Callable[[Array], Any],
    classify: Callable[[Array], Array] = likeliest,
) -> Callable[[State, Batch], dict[str, Array]]:
    """Evaluate a batch: loss (B,), counts (B, K, K) of `count(logits, target, mask)`, prediction (B, *S) of classes."""

    def step(state: State, batch: Batch) -> dict[str, Array]:
        variables = {"params": state.params, **state.model_state}
        logits = model.apply(variables, to_unit(batch["image"]), train=False)
        size = logits.shape[1:-1]
        label, mask = target(centre_crop(batch["label"], size)), centre_crop(batch["mask"], size)
        return {
            "loss": loss(logits, label, mask),
            "counts": count(logits, label, mask),
            "prediction": classify(logits).astype(jnp.uint8),
        }

    return step


class ScheduleState(NamedTuple):
    """Updates done, updates planned, and the learning rate of the last one."""

    count: Array
    planned_steps: Array
    learning_rate: Array


def scheduled(
    peak: float, planned_steps: int, *, shape: str = "cosine", warmup: int = 100
) -> optax.GradientTransformation:
    """Multiply updates by minus the learning rate: a linear rise, then constant or cosine to zero.

    The rise takes `warmup` steps, at most a twentieth of the plan.

    The planned number of steps is part of the state, so that a run with a budget in minutes can move the end of the
    schedule when it learns how fast the machine is (`replan`), and so that resuming keeps the plan.
    Source: Loshchilov & Hutter 2017, SGDR, eq. 5, without restarts.
    """
    if shape not in ("cosine", "constant"):
        raise ValueError(f"no learning-rate schedule {shape!r}: choose cosine or constant")

    def init(params: PyTree) -> ScheduleState:
        del params
        return ScheduleState(jnp.zeros((), jnp.int32), jnp.asarray(planned_steps, jnp.int32), jnp.zeros(()))

    def update(updates: PyTree, state: ScheduleState, params: PyTree = None) -> tuple[PyTree, ScheduleState]:
        del params
        rise = jnp.minimum(1.0, (state.count + 1) / jnp.clip(state.planned_steps / 20, 1, max(warmup, 1)))
        done = jnp.minimum(1.0, state.count / jnp.maximum(state.planned_steps, 1))
        rate = peak * rise * (0.5 * (1 + jnp.cos(jnp.pi * done)) if shape == "cosine" else 1.0)
        return jax.tree.map(lambda u: -rate * u, updates), ScheduleState(state.count + 1, state.planned_steps, rate)

    return optax.GradientTransformation(init, update)


def replan(state: State, planned_steps: int) -> State:
    """The same state with the end of its learning-rate schedule moved to `planned_steps`."""
    old = optax.tree_utils.tree_get(state.opt_state, "planned_steps")
    new = jax.make_array_from_callback((), old.sharding, lambda _: np.asarray(planned_steps, np.int32))
    return state.replace(opt_state=optax.tree_utils.tree_set(state.opt_state, planned_steps=new))


def learning_rate(state: State) -> float:
    """The learning rate of the last update."""
    return float(optax.tree_utils.tree_get(state.opt_state, "learning_rate"))
