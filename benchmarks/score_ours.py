"""This library's side of `time_to_score.py`, and the stream that both sides read. `startup.prepare()` comes first."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.peer import torch_weights
from benchmarks.race import IGNORED, Stream, race
from benchmarks.work import CLASSES
from unet_jax import augment, losses, metrics, parallel, targets, training
from unet_jax.data.named import open_named
from unet_jax.data.normalisation import Normalised
from unet_jax.data.pipeline import eval_tiles, steps_per_epoch, train_batches, visits
from unet_jax.data.source import split
from unet_jax.logs import write_json
from unet_jax.models import UNet

LOSS = losses.weighted_sum((1.0, losses.dice), (1.0, losses.cross_entropy))


def write_stream(folder: Path, config: Any) -> int:
    """Write training batches, crops augmented as in training, validation tiles and learning rates; gives the steps."""
    parts, patch = split(Normalised(open_named(config.data, say=print)).preload()), (config.patch, config.patch)
    source = visits(parts["train"], patch=patch)
    steps = config.epochs * steps_per_epoch(len(source), config.batch)
    crops = train_batches(source, patch=patch, batch=config.batch, seed=0)
    mesh = parallel.data_mesh(config.batch)

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for step in range(steps):
            yield jax.device_get(_augmented(step, parallel.shard(next(crops), mesh)))

    _save(folder, "", batches(), steps)
    tiles = list(eval_tiles(parts["val"], patch=patch, batch=config.batch, margin=config.patch // 8))
    labels = (np.where(t["mask"], t["label"] > 0, IGNORED).astype(np.uint8) for t in tiles)
    _save(folder, "val_", zip((t["image"] for t in tiles), labels, strict=True), len(tiles))
    write_json(folder / "rates.json", rates(config.learning_rate, steps))
    return steps


@jax.jit
def _augmented(step: jax.Array, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    key = jax.random.fold_in(jax.random.PRNGKey(0), step)
    image, label, mask = augment.strong()(key, training.to_unit(batch["image"]), batch["label"], batch["mask"])
    image = jnp.round(255 * jnp.clip(image, 0, 1)).astype(jnp.uint8)
    return image, jnp.where(mask, targets.foreground(label), IGNORED).astype(jnp.uint8)


def _save(folder: Path, prefix: str, batches: Iterator[tuple[np.ndarray, np.ndarray]], count: int) -> None:
    files = None
    for i, arrays in enumerate(batches):
        if files is None:
            files = [
                np.lib.format.open_memmap(folder / f"{prefix}{name}.npy", "w+", np.uint8, (count, *array.shape))
                for name, array in zip(("image", "label"), arrays, strict=True)
            ]
        for file, array in zip(files, arrays, strict=True):
            file[i] = array
    for file in files or ():
        file.flush()


def rates(peak: float, steps: int) -> list[float]:
    """The learning rate of each step, by the library's own schedule."""
    rule = training.scheduled(peak, steps)

    def rate(count: jax.Array) -> jax.Array:
        return rule.update({}, training.ScheduleState(count, jnp.asarray(steps), jnp.zeros(())))[1].learning_rate

    return np.asarray(jax.vmap(rate)(jnp.arange(steps))).astype(float).tolist()


class Ours:
    """The experiments' training step over a stream that is already augmented."""

    name = "unet_jax"

    def __init__(self, config: Any, stream: Stream):
        self.config, self.stream, self.mesh = config, stream, parallel.data_mesh(config.batch)

    def setup(self, dtype: str) -> None:
        """Fresh weights, the same each time, and steps that are not compiled yet."""
        width, everywhere = self.config.width, parallel.replicated(self.mesh)
        model = UNet(tuple(width * 2**level for level in range(5)), classes=CLASSES, norm=self.config.norm, dtype=dtype)
        optimizer = optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.scale_by_adam(),
            training.scheduled(self.config.learning_rate, len(self.stream.rates)),
        )
        state = training.init_state(model, optimizer, self.stream.image.shape[2:], seed=0)
        self.state, self.pending = jax.device_put(state, everywhere), None
        step = training.make_train_step(model, optimizer, LOSS, target=targets.foreground)
        self.step = jax.jit(step, donate_argnums=0, out_shardings=everywhere)

        def count(logits: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
            return metrics.confusion(logits, label, mask, num_classes=CLASSES)

        evaluate = training.make_eval_step(model, LOSS, count, target=targets.foreground)
        self.count = jax.jit(lambda state, batch: evaluate(state, batch)["counts"].sum(axis=0))

    def weights(self) -> dict[str, np.ndarray]:
        """Parameters, and batch statistics if any, as PyTorch names them."""
        state = jax.device_get(self.state)
        return torch_weights(state.params) | torch_weights(state.model_state.get("batch_stats", {}))

    def batch(self, image: np.ndarray, label: np.ndarray) -> dict[str, jax.Array]:
        """One batch of the stream on the devices."""
        mask = label != IGNORED
        arrays = {"image": np.asarray(image), "label": np.where(mask, label, 0).astype(np.int32), "mask": mask}
        return parallel.shard(arrays, self.mesh)

    def train(self, step: int) -> jax.Array:
        """Step `step`; as in the training loop, one is under way while the host prepares the next."""
        self.state, out = self.step(self.state, self.batch(self.stream.image[step], self.stream.label[step]))
        if self.pending is not None:
            float(self.pending)
        self.pending = out["loss"]
        return out["loss"]

    def validate(self) -> tuple[int, int, int]:
        """Pixels in both, predicted and true, over all validation images."""
        batches = zip(self.stream.val_image, self.stream.val_label, strict=True)
        table = sum(np.asarray(self.count(self.state, self.batch(*b))).astype(np.int64) for b in batches)
        return table[1, 1], table[:, 1].sum(), table[1].sum()

    def losses(self, steps: int) -> dict[str, Any]:
        """The losses of the first steps, and the median seconds of a step in their second half."""
        seen, seconds = [], []
        for step in range(steps):
            began = time.perf_counter()
            seen.append(float(self.train(step)))
            seconds.append(time.perf_counter() - began)
        return {"losses": seen, "seconds": float(np.median(seconds[steps // 2 :]))}

    def race(self, **limits: Any) -> list[dict[str, Any]]:
        """Rows of `race.race`."""
        return race(self.train, self.validate, **limits)
