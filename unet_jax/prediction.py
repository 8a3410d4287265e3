"""From a trained model, or several, to class probabilities for images of any size."""

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float32, Int32, Shaped, UInt8

from unet_jax import ensemble, heads, parallel, zoom
from unet_jax.blending import Apply, Band, Count, Rows, blend, uncounted, whole
from unet_jax.data import normalisation
from unet_jax.instances import separate_foreground
from unet_jax.model_folder import check_shapes, fingerprint, read_model, write_model
from unet_jax.models import from_spec
from unet_jax.probabilities import Prediction, foreground
from unet_jax.views import VIEWS, activate, forward, forward_views, mean_and_spread


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
        zoom: how many times larger than it is the network sees an image, for objects smaller than those it was trained
            on; below 1 for larger ones. The prediction is of the image as it is.
        others: further models, whose values are averaged with this one's, which also gives `spread`; of the same
            channels, classes, head and tile.
    """

    variables: Mapping[str, Any] = dataclasses.field(repr=False)
    card: Mapping[str, Any]
    tile: tuple[int, ...] | None = None
    overlap: float = 0.25
    batch: int = 8
    tta: bool = False
    zoom: float = 1.0
    others: tuple["Predictor", ...] = ()

    def __post_init__(self):
        """Raises ValueError for options that cannot be, and for cards, variables and tile that do not go together."""
        if not 0 <= self.overlap < 1 or self.batch < 1:
            raise ValueError(f"overlap {self.overlap}, batch {self.batch}: choose 0 <= overlap < 1 and batch >= 1")
        zoom.check(self.zoom)
        self.normalisation  # noqa: B018 - checks the card
        if self.tta and len(set(self.input_size)) != 1:
            raise ValueError(f"a tile of {self.input_size} pixels cannot be turned: choose equal sides, or no tta")
        self.output_size  # noqa: B018 - checks the tile and the variables
        ensemble.check_alike([model.card for model in self._models])
        for number, other in enumerate(self.others, start=2):
            if (size := (other.input_size, other.output_size)) != (self.input_size, self.output_size):
                raise ValueError(f"model {number} makes {size[1]} pixels of a tile of {size[0]}, the first others")

    @classmethod
    def load(cls, folder: str | Path | Sequence[str | Path], *, which: str = "best", **options: Any) -> "Predictor":
        """The model in a folder (see `model_folder.read_model`), or the mean of those in several.

        Options are the fields `tile` to `zoom`, where a `tile` of one number is that of every axis; several models take
        the first one's tile when it is not given.
        """
        folders = [folder] if isinstance(folder, str | Path) else list(folder)
        if not folders:
            raise ValueError("no model: name at least one folder")
        models: list[Predictor] = []
        for name in folders:
            variables, card = read_model(name, which=which)
            tile = options.get("tile") or (models[0].input_size if models else None)
            try:
                tile = (tile,) * len(card["patch"]) if isinstance(tile, int) else tile
                models.append(cls(variables, card, **{**options, "tile": tile}))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            except (TypeError, LookupError, AttributeError, ArithmeticError) as error:
                reason = f"{type(error).__name__}: {error}"
                raise ValueError(f"{name}: its card describes no model ({reason}): ask for the model again") from error
        if len(models) == 1:
            return models[0]
        try:
            return dataclasses.replace(models[0], others=tuple(models[1:]))
        except ValueError as error:
            raise ValueError(f"{', '.join(map(str, folders))}: {error}") from error

    def __call__(self, image: Shaped[np.ndarray, "..."]) -> Prediction:
        """Predict one image (*S, C) or (*S), of any size, its numbers as they are in the file."""
        return next(self.run([self.prepare(image)]))

    def run(self, images: Iterable[Rows], *, count: Count = uncounted) -> Iterator[Prediction]:
        """Predict images that went through `prepare`, in order; their tiles, which `count` counts, share batches."""
        sizes: deque[tuple[int, ...]] = deque()

        def seen() -> Iterator[Rows]:
            for image in images:
                sizes.append(tuple(image.shape[:-1]))
                yield zoom.zoomed(image, self.zoom)

        for values in whole(self.bands(seen(), count=count)):
            here = zoom.values_at(values, sizes.popleft())
            spread = here[..., -1] if self.has_spread else None
            yield Prediction(self.probabilities(here), tuple(self.card["classes"]), spread, self.values(values))

    def objects(self, prediction: Prediction, **options: float) -> Int32[np.ndarray, "*s"]:
        """Label image of a prediction: ids 1..n of its objects; `options` as in `separate`."""
        values = prediction.probabilities if prediction.values is None else prediction.values
        return zoom.label_at(self.separate(values, **options), prediction.probabilities.shape[:-1])

    def separate(self, values: Float32[np.ndarray, "*s v"], **options: float) -> Int32[np.ndarray, "*s"]:
        """Objects from `values`, by the head of the card, with the card's options or these in their place.

        A model of plain classes knows `threshold` and `min_area` only: its objects are connected pieces.
        """
        chosen = {**self.separation, **options}
        if self.head is None:
            return separate_foreground(foreground(values), **chosen)
        return self.head.separate(values, **chosen)

    @cached_property
    def head(self) -> heads.Head | None:
        """The head of the card; None for a model of plain classes."""
        return heads.head_of(self.card)

    @property
    def stitching(self) -> dict[str, float]:
        """How windows of a large image share rows, for `predict_stream`: connected pieces meet in a single row.

        Of those the small ones go at the end, with `min_area`, as a window may hold but a corner of a large one.
        """
        plain = self.head is None or self.head is heads.HEADS["foreground"]
        return {"min_area": int(self.separation.get("min_area", 0))} if plain else {"overlap": 128, "agree": 0.25}

    @cached_property
    def separation(self) -> dict[str, float]:
        """How objects are separated, as the card has it; the median of several models' choices."""
        return ensemble.separation([model.card for model in self._models])

    @property
    def threshold(self) -> float:
        """Probability from which a pixel is foreground, as the card has it."""
        return float(self.separation.get("threshold", 0.5))

    def bands(self, images: Iterable[Rows], *, count: Count = uncounted) -> Iterator[Band]:
        """The same in bands along the first axis; where there is a spread, it is the last of the values."""
        context = (self.input_size[0] - self.output_size[0]) // 2
        options = {"overlap": self.overlap, "batch": self._tiles, "context": context, "count": count}
        yield from blend(self._apply, images, patch=self.output_size, **options)

    def values(self, band: Float32[np.ndarray, "*s k"]) -> Float32[np.ndarray, "*s _"]:
        """The values of a band without the spread, for `separate`."""
        return band[..., :-1] if self.has_spread else band

    @property
    def has_spread(self) -> bool:
        """Whether several views or models are averaged."""
        return self.tta or bool(self.others)

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
        return normalisation.match_channels(image, int(self.card["channels"]))

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
        check_shapes(variables, self.variables)
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
        return fingerprint([model.variables for model in self._models])

    @property
    def _models(self) -> tuple["Predictor", ...]:
        return (self, *self.others)

    @property
    def _tiles(self) -> int:
        return max(1, self.batch // VIEWS) if self.tta else self.batch

    @cached_property
    def _apply(self) -> Apply:
        mesh = parallel.data_mesh(self._tiles * VIEWS if self.tta else self._tiles)
        rows, everywhere = parallel.split(mesh), parallel.replicated(mesh)
        vectors = self.head.map_size(len(self.input_size)) if self.head and self.head.vectors else 0
        programs: dict[nn.Module, Any] = {}  # equal models share one

        def program(model: nn.Module) -> Any:
            plain = partial(forward, model, self.head.values if self.head else activate)
            return jax.jit(partial(forward_views, plain, rows, vectors=vectors) if self.tta else plain)

        parts = []
        for part in self._models:
            variables = jax.device_put(dict(part.variables), everywhere)
            parts.append((programs.setdefault(part.model, program(part.model)), variables))
        classes = self.head.classes if self.head else None
        average = jax.jit(partial(mean_and_spread, classes=classes, stacked=self.tta))
        where = everywhere if self.tta else rows  # the views are spread, not the tiles

        def apply(batch: np.ndarray) -> jax.Array:
            tiles = jax.device_put(batch, where)
            found = [program(variables, tiles) for program, variables in parts]
            return average(found) if self.has_spread else found[0]

        return apply


def export_model(predictor: Predictor, folder: str | Path, *, dtype: str = "float16") -> None:
    """Write the predictor's model as a small folder that `Predictor.load` reads: see `model_folder.write_model`.

    Raises ValueError for several models.
    """
    if predictor.others:
        raise ValueError(f"{1 + len(predictor.others)} models do not go into one folder: export each by itself")
    write_model(predictor.variables, predictor.card, folder, dtype=dtype)
