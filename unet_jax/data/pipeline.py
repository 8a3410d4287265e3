"""From samples of any size to batches of one shape: normalised to 8 bits once, cropped at random, or tiled whole."""

import math
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Float32, Shaped, UInt8, UInt16

from unet_jax.data.source import Source, Subset
from unet_jax.data.tiles import Tile, cut, inside, owned, tiles

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
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        bad = int((~np.isfinite(image)).sum())
        raise ValueError(f"{bad} values are infinite or not a number: replace them, for example with numpy.nan_to_num")
    grid = (slice(None, None, grid_step(image.shape[:-1])),) * (image.ndim - 1)
    bottom, top = np.percentile(image[grid], [low, high])
    if top <= bottom:
        bottom, top = float(image.min()), float(image.max())
    return stretch(image, float(bottom), float(top))


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


class Normalised:
    """The same source with every image through `to_uint8`, done once and kept in memory up to `cache_bytes`."""

    def __init__(self, source: Source, *, low: float = 1.0, high: float = 99.8, cache_bytes: int = 2 * 2**30):
        """Nothing is read before `preload` or the first use."""
        self.source, self.low, self.high = source, low, high
        self._images: dict[int, np.ndarray] = {}
        self._room, self._lock = cache_bytes, threading.Lock()

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
        image = self._images.get(i)
        if image is None:
            try:
                image = to_uint8(sample["image"], low=self.low, high=self.high)
            except ValueError as error:
                raise ValueError(f"image {sample['id']}: {error}") from error
            with self._lock:
                if i not in self._images and image.nbytes <= self._room:
                    image.flags.writeable = False
                    self._images[i] = image
                    self._room -= image.nbytes
        return sample | {"image": image}


def visits(source: Source, *, patch: tuple[int, ...]) -> Subset:
    """The same images, a large one several times: round((pixels / pixels of the patch) ** 1/2), at least once.

    One crop of a large image shows little of it, and the kinds of image that come in large sizes are often the rare
    ones; the root keeps a few huge images from filling the epoch.
    """
    times = [max(1, round((source[i]["label"].size / math.prod(patch)) ** 0.5)) for i in range(len(source))]
    return Subset(source, np.repeat(np.arange(len(source)), times).tolist())


def steps_per_epoch(images: int, batch: int) -> int:
    """Steps in which every image is seen about once: images / batch, rounded, at least 1."""
    return max(1, round(images / batch))


def train_batches(
    source: Source,
    *,
    patch: tuple[int, ...],
    batch: int,
    seed: int,
    start_step: int = 0,
    rows: slice | None = None,
    threads: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless random crops: image (B, *patch, C) uint8, label (B, *patch) int32, mask (B, *patch) bool, id (B,) text.

    The images come in an order that is shuffled anew each time round, with no gap between rounds, so that all are seen
    equally often whatever the batch. A batch depends on (source, patch, batch, seed, step) alone: starting at
    `start_step`, or with other `threads` (0: read when asked; n: n readers, n + 1 batches ahead), repeats it exactly.
    An image smaller than the patch lies somewhere in it, mirrored around, mask False on the mirrored part.

    Args:
        source: images of the patch's rank; normalised with `Normalised(source)` unless it (or what it is a part of) is.
        patch: pixels along each axis.
        batch: rows of the whole batch.
        seed: 0 to 2**32 - 1.
        start_step: number of the first batch.
        rows: which rows of the whole batch to read, this process's part; None reads all.
        threads: readers in the background.
    """
    import grain

    chosen = range(batch)[rows or slice(None)]
    if len(source) == 0 or not chosen:
        raise ValueError(f"{len(source)} images, {len(chosen)} rows of a batch of {batch}: nothing to train on")
    if min(patch) < 1:
        raise ValueError(f"patch {patch}: every axis needs at least one pixel")
    stream = grain.MapDataset.source(_normalised(source)).seed(seed).shuffle().repeat()
    stream = stream.random_map(lambda sample, rng: _random_crop(sample, rng, patch))
    # Indexed by hand, not with .batch(), so that a process reads its own rows only, of the same whole batch.
    steps = grain.MapDataset.range(sys.maxsize // batch).map(
        lambda step: _stack([stream[step * batch + row] for row in chosen])
    )
    iterator = iter(steps.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1)))
    grain.experimental.set_next_index(iterator, start_step)
    return iterator


def eval_tiles(
    source: Source, *, patch: tuple[int, ...], batch: int, margin: int
) -> Iterator[dict[str, Shaped[np.ndarray, "..."]]]:
    """Every image whole, as batches of tiles of one shape; each pixel that counts has mask True in exactly one tile.

    Besides image, label, mask and id as in `train_batches`: `index` (B,) int32, the image's place in the source;
    `origin` (B, rank) int32, the tile's corner in the image (negative where the image is smaller than the patch);
    `owned` (B, *patch) bool, the pixels that are this tile's to predict (`mask` is that less ignored pixels).
    The last batch is filled up with zeros: index -1, mask and owned False. The geometry is that of `tiles.tiles`.
    """
    if batch < 1:
        raise ValueError(f"batch {batch}: choose at least 1")
    waiting: list[dict[str, Any]] = []
    source = _normalised(source, cache_bytes=0)
    for i in range(len(source)):
        sample = source[i]
        for tile in tiles(sample["label"].shape, patch=patch, margin=margin):
            waiting.append(_window(sample, tile, patch) | {"index": np.int32(i)})
            if len(waiting) == batch:
                yield _stack(waiting)
                waiting = []
    if waiting:
        blank = {name: np.zeros_like(value) for name, value in waiting[0].items() if name != "id"}
        yield _stack(waiting + [blank | {"id": "", "index": np.int32(-1)}] * (batch - len(waiting)))


def _normalised(source: Source, **options: int) -> Source:
    """The source itself if it, or what it is a part of, is normalised."""
    inner = source
    while isinstance(inner, Subset):
        inner = inner.source
    return source if isinstance(inner, Normalised) else Normalised(source, **options)


def _window(sample: dict[str, Any], tile: Tile, patch: tuple[int, ...]) -> dict[str, Any]:
    """A tile of a sample; its mask is False wherever the tile does not own the pixel."""
    mine = owned(patch, tile)
    mask = np.zeros(patch, bool)
    mask[inside(tile)] = sample["mask"][tuple(map(slice, tile.start, tile.stop))]
    return {
        "image": cut(sample["image"], tile.origin, patch),
        "label": cut(sample["label"], tile.origin, patch),
        "mask": mask,
        "id": sample["id"],
        "origin": np.array(tile.origin, np.int32),
        "owned": mine,
    }


def _random_crop(sample: dict[str, Any], rng: np.random.Generator, patch: tuple[int, ...]) -> dict[str, Any]:
    """A window uniformly among those within the image or, along an axis where it is smaller, among those around it."""
    shape = sample["label"].shape
    if len(shape) != len(patch):
        raise ValueError(f"image {sample['id']} has {len(shape)} axes {shape}, the patch {patch}: give it as many")
    room = [n - p for n, p in zip(shape, patch, strict=True)]
    origin = [int(rng.integers(min(free, 0), max(free, 0) + 1)) for free in room]
    if min(room) >= 0:
        return {name: cut(sample[name], origin, patch) for name in ("image", "label", "mask")} | {"id": sample["id"]}
    start = tuple(max(o, 0) for o in origin)
    stop = tuple(min(o + p, n) for o, p, n in zip(origin, patch, shape, strict=True))
    return _window(sample, Tile(tuple(origin), start, stop), patch)


def _stack(samples: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
