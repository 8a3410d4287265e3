import itertools

import numpy as np
import pytest

from unet_jax import matching

# Truth 3 has 6 pixels, 900 has 4; prediction 70 has 5, 2 has 4, 5 has 1.
# 3 and 70 share 4 of 6 + 5 - 4 = 7; 3 and 2 share 1 of 6 + 4 - 1 = 9; 900 and 2 share 3 of 4 + 4 - 3 = 5.
TRUTH = np.array([[3, 3, 3, 0, 0, 0], [3, 3, 3, 900, 900, 0], [0, 0, 0, 900, 900, 0]], np.uint16)
GUESS = np.array([[70, 70, 0, 0, 0, 5], [70, 70, 2, 2, 0, 0], [70, 0, 0, 2, 2, 0]], np.int32)


def strip(*runs, width=40):
    """A label image of one row: runs of (id, start, stop)."""
    label = np.zeros((1, width), np.int32)
    for id, start, stop in runs:
        label[0, start:stop] = id
    return label


def test_overlap_by_hand():
    pairs = matching.overlap(TRUTH, GUESS)
    np.testing.assert_array_equal(pairs.truth_ids, [3, 900])
    np.testing.assert_array_equal(pairs.truth_areas, [6, 4])
    np.testing.assert_array_equal(pairs.predicted_ids, [2, 5, 70])
    np.testing.assert_array_equal(pairs.predicted_areas, [4, 1, 5])
    np.testing.assert_allclose(pairs.matrix, [[1 / 9, 0, 4 / 7], [3 / 5, 0, 0]], rtol=1e-15)
    assert len(pairs.iou) == 3


def test_match_names_pairs_and_leftovers():
    both = matching.match(TRUTH, GUESS, threshold=0.5)
    assert list(zip(both.truth, both.predicted, strict=True)) == [(3, 70), (900, 2)]
    np.testing.assert_allclose(both.iou, [4 / 7, 3 / 5])
    assert (both.missed.tolist(), both.false.tolist()) == ([], [5])
    assert (both.tp, both.fp, both.fn) == (2, 1, 0)
    one = matching.match(TRUTH, GUESS, threshold=0.58)
    assert (one.truth.tolist(), one.missed.tolist(), one.false.tolist()) == ([900], [3], [5, 70])


def test_permuted_ids_and_another_axis_change_nothing():
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(0, 6, (2, 8, 9)), rng.integers(0, 7, (2, 8, 9))
    new = np.concatenate([[0], rng.permutation(np.arange(1, 2**31 - 1, 10**8))[:6]])
    plain, renamed = matching.overlap(truth, guess), matching.overlap(new[truth], guess)
    order = np.argsort(new[plain.truth_ids])
    np.testing.assert_array_equal(renamed.matrix, plain.matrix[order])
    for threshold in (0.05, 0.1, 0.5):
        a, b = (matching.pair(pairs, threshold=threshold) for pairs in (plain, renamed))
        assert {(int(new[t]), int(p)) for t, p in zip(a.truth, a.predicted, strict=True)} == set(
            zip(b.truth.tolist(), b.predicted.tolist(), strict=True)
        )


def test_the_optimum_beats_the_greedy_choice():
    # 1 (20 pixels) and 1 (18) share 12 of 26 = .46; 2 (10) and 1 share 6 of 22 = .27; 1 and 2 (10) share 8 of 22 = .36.
    # Greedy takes the .46 and leaves true 2 and predicted 2 alone; crosswise both are matched.
    truth, guess = strip((2, 0, 10), (1, 10, 30)), strip((1, 4, 22), (2, 22, 32))
    np.testing.assert_allclose(matching.overlap(truth, guess).matrix, [[12 / 26, 8 / 22], [6 / 22, 0]])
    cross = matching.match(truth, guess, threshold=0.25)
    assert (cross.truth.tolist(), cross.predicted.tolist()) == ([1, 2], [2, 1])
    assert matching.match(truth, guess, threshold=0.4).tp == 1  # the crosswise pairs are no candidates any more


def best_by_trying(matrix, threshold):
    """Most pairs, then the largest sum of IoU, over all injections of the smaller side into the larger."""
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    best = (0, 0.0)
    for columns in itertools.permutations(range(matrix.shape[1]), matrix.shape[0]):
        taken = [v for v in matrix[range(matrix.shape[0]), columns] if v >= threshold]
        best = max(best, (len(taken), round(sum(taken), 9)))
    return best


@pytest.mark.parametrize("seed", range(6))
def test_pair_is_optimal_against_trying_everything(seed):
    rng = np.random.default_rng(seed)
    pairs = matching.overlap(rng.integers(0, 6, (6, 7)), rng.integers(0, 5, (6, 7)))
    for threshold in (0.02, 0.12, 0.2):
        found = matching.pair(pairs, threshold=threshold)
        assert len(set(found.truth)) == len(set(found.predicted)) == found.tp
        assert (found.tp, round(float(found.iou.sum()), 9)) == best_by_trying(pairs.matrix, threshold)


def test_a_pair_that_reaches_the_threshold_exactly_counts_once():
    halves = matching.match(strip((1, 0, 2)), strip((1, 0, 1), (2, 1, 2)), threshold=0.5)  # IoU 1/2 and 1/2
    assert (halves.tp, halves.fp, halves.fn) == (1, 1, 0)
    assert matching.match(strip((1, 0, 20)), strip((1, 0, 11)), threshold=0.55).tp == 1  # 11/20
    assert matching.match(strip((1, 0, 20)), strip((1, 0, 11)), threshold=0.551).tp == 0


def test_empty_sides():
    empty = np.zeros_like(TRUTH)
    for threshold in (0.3, 0.7):
        nothing = matching.match(empty, empty, threshold=threshold)
        assert (nothing.tp, nothing.fp, nothing.fn) == (0, 0, 0)
        invented, missed = (matching.match(*sides, threshold=threshold) for sides in ((empty, GUESS), (TRUTH, empty)))
        assert (invented.tp, invented.false.tolist(), invented.fn) == (0, [2, 5, 70], 0)
        assert (missed.tp, missed.fp, missed.missed.tolist()) == (0, 0, [3, 900])
    assert matching.overlap(empty, GUESS).matrix.shape == (0, 3)


def test_many_objects_need_no_matrix_of_all_pairs():
    # 40,000 squares of 2 x 2, moved by a column: each meets two, IoU 2/6 (at the right edge 2/4), a chain along each
    # row; all are matched. The matrix would take 13 GB.
    truth = np.arange(1, 40001, dtype=np.int32).reshape(200, 200).repeat(2, 0).repeat(2, 1)
    guess = np.zeros_like(truth)
    guess[:, 1:] = truth[:, :-1]
    pairs = matching.overlap(truth, guess)
    assert len(pairs.iou) == 200 * (2 * 200 - 1)
    assert matching.pair(pairs, threshold=0.3).tp == 40000
    assert matching.pair(pairs, threshold=0.5).tp == 200


def test_what_cannot_be_matched_is_refused():
    with pytest.raises(ValueError, match=r"truth \(3, 6\) and prediction \(3, 5\) differ in shape: crop"):
        matching.overlap(TRUTH, GUESS[:, :5])
    with pytest.raises(ValueError, match=r"the prediction holds -1.*to 0"):
        matching.overlap(TRUTH, GUESS - 1)
    with pytest.raises(ValueError, match=r"the truth holds 2147483648"):
        matching.overlap(TRUTH.astype(np.int64) + 2**31 - 900, GUESS)
    for threshold in (0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"threshold=.* such as 0\.5"):
            matching.match(TRUTH, GUESS, threshold=threshold)
