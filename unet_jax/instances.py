"""Objects one by one from the maps a network predicts; maps (*S) of one image in, label image (*S) out, 2-D or 3-D.

Every `separate_` function gives ids 1..n, each object in one piece (connected by sides, not corners). Each piece of
the foreground holds an object at least, whether a seed was found in it or not, and all its pixels belong to one;
objects of fewer than `min_area` pixels are dropped at the end. Thresholds are to be chosen on validation images.
"""

import math

import numpy as np
from jaxtyping import Float, Int32
from scipy import ndimage

from unet_jax.seeds import grow, largest_pieces, summits

Map = Float[np.ndarray, "*s"]
Label = Int32[np.ndarray, "*s"]
BEYOND = 64  # pixels outside the image where a vote still counts: an object cut by the edge may have its centre there


def separate_foreground(foreground: Map, *, threshold: float = 0.5, min_area: int = 0) -> Label:
    """Each connected piece of the foreground is an object, so that touching objects come out as one.

    Args:
        foreground: (*S) probability.
        threshold: pixels at or above it are foreground.
        min_area: in pixels.

    Returns:
        (*S) ids.
    """
    return _finish(ndimage.label(foreground >= threshold)[0], min_area)


def separate_border(
    probabilities: Float[np.ndarray, "*s 3"], *, threshold: float = 0.5, seed: float = 0.5, min_area: int = 0
) -> Label:
    """Objects grow from the pieces of the inside over the border between them: a watershed on the inside probability.

    Args:
        probabilities: (*S, 3) of background, inside, border.
        threshold: pixels whose inside and border together reach it are foreground.
        seed: pixels whose inside is above it are seeds; higher keeps more neighbours apart and loses pale objects.
        min_area: in pixels.

    Returns:
        (*S) ids.
    """
    inside = probabilities[..., 1]
    foreground = inside + probabilities[..., 2] >= threshold
    seeds = ndimage.label((inside > seed) & foreground)[0]
    return _finish(grow(-inside, seeds, foreground), min_area)


def separate_distance(
    foreground: Map,
    distance: Map,
    *,
    threshold: float = 0.5,
    sigma: float = 0.5,
    depth: float = 0.75,
    min_area: int = 0,
) -> Label:
    """Objects grow downhill from the summits of the distance map: a watershed on its negative.

    Args:
        foreground: (*S) probability.
        distance: (*S) from each pixel to the edge of its object, in any unit.
        threshold: pixels at or above it are foreground.
        sigma: of the Gaussian that smooths the distance first, in pixels; 0 for none.
        depth: how far the saddle to a higher summit must lie below a summit that is to be a seed of its own, in the
            unit of `distance` (h-maxima; Soille, Morphological Image Analysis, 2003, section 6.3).
        min_area: in pixels.

    Returns:
        (*S) ids.
    """
    inside = foreground >= threshold
    height = ndimage.gaussian_filter(np.where(inside, distance, 0).astype(np.float64), sigma)
    return _finish(grow(-height, summits(height, depth) * inside, inside), min_area)


def separate_offset(
    foreground: Map,
    offset: Float[np.ndarray, "*s n"],
    *,
    threshold: float = 0.5,
    sigma: float = 1.0,
    saddle: float = 0.5,
    min_votes: float = 5.0,
    min_area: int = 0,
) -> Label:
    """Each foreground pixel votes for the place where its offset points; where votes crowd is a centre.

    Votes are counted on the pixel grid and smoothed. A crowd is a summit with what surrounds it down to `saddle` times
    its height; each pixel goes to the crowd nearest to its vote, pieces cut off from their object to what they touch.

    Args:
        foreground: (*S) probability.
        offset: (*S, n) from each pixel to the centre of its object, in pixels, one component an axis of S; or the whole
            way of a flow that was followed for some steps.
        threshold: pixels at or above it are foreground.
        sigma: of the Gaussian that smooths the votes, in pixels.
        saddle: two summits are one crowd unless the votes between them fall to this share of the lower one (each
            counted with one vote more), in (0, 1).
        min_votes: least height of a summit, in votes for one place.
        min_area: in pixels.

    Returns:
        (*S) ids.

    Raises:
        ValueError: when `offset` has not one component an axis, or `saddle` is not between 0 and 1.
    """
    if offset.shape[-1] != foreground.ndim or not 0 < saddle < 1:
        raise ValueError(
            f"offset of {offset.shape[-1]} components for {foreground.ndim} axes, saddle={saddle}: give one component "
            "an axis, in pixels, and 0 < saddle < 1"
        )
    inside = foreground >= threshold
    votes = {"sigma": sigma, "saddle": saddle, "min_votes": min_votes}
    return _finish(_elected(inside, offset[inside], **votes), min_area)


