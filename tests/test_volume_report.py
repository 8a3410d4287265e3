"""Pictures of volumes: what nobody annotated is hatched, and nothing is outlined in it."""

import numpy as np
from PIL import Image

from tests.volumes import SHAPE
from unet_jax.data.nifti import Grid
from unet_jax.data.phantom import phantom
from unet_jax.data.volume_folders import TUMOUR_REGIONS
from unet_jax.data.volumes import IGNORED
from unet_jax.pictures import HATCH
from unet_jax.volume_report import three_planes


def drawn(path, truth, prediction):
    image = np.zeros(SHAPE, np.int16)  # black, so that what is grey was drawn over it
    three_planes(path, image, truth, prediction, Grid(SHAPE, np.eye(4)), TUMOUR_REGIONS)
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def hatched(picture):
    return (picture == HATCH).all(axis=-1)


def test_predictions_where_nothing_was_annotated_are_not_drawn(tmp_path):
    label = phantom(0, SHAPE)[1]
    truth = label.copy()
    truth[:10] = IGNORED
    left, right = label.copy(), label.copy()
    left[:10], right[:10] = 0, 3
    first, second = (drawn(tmp_path / "a.png", truth, prediction) for prediction in (left, right))
    np.testing.assert_array_equal(first, second)
    plain = drawn(tmp_path / "b.png", label, label)
    assert plain.shape == first.shape
    body = hatched(first)[74:-54, 34:]  # without the words and the legend: the image, the truth, the prediction
    marks = [part.sum() for part in np.array_split(body, 3)]
    assert marks[0] == 0
    assert min(marks[1:]) > 1000
    assert not hatched(plain)[74:-54, 34:].any()
    assert hatched(first)[-54:].sum() > hatched(plain)[-54:].sum() + 20
