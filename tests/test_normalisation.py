"""How grey levels become 8 bits: z-scores derived by hand, and what a card keeps."""

import numpy as np
import pytest

from unet_jax.data import normalisation
from unet_jax.data.normalisation import ChannelPercentiles, Percentiles, ZScore


def test_zscore_of_four_voxels_by_hand():
    """Inside hold (1, 3) and (7, 7): channel 0 has mean 2 and deviation 1, so z = -1 and 1; channel 1 is constant."""
    image = np.zeros((2, 2, 1, 2), np.float32)
    image[0, 0, 0], image[1, 1, 0] = (1, 7), (3, 7)
    out = ZScore(span=5)(image)
    # 127.5 (1 - 1/5) = 102 and 127.5 (1 + 1/5) = 153; a constant is 127.5, rounded to even
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(out[0, 0, 0], [102, 128])
    np.testing.assert_array_equal(out[1, 1, 0], [153, 128])
    np.testing.assert_array_equal(out[0, 1], 0)


def test_zscore_takes_no_notice_of_unit_and_of_what_lies_outside():
    rng = np.random.default_rng(0)
    brain = rng.normal(500, 80, (6, 6, 6, 2)).astype(np.float32)
    wide = np.pad(brain, [(0, 0), (9, 0), (0, 5), (0, 0)])
    plain, padded, scaled = (ZScore()(x) for x in (brain, wide, (brain * 7).astype(np.uint16)))
    np.testing.assert_array_equal(padded[:, 9:, :6], plain)
    assert np.abs(scaled.astype(int) - plain).max() <= 1  # rounded to whole numbers before
    assert (padded[:, :9] == 0).all()
    assert plain.min() >= 1


def test_a_voxel_that_is_dark_in_one_channel_only_is_inside():
    image = np.array([[[0, 5]], [[4, 9]], [[0, 0]]], np.float32)
    assert (ZScore()(image) > 0).tolist() == [[[True, True]], [[True, True]], [[False, False]]]


def test_zscore_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="1 values are infinite or not a number"):
        ZScore()(np.array([[[np.nan]], [[1]]], np.float32))
    with pytest.raises(ValueError, match="every value is 0"):
        ZScore()(np.zeros((3, 3, 1), np.uint8))
    with pytest.raises(ValueError, match=r"span=0.*give the largest z-score"):
        ZScore(span=0)(np.ones((3, 3, 1), np.uint8))


@pytest.mark.parametrize("how", [Percentiles(2.0, 97.0), ZScore(4.0)])
def test_a_card_keeps_a_normalisation(how):
    assert normalisation.from_spec(normalisation.to_spec(how)) == how


def test_a_card_of_another_version_is_refused():
    for spec in ({"method": "tanh"}, {"method": "zscore", "strength": 1}, {}):
        with pytest.raises(ValueError, match="made by another version"):
            normalisation.from_spec(spec)


def test_each_channel_by_its_own_percentiles():
    rng = np.random.default_rng(0)
    image = rng.random((30, 30, 2)).astype(np.float32) * np.float32([1, 1000])
    together, apart = Percentiles()(image), ChannelPercentiles()(image)
    assert together[..., 0].max() <= 1  # drowned
    for k in range(2):
        np.testing.assert_array_equal(apart[..., k : k + 1], Percentiles()(image[..., k : k + 1]))
    assert normalisation.from_spec(normalisation.to_spec(ChannelPercentiles(low=2.0))) == ChannelPercentiles(low=2.0)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 5000])
def test_percentiles_of_bytes_are_those_of_numpy(size):
    for levels in (1, 2, 50, 256):
        image = np.random.default_rng(size).integers(0, levels, (size, 1, 1)).astype(np.uint8)
        shares = (0.0, 1.0, 33.3, 50.0, 99.8, 100.0)
        np.testing.assert_allclose(normalisation._percentiles(image, shares), np.percentile(image, shares), atol=1e-9)