def separate_flow(
    foreground: Map,
    flow: Float[np.ndarray, "*s n"],
    *,
    threshold: float = 0.5,
    doublings: int = 7,
    sigma: float = 1.0,
    saddle: float = 0.5,
    min_votes: float = 5.0,
    min_area: int = 0,
) -> Label:
    """Each foreground pixel follows the flow (see `flows.follow`) and votes for the place where it arrives.

    Args:
        foreground: (*S) probability.
        flow: (*S, n) direction to the centre of the object, at most about a pixel long, one component an axis of S.
        threshold: pixels at or above it are foreground.
        doublings: 2**doublings steps are gone. Fewer than lead to the centre keep neighbours apart whose flows run into
            one another, and split objects much longer than the way.
        sigma: of the Gaussian that smooths the votes; this, `saddle`, `min_votes`, `min_area` as in `separate_offset`.
        saddle: what parts two crowds.
        min_votes: that make a crowd.
        min_area: in pixels.

    Returns:
        (*S) ids.
    """
    from unet_jax.flows import follow

    inside = foreground >= threshold
    votes = {"sigma": sigma, "saddle": saddle, "min_votes": min_votes}
    return _finish(_elected(inside, follow(flow, inside, doublings=doublings), **votes), min_area)


def _elected(inside: np.ndarray, way: np.ndarray, **votes: float) -> np.ndarray:
    """Each pixel of `inside` to the crowd its vote is nearest to; `way` (N, n) leads from each to its vote."""
    places = np.rint(np.argwhere(inside) + way).astype(np.int64)
    low = np.maximum(places.min(axis=0, initial=0), -BEYOND)
    high = np.minimum(places.max(axis=0, initial=0), np.array(inside.shape) - 1 + BEYOND)
    seats = np.clip(places, low, high)
    counted = (seats == places).all(axis=-1)
    seats -= low
    crowds = _crowds(seats[counted], tuple(high - low + 1), **votes)
    seeds = np.zeros(inside.shape, np.int32)
    seeds[inside] = _nearest(crowds, seats)
    return grow(np.zeros(inside.shape), largest_pieces(seeds), inside)


def _crowds(
    seats: np.ndarray, shape: tuple, *, sigma: float, saddle: float, min_votes: float
) -> Int32[np.ndarray, "..."]:
    """Where votes (N, n) crowd on a grid of `shape`: numbered, 0 elsewhere; see `separate_offset`."""
    votes = np.bincount(np.ravel_multi_index(tuple(seats.T), shape), minlength=math.prod(shape)).reshape(shape)
    peak = max(math.sqrt(2 * math.pi) * sigma, 1)  # so that votes for one place count one each there
    height = ndimage.gaussian_filter(votes.astype(np.float64), sigma, mode="constant") * peak ** len(shape)
    depth = -math.log(saddle)
    return summits(np.log1p(height), depth, ground=max(math.log1p(min_votes) - depth, 0))


def _nearest(crowds: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The crowd at each of the places (N, n), or the nearest to it."""
    from scipy.spatial import KDTree

    found = crowds[tuple(places.T)]
    lost = np.flatnonzero(found == 0)
    spots = np.argwhere(crowds)
    if len(lost) and len(spots):
        found[lost] = crowds[tuple(spots[KDTree(spots).query(places[lost])[1]].T)]
    return found


def _finish(label: np.ndarray, min_area: int) -> np.ndarray:
    """Drop what is smaller than `min_area`, number the rest 1..n in the same order."""
    areas = np.bincount(label.ravel())
    keep = areas >= max(min_area, 1)
    keep[0] = False
    return np.where(keep, np.cumsum(keep), 0).astype(np.int32)[label]
