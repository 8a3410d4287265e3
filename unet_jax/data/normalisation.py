"""Grey levels of any kind to the 8 bits the network sees: by percentiles, or by the z-score inside a brain.

A normalisation is a frozen dataclass called with a whole image (*S, C); a model's card keeps it as `to_spec` writes it.
"""

import dataclasses
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Float32, Shaped, UInt8, UInt16

from unet_jax.data.scenes import SCENE, Kept, on_disk, opened
from unet_jax.data.source import Source

_MANY = 2**22  # above 4 Mpx about 1 Mpx, evenly spread, decides the range


def to_uint8(
    image: UInt8[np.ndarray, "*s c"] | UInt16[np.ndarray, "*s c"] | Float32[np.ndarray, "*s c"],
    *,
    low: float = 1.0,
    high: float = 99.8,
) -> UInt8[np.ndarray, "*s c"]:
    """Stretch a whole image so that its percentiles `low` and `high`, over all channels together, become 0 and 255.

    out = round(255 clip((x - p_low) / (p_high - p_low), 0, 1)). Where the two percentiles are equal (a few bright spots
    on black) minimum and maximum take their place; a constant image becomes 0. Images of 4 Mpx and more are measured on
    an even grid of about 1 Mpx. Raises ValueError for infinite or missing numbers and for percentiles out of order.
    """
    if not 0 <= low < high <= 100:
        raise ValueError(f"percentiles low={low}, high={high}: choose 0 <= low < high <= 100")
    _check_finite(image)
    grid = (slice(None, None, grid_step(image.shape[:-1])),) * (image.ndim - 1)
    bottom, top = _percentiles(image[grid], (low, high))
    if top <= bottom:
        bottom, top = float(image.min()), float(image.max())
    return stretch(image, float(bottom), float(top))


def _percentiles(values: np.ndarray, shares: Sequence[float]) -> list[float]:
    """Those of `np.percentile`; of bytes, from their histogram, which takes a quarter of the time."""
    if values.dtype != np.uint8:
        return [float(p) for p in np.percentile(values, shares)]
    upto = np.cumsum(np.bincount(values.ravel(), minlength=256))
    found = []
    for share in shares:
        place = share / 100 * (values.size - 1)
        below, above = np.searchsorted(upto, (np.floor(place), np.ceil(place)), side="right")  # numbers in order
        found.append(float(below + (above - below) * (place % 1)))
    return found


def _check_finite(image: np.ndarray) -> None:
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        bad = int((~np.isfinite(image)).sum())
        raise ValueError(f"{bad} values are infinite or not a number: replace them, for example with numpy.nan_to_num")


def grid_step(spatial: Sequence[int]) -> int:
    """Every how many pixels along each axis of an image the percentiles of its grey levels are measured."""
    pixels = int(np.prod(spatial))
    return int(np.ceil((pixels / 2**20) ** (1 / len(spatial)))) if pixels >= _MANY else 1


def stretch(image: Shaped[np.ndarray, "*s c"], bottom: float, top: float) -> UInt8[np.ndarray, "*s c"]:
    """Map `bottom` to 0 and `top` to 255, clipped and rounded; 0 everywhere when top is not above bottom."""
    if image.dtype.kind == "f":
        return _stretch(image, bottom, top)
    return _stretch(np.arange(np.iinfo(image.dtype).max + 1), bottom, top)[image]  # a table: no copy in floating point


def _stretch(values: np.ndarray, bottom: float, top: float) -> np.ndarray:
    if top <= bottom:
        return np.zeros(values.shape, np.uint8)
    share = np.clip(values, bottom, top).astype(np.float64, copy=False)
    share -= bottom
    share *= 255 / (top - bottom)
    return np.rint(share, out=share).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Percentiles:
    """Stretch a whole image between two percentiles of all its channels: see `to_uint8`."""

    low: float = 1.0
    high: float = 99.8

    def __call__(self, image: Shaped[np.ndarray, "*s c"]) -> UInt8[np.ndarray, "*s c"]:
        """The image in 8 bits."""
        return to_uint8(image, low=self.low, high=self.high)


@dataclasses.dataclass(frozen=True)
class ChannelPercentiles:
    """Stretch each channel of a whole image between its own percentiles, for bands of different instruments."""

    low: float = 1.0
    high: float = 99.8

    def __call__(self, image: Shaped[np.ndarray, "*s c"]) -> UInt8[np.ndarray, "*s c"]:
        """The image in 8 bits."""
        bands = [to_uint8(image[..., k : k + 1], low=self.low, high=self.high) for k in range(image.shape[-1])]
        return np.concatenate(bands, axis=-1)


