"""How well a boundary map parts an image into the right pieces: the scores of the ISBI 2012 challenge, host numpy.

A partition is an image of region numbers, 0 for pixels of no region (membranes). Both scores compare a proposal with
the truth on the pixels that the truth gives to a region; they do not mind whether a membrane lies a pixel further left,
and mind very much whether it has a hole. One image a call; a stack is scored image by image.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int32, Integer
from scipy import ndimage

THRESHOLDS = tuple(i / 10 for i in range(1, 10))


def regions(inside: Bool[np.ndarray, "h w"], *, thin: bool = True) -> Int32[np.ndarray, "h w"]:
    """Number the 4-connected pieces of `inside` from 1; what lies between them is 0.

    With `thin` the membranes are first worn down to lines one pixel wide, whose pixels fall to the pieces beside them,
    so that broad membranes cost a proposal nothing; pieces stay apart and holes stay open.
    """
    if thin:
        from skimage.morphology import skeletonize

        # A frame closes the image's edge: else a membrane that ends there would wear away and open its pieces.
        inside = ~skeletonize(np.pad(~inside, 1, constant_values=True))[1:-1, 1:-1]
    return ndimage.label(inside)[0].astype(np.int32)


def v_rand(truth: Integer[np.ndarray, "h w"], proposal: Integer[np.ndarray, "_ _"]) -> float:
    """Foreground-restricted Rand score: harmonic mean of the shares of pairs rightly joined, 1 for the same partition.

    2 Σ p_ij² / (Σ s_i² + Σ t_j²), with p_ij the share of the truth's foreground pixels in region i of the proposal and
    j of the truth, s_i and t_j its sums. A pixel of no region in the proposal is a region of its own.

    Args:
        truth: (h, w) regions; pixels of 0 are left out.
        proposal: (h, w) regions, as `regions` gives them.

    Returns:
        A number in (0, 1].

    Raises:
        ValueError: shapes that differ, or a truth without a region.

    Source: Arganda-Carreras et al. 2015, equation 5 with alpha = 1/2.
    """
    joint, ours, theirs = _shares(truth, proposal)
    return float(2 * (joint**2).sum() / ((ours**2).sum() + (theirs**2).sum()))


def v_info(truth: Integer[np.ndarray, "h w"], proposal: Integer[np.ndarray, "_ _"]) -> float:
    """Foreground-restricted information score: 2 I(S; T) / (H(S) + H(T)), 1 for the same partition.

    I is the mutual information and H the entropy of the shares of `v_rand`, whose arguments and errors it has. Where
    both have one region only, there is nothing to tell, and the score is 1.

    Source: Arganda-Carreras et al. 2015, equation 8 with alpha = 1/2.
    """
    both, ours, theirs = (_entropy(shares) for shares in _shares(truth, proposal))
    each = ours + theirs
    return 1.0 if each == 0 else min(2 * (each - both) / each, 1.0)


def pixel_error(truth: Bool[np.ndarray, "h w"], inside: Bool[np.ndarray, "_ _"]) -> float:
    """Share of the pixels on which two maps of inside (True) and membrane (False) disagree."""
    if truth.shape != inside.shape:
        raise ValueError(f"truth {truth.shape} and proposal {inside.shape}: give both at the image's size")
    return float((truth != inside).mean())


def score_stack(
    truths: Sequence[Bool[np.ndarray, "h w"]],
    probabilities: Sequence[Float[np.ndarray, "h w"]],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
) -> list[dict[str, float]]:
    """Scores of a stack at each threshold of the probability of inside: the mean over its images of each score.

    Args:
        truths: maps (h, w), True inside a piece and False on the membranes.
        probabilities: of inside, (h, w) each.
        thresholds: a pixel is inside where its probability reaches it.

    Returns:
        A row a threshold: {"threshold", "v_rand", "v_info", "pixel_error"}, the first two after thinning.

    Raises:
        ValueError: no image, not as many maps as truths, or shapes that differ.
    """
    if not truths or len(truths) != len(probabilities):
        raise ValueError(f"{len(truths)} truths and {len(probabilities)} probability maps: give one for one")
    numbered = [regions(truth, thin=False) for truth in truths]
    rows = []
    for threshold in thresholds:
        maps = [probability >= threshold for probability in probabilities]
        parts = [regions(inside) for inside in maps]
        row = {
            "v_rand": np.mean([v_rand(t, p) for t, p in zip(numbered, parts, strict=True)]),
            "v_info": np.mean([v_info(t, p) for t, p in zip(numbered, parts, strict=True)]),
            "pixel_error": np.mean([pixel_error(t, m) for t, m in zip(truths, maps, strict=True)]),
        }
        rows.append({"threshold": float(threshold)} | {name: float(value) for name, value in row.items()})
    return rows


def choose_threshold(rows: Sequence[dict[str, float]], *, by: str = "v_rand") -> float:
    """The threshold amid the best scores: that whose score, averaged with those of its two neighbours, is highest.

    One hole in one membrane joins two cells, so that a single row may be high by luck.

    Args:
        rows: as `score_stack` gives them, in the order of their thresholds; the first and last have one neighbour.
        by: the score.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("no thresholds to choose among: give at least one row of score_stack")
    scores = [row[by] for row in rows]
    around = [float(np.mean(scores[max(i - 1, 0) : i + 2])) for i in range(len(scores))]
    return rows[int(np.argmax(around))]["threshold"]


def _shares(truth: np.ndarray, proposal: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shares of the truth's foreground: in each pair of regions that meet, in each of the proposal, in each of it."""
    if truth.shape != proposal.shape:
        raise ValueError(f"truth {truth.shape} and proposal {proposal.shape}: give both at the image's size")
    counted = truth > 0
    theirs, ours = truth[counted].astype(np.int64), proposal[counted].astype(np.int64)
    if not theirs.size:
        raise ValueError("the truth has no region: is every pixel membrane?")
    lone = ours == 0
    ours[lone] = ours.max() + 1 + np.arange(np.count_nonzero(lone))
    pairs = ours * (theirs.max() + 1) + theirs
    joint, each, all_of = (np.unique(ids, return_counts=True)[1] / theirs.size for ids in (pairs, ours, theirs))
    return joint, each, all_of


def _entropy(shares: np.ndarray) -> float:
    return float(-(shares * np.log(shares)).sum())
