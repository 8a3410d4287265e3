import json
import math

import numpy as np
import pytest

from unet_jax import hard_cases, matching


def pairs_by_distance(label, distance):
    """Pairs whose nearest pixel centres are within the distance, from all pairs of pixels."""
    places, ids = np.argwhere(label), label[label != 0]
    apart = np.sqrt(((places[:, None] - places[None]) ** 2).sum(-1))
    near = np.argwhere((apart <= distance) & (ids[:, None] < ids[None]))
    return sorted({(int(ids[a]), int(ids[b])) for a, b in near})


@pytest.mark.parametrize("shape", [(9, 11), (1, 40), (4, 5, 6)])
def test_touching_pairs_against_brute_force(shape):
    rng = np.random.default_rng(3)
    label = np.where(rng.random(shape) < 0.3, rng.integers(1, 60, shape), 0).astype(np.uint16)
    for distance in (1, 1.5, 2, 2.5, 3, 4.3):
        assert list(map(tuple, hard_cases.touching_pairs(label, distance=distance))) == pairs_by_distance(
            label, distance
        )


def test_touching_pairs_by_hand():
    label = np.zeros((6, 12), np.int32)
    label[0:2, 0:2] = 9
    label[0:2, 2:4] = 4  # shares a side with 9
    label[2, 4] = 7  # meets 4 at a corner: sqrt(2)
    label[0, 5] = 5  # one pixel of ground between it and 4: 2; sqrt(5) from 7
    label[0, 8] = 1  # two pixels of ground between it and 5: 3
    assert hard_cases.touching_pairs(label, distance=1).tolist() == [[4, 9]]
    assert hard_cases.touching_pairs(label, distance=1.5).tolist() == [[4, 7], [4, 9]]
    assert hard_cases.touching_pairs(label).tolist() == [[4, 5], [4, 7], [4, 9]]
    assert hard_cases.touching_pairs(label, distance=3).tolist() == [[1, 5], [4, 5], [4, 7], [4, 9], [5, 7]]
    assert hard_cases.touching_pairs(np.zeros_like(label)).shape == (0, 2)


def row_image():
    """One object in columns 0, 1; column c is c - 1 pixels from it, so the surroundings are columns 4 to 11."""
    truth = np.zeros((1, 14), np.int32)
    truth[0, :2] = 7
    image = np.array([4, 6, 999, 999, 5, 5, 5, 5, 4, 3, 3, 3, 999, 999], np.float32).reshape(1, 14, 1)
    return image, truth


def test_separability_by_hand():
    image, truth = row_image()
    # 4 exceeds three of eight and ties with one: 3.5/8; 6 exceeds all: 8/8.
    expected = (3.5 / 8 + 8 / 8) / 2
    assert hard_cases.separability(image, truth) == pytest.approx(expected)
    assert hard_cases.separability(-image, truth) == pytest.approx(expected)  # dark objects on bright ground
    assert hard_cases.separability(np.exp(image / 100), truth) == pytest.approx(expected)
    best = np.where(truth[..., None] > 0, 200, 100)
    assert hard_cases.separability(np.concatenate([image, best], -1), truth) == 1  # the best channel
    assert hard_cases.separability(np.ones_like(image), truth) == 0.5
    mask = np.ones((1, 14), bool)
    mask[0, [0, 8]] = False  # without the 4s
    assert hard_cases.separability(image, truth, mask=mask) == 1


def test_separability_of_normal_distributions():
    # Means 2.5 standard deviations apart: the difference is normal with mean 2.5 and deviation sqrt(2), so it is
    # positive with probability Phi(2.5 / sqrt(2)) = 0.9615, the bound of low contrast.
    truth = np.zeros((400, 400), np.int32)
    truth[:, 180:200] = 1
    image = np.random.default_rng(0).normal(size=(400, 400, 1)) + 2.5 * (truth[..., None] > 0)
    phi = (1 + math.erf(2.5 / 2)) / 2
    assert hard_cases.separability(image, truth) == pytest.approx(phi, abs=0.005)
    assert phi == pytest.approx(hard_cases.LOW_CONTRAST, abs=0.002)


def test_separability_without_objects_or_surroundings():
    image, truth = row_image()
    assert math.isnan(hard_cases.separability(image, np.zeros_like(truth)))
    assert math.isnan(hard_cases.separability(image, np.ones_like(truth)))
    assert math.isnan(hard_cases.separability(image, truth, mask=truth == 0))


