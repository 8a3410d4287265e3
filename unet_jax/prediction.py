"""From a trained model to class probabilities for images of any size."""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jaxtyping import Float32, Int32, Int64, Shaped, UInt8

from unet_jax import heads, metrics, parallel
from unet_jax.blending import Apply, Band, Count, Rows, blend, uncounted, whole
from unet_jax.data import normalisation
from unet_jax.data.source import Source
from unet_jax.instances import separate_foreground
from unet_jax.model_folder import read_model, write_model
from unet_jax.models import from_spec
from unet_jax.views import VIEWS, activate, forward, forward_tta


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Probabilities of one image: (*S, K), K = 1 (of the object class) or one a class, the background first.

    `values` (*S, V) is what the model's head tells of objects (see `heads`): for a model of plain classes the same.

    `spread` (*S), of test-time augmentation only, is the standard deviation over the eight views, of the class in which
    it is largest.
    """

    probabilities: Float32[np.ndarray, "*s k"]
    classes: tuple[str, ...]
    spread: Float32[np.ndarray, "*s"] | None = None
    values: Float32[np.ndarray, "*s v"] | None = None

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

    def run(self, images: Iterable[Rows], *, count: Count = uncounted) -> Iterator[Prediction]:
        """Predict images that went through `prepare`, in order; their tiles, which `count` counts, share batches."""
        for values in whole(self.bands(images, count=count)):
            spread = values[..., -1] if self.tta else None
            yield Prediction(self.probabilities(values), tuple(self.card["classes"]), spread, self.values(values))

    def objects(self, prediction: Prediction, **options: float) -> Int32[np.ndarray, "*s"]:
        """Label image of a prediction: ids 1..n of its objects; `options` as in `separate`."""
        return self.separate(prediction.probabilities if prediction.values is None else prediction.values, **options)

    def separate(self, values: Float32[np.ndarray, "*s v"], **options: float) -> Int32[np.ndarray, "*s"]:
        """Objects from `values`, by the head of the card, with the card's options or these in their place.

        A model of plain classes knows `threshold` and `min_area` only: its objects are connected pieces.
        """
        chosen = {**self.card.get("separation", {}), **options}
        if self.head is None:
            return separate_foreground(foreground(values), **chosen)
        return self.head.separate(values, **chosen)

    @cached_property
    def head(self) -> heads.Head | None:
        """The head of the card; None for a model of plain classes."""
        return heads.head_of(self.card)

    @property
    def stitching(self) -> dict[str, float]:
        """How windows of a large image share rows, for `predict_stream`: connected pieces meet in a single row."""
        plain = self.head is None or self.head is heads.HEADS["foreground"]
        return {} if plain else {"overlap": 128, "agree": 0.25}

    @property
    def threshold(self) -> float:
        """Probability from which a pixel is foreground, as the card has it."""
        return float(self.card.get("separation", {}).get("threshold", 0.5))

    def bands(self, images: Iterable[Rows], *, count: Count = uncounted) -> Iterator[Band]:
        """The same in bands along the first axis; with tta the spread is the last of the values."""
        context = (self.input_size[0] - self.output_size[0]) // 2
        options = {"overlap": self.overlap, "batch": self._tiles, "context": context, "count": count}
        yield from blend(self._apply, images, patch=self.output_size, **options)

    def values(self, band: Float32[np.ndarray, "*s k"]) -> Float32[np.ndarray, "*s _"]:
        """The values of a band without the spread, for `separate`."""
        return band[..., :-1] if self.tta else band

    def probabilities(self, band: Float32[np.ndarray, "*s k"]) -> Float32[np.ndarray, "*s _"]:
        """The probabilities in the values of a band."""
        if self.head is None:
            return self.values(band)
        return np.stack([band[..., 0], 1 - band[..., 0]], axis=-1)

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
        vectors = self.head.map_size(len(self.input_size)) if self.head and self.head.vectors else 0
        plain = partial(forward, self.model, self.head.values if self.head else activate)
        apply = jax.jit(partial(forward_tta, plain, rows, vectors=vectors) if self.tta else plain)
        where = parallel.replicated(mesh) if self.tta else rows  # tta spreads the views
        return lambda batch: apply(variables, jax.device_put(batch, where))


def count_foreground(predictor: Predictor, source: Source) -> Int64[np.ndarray, "n 2 2"]:
    """Confusion counts of background and object at one half, of every image of a normalised source."""
    samples = [source[i] for i in range(len(source))]
    return np.stack(
        [
            metrics.count_pixels((s["label"] > 0) * 1, (p.foreground >= 0.5) * 1, num_classes=2, mask=s["mask"])
            for s, p in zip(samples, predictor.run(s["image"] for s in samples), strict=True)
        ]
    )


def export_model(predictor: Predictor, folder: str | Path, *, dtype: str = "float16") -> None:
    """Write the predictor's model as a small folder that `Predictor.load` reads: see `model_folder.write_model`."""
    write_model(predictor.variables, predictor.card, folder, dtype=dtype)
