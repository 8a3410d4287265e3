"""Outlines, overlays, error maps and brightness, pixel by pixel."""

import numpy as np
import pytest

from unet_jax import pictures

TWO = np.array(  # two objects that touch, one of them cut by the image's right edge
    [
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 2, 2, 2, 2],
        [0, 1, 1, 1, 2, 2, 2, 2],
        [0, 1, 1, 1, 2, 2, 2, 2],
        [0, 1, 1, 1, 2, 2, 2, 2],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ],
    np.int32,
)


def test_outline_is_the_inner_border_of_each_object_and_not_the_image_edge():
    expected = TWO > 0
    expected[2:4, 2] = False  # inside of 1
    expected[2:4, 5:] = False  # inside of 2, which goes on beyond the image
    np.testing.assert_array_equal(pictures.outline(TWO), expected)
    np.testing.assert_array_equal(pictures.outline(TWO > 0)[2:4, 2:8], False)  # as one object: no border between


@pytest.mark.parametrize("width", [1, 2, 3])
def test_outline_pixels_lie_within_width_of_another_value(width):
    label = np.random.default_rng(1).integers(0, 3, (6, 7)).repeat(5, 0).repeat(5, 1)
    drawn = pictures.outline(label, width=width)
    y, x = np.indices(label.shape)
    for i, j in np.ndindex(label.shape):
        near = (y - i) ** 2 + (x - j) ** 2 <= width**2
        assert drawn[i, j] == (label[i, j] != 0 and (label[near] != label[i, j]).any())


@pytest.mark.parametrize("ground", [0, 128, 255])
def test_overlay_shows_on_any_ground_and_keeps_touching_objects_apart(ground):
    label = TWO.repeat(8, 0).repeat(8, 1)
    picture = np.full((*label.shape, 3), ground, np.uint8)
    drawn = pictures.overlay(picture, label, (255, 225, 25))
    line = (drawn == (255, 225, 25)).all(-1)
    assert line.any()
    assert not (line & ~pictures.outline(label, width=2)).any()
    beside = pictures.ndimage.binary_dilation(line, np.ones((3, 3))) & ~line
    assert drawn[beside].max() <= 0.35 * 255  # a dark casing all round
    assert not line[16:32, 31:33].any()  # the two pixels at the border of 1 and 2 are casing
    assert (line[16:32, 30] & line[16:32, 33]).all()
    assert (picture == ground).all()  # the argument is left as it was


def test_error_map_colours():
    truth, found = np.array([[0, 0, 5, 5]], np.int32), np.array([[False, True, False, True]])
    expected = [pictures.NOTHING, pictures.FALSE, pictures.MISSED, pictures.AGREED]
    np.testing.assert_array_equal(pictures.error_map(truth, found)[0], expected)


def test_dark_images_are_stretched_and_bright_ones_left():
    dark = np.linspace(2, 40, 10_000).astype(np.uint8).reshape(100, 100, 1)
    shown = pictures.for_display(dark)
    assert shown.shape == (100, 100, 3)
    assert (shown.min(), shown.max()) == (0, 255)
    assert (np.diff(shown[..., 0].ravel().astype(int)) >= 0).all()
    bright = np.full((4, 4, 3), (200, 120, 180), np.uint8)
    np.testing.assert_array_equal(pictures.for_display(bright), bright)
    assert pictures.for_display(dark.astype(np.uint16) * 1000).max() == 255
    black = np.tile(np.array([0, 1], np.uint8), 50).reshape(10, 10, 1)
    assert pictures.for_display(black).max() < 64  # noise of the last bit stays faint


def test_half_size_is_the_mean_of_two_by_two():
    picture = np.arange(16, dtype=np.uint8).reshape(4, 4, 1).repeat(3, 2) * 8
    # the four corners of the upper left block are 0, 8, 32, 40: mean 20; the next block is 16 more, the lower ones 64
    np.testing.assert_array_equal(pictures.magnified(picture, 0.5)[..., 0], [[20, 36], [84, 100]])
    np.testing.assert_array_equal(pictures.magnified(TWO, 0.5), TWO[::2, ::2])


def test_classes_are_painted_each_in_its_colour():
    """Where a road is taken for a house, both are foreground: the errors tell it all the same."""
    truth = np.zeros((40, 40), np.int32)
    truth[:20], truth[20:, :20] = 1, 2
    prediction = np.where(truth == 2, 1, truth)
    errors = pictures.class_error_map(truth, prediction)
    assert (errors[truth == 2] == pictures.CONFUSED).all()
    assert (errors[truth == 1] == pictures.AGREED).all()
    assert (errors[truth == 0] == pictures.NOTHING).all()
    colours = pictures.class_colours(256)
    assert len(np.unique(colours[:40], axis=0)) == 40
    seen = pictures.painted(np.full((40, 40, 3), 100, np.uint8), truth, colours)
    assert (seen[truth == 0] == 100).all()
    assert len(np.unique(seen.reshape(-1, 3), axis=0)) == 3
