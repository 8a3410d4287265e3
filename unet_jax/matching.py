"""True and predicted objects matched one to one by their overlap; label images (*S) of any ids in, 0 is background.

Pixels that are not to count (mask False) are set to 0 in both label images before they come here.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64, Integer


@dataclass(frozen=True)
class Overlap:
    """IoU of every true object with every predicted one it shares a pixel with; all other pairs have IoU 0.

    Ids ascend, areas are in pixels; pair k is of `truth_ids[rows[k]]` and `predicted_ids[columns[k]]`, which have
    `shared[k]` pixels in common.
    """

    truth_ids: Int64[np.ndarray, " t"]
    truth_areas: Int64[np.ndarray, " t"]
    predicted_ids: Int64[np.ndarray, " p"]
    predicted_areas: Int64[np.ndarray, " p"]
    rows: Int64[np.ndarray, " k"]
    columns: Int64[np.ndarray, " k"]
    shared: Int64[np.ndarray, " k"]
    iou: Float64[np.ndarray, " k"]

    @property
    def matrix(self) -> Float64[np.ndarray, "t p"]:
        """The IoU of all pairs, (T, P); takes T times P numbers of memory."""
        dense = np.zeros((len(self.truth_ids), len(self.predicted_ids)))
        dense[self.rows, self.columns] = self.iou
        return dense


@dataclass(frozen=True)
class Matches:
    """Pairs of ids (M,) with their IoU, and the ids without a partner: true ones `missed`, predicted ones `false`."""

    truth: Int64[np.ndarray, " m"]
    predicted: Int64[np.ndarray, " m"]
    iou: Float64[np.ndarray, " m"]
    missed: Int64[np.ndarray, " fn"]
    false: Int64[np.ndarray, " fp"]

    @property
    def tp(self) -> int:
        """True positives: matched pairs."""
        return len(self.truth)

    @property
    def fp(self) -> int:
        """False positives: predicted objects without a partner."""
        return len(self.false)

    @property
    def fn(self) -> int:
        """False negatives: true objects without a partner."""
        return len(self.missed)


def objects(label: Integer[np.ndarray, "..."]) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Ids of the objects in a label image, ascending, and their areas in pixels; 0 is no object."""
    ids, areas = np.unique(label[label != 0], return_counts=True)
    return ids.astype(np.int64), areas.astype(np.int64)


def overlap(truth: Integer[np.ndarray, "*s"], prediction: Integer[np.ndarray, "..."]) -> Overlap:
    """IoU = |A ∩ B| / |A ∪ B| in pixels, of all pairs of a true object A and a predicted object B that meet.

    The time grows with the pixels, not with the square of the objects. Ids need be neither consecutive nor in order.

    Args:
        truth: (*S) ids, 0 is background.
        prediction: the same shape.

    Returns:
        The objects of both sides and the pairs that share a pixel.

    Raises:
        ValueError: for different shapes, and for ids outside 0 .. 2**31 - 1.
    """
    if truth.shape != prediction.shape:
        raise ValueError(
            f"truth {truth.shape} and prediction {prediction.shape} differ in shape: crop the prediction back to the "
            "image, or read the truth that belongs to it"
        )
    for name, label in (("truth", truth), ("prediction", prediction)):
        low, high = int(label.min(initial=0)), int(label.max(initial=0))
        if low < 0 or high >= 2**31:
            wrong = low if low < 0 else high
            raise ValueError(
                f"the {name} holds {wrong}, and ids are 0 to 2**31 - 1: set pixels that are no object to 0"
            )
    truth_ids, truth_areas = objects(truth)
    predicted_ids, predicted_areas = objects(prediction)
    both = (truth != 0) & (prediction != 0)
    base = int(prediction.max(initial=0)) + 1
    codes = truth[both].astype(np.int64) * base + prediction[both].astype(np.int64)
    codes, shared = np.unique(codes, return_counts=True)
    rows, columns = np.searchsorted(truth_ids, codes // base), np.searchsorted(predicted_ids, codes % base)
    iou = shared / (truth_areas[rows] + predicted_areas[columns] - shared)
    return Overlap(truth_ids, truth_areas, predicted_ids, predicted_areas, rows, columns, shared, iou)


def match(truth: Integer[np.ndarray, "*s"], prediction: Integer[np.ndarray, "..."], *, threshold: float) -> Matches:
    """`pair` of two label images (*S); use `overlap` and `pair` where several thresholds are asked of one image.

    Raises ValueError as the two do.
    """
    return pair(overlap(truth, prediction), threshold=threshold)


def pair(overlap: Overlap, *, threshold: float) -> Matches:
    """Match objects one to one with IoU >= threshold: most pairs first, among those the largest sum of IoU.

    Above 1/2 no object has two candidates (Kirillov et al. 2019, section 4.1); otherwise the optimum is found with the
    Hungarian method in each group of objects that compete for one another.

    Args:
        overlap: what `overlap` gives.
        threshold: least IoU of a match, in (0, 1]; a pair that reaches it exactly counts.

    Returns:
        Matched pairs by ascending true id, and the ids left over.

    Raises:
        ValueError: for a threshold outside (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold={threshold}: an IoU to match at lies above 0 and is at most 1, such as 0.5")
    chosen = np.flatnonzero(overlap.iou >= threshold)
    if threshold <= 0.5:
        chosen = chosen[_assign(overlap.rows[chosen], overlap.columns[chosen], overlap.iou[chosen])]
    rows, columns = overlap.rows[chosen], overlap.columns[chosen]
    return Matches(
        truth=overlap.truth_ids[rows],
        predicted=overlap.predicted_ids[columns],
        iou=overlap.iou[chosen],
        missed=np.delete(overlap.truth_ids, rows),
        false=np.delete(overlap.predicted_ids, columns),
    )


def _assign(rows: np.ndarray, columns: np.ndarray, iou: np.ndarray) -> np.ndarray:
    """Indices of the candidate pairs in the optimal matching, ascending; each connected group is solved by itself."""
    from scipy.optimize import linear_sum_assignment
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(rows):
        return np.zeros(0, np.int64)
    first = rows.max() + 1  # the node of predicted object 0
    nodes = first + columns.max() + 1
    graph = coo_array((np.ones(len(rows)), (rows, first + columns)), shape=(nodes, nodes))
    group = connected_components(graph, directed=False)[1][rows]
    order = np.argsort(group, kind="stable")
    chosen = []
    for pairs in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        (left, i), (right, j) = (np.unique(side[pairs], return_inverse=True) for side in (rows, columns))
        gain, number = np.zeros((len(left), len(right))), np.full((len(left), len(right)), -1)
        gain[i, j] = 1 + iou[pairs] / (len(pairs) + 1)  # all IoU together weigh less than one pair more
        number[i, j] = pairs
        chosen.append(number[linear_sum_assignment(gain, maximize=True)])
    found = np.sort(np.concatenate(chosen))
    return found[found >= 0]
