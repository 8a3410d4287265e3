import numpy as np
import pytest
from scipy import ndimage

from unet_jax import instances, matching


def balls(shape, centres, radius):
    """Label of balls, each pixel to the nearest centre: neighbours touch along a flat face."""
    grid = np.moveaxis(np.indices(shape), 0, -1)
    away = np.stack([np.sqrt(((grid - np.array(centre)) ** 2).sum(-1)) for centre in centres])
    return np.where(away.min(0) <= radius, away.argmin(0) + 1, 0).astype(np.int32)


def maps(label):
    """What perfect heads would say of a label: foreground, three classes, distance to the edge, offset."""
    ids = np.arange(1, label.max() + 1)
    foreground = (label > 0).astype(np.float32)
    rim = sum(((label == i) & ~ndimage.binary_erosion(label == i) for i in ids), np.zeros(label.shape, bool))
    border = foreground * rim
    three = np.stack([1 - foreground, foreground - border, border], -1).astype(np.float32)
    distance = sum(ndimage.distance_transform_edt(label == i) for i in ids).astype(np.float32)
    centre = np.concatenate([np.zeros((1, label.ndim)), ndimage.center_of_mass(label > 0, label, ids)])
    offset = (centre[label] - np.moveaxis(np.indices(label.shape), 0, -1)).astype(np.float32)
    return foreground, three, distance, offset


def separated(label, **options):
    foreground, three, distance, offset = maps(label)
    return {
        "foreground": instances.separate_foreground(foreground, **options),
        "border": instances.separate_border(three, **options),
        "distance": instances.separate_distance(foreground, distance, **options),
        "offset": instances.separate_offset(foreground, offset, **options),
    }


@pytest.mark.parametrize(
    ("shape", "centres"), [((32, 48), [(15, 15), (15, 29)]), ((20, 20, 34), [(9, 9, 9), (9, 9, 22)])]
)
def test_two_that_touch_come_out_as_two(shape, centres):
    truth = balls(shape, centres, 8)
    assert ndimage.label(truth)[1] == 1
    for name, label in separated(truth).items():
        assert label.max() == (1 if name == "foreground" else 2), name
        assert label.dtype == np.int32
        np.testing.assert_array_equal(label > 0, truth > 0)
        if label.max() == 2:
            assert matching.match(truth, label, threshold=0.9).tp == 2, name


def test_corners_do_not_connect():
    foreground = np.array([[0.9, 0.9, 0.1], [0.2, 0.3, 0.5]], np.float32)
    np.testing.assert_array_equal(instances.separate_foreground(foreground), [[1, 1, 0], [0, 0, 2]])
    np.testing.assert_array_equal(instances.separate_foreground(foreground, threshold=0.3), [[1, 1, 0], [0, 1, 1]])


def test_small_objects_are_dropped_and_ids_stay_consecutive():
    truth = balls((20, 60), [(10, 8), (10, 22)], 5)
    truth[2, 30], truth[5:9, 40:44] = 3, 4  # 1 and 16 pixels
    truth[truth == 2] = 0
    truth = np.array([0, 1, 0, 2, 3])[truth].astype(np.int32)
    for name, label in separated(truth, min_area=4).items():
        np.testing.assert_array_equal(np.unique(label), [0, 1, 2], name)
        np.testing.assert_array_equal(label > 0, (truth > 0) & (truth != 2), name)
    assert all(label.max() == 3 for label in separated(truth).values())
    assert not any(label.any() for label in separated(truth, min_area=1000).values())


def test_a_piece_without_a_seed_is_an_object():
    truth = balls((24, 60), [(12, 12), (12, 40)], 7)
    foreground, three, distance, offset = maps(truth)
    second = truth == 2
    three[second] = [0.3, 0.3, 0.4]  # foreground of .7, but no inside to start from
    distance[second] = 0.1
    offset[second] = np.random.default_rng(0).uniform(-60, 60, (second.sum(), 2))  # votes all over the image
    for label in (
        instances.separate_border(three),
        instances.separate_distance(foreground, distance),
        instances.separate_offset(foreground, offset, min_votes=20),
    ):
        assert label.max() == 2
        assert matching.match(truth, label, threshold=1.0).tp == 2


def test_border_seeds_part_at_a_higher_threshold():
    truth = balls((32, 48), [(15, 15), (15, 29)], 8)
    inside = np.where(maps(truth)[1][..., 1] > 0, 0.9, 0.6) * (truth > 0)  # the border is taken for inside, weakly
    three = np.stack([1.0 * (truth == 0), inside, (truth > 0) - inside], -1)
    assert instances.separate_border(three, seed=0.5).max() == 1
    assert instances.separate_border(three, seed=0.7).max() == 2


