"""Box by box as on the whole image: h-maxima and watersheds against scikit-image on all of it."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import watershed

from unet_jax.seeds import grow, largest_pieces, summits


def hills(seed, shape=(60, 80), share=0.4):
    """Smooth hills that stand on a ground of 0, and the ground they cover."""
    rng = np.random.default_rng(seed)
    rough = ndimage.gaussian_filter(rng.random(shape), 1.5) * 10
    height = rough - np.quantile(rough, 1 - share)
    return np.maximum(height, 0)


def same_partition(a, b):
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("depth", [0.1, 0.4])
def test_summits_are_the_h_maxima_of_the_whole_image(seed, depth):
    height = hills(seed)
    whole = ndimage.label(local_maxima(reconstruction(height - depth, height)), np.ones((3, 3)))[0]
    found = summits(height, depth)
    assert found.max() > 5
    same_partition(found, whole)


def test_a_ground_hides_what_does_not_rise_enough_and_parts_what_lies_below():
    height = np.array([[0.0, 3.0, 2.0, 3.0, 0.0, 1.5, 0.0]])

    def number(*args, **options):
        return len(np.unique(summits(*args, **options))) - 1

    assert number(height, 0.5) == 3
    assert number(height, 1.5) == 2  # a saddle of 2 between the first two; 1.5 rises by just enough
    assert number(height, 1.5, ground=0.1) == 1
    assert number(height, 1.5, ground=2.0) == 0
    assert number(np.zeros((4, 5)), 0.5) == 0


@pytest.mark.parametrize("seed", range(3))
def test_grown_objects_are_those_of_a_watershed_of_the_whole_image(seed):
    height = hills(seed)
    inside = height > 0
    seeds = ndimage.label(height > 0.6 * height.max())[0]
    pieces, n = ndimage.label(inside)
    number = np.arange(n + 1) + seeds.max()
    number[pieces[seeds > 0]] = number[0] = 0
    whole = watershed(-height, np.where(seeds > 0, seeds, number[pieces]), mask=inside)
    found = grow(-height, seeds, inside)
    assert seeds.max() > 3
    np.testing.assert_array_equal(found, whole)
    # With nothing left to flood, the seeds themselves.
    np.testing.assert_array_equal(grow(-height, found, inside), found)


def test_the_largest_piece_of_each():
    label = np.array([[1, 1, 0, 2], [0, 0, 0, 0], [2, 2, 2, 1]])
    np.testing.assert_array_equal(largest_pieces(label), [[1, 1, 0, 0], [0, 0, 0, 0], [2, 2, 2, 0]])
