"""From a map of heights to seeds, and from seeds to objects: h-maxima and watersheds where there is something to part.

Most objects stand alone and have one summit. What is costly is done in the boxes of the others only, which changes
nothing of the result.
"""

import numpy as np
from jaxtyping import Bool, Float, Int32, Integer
from scipy import ndimage


def summits(height: Float[np.ndarray, "*s"], depth: float, *, ground: float = 0.0) -> Int32[np.ndarray, "*s"]:
    """Number the summits that rise by `depth` above the saddle to a higher one, each down to `depth` below its top.

    What is not above `ground` is no saddle, and what does not rise by `depth` above it no summit. Neighbours are pixels
    that share a side or a corner. The numbers need not be in a row.

    Source: h-maxima; Soille, Morphological Image Analysis, 2003, section 6.3.
    """
    around = np.ones((3,) * height.ndim)
    hills, count = ndimage.label(height > ground, around)
    places = np.flatnonzero(hills)
    hill, level = hills.ravel()[places], height.ravel()[places]
    top = np.full(count + 1, -np.inf)
    np.maximum.at(top, hill, level)
    high = top >= ground + depth
    many = (np.bincount(hill[_peaks(height, places)], minlength=count + 1) > 1) & high
    alone = (high & ~many)[hill] & (level >= top[hill] - depth)
    found = np.zeros(height.shape, np.int32)
    found.ravel()[places[alone]] = hill[alone]
    boxes = ndimage.find_objects(hills)
    for number in np.flatnonzero(many):
        box = boxes[number - 1]
        hill = np.where(hills[box] == number, height[box], ground)
        tops, more = ndimage.label(_highest(hill, depth, ground), around)
        found[box] += np.where(tops > 0, tops + count, 0).astype(np.int32)
        count += more
    return found


def _peaks(height: np.ndarray, places: np.ndarray) -> Bool[np.ndarray, " n"]:
    """Which of the places (flat indices) have no higher neighbour."""
    padded = np.pad(height, 1, constant_values=-np.inf)
    at = np.ravel_multi_index([i + 1 for i in np.unravel_index(places, height.shape)], padded.shape)
    steps = np.indices((3,) * height.ndim).reshape(height.ndim, -1) - 1
    strides = np.array(padded.strides) // padded.itemsize
    level, peak = padded.ravel()[at], np.ones(len(at), bool)
    for step in strides @ steps:
        peak &= level >= padded.ravel()[at + step]
    return peak


def _highest(height: np.ndarray, depth: float, ground: float) -> Bool[np.ndarray, "..."]:
    from skimage.morphology import local_maxima, reconstruction

    height = np.pad(height, 1, constant_values=ground)  # a plateau is a summit by what lies lower around it
    tops = local_maxima(reconstruction(height - depth, height))
    return tops[(slice(1, -1),) * height.ndim].astype(bool)


def grow(
    height: np.ndarray, seeds: Integer[np.ndarray, "*s"], inside: Bool[np.ndarray, "*s"]
) -> Integer[np.ndarray, "*s"]:
    """Watershed from the seeds over all of `inside`; a piece of it (connected by sides) without a seed is one too.

    Args:
        height: (*S), flooded from below; objects meet where it is highest.
        seeds: (*S) ids, 0 for none.
        inside: (*S).
    """
    pieces, count = ndimage.label(inside)
    places = np.flatnonzero(seeds)
    piece, seed = pieces.ravel()[places], seeds.ravel()[places]
    last = seeds.max(initial=0) + np.arange(count + 1)  # a piece without a seed gets a number of its own
    low, high = last.copy(), np.zeros_like(last)
    np.minimum.at(low, piece, seed)
    np.maximum.at(high, piece, seed)
    torn = low < high
    torn[0] = low[0] = 0
    label = low[pieces]
    if torn.any():
        where = torn[pieces]
        box = ndimage.find_objects(where.astype(np.uint8))[0]
        label[box][where[box]] = _flood(height[box], seeds[box], where[box])[where[box]]
    return label


def _flood(height: np.ndarray, seeds: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Watershed over `inside`; of the seeds, those pixels take part that have a neighbour to flood."""
    from skimage.segmentation import watershed

    free = inside & (seeds == 0)
    if not free.any():
        return seeds
    shore = inside & ndimage.binary_dilation(free, ndimage.generate_binary_structure(free.ndim, 1))
    return np.where(free, watershed(height, np.where(shore, seeds, 0), mask=shore), seeds)


def largest_pieces(label: Integer[np.ndarray, "*s"]) -> Integer[np.ndarray, "*s"]:
    """Of every object its largest piece connected by sides, the first of equals; the others become background."""
    from skimage.measure import label as connected

    pieces = connected(label, background=0, connectivity=1)
    ids = np.zeros(pieces.max(initial=0) + 1, label.dtype)
    ids[pieces] = label
    order = np.lexsort((-np.bincount(pieces.ravel(), minlength=len(ids)), ids))
    first = order[np.unique(ids[order], return_index=True)[1]]
    keep = np.zeros(len(ids), bool)
    keep[first] = True
    return np.where(keep[pieces], label, 0)
