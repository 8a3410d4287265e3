"""Distances between surfaces, derived by hand on a few voxels."""

import math

import numpy as np
import pytest

from unet_jax.surface import scores, surface, surface_distances


def box(shape, *slices):
    region = np.zeros(shape, bool)
    region[slices] = True
    return region


def test_surface_of_a_cube_is_all_but_its_inside():
    cube = box((7, 7, 7), slice(1, 6), slice(1, 6), slice(1, 6))
    assert surface(cube).sum() == 5**3 - 3**3
    whole = np.ones((5, 5, 5), bool)
    assert surface(whole).sum() == 5**3 - 3**3  # beyond the image is outside


def test_no_surface_where_the_annotation_was_cut():
    """A bar along x whose right half was not annotated: it has sides and a left end, but no right end."""
    bar, valid = box((8, 5), slice(2, 8), slice(1, 4)), box((8, 5), slice(0, 5))
    found = surface(bar & valid, valid)
    assert found.sum() == 3 + 2 * 2  # the end at x = 2, and both sides at x = 3 and 4
    assert not found[4, 2]


def test_distances_of_two_single_voxels_follow_the_spacing():
    """Two voxels apart along x (2 mm) and three along z (0.5 mm): sqrt(4² + 1.5²) mm both ways."""
    a, b = box((9, 9, 9), 2, 4, 3), box((9, 9, 9), 4, 4, 6)
    want = math.hypot(4, 1.5)
    np.testing.assert_allclose(surface_distances(a, b, (2.0, 1.0, 0.5)), [[want], [want]])
    found = scores(a, b, (2.0, 1.0, 0.5), tolerance=4.3)
    assert found["hd95_mm"] == pytest.approx(want)
    assert (found["dice"], found["surface_dice"]) == (0, 1)  # 4.27 mm is within the tolerance
    assert found["truth_ml"] == pytest.approx(0.001)  # 2 × 1 × 0.5 mm³


def test_a_line_with_a_far_voxel():
    """20 voxels in a row; the prediction has one more, 10 away from the row's end.

    From the truth: all 0. From the prediction: 20 zeros and one 10; its 95th percentile lies at position
    0.95 · 20 = 19 of 0..20, which is still 0. With 5 zeros and one 10 it lies at 4.75: 7.5.
    """
    for length, want in ((20, 0.0), (5, 7.5)):
        truth = box((40, 3), slice(0, length), 1)
        prediction = truth | box((40, 3), length + 9, 1)
        found = scores(truth, prediction, (1.0, 1.0))
        assert found["hd95_mm"] == pytest.approx(want)
        assert found["surface_dice"] == pytest.approx(2 * length / (2 * length + 1))
        assert found["dice"] == pytest.approx(2 * length / (2 * length + 1))


def test_shifted_cubes():
    """A cube of 5³ moved by one along x: 4/5 overlap; every surface voxel is at most 1 away."""
    a = box((9, 9, 9), slice(1, 6), slice(2, 7), slice(2, 7))
    b = np.roll(a, 1, axis=0)
    found = scores(a, b, (3.0, 1.0, 1.0), tolerance=0.5)
    assert found["dice"] == pytest.approx(0.8)
    assert found["hd95_mm"] == pytest.approx(3.0)
    # Within 0.5 mm, so shared voxels only: of 98 surface voxels, those of the sides at x = 2..5 of a (4 · 16), and the
    # inner 3 × 3 of a's end face lie inside b. Of b the same.
    assert found["surface_dice"] == pytest.approx(64 / 98)


def test_empty_regions_are_defined():
    none, some = np.zeros((3, 4, 12), bool), box((3, 4, 12), 1, 1, 1)
    both = scores(none, none, (1.0, 1.0, 1.0))
    assert (both["dice"], both["surface_dice"], both["hd95_mm"]) == (1, 1, 0)
    for pair in ((none, some), (some, none)):
        missed = scores(*pair, (1.0, 1.0, 1.0))
        assert (missed["dice"], missed["surface_dice"], missed["hd95_mm"]) == (0, 0, 13)  # 3² + 4² + 12² = 13²


def test_what_was_not_annotated_counts_nowhere():
    truth, valid = box((6, 6), slice(1, 3), slice(1, 3)), box((6, 6), slice(0, 4))
    found = scores(truth, truth | box((6, 6), slice(4, 6)), (1.0, 1.0), valid=valid)
    assert (found["dice"], found["hd95_mm"], found["surface_dice"]) == (1, 0, 1)


def test_shapes_and_spacings_that_cannot_be():
    region = np.ones((3, 3), bool)
    for spacing in ((1.0,), (1.0, 0.0)):
        with pytest.raises(ValueError, match="one spacing above 0 an axis"):
            surface_distances(region, region, spacing)
