"""From a trained model to class probabilities for images of any size."""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Float32, Shaped, UInt8

from unet_jax import parallel
from unet_jax.blending import Apply, Band, Rows, blend, whole
from unet_jax.data import normalisation
from unet_jax.model_folder import read_model, write_model
from unet_jax.models import from_spec
from unet_jax.training import to_unit

VIEWS = 8  # of test-time augmentation


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Probabilities of one image: (*S, K), K = 1 (of the object class) or one a class, the background first.

    `spread` (*S), of test-time augmentation only, is the standard deviation over the eight views, of the class in which
    it is largest.
    """

    probabilities: Float32[np.ndarray, "*s k"]
    classes: tuple[str, ...]
    spread: Float32[np.ndarray, "*s"] | None = None

    @property
    def foreground(self) -> Float32[np.ndarray, "*s"]:
        """Probability that a pixel is not background."""
        return foreground(self.probabilities)


def foreground(probabilities: Float32[np.ndarray, "*s k"]) -> Float32[np.ndarray, "*s"]:
    """Probability that a pixel is not background: class 0 is background unless there is one class only."""
    return probabilities[..., 0] if probabilities.shape[-1] == 1 else 1 - probabilities[..., 0]


def class_map(probabilities: Float32[np.ndarray, "*s k"], threshold: float) -> UInt8[np.ndarray, "*s"]:
    """Class of every pixel: the likeliest of three or more, else 1 where the foreground reaches the threshold."""
    if probabilities.shape[-1] > 2:
        return probabilities.argmax(axis=-1).astype(np.uint8)
    return (foreground(probabilities) >= threshold).astype(np.uint8)


def predict_probabilities(
    apply: Apply, image: Rows, *, patch: Sequence[int], overlap: float = 0.25, batch: int = 8, context: int = 0
) -> Float32[np.ndarray, "*s k"]:
    """Result (*S, K) of `apply` for one image (*S, C) of any size; the arguments are those of `blending.blend`."""
    return next(whole(blend(apply, [image], patch=patch, overlap=overlap, batch=batch, context=context)))


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """A trained model and the way it sees an image: `predictor(image)` gives a `Prediction`.

    Args:
        variables: {"params": ...} and model state, arrays.
        card: what the training says of the model.
        tile: pixels of the network's input along each axis; the training's patch when None.
        overlap: share of a tile that its neighbour covers too.
        batch: tiles the network sees at a time, views of test-time augmentation included (at least one tile's eight).
        tta: average over eight flips and turns, which also gives `spread`; eight times the work.
    """

    variables: Mapping[str, Any] = dataclasses.field(repr=False)
    card: Mapping[str, Any]
    tile: tuple[int, ...] | None = None
    overlap: float = 0.25
    batch: int = 8
    tta: bool = False

    def __post_init__(self):
        """Raises ValueError for options that cannot be, and a card, variables and tile that do not go together."""
        if not 0 <= self.overlap < 1 or self.batch < 1:
            raise ValueError(f"overlap {self.overlap}, batch {self.batch}: choose 0 <= overlap < 1 and batch >= 1")
        self.normalisation  # noqa: B018 - checks the card
        if self.tta and len(set(self.input_size)) != 1:
            raise ValueError(f"a tile of {self.input_size} pixels cannot be turned: choose equal sides, or no tta")
        self.output_size  # noqa: B018 - checks the tile and the variables

    @classmethod
    def load(cls, folder: str | Path, *, which: str = "best", **options: Any) -> "Predictor":
        """The model in a folder (see `model_folder.read_model`); options are the fields `tile` to `tta`."""
        variables, card = read_model(folder, which=which)
        try:
            return cls(variables, card, **options)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error

    def __call__(self, image: Shaped[np.ndarray, "..."]) -> Prediction:
        """Predict one image (*S, C) or (*S), of any size, its numbers as they are in the file."""
        return next(self.run([self.prepare(image)]))

    def run(self, images: Iterable[Rows]) -> Iterator[Prediction]:
        """Predict images that went through `prepare`, in order; their tiles share batches."""
        for values in whole(self.bands(images)):
            probabilities = self.probabilities(values)
            yield Prediction(probabilities, tuple(self.card["classes"]), values[..., -1] if self.tta else None)

    def bands(self, images: Iterable[Rows]) -> Iterator[Band]:
        """The same in bands along the first axis; with tta the spread is the last of the values."""
        context = (self.input_size[0] - self.output_size[0]) // 2
        yield from blend(
            self._apply, images, patch=self.output_size, overlap=self.overlap, batch=self._tiles, context=context
        )

    def probabilities(self, values: Float32[np.ndarray, "*s k"]) -> Float32[np.ndarray, "*s _"]:
        """The values of a band without the spread."""
        return values[..., :-1] if self.tta else values

    def prepare(self, image: Shaped[np.ndarray, "..."]) -> UInt8[np.ndarray, "*s c"]:
        """The image as the network was trained to see it: its channels, and its grey levels in 8 bits."""
        rank = len(self.input_size)
        image = image[..., None] if image.ndim == rank else image
        if image.ndim != rank + 1:
            raise ValueError(f"an image of shape {image.shape}: give it {rank} axes of space and one of channels")
        if image.dtype not in (np.uint8, np.uint16, np.float32):
            image = image.astype(np.float32)
        return self.normalisation(self.match_channels(image))

    def match_channels(self, image: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        """Repeat grey for a model of colours, take one of equal colours for a model of grey; ValueError otherwise."""
        have, want = image.shape[-1], int(self.card["channels"])
        if have == want:
            return image
        if (have, want) == (1, 3):
            return np.broadcast_to(image, (*image.shape[:-1], 3))
        if (have, want) == (3, 1) and (image == image[..., :1]).all():
            return image[..., :1]
        mend = {(3, 1): "convert it to grey", (4, 3): "leave out its fourth channel"}.get(
            (have, want), f"give it the {want} channels of the training images, in their order"
        )
        raise ValueError(f"the image has {have} channels, the model was trained with {want}: {mend}")

    @property
    def object_name(self) -> str:
        """What the foreground is called: the class after the background, or the only one."""
        return str(self.card["classes"][-1 if len(self.card["classes"]) < 3 else 1])

    @property
    def normalisation(self) -> normalisation.Normalisation:
        """How grey levels become 8 bits."""
        return normalisation.from_spec(self.card["normalisation"])

    @property
    def input_size(self) -> tuple[int, ...]:
        """Pixels of a tile along each axis as the network gets it."""
        return tuple(self.tile or self.card["patch"])

    @cached_property
    def output_size(self) -> tuple[int, ...]:
        """Pixels of a tile's result; smaller than `input_size` with `padding="VALID"`."""
        blank = jax.ShapeDtypeStruct((1, *self.input_size, int(self.card["channels"])), jnp.float32)
        try:
            init = partial(self.model.init_with_output, train=False)
            logits, variables = jax.eval_shape(init, jax.random.PRNGKey(0), blank)
        except ValueError as error:
            raise ValueError(f"tile {'×'.join(map(str, self.input_size))}: {error}") from error
        want, have = (
            {name: np.shape(array) for name, array in traverse_util.flatten_dict(dict(tree), sep="/").items()}
            for tree in (variables, self.variables)
        )
        if wrong := sorted(name for name in want.keys() | have.keys() if want.get(name) != have.get(name)):
            raise ValueError(
                f"{len(wrong)} parameters do not fit the model of the card, among them {wrong[0]}: copy the folder "
                "again, its card and its parameters belong to two models"
            )
        return logits.shape[1:-1]

    @cached_property
    def model(self) -> nn.Module:
        """The network; on a CPU, where bfloat16 is slow, it computes in float32."""
        spec = dict(self.card["model"])
        if jax.default_backend() == "cpu" and "dtype" in spec:
            spec["dtype"] = "float32"
        return from_spec(spec)

    @property
    def fingerprint(self) -> str:
        """Twelve letters that tell models apart, from all parameters."""
        digest = hashlib.sha256()
        for name, array in sorted(traverse_util.flatten_dict(dict(self.variables), sep="/").items()):
            digest.update(name.encode() + np.ascontiguousarray(array, np.float32).tobytes())
        return digest.hexdigest()[:12]

    @property
    def _tiles(self) -> int:
        return max(1, self.batch // VIEWS) if self.tta else self.batch

    @cached_property
    def _apply(self) -> Apply:
        mesh = parallel.data_mesh(self._tiles * VIEWS if self.tta else self._tiles)
        rows = parallel.split(mesh)
        variables = jax.device_put(dict(self.variables), parallel.replicated(mesh))
        forward = jax.jit(partial(_forward_tta, self.model, rows) if self.tta else partial(_forward, self.model))
        where = parallel.replicated(mesh) if self.tta else rows  # tta spreads the views
        return lambda batch: forward(variables, jax.device_put(batch, where))


def export_model(predictor: Predictor, folder: str | Path, *, dtype: str = "float16") -> None:
    """Write the predictor's model as a small folder that `Predictor.load` reads: see `model_folder.write_model`."""
    write_model(predictor.variables, predictor.card, folder, dtype=dtype)


def activate(logits: Float[Array, "b *s k"]) -> Float[Array, "b *s k"]:
    """Probabilities: the sigmoid of a single logit, else the softmax."""
    return jax.nn.sigmoid(logits) if logits.shape[-1] == 1 else jax.nn.softmax(logits, axis=-1)


def _forward(model: nn.Module, variables: Any, image: Array) -> Array:
    return activate(model.apply(variables, to_unit(image), train=False))


def _forward_tta(model: nn.Module, rows: NamedSharding, variables: Any, image: Array) -> Array:
    """Mean over the views, and behind it their spread; all views in one call of the network."""
    axes = tuple(range(1, image.ndim - 1))
    views = list(itertools.product((False, True), repeat=3))  # two axes: swap them, flip each; three: flip each
    seen = jnp.concatenate([_turn(image, view, axes) for view in views])
    seen = _forward(model, variables, jax.lax.with_sharding_constraint(seen, rows))
    back = [_turn_back(part, view, axes) for part, view in zip(jnp.split(seen, VIEWS), views, strict=True)]
    stack = jnp.stack(back)
    return jnp.concatenate([stack.mean(axis=0), stack.std(axis=0).max(axis=-1, keepdims=True)], axis=-1)


def _turn(image: Array, view: tuple[bool, ...], axes: tuple[int, ...]) -> Array:
    if len(axes) == 2 and view[0]:
        image = image.swapaxes(*axes)
    return jnp.flip(image, [axis for axis, on in zip(axes, view[-len(axes) :], strict=True) if on])


def _turn_back(image: Array, view: tuple[bool, ...], axes: tuple[int, ...]) -> Array:
    image = jnp.flip(image, [axis for axis, on in zip(axes, view[-len(axes) :], strict=True) if on])
    return image.swapaxes(*axes) if len(axes) == 2 and view[0] else image
