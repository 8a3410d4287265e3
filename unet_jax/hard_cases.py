"""Which objects are hard to find (touching, in low contrast, small), and how many of each kind were found.

Every case is taken from the image and the truth, never from the prediction. An object is found when it is matched at
IoU >= 0.5. `touching` has a neighbour within 2 pixels; `low_contrast` lies in an image of low contrast; `clear` is
neither; an object may be both of the first two. Of pairs of touching objects two things are counted. `touching_pairs`:
both are found, which makes two predicted objects, for the matching is one to one. `pairs_apart`: they came out as two,
however well they are drawn: more than half of either lies in a predicted object, and not both in the same.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, Integer, Shaped
from scipy import ndimage

from unet_jax.matching import Overlap, objects, pair

TOUCHING = 2.0  # pixels between the nearest pixel centres of two objects: at most one pixel of ground between them
RING = (2, 10)  # pixels from the nearest object, where its surroundings begin and end: past the blur, before the others
LOW_CONTRAST = 0.96
AREA_EDGES = (32, 64, 128, 256, 512, 1024, 2048)
PAIRS, APART = "touching_pairs", "pairs_apart"
FOUND = 0.5  # IoU from which an object counts as found
RULE = "a case without an object has no rate (null); rates are pooled: found of all images over objects of all images"


@dataclass(frozen=True)
class Rates:
    """In each of N images, how many objects of each case there are (`total`) and were `found`, (N, G); G names."""

    names: tuple[str, ...]
    found: Int64[np.ndarray, "n g"]
    total: Int64[np.ndarray, "n g"]

    def __getitem__(self, rows: slice | Sequence[int] | np.ndarray) -> "Rates":
        """The images at `rows`: a slice, indices or a mask."""
        return Rates(self.names, self.found[rows], self.total[rows])

    def summarise(self) -> dict[str, dict[str, int | float | None]]:
        """Each case's `images` that hold one, `objects`, `found` and `rate`, pooled over the images; see `RULE`."""
        columns = zip(self.names, self.found.T, self.total.T, strict=True)
        return {
            name: {
                "images": int((total > 0).sum()),
                "objects": int(total.sum()),
                "found": int(found.sum()),
                "rate": float(found.sum() / total.sum()) if total.any() else None,
            }
            for name, found, total in columns
        }


def concatenate(rates: Sequence[Rates]) -> Rates:
    """The images of all `rates`, in order. Raises ValueError for none, or for cases that differ."""
    if len({part.names for part in rates}) != 1:
        raise ValueError(f"{len(rates)} rates to put together: give one or more, counted with the same area edges")
    found, total = (np.concatenate([getattr(part, side) for part in rates]) for side in ("found", "total"))
    return Rates(rates[0].names, found, total)


@dataclass(frozen=True)
class Cases:
    """The cases of one image: (T,) ids of the true objects, which of them are of each case (G, T), and touching pairs.

    `pairs` (P, 2) counts in places of `ids`; `separability` is the image's.
    """

    ids: Int64[np.ndarray, " t"]
    members: dict[str, Bool[np.ndarray, " t"]]
    pairs: Int64[np.ndarray, "p 2"]
    separability: float

    def count(self, overlap: Overlap) -> Rates:
        """How many of them were found: rates of one row, the last two cases of which count pairs.

        Args:
            overlap: of the same truth with a prediction, `matching.overlap(truth, prediction)`.

        Raises:
            ValueError: when the overlap is of another truth.
        """
        if not np.array_equal(overlap.truth_ids, self.ids):
            raise ValueError("the overlap names other objects than the truth: give that of this image's truth")
        found = np.isin(self.ids, pair(overlap, threshold=FOUND).truth)
        counts = {name: (int((found & chosen).sum()), int(chosen.sum())) for name, chosen in self.members.items()}
        counts[PAIRS] = int(found[self.pairs].all(axis=-1).sum()), len(self.pairs)
        one, other = _holders(overlap)[self.pairs].T
        counts[APART] = int(((one >= 0) & (other >= 0) & (one != other)).sum()), len(self.pairs)
        table = np.array([list(counts.values())], np.int64)
        return Rates(tuple(counts), table[..., 0], table[..., 1])


def _holders(overlap: Overlap) -> Int64[np.ndarray, " t"]:
    """Which predicted object holds more than half of each true one, by its place; -1 for none."""
    holders = np.full(len(overlap.truth_ids), -1)
    most = 2 * overlap.shared > overlap.truth_areas[overlap.rows]
    holders[overlap.rows[most]] = overlap.columns[most]
    return holders


