"""This library's side: the steps that the experiments run, jitted as they jit them. `startup.prepare()` comes first."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from benchmarks.work import CLASSES, LEARNING_RATE, Work
from unet_jax import augment, losses, parallel, targets, training
from unet_jax.data.pipeline import Normalised, train_batches
from unet_jax.data.synthetic import SyntheticCells
from unet_jax.loop import Budget, Callbacks, Position, StopRequest, fit
from unet_jax.models import UNet


def network(work: Work) -> UNet:
    """The padded network without normalisation."""
    return UNet(work.widths, classes=CLASSES, dtype=work.dtype)


def adam() -> optax.GradientTransformation:
    """Adam of constant step size, through the library's own schedule."""
    rate = training.scheduled(LEARNING_RATE, 10**6, shape="constant", warmup=0)
    return optax.chain(optax.scale_by_adam(), rate)


def train_step(model: nn.Module, change: training.Augment | None = None) -> Callable[..., Any]:
    """The pure training step: Dice, Adam."""
    return training.make_train_step(model, adam(), losses.dice, target=targets.foreground, augment=change)


def infer_step(model: nn.Module) -> Callable[[training.State, training.Batch], jax.Array]:
    """The pure step from images to classes (B, *S) uint8; what else `make_eval_step` counts is never computed."""

    def unused(logits: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
        return jnp.zeros(())

    step = training.make_eval_step(model, unused, unused, target=targets.foreground)
    return lambda state, batch: step(state, batch)["prediction"]


class _Side:
    """State and batch on the devices, and what both kinds of step share."""

    name = "unet_jax"

    def __init__(self, work: Work, batch: Mapping[str, np.ndarray]):
        self.mesh, self.model = parallel.data_mesh(work.batch), network(work)
        state = training.init_state(self.model, adam(), batch["image"].shape[1:], seed=0)
        self.state = jax.device_put(state, parallel.replicated(self.mesh))
        self.batch = parallel.shard(batch, self.mesh)

    def weights(self) -> dict[str, Any]:
        """The parameters now, on the host."""
        return jax.device_get(self.state.params)

    def device_peak(self) -> int | None:
        """Most bytes ever used on an accelerator, over its devices; None on a CPU."""
        peaks = [(d.memory_stats() or {}).get("peak_bytes_in_use") for d in self.mesh.devices.flat]
        return None if self.mesh.devices.flat[0].platform == "cpu" or None in peaks else max(peaks)


class Train(_Side):
    """Training on one batch that stays on the devices: the bare step."""

    def __init__(self, work: Work, batch: Mapping[str, np.ndarray], change: training.Augment | None = None):
        super().__init__(work, batch)
        step, everywhere = train_step(self.model, change), parallel.replicated(self.mesh)
        self.step = jax.jit(step, donate_argnums=0, out_shardings=everywhere)
        self.loss = float("nan")

    def run(self, steps: int) -> float:
        """Seconds of so many steps; as in the training loop, one is under way while the host reads the last's loss."""
        began, pending = time.perf_counter(), None
        for _ in range(steps):
            self.state, metrics = self.step(self.state, self.batch)
            if pending is not None:
                float(pending["loss"])
            pending = metrics
        self.loss = float(metrics["loss"])
        jax.block_until_ready(self.state)
        return time.perf_counter() - began


class Infer(_Side):
    """From images to classes, on one batch that stays on the devices."""

    loss = None

    def __init__(self, work: Work, batch: Mapping[str, np.ndarray]):
        super().__init__(work, batch)
        self.step = jax.jit(infer_step(self.model))

    def run(self, steps: int) -> float:
        """Seconds of so many steps, one always under way."""
        began, pending = time.perf_counter(), None
        for _ in range(steps):
            classes = self.step(self.state, self.batch)
            if pending is not None:
                pending.block_until_ready()
            pending = classes
        classes.block_until_ready()
        return time.perf_counter() - began


class Loop:
    """The training loop of the experiments around the step of `inner`, fed with crops of made-up cells."""

    name = "whole training loop"
    THREADS = 1

    def __init__(self, work: Work, inner: Train):
        self.inner, self.work = inner, work
        source = Normalised(SyntheticCells(count=64, size=max(work.size, 64)))
        stream = train_batches(source, patch=work.shape, batch=work.batch, seed=0, threads=self.THREADS)
        self.batches = ((parallel.shard(b, inner.mesh), [str(i) for i in b["id"]]) for b in stream)

    def run(self, steps: int) -> float:
        """Seconds of so many steps; the batches that were read during another's turn are thrown away first."""
        for _ in range(self.THREADS + 1):
            next(self.batches)

        def nothing(*_: object) -> None:
            return None

        began = time.perf_counter()
        self.inner.state = fit(
            self.inner.state,
            Position(),
            step=self.inner.step,
            batches=self.batches,
            steps_per_epoch=steps,
            budget=Budget(epochs=1),
            callbacks=Callbacks(lambda state: {"val_iou": 0.0, "val_loss": 0.0}, nothing, nothing, nothing),
            stop=StopRequest(),
        )
        jax.block_until_ready(self.inner.state)
        return time.perf_counter() - began


def pipeline_sides(work: Work, batch: Mapping[str, np.ndarray]) -> dict[str, Train | Loop]:
    """The whole loop, the step with augmentation that it runs, and the bare step."""
    changed = Train(work, batch, augment.strong())
    return {
        "whole training loop": Loop(work, changed),
        "step with augmentation": changed,
        "bare step": Train(work, batch),
    }


def exact_logits(work: Work, params: Mapping[str, Any], image: np.ndarray) -> np.ndarray:
    """Logits of uint8 images in true float32, for the comparison of two implementations."""
    with jax.default_matmul_precision("highest"):
        model = UNet(work.widths, classes=CLASSES)
        return np.asarray(jax.jit(model.apply)({"params": params}, training.to_unit(jnp.asarray(image))))


def product(dtype: str) -> Callable[[int], float]:
    """Times one n × n matrix product, n a power of two, whose rows are spread over the devices."""
    mesh = parallel.data_mesh(256)
    multiply = jax.jit(jnp.matmul, out_shardings=parallel.split(mesh))

    def seconds(n: int) -> float:
        ones = jnp.ones((n, n), dtype)
        left, right = jax.device_put(ones, parallel.split(mesh)), jax.device_put(ones, parallel.replicated(mesh))
        multiply(left, right).block_until_ready()
        began = time.perf_counter()
        multiply(left, right).block_until_ready()
        return time.perf_counter() - began

    return seconds
