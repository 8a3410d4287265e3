import numpy as np
import pytest
from scipy import ndimage

from unet_jax.degrade import MEANING, SEVERITIES, degrade


@pytest.fixture(scope="module")
def image():
    """Two flat grey levels, three channels, a step between them."""
    image = np.full((48, 64, 3), 80, np.uint8)
    image[:, 32:] = 180
    return image


@pytest.fixture(scope="module")
def blobs():
    """Smooth colours, which every severity of JPEG changes."""
    blur = ndimage.gaussian_filter(np.random.default_rng(0).random((48, 64, 3)), (2, 2, 0))
    return np.rint(60 + 140 * (blur - blur.min()) / np.ptp(blur)).astype(np.uint8)


@pytest.mark.parametrize("kind", SEVERITIES)
def test_each_severity_takes_the_image_further_from_what_it_was(blobs, kind):
    apart = []
    for severity in range(6):
        spoiled = degrade(blobs, kind, severity, name="a")
        assert (spoiled.shape, spoiled.dtype) == (blobs.shape, np.uint8)
        apart.append(float(np.abs(spoiled.astype(float) - blobs).mean()))
    assert apart[0] == 0
    assert all(np.diff(apart) > 0), apart
    assert len(SEVERITIES[kind]) == 5
    assert kind in MEANING


@pytest.mark.parametrize("kind", SEVERITIES)
def test_the_same_for_ever_and_other_for_another_image_or_seed(image, kind):
    first = degrade(image, kind, 3, name="a", seed=1)
    np.testing.assert_array_equal(first, degrade(image, kind, 3, name="a", seed=1))
    for changes in ({"name": "b", "seed": 1}, {"name": "a", "seed": 2}):
        same = np.array_equal(first, degrade(image, kind, 3, **changes))
        assert same == (kind in ("blur", "JPEG blocks"))  # which draw nothing


def test_measures(image):
    # Noise of standard deviation 0.08 * 255 = 20.4 on the grey level 80, four of them from black: hardly clipped.
    noisy = degrade(image, "noise", 2, name="a")[:, :32].astype(float)
    assert noisy.std() == pytest.approx(20.4, rel=0.05)
    # The step of 100 becomes one of 30 about the middle of the range, with noise of about one grey level.
    faint = degrade(image, "low contrast", 1, name="a").astype(float)
    assert faint[:, 32:].mean() - faint[:, :32].mean() == pytest.approx(30, abs=0.2)
    assert faint.mean() == pytest.approx(127.5 + 0.3 * 2.5, abs=0.2)  # 127.5 + 0.3 * ((80 + 180) / 2 - 127.5)
    assert faint[:, :32].std() == pytest.approx(np.sqrt(1 + 1 / 12), rel=0.05)  # and that of rounding
    # A blurred step has its steepest slope in the middle: 100 / (sqrt(2 pi) sigma).
    slope = np.diff(degrade(image, "blur", 4, name="a")[24, :, 0].astype(float)).max()
    assert slope == pytest.approx(100 / (np.sqrt(2 * np.pi) * 3), abs=1)
    # The darkest place of a flat image has 1 - 0.7 of its light, the brightest all of it.
    flat = degrade(np.full((40, 50, 1), 200, np.uint8), "uneven light", 3, name="a")
    assert (flat.max(), flat.min()) == (200, 60)


def test_any_number_of_channels():
    image = np.random.default_rng(0).integers(0, 255, (17, 24, 4)).astype(np.uint8)
    for kind in SEVERITIES:
        assert degrade(image, kind, 5, name="a").shape == image.shape


def test_what_does_not_exist(image):
    with pytest.raises(ValueError, match=r"choose one of noise, blur"):
        degrade(image, "rain", 1, name="a")
    with pytest.raises(ValueError, match="0 to 5"):
        degrade(image, "noise", 6, name="a")
