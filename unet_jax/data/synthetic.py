"""A source of made-up cells: any number of rendered images, the same for ever, kept on the disk once drawn."""

import logging
import warnings
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Integer, UInt8

from unet_jax import startup
from unet_jax.data.cells import KINDS, VERSION, render_cells
from unet_jax.logs import replacing

__all__ = ["KINDS", "SyntheticCells", "render_cells"]

SHARES = (0.5, 0.3, 0.2)  # of KINDS


class SyntheticCells:
    """Source of made-up microscope images with exact instance labels; half clear, 30 % overlapping, 20 % low contrast.

    Image i depends on (seed, i) only, so a larger `count` adds images and changes none. Drawing takes about 25 ms an
    image of 256² on one core, once: the result is kept in `cache_dir`, and in memory with 5 bytes a pixel (220 MB).

    Args:
        count: number of images.
        size: edge of an image in pixels, at least 64.
        seed: not negative.
        cache_dir: where the drawn images are kept; `startup.cache_dir()` by default. Where it cannot be written, a
            warning says so and the images live in memory only.

    Raises:
        ValueError: for a count below 1, a size below 64 or a negative seed.
    """

    channels = 3
    label_kind = "instances"

    def __init__(
        self, *, count: int = 670, size: int = 256, seed: int = 0, cache_dir: str | Path | None = None
    ) -> None:
        """Read the images from the cache, or draw them and write it."""
        if count < 1 or size < 64 or seed < 0:
            raise ValueError(f"count {count}, size {size}, seed {seed}: choose count >= 1, size >= 64 and seed >= 0")
        self.ids = tuple(f"synthetic-{seed}-{i:05d}" for i in range(count))
        kinds = tuple(_kind(np.random.default_rng([seed, i])) for i in range(count))
        self.columns = {"kind": kinds}
        folder = startup.cache_dir() if cache_dir is None else Path(cache_dir).expanduser()
        file = folder / f"cells-v{VERSION}-{count}x{size}-seed{seed}.npz"
        self._images, self._labels = _read(file, count, size) or _draw(file, count, size, seed)
        self._images.flags.writeable = False  # samples are views of it

    def __len__(self) -> int:
        """Number of images."""
        return len(self.ids)

    def __getitem__(self, index: SupportsIndex, /) -> dict[str, Any]:
        """Sample `index`: image (size, size, 3) uint8, label (size, size) int32, mask all True, id."""
        index = range(len(self))[index]
        label = self._labels[index].astype(np.int32)
        return {"image": self._images[index], "label": label, "mask": np.ones(label.shape, bool), "id": self.ids[index]}


def _kind(rng: np.random.Generator) -> str:
    return KINDS[int(rng.choice(len(KINDS), p=SHARES))]


Pair = tuple[UInt8[np.ndarray, "n h w 3"], Integer[np.ndarray, "n h w"]]


def _draw(file: Path, count: int, size: int, seed: int) -> Pair:
    logging.getLogger("unet_jax").info("drawing %d made-up cell images of %d x %d, once", count, size, size)
    images = np.empty((count, size, size, 3), np.uint8)
    labels = np.empty((count, size, size), np.uint16)
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        images[i], labels[i] = render_cells(rng, kind=_kind(rng), size=size)
    _write(file, images, labels)
    return images, labels


def _write(file: Path, images: np.ndarray, labels: np.ndarray) -> None:
    try:
        with replacing(file) as aside, aside.open("wb") as stream:
            np.savez(stream, images=images, labels=labels)
    except OSError as error:
        warnings.warn(
            f"{file}: could not be written ({error}), so the made-up cells are drawn again next time; free some space, "
            "or name a writable folder with cache_dir or the environment variable UNET_JAX_CACHE",
            stacklevel=4,
        )


def _read(file: Path, count: int, size: int) -> Pair | None:
    try:
        with (
            file.open("rb") as stream,
            np.load(stream, allow_pickle=False) as stored,
        ):  # a zip's checksums betray any damage
            images, labels = stored["images"], stored["labels"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # whatever the damage, what the file held can be drawn again
        logging.getLogger("unet_jax").warning("%s: unreadable (%s), drawn again", file, error)
        return None
    good = images.shape == (count, size, size, 3) and images.dtype == np.uint8 and labels.shape == (count, size, size)
    return (images, labels) if good else None