def find_cases(
    image: Shaped[np.ndarray, "*s c"],
    truth: Integer[np.ndarray, "*s"],
    *,
    mask: Bool[np.ndarray, "*s"] | None = None,
    distance: float = TOUCHING,
    low_contrast: float = LOW_CONTRAST,
    area_edges: tuple[int, ...] = AREA_EDGES,
) -> Cases:
    """Sort the true objects of one image by case: all, clear, touching, low contrast, and by area.

    Args:
        image: (*S, C) as it was read.
        truth: (*S) ids.
        mask: (*S), True where a pixel counts; None for all.
        distance: of touching objects, in pixels.
        low_contrast: an image is of low contrast when its `separability` is below this.
        area_edges: ascending areas in pixels; a group reaches from one edge up to, without, the next.
    """
    ids, areas = objects(truth)
    pairs = np.searchsorted(ids, touching_pairs(truth, distance=distance))
    touching = np.isin(np.arange(len(ids)), pairs)
    contrast = separability(image, truth, mask=mask)
    faint = np.full(len(ids), bool(contrast < low_contrast))
    size = np.digitize(areas, area_edges)
    members = {
        "all": np.ones(len(ids), bool),
        "clear": ~touching & ~faint,
        "touching": touching,
        "low_contrast": faint,
        **{name: size == i for i, name in enumerate(area_names(area_edges))},
    }
    return Cases(ids, members, pairs, contrast)


def count_cases(
    image: Shaped[np.ndarray, "*s c"], truth: Integer[np.ndarray, "*s"], overlap: Overlap, **options: Any
) -> Rates:
    """`find_cases` and `Cases.count` in one; the options are those of `find_cases`."""
    return find_cases(image, truth, **options).count(overlap)


def touching_pairs(label: Integer[np.ndarray, "*s"], *, distance: float = TOUCHING) -> Int64[np.ndarray, "p 2"]:
    """Pairs of objects whose nearest pixel centres are at most `distance` apart (Euclidean), in pixels.

    1 takes neighbours that share a side, 1.5 also those that meet at a corner, 2 also those with one pixel of ground
    between them. Exact: the label is compared with itself at every shift of that length, so the time grows with the
    pixels and with distance squared (cubed in 3-D).

    Args:
        label: (*S) ids, 0 is background.
        distance: in pixels.

    Returns:
        (P, 2) ids, the smaller first, in ascending order.
    """
    reach = range(-int(distance), int(distance) + 1)
    zero = (0,) * label.ndim
    shifts = [s for s in itertools.product(reach, repeat=label.ndim) if s > zero and np.dot(s, s) <= distance**2]
    found = [np.zeros((0, 2), np.int64)]
    for shift in shifts:
        here = label[tuple(slice(max(-s, 0), n - max(s, 0)) for s, n in zip(shift, label.shape, strict=True))]
        there = label[tuple(slice(max(s, 0), n - max(-s, 0)) for s, n in zip(shift, label.shape, strict=True))]
        meet = (here != there) & (here != 0) & (there != 0)
        found.append(np.unique(np.stack([here[meet], there[meet]], axis=-1).astype(np.int64), axis=0))
    return np.unique(np.sort(np.concatenate(found), axis=-1), axis=0)


def separability(
    image: Shaped[np.ndarray, "*s c"],
    truth: Integer[np.ndarray, "*s"],
    *,
    mask: Bool[np.ndarray, "*s"] | None = None,
) -> float:
    """How well one threshold on the intensity tells objects from their surroundings, 0.5 (not at all) to 1 (wholly).

    It is the probability that a pixel of an object is brighter than one of the surroundings, ties counting half, or
    darker if that is likelier (the area under the ROC curve; Mann & Whitney 1947, U / (m n)), in the channel where it
    is largest. The surroundings are the pixels between 2 and 10 pixels (`RING`, Euclidean) from the nearest object.
    Neither gain, offset nor any other monotone change of the intensities alters it, as none of them hides an object.

    An image is of low contrast when it is below 0.96 (`LOW_CONTRAST`); for normal distributions of equal width that
    is means 2.5 standard deviations apart, and 11 % of the pixels on the wrong side of the best threshold. In
    microscopy these are noisy, hazy and unevenly lit images, and nuclei as dark as their cytoplasm. The difference of
    the means over the standard deviation is no measure of it: a few very bright cells make it small in clear images.

    Args:
        image: (*S, C), any range.
        truth: (*S) ids, 0 is background.
        mask: (*S), True where a pixel counts; None for all.

    Returns:
        The probability; NaN when there is no object or no surroundings.
    """
    inside = truth != 0
    if not inside.any():
        return float("nan")
    away = ndimage.distance_transform_edt(~inside)
    ring = (away > RING[0]) & (away <= RING[1])
    if mask is not None:
        inside, ring = inside & mask, ring & mask
    if not inside.any() or not ring.any():
        return float("nan")
    return max(_larger(image[..., c][inside], image[..., c][ring]) for c in range(image.shape[-1]))


def _larger(a: np.ndarray, b: np.ndarray) -> float:
    """Probability that a value of `a` exceeds one of `b`, ties counting half, or the opposite if that is likelier."""
    b = np.sort(b)
    below = np.searchsorted(b, a, side="left").mean() + np.searchsorted(b, a, side="right").mean()
    chance = float(below / (2 * len(b)))
    return max(chance, 1 - chance)


def area_names(edges: Sequence[int]) -> list[str]:
    """What the groups between these areas in pixels are called, the smallest first."""
    inner = [f"area {low}-{high - 1}" for low, high in itertools.pairwise(edges)]
    return [f"area < {edges[0]}", *inner, f"area >= {edges[-1]}"] if edges else ["any area"]
