"""Rand and information scores on partitions small enough to count by hand, and on real membranes."""

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import variation_of_information

from unet_jax.partition_scores import choose_threshold, pixel_error, regions, score_stack, v_info, v_rand

TRUTH = np.array([[1, 1, 0, 2, 2]] * 2)  # two pieces of 4 pixels, so that each pixel is an eighth

# Sums in 64ths for v_rand; entropies in bits for v_info, where the truth has H = 1.
HAND_MADE = {
    "the same, other numbers": (TRUTH * 7, 1, 1),
    # joint 16 + 16, ours 64, theirs 32: 2 * 32 / 96. One region says nothing: I = 0.
    "merged": (np.ones_like(TRUTH), 2 / 3, 0),
    # joint and ours 4 + 4 + 16, theirs 32 (halves of 2 pixels): 48 / 56. H(S) = joint = 1.5: 2 * (2.5 - 1.5) / 2.5.
    "split": (np.array([[1, 1, 0, 2, 2], [3, 3, 0, 2, 2]]), 6 / 7, 0.8),
    # one pixel unassigned is a region of its own: joint and ours 9 + 1 + 16, theirs 32: 52 / 58.
    # H(S) = joint = 3/8 log2(8/3) + 3/8 + 1/2 = 1.40564: 2 * 1 / 2.40564.
    "a pixel lost": (np.array([[0, 1, 0, 2, 2], [1, 1, 0, 2, 2]]), 26 / 29, 0.831380),
    # every pixel by itself: joint and ours 8, theirs 32: 16 / 40. H(S) = joint = 3: 2 * 1 / 4.
    "all lost": (np.zeros_like(TRUTH), 0.4, 0.5),
    # what the proposal says on the truth's membrane does not count
    "spilt over the membrane": (np.array([[1, 1, 1, 2, 2], [1, 1, 2, 2, 2]]), 1, 1),
}


@pytest.mark.parametrize(("proposal", "rand", "info"), HAND_MADE.values(), ids=HAND_MADE)
def test_scores_by_hand(proposal, rand, info):
    assert v_rand(TRUTH, proposal) == pytest.approx(rand)
    assert v_info(TRUTH, proposal) == pytest.approx(info, abs=1e-5)


def test_one_region_that_is_found_scores_one():
    assert v_info(np.ones((3, 3), int), np.ones((3, 3), int)) == 1
    assert v_rand(np.ones((3, 3), int), np.ones((3, 3), int)) == 1


def test_scores_agree_with_the_count_of_all_pairs_and_with_entropies_from_elsewhere():
    rng = np.random.default_rng(0)
    truth, proposal = rng.integers(0, 5, (9, 9)), rng.integers(1, 6, (9, 9))
    t, p = truth[truth > 0], proposal[truth > 0]
    in_truth, in_proposal = t[:, None] == t[None], p[:, None] == p[None]
    both = (in_truth & in_proposal).sum()
    assert v_rand(truth, proposal) == pytest.approx(2 * both / (in_truth.sum() + in_proposal.sum()))
    false_splits, false_merges = variation_of_information(t[None], p[None])  # H(S|T) and H(T|S) in bits
    each = sum(-(q * np.log2(q)).sum() for q in (_shares_of(p), _shares_of(t)))  # 2 I = H(S) + H(T) - H(S|T) - H(T|S)
    assert v_info(truth, proposal) == pytest.approx((each - false_splits - false_merges) / each)


def _shares_of(ids):
    return np.unique(ids, return_counts=True)[1] / ids.size


def test_thinning_keeps_pieces_apart_up_to_the_edge_and_holes_open():
    inside = np.ones((12, 11), bool)
    inside[4:7] = False  # a bar, three pixels broad, from edge to edge
    parts = regions(inside)
    assert parts.max() == 2
    assert 11 <= (parts == 0).sum() <= 13  # one line, which may step aside at its ends
    inside[4:7, 5] = True  # a gap in it
    assert regions(inside).max() == 1
    assert regions(np.ones((4, 4), bool)).max() == 1
    assert regions(np.zeros((4, 4), bool), thin=False).max() == 0


def test_pieces_that_touch_at_a_corner_only_are_two():
    assert regions(np.eye(2, dtype=bool), thin=False).max() == 2


def test_broad_membranes_cost_pixels_and_no_pieces():
    truth = np.ones((20, 20), bool)
    truth[9:11] = False
    broad = np.ones((20, 20), bool)
    broad[6:13] = False
    (row,) = score_stack([truth], [broad.astype(np.float32)], thresholds=[0.5])
    assert row["pixel_error"] == 5 / 20
    assert row["v_rand"] > 0.9  # not 1: the line lies where the broad membrane's middle is, not at rows 9 and 10
    assert pixel_error(truth, truth) == 0


def test_real_membranes_score_one_against_themselves_and_less_with_a_hole(real_data):
    with Image.open(real_data / "isbi2012" / "labels" / "24.png") as image:
        truth = np.asarray(image) > 0
    leaky = truth.copy()
    leaky[200:212, :300] = True
    perfect, worse = (score_stack([truth], [m.astype(np.float32)], thresholds=[0.5])[0] for m in (truth, leaky))
    assert (perfect["v_rand"], perfect["pixel_error"]) == (1, 0)
    assert perfect["v_info"] == pytest.approx(1)
    assert worse["v_rand"] < 0.99
    assert worse["v_info"] < 0.99


def test_a_threshold_too_high_loses_pieces():
    truth = np.ones((9, 9), bool)
    truth[4] = False
    probability = np.where(truth, np.float32(0.7), np.float32(0.1))
    rows = {row["threshold"]: row for row in score_stack([truth], [probability])}
    assert rows[0.5]["v_rand"] == 1
    assert rows[0.9]["v_rand"] < 0.7


def test_misuse_is_named():
    with pytest.raises(ValueError, match=r"truth \(2, 5\) and proposal \(3, 3\): give both at the image's size"):
        v_rand(TRUTH, np.ones((3, 3), int))
    with pytest.raises(ValueError, match="is every pixel membrane"):
        v_info(np.zeros((2, 2), int), np.ones((2, 2), int))
    with pytest.raises(ValueError, match=r"1 truths and 0 probability maps"):
        score_stack([TRUTH > 0], [])
    with pytest.raises(ValueError, match="at the image's size"):
        pixel_error(TRUTH > 0, np.ones((3, 3), bool))


def test_the_threshold_chosen_lies_amid_good_ones():
    scores = [0.2, 0.99, 0.3, 0.9, 0.91, 0.9, 0.4]  # means with the neighbours: .595 .497 .73 .703 .903 .737 .65
    rows = [{"threshold": i / 10, "v_rand": score} for i, score in enumerate(scores)]
    assert choose_threshold(rows) == 0.4
    assert choose_threshold(rows[:2]) == 0.0  # both means are .595: the lower one
    assert choose_threshold(rows[:1]) == 0.0
    with pytest.raises(ValueError, match="no thresholds"):
        choose_threshold([])
