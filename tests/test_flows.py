import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from unet_jax import targets
from unet_jax.flows import follow


def whole_maps(flow, inside, doublings):
    """The definition on whole maps: d + d(x + d), linear between pixels, 0 outside the image."""
    way = np.moveaxis(np.where(inside[..., None], flow, 0), -1, 0).astype(np.float64)
    for _ in range(doublings):
        there = np.indices(inside.shape) + way
        way = way + np.stack([ndimage.map_coordinates(part, there, order=1, mode="grid-constant") for part in way])
    return np.moveaxis(way, 0, -1)[inside]


@pytest.mark.parametrize("shape", [(40, 33), (9, 14, 11)])
def test_doubling_on_the_pixels_inside_is_doubling_on_the_whole_map(shape):
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.normal(size=(*shape, len(shape))), (*(2,) * len(shape), 0))
    flow = smooth / np.abs(smooth).max()
    inside = ndimage.gaussian_filter(rng.normal(size=shape), 2) > 0
    found = follow(flow, inside, doublings=4)
    assert found.shape == (inside.sum(), len(shape))
    np.testing.assert_allclose(found, whole_maps(flow, inside, 4), atol=2e-3)
    assert np.abs(found).max() > 3


def test_who_follows_the_target_comes_to_the_centre():
    label = np.zeros((1, 60, 70), np.int32)
    label[0, 5:25, 4:34], label[0, 25:55, 10:24], label[0, 30:33, 40:43] = 1, 2, 3  # the first two touch
    flow, inside = np.asarray(targets.flow(jnp.asarray(label)))[0], label[0] > 0
    end = np.argwhere(inside) + follow(flow, inside)
    for number in (1, 2, 3):
        mine = label[0][inside] == number
        centre = np.argwhere(label[0] == number).mean(axis=0)
        assert np.abs(end[mine] - centre).max() < 1.0


def test_who_does_not_move_stays_and_nobody_is_nobody():
    inside = np.zeros((7, 9), bool)
    assert follow(np.ones((7, 9, 2)), inside).shape == (0, 2)
    inside[2:4, 3:6] = True
    assert not follow(np.zeros((7, 9, 2)), inside).any()
    out = follow(np.full((7, 9, 2), 1.0), inside)  # a step beyond the inside, and no further
    assert 1 <= np.abs(out).max() <= 4
    out = follow(np.full((7, 9, 2), 1.0), np.ones((7, 9), bool))  # nor beyond the image
    assert (np.indices((7, 9)).reshape(2, -1).T + out <= (8, 10)).all()
