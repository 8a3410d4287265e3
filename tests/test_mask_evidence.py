"""Evidence for what the numbers of masks are, counted by hand."""

import numpy as np
import pytest

from unet_jax.data.mask_evidence import neighbours, soft_share


def test_neighbours_of_five_pixels():
    values = np.array([[5, 5, 0], [0, 7, 0], [0, 0, 0], [9, 0, 9]], np.uint8)
    found = neighbours(values)
    # Each 5 lies beside the other and the 7, the 7 beside both; the nines are alone.
    assert found[:, 5].tolist() == [4, 2]
    assert found[:, 7].tolist() == [2, 0]
    assert found.sum() == 8


@pytest.mark.parametrize(
    ("pixels", "alike", "lossy", "share"),
    [
        ({0: 80, 64: 5, 128: 5, 191: 5, 255: 5}, 0.4, False, 0.15),  # a line scaled by 1/2
        ({0: 80, 64: 5, 128: 5, 191: 5, 255: 5}, 0.6, False, None),  # five classes
        ({0: 80, 85: 5, 170: 5, 255: 10}, 0.0, False, None),  # two greys say nothing
        ({0: 50, 64: 15, 128: 15, 191: 15, 255: 5}, 0.0, False, None),  # nearly half is grey: no mask
        ({0: 90, 2: 3, 254: 5, 255: 2}, 0.0, False, 0.0),  # once a JPEG
        ({0: 50, **dict.fromkeys(range(1, 21), 2), 255: 10}, 0.9, False, None),  # 20 classes, and not annotated
        ({0: 98, 1: 1, 2: 1, 3: 1}, 0.0, False, None),  # classes of single pixels
        ({0: 90, 100: 4, 255: 6}, 0.9, True, 0.04),
        ({0: 90, 60: 4, 120: 6}, 0.9, True, None),  # numbers of classes that JPEG has spoilt
    ],
)
def test_what_is_soft(pixels, alike, lossy, share):
    beside = np.array([[100], [100 * alike]]).astype(int).repeat(256, axis=1)
    assert soft_share(pixels, beside, lossy=lossy) == (share if share is None else pytest.approx(share))