def scene(*, noise):
    """Four squares, 1 alone, 2 and 3 side by side, 4 a pixel off 3; bright ones and, of 1, very bright."""
    truth = np.zeros((30, 60), np.int32)
    truth[10:20, 5:15] = 1  # 100 pixels
    truth[10:20, 30:34] = 2  # 40
    truth[10:20, 34:38] = 3  # 40
    truth[10:13, 39:42] = 4  # 9, two pixels from 3
    image = np.random.default_rng(1).normal(100, noise, (30, 60, 1)) + 20.0 * (truth > 0)[..., None]
    image[truth == 1] += 1000
    return image, truth


def found(rates):
    return {name: (case["found"], case["objects"]) for name, case in rates.summarise().items() if case["objects"]}


def test_cases_by_hand():
    image, truth = scene(noise=1)
    guess = np.where(truth == 4, 3, truth)  # 3 and 4 merged: 40 of 49 pixels are of 3, which is found; 4 is not
    rates = hard_cases.count_cases(image, truth, matching.overlap(truth, guess))
    sizes = {"area < 32": (0, 1), "area 32-63": (2, 2), "area 64-127": (1, 1)}
    pairs = {"touching_pairs": (1, 2), "pairs_apart": (1, 2)}  # 2-3, both found, and 3-4, one of them
    assert found(rates) == {"all": (3, 4), "clear": (1, 1), "touching": (2, 3), **pairs, **sizes}
    merged = hard_cases.count_cases(image, truth, matching.overlap(truth, (truth > 0) * 5))
    assert found(merged)["touching_pairs"] == found(merged)["pairs_apart"] == (0, 2)
    both = hard_cases.concatenate([rates, merged]).summarise()
    assert both["touching_pairs"] == {"images": 2, "objects": 4, "found": 1, "rate": 0.25}
    assert both["low_contrast"]["rate"] is None
    assert json.loads(json.dumps(both)) == both
    apart = hard_cases.count_cases(image, truth, matching.overlap(truth, guess), distance=1)
    assert found(apart)["touching"] == (2, 2)


def test_low_contrast_images_have_no_clear_objects():
    image, truth = scene(noise=15)  # 1 is very bright, the others 20 above noise of 15
    assert 0.8 < hard_cases.separability(image, truth) < hard_cases.LOW_CONTRAST
    rates = hard_cases.count_cases(image, truth, matching.overlap(truth, truth), area_edges=())
    assert found(rates) == {
        "all": (4, 4), "touching": (3, 3), "low_contrast": (4, 4), "touching_pairs": (2, 2),
        "pairs_apart": (2, 2), "any area": (4, 4),
    }  # fmt: skip


def test_a_pair_is_apart_however_it_is_drawn():
    image, truth = scene(noise=1)
    guess = np.where(truth == 2, 7, 0)
    guess[5:20, 34:42] = 8  # 3 and 4 within one that is far too large for either: 120 pixels, IoU 1/3
    rates = found(hard_cases.count_cases(image, truth, matching.overlap(truth, guess)))
    assert (rates["touching_pairs"], rates["pairs_apart"]) == ((0, 2), (1, 2))
    guess[truth == 3] = 0  # no object holds 3, or exactly half of it
    assert found(hard_cases.count_cases(image, truth, matching.overlap(truth, guess)))["pairs_apart"] == (0, 2)
    guess[10:15, 34:38] = 9
    assert found(hard_cases.count_cases(image, truth, matching.overlap(truth, guess)))["pairs_apart"] == (0, 2)


def test_an_image_without_objects_has_no_rates():
    image, truth = scene(noise=1)
    rates = hard_cases.count_cases(image, 0 * truth, matching.overlap(0 * truth, truth))
    assert not rates.total.any()
    assert all(case["rate"] is None for case in rates.summarise().values())


def test_what_cannot_be_counted_is_refused():
    image, truth = scene(noise=1)
    overlap = matching.overlap(truth, truth)
    with pytest.raises(ValueError, match="other objects than the truth"):
        hard_cases.count_cases(image, np.where(truth == 4, 5, truth), overlap)
    a, b = (hard_cases.count_cases(image, truth, overlap, area_edges=edges) for edges in ((), (50,)))
    assert b.names[-4:] == ("area < 50", "area >= 50", "touching_pairs", "pairs_apart")
    for parts in ([a, b], []):
        with pytest.raises(ValueError, match="same area edges"):
            hard_cases.concatenate(parts)
