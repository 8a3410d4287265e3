"""Sizes and shapes of the objects of a label image, from sums that can be added up part by part of an image.

Images have two axes (y, x) or three, in the order of the array.
"""

import dataclasses
import itertools

import numpy as np
from jaxtyping import Float32, Float64, Int64, Integer, Shaped


@dataclasses.dataclass(frozen=True)
class Sums:
    """Sums over the pixels of objects 1..n, row i - 1 of object i; positions in pixels of the whole image.

    area (n,); first (n, d) sums of y and x (z, y and x); second (n, d (d + 1) / 2) sums of yy, xy, xx; low and high
    (n, d), the bounding box with its end excluded; intensity and probability (n,) sums. An object without a pixel has
    area 0.
    """

    area: Int64[np.ndarray, " n"]
    first: Float64[np.ndarray, "n d"]
    second: Float64[np.ndarray, "n _"]
    low: Int64[np.ndarray, "n d"]
    high: Int64[np.ndarray, "n d"]
    intensity: Float64[np.ndarray, " n"]
    probability: Float64[np.ndarray, " n"]


def measure(
    label: Integer[np.ndarray, "*s"],
    image: Shaped[np.ndarray, "*s c"],
    probability: Float32[np.ndarray, "*s"],
    *,
    top: int = 0,
    count: int | None = None,
) -> Sums:
    """Sums of every object of a label image, or of the rows of one that begin at row `top`.

    Args:
        label: ids, 0 is background.
        image: grey levels or colours; the intensity of a pixel is the mean over its channels.
        probability: of the pixel being an object's.
        top: number of the first row within the whole image.
        count: n, the largest id when None.
    """
    n = int(label.max(initial=0)) if count is None else count
    where = np.nonzero(label)
    ids = label[where].astype(np.int64) - 1
    intensity, probability = image[where].mean(axis=-1, dtype=np.float64), probability[where]
    places = [where[0] + top, *where[1:]]
    shape = (n, label.ndim)
    low, high = np.full(shape, np.iinfo(np.int64).max), np.zeros(shape, np.int64)
    for axis, place in enumerate(places):
        np.minimum.at(low[:, axis], ids, place)
        np.maximum.at(high[:, axis], ids, place + 1)

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(ids, values, minlength=n).astype(np.float64)  # integers when there are none

    return Sums(
        area=np.bincount(ids, minlength=n).astype(np.int64),
        first=np.stack([total(place) for place in places], axis=-1),
        second=np.stack([total(a * b) for a, b in itertools.combinations_with_replacement(places, 2)], axis=-1),
        low=low,
        high=high,
        intensity=total(intensity),
        probability=total(probability),
    )


def merge(parts: list[Sums], ids: Int64[np.ndarray, " m"], count: int) -> Sums:
    """Add up the rows of `parts`, one after the other, that have the same of the `ids` 1..count; 0 leaves a row out."""
    keep = ids > 0
    to = ids[keep] - 1
    merged = {}
    for field in dataclasses.fields(Sums):
        rows = np.concatenate([getattr(part, field.name) for part in parts])[keep]
        empty = np.iinfo(np.int64).max if field.name == "low" else 0
        merged[field.name] = np.full((count, *rows.shape[1:]), empty, rows.dtype)
        how = {"low": np.minimum, "high": np.maximum}.get(field.name, np.add)
        how.at(merged[field.name], to, rows)
    return Sums(**merged)


def table(sums: Sums, axes: str = "yx") -> dict[str, np.ndarray]:
    """Columns of an objects table, a row an object that has pixels; `axes` are the names of the array's.

    id; centroid_y, centroid_x, in pixels from the centre of the upper left pixel; area (volume with three axes), in
    pixels; min_y, min_x, max_y, max_x, the bounding box with its end excluded; eccentricity of the ellipse of the same
    second moments, 0 for a circle (for one pixel too), of two axes only; mean_intensity, in the image's own unit;
    mean_probability.
    """
    there = sums.area > 0
    n = sums.area[there].astype(np.float64)
    return {
        "id": np.flatnonzero(there) + 1,
        **{f"centroid_{axis}": sums.first[there, i] / n for i, axis in enumerate(axes)},
        ("area" if len(axes) == 2 else "volume"): sums.area[there],
        **{f"min_{axis}": sums.low[there, i] for i, axis in enumerate(axes)},
        **{f"max_{axis}": sums.high[there, i] for i, axis in enumerate(axes)},
        **({"eccentricity": _eccentricity(sums, there)} if len(axes) == 2 else {}),
        "mean_intensity": sums.intensity[there] / n,
        "mean_probability": sums.probability[there] / n,
    }


def _eccentricity(sums: Sums, there: np.ndarray) -> Float64[np.ndarray, " n"]:
    n = sums.area[there, None].astype(np.float64)
    (y, x), (yy, xy, xx) = (sums.first[there] / n).T, (sums.second[there] / n).T
    yy, xy, xx = yy - y * y, xy - x * y, xx - x * x
    half, root = (yy + xx) / 2, np.hypot((yy - xx) / 2, xy)  # the variances along the axes are half ± root
    wide = np.maximum(half + root, 0)
    ratio = np.divide(np.maximum(half - root, 0), wide, out=np.ones_like(wide), where=wide > 1e-6)
    return np.sqrt(1 - ratio)
