"""One pair of files, read once: the few numbers of it that the rules need."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Integer, Shaped
from scipy import ndimage

from unet_jax.claims import Refused, one_large_at_a_time
from unet_jax.data.decode import Raw, decode
from unet_jax.data.images import image_of, label_of, named
from unet_jax.data.labels import Values, values_of
from unet_jax.data.pairs import Pair
from unet_jax.doctor.volumes import is_volume, read_volume, read_volume_label, same_place
from unet_jax.hard_cases import separability, touching_pairs

THUMBNAIL = 32  # pixels a side
MAX_MEASURED = 1_500_000  # pixels; of a larger image the contrast of the middle is measured
NOTHING = Values((), (), False, None)
TINY = 4  # pixels: an object with fewer is a speck


@dataclass(frozen=True)
class Look:
    """What is kept of a pair: numbers and a thumbnail, never the pixels.

    `fault` is (rule, detail, which of the two files) where the pair cannot be used; later fields are then empty.
    """

    pair: Pair
    fault: tuple[str, str, str] | None = None
    shape: tuple[int, ...] = ()
    channels: int = 0
    dtype: str = ""
    alpha: bool = False
    values: Values = NOTHING
    label_dtype: str = ""
    finite: bool = True
    low: float = 0.0
    high: float = 0.0
    at_top: float = 0.0
    grey: bool = False
    separability: float = float("nan")
    objects: int = 0
    border: int = 0
    touching: int = 0
    specks: tuple[int, ...] = ()
    split: tuple[int, ...] = ()
    image_digest: str = ""
    label_digest: str = ""
    thumbnail: Float32[np.ndarray, "32 32"] | None = field(default=None, repr=False)

    @property
    def foreground(self) -> float:
        """Share of the pixels that are not 0."""
        counted = dict(zip(self.values.values, self.values.counts, strict=True))
        return 1 - counted.get(0, 0) / max(sum(counted.values()), 1)


def look(pair: Pair, *, ignore: int | None = None) -> Look:
    """Read a pair and measure it; what cannot be read is told in `fault`, nothing is raised."""
    with one_large_at_a_time():
        return _look(pair, ignore)


def _look(pair: Pair, ignore: int | None) -> Look:
    image, raw_image, fault = _read(pair.image, mask=False)
    if fault or image is None:
        return Look(pair, fault)
    label, _, fault = _read(pair.label, mask=True)
    shape, channels, dtype = image.shape[:-1], image.shape[-1], str(image.dtype)
    kept = {
        "shape": shape,
        "channels": channels,
        "dtype": dtype,
        "alpha": isinstance(raw_image, Raw) and raw_image.alpha,
    }
    if fault or label is None:
        return Look(pair, fault, **kept)
    if label.shape != shape:
        sizes = " and ".join("×".join(map(str, size)) for size in (shape, label.shape))
        return Look(pair, ("size-differs", f"image and mask have {sizes} pixels", "both"), **kept)
    if is_volume(pair.image) and not same_place(pair):
        return Look(pair, ("affine-differs", "the affine matrices differ", "both"), **kept)
    values = values_of(label, ignore=ignore, measure_pieces=label.ndim == 2)
    if ignore is not None:
        label = np.where(label == ignore, np.zeros((), label.dtype), label)
    return Look(
        pair, values=values, label_dtype=str(label.dtype), **kept, **_of_image(image), **_of_label(label),
        separability=float(separability(_middle(image, axes=image.ndim - 1), _middle(label, axes=label.ndim))),
    )  # fmt: skip


def _read(path: Path, *, mask: bool) -> tuple[Any, Any, tuple[str, str, str] | None]:
    """Pixels, the decoded file, and what is wrong."""
    try:
        if is_volume(path):
            return (read_volume_label(path) if mask else read_volume(path)), None, None
        with named(path):
            raw = decode(path)
            return (label_of(raw) if mask else image_of(raw)), raw, None
    except (ValueError, OSError, MemoryError) as error:
        code = error.fault if isinstance(error, Refused) else "unreadable"
        reason = str(error).removeprefix(f"{path}: ") or "not enough memory"
        return None, None, (code, reason, "label" if mask else "image")


def _of_image(image: Shaped[np.ndarray, "*s c"]) -> dict[str, Any]:
    """Range, clipping, colours, thumbnail and digest of an image."""
    finite = image.dtype.kind != "f" or bool(np.isfinite(image).all())
    digest = _digest(image)
    if not finite:
        return {"finite": False, "image_digest": digest}
    part = _middle(image, axes=image.ndim - 1)
    low, high = (float(v) for v in np.percentile(part, (1, 99.8)))
    top = image.max(initial=0)
    return {
        "low": low,
        "high": high,
        "at_top": float((image == top).mean()) if image.dtype != np.uint8 or top == 255 else 0.0,
        "grey": image.shape[-1] == 3 and bool((image == image[..., :1]).all()),
        "thumbnail": thumbnail(image),
        "image_digest": digest,
    }


def _of_label(label: Integer[np.ndarray, "*s"]) -> dict[str, Any]:
    """Counts of objects: each number is one, or each connected piece where there is one number only."""
    digest = _digest(label)
    if label.size and (label.min() < 0 or label.max() >= 2**31 - 1):
        return {"label_digest": digest}
    numbers = np.unique(label)
    single = len(numbers[numbers != 0]) <= 1
    everywhere = np.ones((3,) * label.ndim)
    pieces = ndimage.label(label != 0, everywhere)[0] if single else np.searchsorted(numbers[numbers != 0], label) + 1
    objects = pieces if single else np.where(label != 0, pieces, 0)
    objects = objects.astype(np.int32)
    areas = np.bincount(objects.reshape(-1))[1:]
    edges = [objects.take(i, axis=axis) for axis in range(label.ndim) for i in (0, -1)] if label.size else []
    border = np.unique(np.concatenate([edge.reshape(-1) for edge in edges])) if edges else np.zeros(0)
    names = np.arange(1, len(areas) + 1) if single else numbers[numbers != 0]
    return {
        "objects": len(areas),
        "border": int((border != 0).sum()),
        "touching": len(touching_pairs(objects)),
        "specks": tuple(int(names[i]) for i in np.flatnonzero(areas < TINY)),
        "split": () if single else tuple(int(names[i]) for i in _split(objects, everywhere)),
        "label_digest": digest if numbers.any() else "",
    }


def _split(objects: np.ndarray, everywhere: np.ndarray, most: int = 5000) -> list[int]:
    """Indices of the objects that lie in more than one piece; of the first `most`."""
    boxes = ndimage.find_objects(objects)[:most]
    return [i for i, box in enumerate(boxes) if box and ndimage.label(objects[box] == i + 1, everywhere)[1] > 1]


def thumbnail(image: Shaped[np.ndarray, "*s c"]) -> Float32[np.ndarray, "32 32"]:
    """The image's mean grey in 32 × 32 fields, with mean 0 and norm 1 (0 for a flat one); depth is averaged away."""
    grey = image.mean(axis=(*range(2, image.ndim - 1), -1), dtype=np.float64)
    for axis in (0, 1):
        size = grey.shape[axis]
        if size < THUMBNAIL:
            grey = grey.repeat(-(-THUMBNAIL // size), axis=axis)
        starts = np.linspace(0, grey.shape[axis], THUMBNAIL, endpoint=False).astype(int)
        counts = np.diff(np.append(starts, grey.shape[axis]))
        grey = np.add.reduceat(grey, starts, axis=axis) / np.expand_dims(counts, 1 - axis)
    grey -= grey.mean()
    norm = float(np.linalg.norm(grey))
    return (grey / norm if norm > 1e-6 * grey.size else np.zeros_like(grey)).astype(np.float32)


def _middle(array: np.ndarray, *, axes: int) -> np.ndarray:
    """The array, or of a large one the middle along its spatial axes."""
    size = int(np.prod(array.shape[:axes]))
    if size <= MAX_MEASURED:
        return array
    share = (MAX_MEASURED / size) ** (1 / axes)
    keep = [max(int(n * share), 1) for n in array.shape[:axes]]
    return array[tuple(slice((n - k) // 2, (n - k) // 2 + k) for n, k in zip(array.shape, keep, strict=False))]


def _digest(array: np.ndarray) -> str:
    """A hash of shape, type and numbers: the same for the same pixels, whatever the file's format."""
    words = hashlib.sha256(f"{array.shape} {array.dtype}".encode())
    words.update(np.ascontiguousarray(array))
    return words.hexdigest()
