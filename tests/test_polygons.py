import numpy as np
import pytest

from unet_jax.polygons import area, edges, join, polygons, trace


def shape(*rows):
    return np.array([[int(c) for c in row] for row in rows], np.int32)


def points(ring):
    return set(ring[1:])


def test_one_pixel():
    [[outline]] = trace(shape("000", "001", "000"))[1]
    assert len(outline) == 5
    assert outline[0] == outline[-1]
    assert points(outline) == {(2, 1), (3, 1), (3, 2), (2, 2)}
    assert area(outline) == 1  # positive: counterclockwise as GeoJSON counts


def test_straight_sides_have_no_points_within():
    [[outline]] = trace(shape("1111", "1111"))[1]
    assert points(outline) == {(0, 0), (4, 0), (4, 2), (0, 2)}


def test_touching_objects_share_their_border():
    found = trace(shape("12", "12"))
    assert points(found[1][0][0]) & points(found[2][0][0]) == {(1, 0), (1, 2)}


def test_pixels_that_touch_at_a_corner_are_two_polygons():
    found = trace(shape("10", "01"))[1]
    assert sorted(area(outline) for [outline] in found) == [1, 1]


def test_a_ring_that_closes_at_a_corner_has_a_hole_that_touches_the_outline():
    """Seven pixels around one, the eighth missing at a corner: the outline comes to the point (2, 2) once only."""
    [polygon] = trace(shape("111", "101", "110"))[1]
    outline, hole = polygon
    assert points(hole) == {(1, 1), (2, 1), (2, 2), (1, 2)}
    assert (2, 2) in points(outline)
    assert (area(outline), area(hole)) == (8, -1)


def test_an_island_in_the_lake_of_the_same_object():
    """A ring of 16, in its hole of 9 an island of 1 apart from it: its own outline, and the hole is the ring's."""
    label = np.ones((5, 5), np.int32)
    label[1:4, 1:4] = 0
    label[2, 2] = 1
    found = trace(label)[1]
    assert sorted([area(ring) for ring in polygon] for polygon in found) == [[1], [25, -9]]


@pytest.mark.parametrize("seed", range(30))
def test_areas_are_pixel_counts_and_rings_are_simple(seed):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, rng.integers(1, 14, 2)).astype(np.int32)
    found = trace(label)
    assert set(found) == set(np.unique(label)) - {0}
    for number, parts in found.items():
        assert sum(area(ring) for polygon in parts for ring in polygon) == (label == number).sum()
        for outline, *holes in parts:
            assert area(outline) > 0
            assert all(area(hole) < 0 for hole in holes)
            for ring in (outline, *holes):
                assert ring[0] == ring[-1]
                assert len(set(ring)) == len(ring) - 1
                # Sides run along the axes and turn at every point.
                steps = np.sign(np.diff(np.array(ring), axis=0))
                assert (np.abs(steps).sum(axis=1) == 1).all()
                assert (steps != np.roll(steps, 1, axis=0)).any(axis=1).all()


def test_bands_give_the_same_sides_as_the_whole():
    label = np.random.default_rng(0).integers(0, 3, (12, 9)).astype(np.int32)
    closed = np.vstack([label, np.zeros((1, 9), np.int32)])
    parts, above, top = [], np.zeros(9, np.int32), 0
    for band in np.split(closed, [1, 5, 6]):
        parts.append(edges(band, above=above, top=top))
        above, top = band[-1], top + len(band)
    found, want = polygons(join(parts)), trace(label)
    assert found.keys() == want.keys()
    for number in want:
        assert sorted(sorted(points(r)) for p in found[number] for r in p) == sorted(
            sorted(points(r)) for p in want[number] for r in p
        )