@dataclasses.dataclass(frozen=True)
class ZScore:
    """Z-score of each channel over the pixels that hold anything, for MRI, whose grey levels have no unit.

    A pixel in which every channel is 0 lies outside the brain (or whatever the scan was cut to): it becomes 0. Inside,
    z = (x - mean) / standard deviation of the channel, and out = round(127.5 (1 + z / span)), clipped to 1..255. A
    channel that is constant inside becomes 128.

    Raises:
        ValueError: for infinite or missing numbers, an image of nothing but zeros, or a span that is not above 0.

    Source: Isensee et al. 2021, nnU-Net, supplement: intensity normalisation within the mask of non-zero voxels.
    """

    span: float = 5.0

    def __call__(self, image: Shaped[np.ndarray, "*s c"]) -> UInt8[np.ndarray, "*s c"]:
        """The image in 8 bits."""
        if not self.span > 0:
            raise ValueError(f"span={self.span}: give the largest z-score to keep, such as 5")
        _check_finite(image)
        inside = (image != 0).any(axis=-1)
        if not inside.any():
            raise ValueError("every value is 0: nothing to normalise, leave this image out")
        out = np.zeros(image.shape, np.uint8)
        for channel in range(image.shape[-1]):  # one at a time: volumes are large
            values = image[..., channel][inside].astype(np.float64)
            values -= values.mean()
            spread = values.std()
            values *= 127.5 / (self.span * spread) if spread > 0 else 0.0
            out[..., channel][inside] = np.clip(np.rint(values + 127.5), 1, 255).astype(np.uint8)
        return out


Normalisation = Percentiles | ChannelPercentiles | ZScore
_METHODS: dict[str, tuple[type[Normalisation], str]] = {
    "percentile": (Percentiles, "all channels of the image"),
    "channel-percentile": (ChannelPercentiles, "each channel of the image"),
    "zscore": (ZScore, "each channel, pixels that are not 0 in all channels"),
}


def to_spec(normalisation: Normalisation) -> dict[str, Any]:
    """JSON-ready description: its method, its options, and over what it measures."""
    for method, (kind, over) in _METHODS.items():
        if type(normalisation) is kind:
            return {"method": method, **dataclasses.asdict(normalisation), "over": over}
    raise TypeError(f"{type(normalisation).__name__} is no normalisation that a card can keep")


def from_spec(spec: Mapping[str, Any]) -> Normalisation:
    """The normalisation that `to_spec` described; ValueError for one that this version does not know."""
    options = {name: value for name, value in spec.items() if name not in ("method", "over")}
    kind, _ = _METHODS.get(str(spec.get("method")), (None, ""))
    if kind is None or set(options) - {field.name for field in dataclasses.fields(kind)}:
        raise ValueError(f"normalisation {dict(spec)}: the model was made by another version")
    return kind(**{name: float(value) for name, value in options.items()})


class Normalised:
    """The same source with every image normalised to 8 bits, done once and kept in memory up to `cache_bytes`.

    Beyond that scenes are kept on the disk (`scenes.on_disk`), others done again; with `cache_bytes` 0 nothing is kept.
    """

    normalised = True  # the pipeline leaves its images as they are

    def __init__(self, source: Source, how: Normalisation = Percentiles(), *, cache_bytes: int = 2 * 2**30):
        """Nothing is read before `preload` or the first use."""
        self.source, self.how = source, how
        self._images: dict[int, np.ndarray | Kept] = {}
        self._room, self._lock, self._keeps = cache_bytes, threading.Lock(), cache_bytes > 0

    @property
    def ids(self) -> tuple[str, ...]:
        """One name an image, in order."""
        return self.source.ids

    @property
    def channels(self) -> int:
        """C, the same in every image."""
        return self.source.channels

    @property
    def label_kind(self) -> str:
        """What a label's numbers mean."""
        return self.source.label_kind

    @property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """Further texts, one an image."""
        return self.source.columns

    def preload(self) -> "Normalised":
        """Normalise every image now, so that one that cannot be is named before a training begins; returns itself."""
        for i in range(len(self)):
            self[i]
        return self

    def __len__(self) -> int:
        """Number of images."""
        return len(self.source)

    def __getitem__(self, index: SupportsIndex, /) -> dict[str, Any]:
        """The sample at `index`, its image uint8; ValueError names the image."""
        i = range(len(self))[index]
        sample = dict(self.source[i])
        if (kept := self._images.get(i)) is not None:
            with suppress(FileNotFoundError):  # somebody has emptied the cache
                return sample | opened({"image": kept})
        try:
            image = self.how(sample["image"])
        except ValueError as error:
            raise ValueError(f"image {sample['id']}: {error}") from error
        with self._lock:
            if i not in self._images and image.nbytes <= self._room:
                image.flags.writeable = False
                self._images[i] = image
                self._room -= image.nbytes
        scene = self._keeps and sample["label"].size >= SCENE and not isinstance(self._images.get(i), np.ndarray)
        if scene and (on := on_disk(image)):
            self._images[i] = on[0]
        return sample | {"image": image}


def match_channels(image: Shaped[np.ndarray, "*s _"], want: int) -> Shaped[np.ndarray, "*s {want}"]:
    """Repeat grey for a model of colours, take one of equal colours for a model of grey; ValueError otherwise."""
    have = image.shape[-1]
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
