"""Sliding windows on the device against the blending on the host, which has tests of its own."""

import jax
import numpy as np
import pytest

from unet_jax.blending import blend, whole
from unet_jax.sliding import sliding_window


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("size", [(12, 9, 21), (16, 16, 8), (40, 7, 8)])
def test_a_volume_comes_back_from_a_network_that_answers_its_input(size):
    image, seen = noise(*size, 2), set()

    def answer(batch):
        seen.add(batch.shape)
        return batch.astype(np.float32)

    result = sliding_window(answer, image, patch=(16, 16, 8), overlap=0.5, batch=4)
    np.testing.assert_allclose(result, image, atol=1e-3)
    assert seen == {(4, 16, 16, 8, 2)}


def test_the_weights_are_those_of_the_blending_on_the_host():
    """A network that answers the place within the tile shows every weight."""
    place = np.indices((8, 8, 8)).transpose(1, 2, 3, 0).astype(np.float32)

    def forward(batch):
        return batch[..., :1] * 0.01 + jax.device_put(place)[None]

    image = noise(20, 14, 8, 1)
    on_host = next(whole(blend(forward, [image], patch=(8, 8, 8), overlap=0.5, batch=3)))
    np.testing.assert_allclose(sliding_window(forward, image, patch=(8, 8, 8), batch=3), on_host, atol=1e-4)


def test_overlap_is_a_share_of_each_axis():
    origins = []

    def forward(batch):
        origins.extend(int(tile[0, 0, 0, 0]) for tile in batch)
        return batch[..., :1].astype(np.float32)

    image = np.arange(48, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 4, 1), np.uint8)
    sliding_window(forward, image, patch=(16, 1, 4), overlap=0.5, batch=1)
    assert origins == [0, 8, 16, 24, 32]  # every tile overlaps half, though the patch is but 4 thick


def test_what_cannot_be():
    with pytest.raises(ValueError, match="choose 0 <= overlap < 1"):
        sliding_window(lambda x: x, noise(4, 4, 4, 1), patch=(4, 4, 4), overlap=1.0)
