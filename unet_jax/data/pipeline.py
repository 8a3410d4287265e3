"""From samples of any size to batches of one shape: normalised to 8 bits once, cropped at random, or tiled whole."""

import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped

from unet_jax.data.normalisation import Normalised
from unet_jax.data.source import Source, Subset
from unet_jax.data.tiles import Tile, cut, cut_label, inside, owned, tiles


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
    centred: float = 0.0,
    background: int | None = 0,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless random crops: image (B, *patch, C) uint8, label (B, *patch) int32, mask (B, *patch) bool, id (B,) text.

    The images come in an order that is shuffled anew each time round, with no gap between rounds, so that all are seen
    equally often whatever the batch. A batch depends on (source, patch, batch, seed, step) alone: starting at
    `start_step`, or with other `threads` (0: read when asked; n: n readers, n + 1 batches ahead), repeats it exactly.
    An image smaller than the patch lies somewhere in it, mirrored around, with mask False and label `tiles.UNSEEN` on
    the mirrored part.

    Args:
        source: images of the patch's rank; normalised with `Normalised(source)` unless it (or what it is a part of) is.
        patch: pixels along each axis.
        batch: rows of the whole batch.
        seed: 0 to 2**32 - 1.
        start_step: number of the first batch.
        rows: which rows of the whole batch to read, this process's part; None reads all.
        threads: readers in the background.
        centred: share of the crops that lie around a pixel of an object, as near as the image's edge lets them. Each
            value of the label (class or object) is equally likely, then each of its pixels: rare classes are seen.
        background: the value around which none are centred; None where 0 is a class like any other.
    """
    import grain

    chosen = range(batch)[rows or slice(None)]
    if len(source) == 0 or not chosen:
        raise ValueError(f"{len(source)} images, {len(chosen)} rows of a batch of {batch}: nothing to train on")
    if not 0 <= centred <= 1:
        raise ValueError(f"centred={centred}: give the share of crops around objects, from 0 to 1")
    if min(patch) < 1:
        raise ValueError(f"patch {patch}: every axis needs at least one pixel")
    stream = grain.MapDataset.source(_normalised(source)).seed(seed).shuffle().repeat()
    stream = stream.random_map(lambda sample, rng: _random_crop(sample, rng, patch, centred, background))
    # Indexed by hand, not with .batch(), so that a process reads its own rows only, of the same whole batch.
    steps = grain.MapDataset.range(sys.maxsize // batch).map(
        lambda step: _stack([stream[step * batch + row] for row in chosen])
    )
    iterator = iter(steps.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1)))
    grain.experimental.set_next_index(iterator, start_step)
    return iterator


def eval_tiles(
    source: Source, *, patch: tuple[int, ...], batch: int, margin: int | Sequence[int]
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
    """The source itself if it, or what it is a part of, says that its images are normalised."""
    inner = source
    while isinstance(inner, Subset):
        inner = inner.source
    return source if getattr(inner, "normalised", False) else Normalised(source, **options)


def _window(sample: dict[str, Any], tile: Tile, patch: tuple[int, ...]) -> dict[str, Any]:
    """A tile of a sample; its mask is False wherever the tile does not own the pixel."""
    mine = owned(patch, tile)
    mask = np.zeros(patch, bool)
    mask[inside(tile)] = sample["mask"][tuple(map(slice, tile.start, tile.stop))]
    return {
        "image": cut(sample["image"], tile.origin, patch),
        "label": cut_label(sample["label"], tile.origin, patch),
        "mask": mask,
        "id": sample["id"],
        "origin": np.array(tile.origin, np.int32),
        "owned": mine,
    }


def _random_crop(
    sample: dict[str, Any],
    rng: np.random.Generator,
    patch: tuple[int, ...],
    centred: float = 0.0,
    background: int | None = 0,
) -> dict[str, Any]:
    """A window uniformly among those within the image or, along an axis where it is smaller, among those around it.

    With the probability `centred` the window is the one of these nearest to being around a random labelled pixel.
    """
    shape = sample["label"].shape
    if len(shape) != len(patch):
        raise ValueError(f"image {sample['id']} has {len(shape)} axes {shape}, the patch {patch}: give it as many")
    room = [n - p for n, p in zip(shape, patch, strict=True)]
    origin = [int(rng.integers(min(free, 0), max(free, 0) + 1)) for free in room]
    if centred and rng.random() < centred and (pixel := _labelled(sample, rng, background)) is not None:
        around = zip(pixel, patch, room, strict=True)
        origin = [min(max(at - p // 2, min(free, 0)), max(free, 0)) for at, p, free in around]
    if min(room) >= 0:
        return {name: cut(sample[name], origin, patch) for name in ("image", "label", "mask")} | {"id": sample["id"]}
    start = tuple(max(o, 0) for o in origin)
    stop = tuple(min(o + p, n) for o, p, n in zip(origin, patch, shape, strict=True))
    window = _window(sample, Tile(tuple(origin), start, stop), patch)
    return {name: window[name] for name in ("image", "label", "mask", "id")}  # as of an image larger than the patch


def _labelled(sample: dict[str, Any], rng: np.random.Generator, background: int | None = 0) -> tuple[int, ...] | None:
    """A pixel that is not background: of a random value of the label, any pixel that counts; None without one."""
    label, mask = sample["label"], sample["mask"]
    values = np.flatnonzero(np.bincount(label[mask]))
    values = values[values != background]  # all of them where it is None
    if not len(values):
        return None
    pixels = np.flatnonzero((label == rng.choice(values)) & mask)
    return tuple(int(i) for i in np.unravel_index(rng.choice(pixels), sample["label"].shape))


def _stack(samples: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