def test_distance_summits_part_by_depth():
    # Along a ridge 10 high, summits of 14 and 12 with a saddle of 10 between: the lower rises by 2.
    ridge = np.full((3, 40), 10.0)
    ridge[1, 10], ridge[1, 30] = 14, 12
    full = np.ones((3, 40))
    assert instances.separate_distance(full, ridge, sigma=0, depth=1.9).max() == 2
    assert instances.separate_distance(full, ridge, sigma=0, depth=2.1).max() == 1
    assert instances.separate_distance(full, ridge, sigma=8, depth=1.9).max() == 1


def test_offset_votes_that_scatter_are_one_crowd():
    truth = balls((48, 90), [(24, 22), (24, 46), (24, 80)], 12)
    foreground, _, _, offset = maps(truth)
    noise = np.random.default_rng(0).normal(0, 1.5, offset.shape).astype(np.float32)
    label = instances.separate_offset(foreground, offset + noise)
    assert matching.match(truth, label, threshold=0.85).tp == label.max() == 3
    assert instances.separate_offset(foreground, offset + 2 * noise, saddle=0.99, sigma=0.5).max() > 3


def test_offset_saddle_by_hand():
    # Two pixels of equally many votes, 4 apart, smoothed with 1.5: the middle has 2 exp(-2**2 / (2 * 1.5**2)) = .82 of
    # a summit, whose own height is 1 + exp(-4**2 / (2 * 1.5**2)) = 1.03: a saddle of .80.
    foreground, offset = np.ones((21, 40)), np.zeros((21, 40, 2))
    place = np.moveaxis(np.indices((21, 40)), 0, -1)
    offset[:, :20] = np.array([10, 18]) - place[:, :20]
    offset[:, 20:] = np.array([10, 22]) - place[:, 20:]
    assert instances.separate_offset(foreground, offset, sigma=1.5, saddle=0.75).max() == 1
    two = instances.separate_offset(foreground, offset, sigma=1.5, saddle=0.85)
    np.testing.assert_array_equal(two, np.where(np.arange(40) < 20, 1, 2)[None].repeat(21, 0))
    # 420 pixels vote for each place: with the neighbour's tail 420 * 1.03 = 432 votes.
    options = {"sigma": 1.5, "saddle": 0.85}
    counts = [instances.separate_offset(foreground, offset, min_votes=n, **options).max() for n in (425, 440)]
    assert counts == [2, 1]  # without a crowd, the piece of foreground


def test_offset_gives_what_is_cut_off_to_what_it_touches():
    truth = balls((32, 48), [(15, 15), (15, 29)], 8)
    foreground, _, _, offset = maps(truth)
    stray = np.zeros(truth.shape, bool)
    stray[14:17, 10:13] = True  # deep in the first disc, but pointing to the second
    offset[stray] = np.array([15, 30]) - np.argwhere(stray)
    np.testing.assert_array_equal(instances.separate_offset(foreground, offset), truth)


def test_offset_counts_votes_beyond_the_edge():
    # Two touching discs cut by the left edge, their centres 4 pixels outside it. Twenty pixels of the first point to a
    # place far away, which is no crowd to start a third object from.
    whole = balls((60, 60), [(20, 24), (37, 24)], 10)
    truth, (foreground, _, _, offset) = whole[:, 28:], (array[:, 28:] for array in maps(whole))
    offset[tuple(np.argwhere(truth == 1)[:20].T)] = 10**6
    label = instances.separate_offset(foreground, offset)
    assert label.max() == matching.match(truth, label, threshold=0.8).tp == 2
    np.testing.assert_array_equal(label > 0, truth > 0)


def test_offset_refuses_what_it_cannot_use():
    with pytest.raises(ValueError, match="3 components for 2 axes"):
        instances.separate_offset(np.ones((4, 4)), np.zeros((4, 4, 3)))
    with pytest.raises(ValueError, match="0 < saddle < 1"):
        instances.separate_offset(np.ones((4, 4)), np.zeros((4, 4, 2)), saddle=1.0)


def test_nothing_gives_nothing():
    empty = np.zeros((7, 9), np.float32)
    assert not instances.separate_foreground(empty).any()
    assert not instances.separate_border(np.stack([1 - empty, empty, empty], -1)).any()
    assert not instances.separate_distance(empty, empty).any()
    assert not instances.separate_offset(empty, np.zeros((7, 9, 2), np.float32)).any()


@pytest.mark.parametrize("seed", range(4))
def test_any_maps_give_whole_objects_that_fill_the_foreground(seed):
    rng = np.random.default_rng(seed)
    foreground = ndimage.gaussian_filter(rng.random((40, 50)), 2) * 4 - 1.5
    other = rng.random((40, 50))
    three = np.stack([1 - foreground, foreground * other, foreground * (1 - other)], -1)
    offset = rng.normal(0, 6, (40, 50, 2))
    for label in (
        instances.separate_foreground(foreground),
        instances.separate_border(three),
        instances.separate_distance(foreground, other * 5, depth=0.3),
        instances.separate_offset(foreground, offset),
    ):
        np.testing.assert_array_equal(label > 0, foreground >= 0.5)
        assert label.max() > 1
        for id in range(1, label.max() + 1):
            assert ndimage.label(label == id)[1] == 1
