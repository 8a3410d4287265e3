"""Images at another magnification than the training's."""

import dataclasses

import numpy as np
import pytest

from tests.trained import SMALL, bright_variables, card
from unet_jax import predict_files, zoom
from unet_jax.inputs import Input
from unet_jax.prediction import Predictor
from unet_jax.results import Wanted


def test_labels_come_back_with_the_object_at_each_pixels_middle():
    label = np.zeros((4, 6), np.int32)
    label[:2, :2], label[2, 5], label[2:, 2:4] = 4, 7, 9  # 7 is a single pixel, which no middle meets
    np.testing.assert_array_equal(zoom.label_at(label, (2, 3)), [[1, 0, 0], [0, 2, 0]])
    np.testing.assert_array_equal(zoom.label_at(np.full((2, 2), 5, np.int32), (3, 3)), 1)
    assert zoom.label_at(label, (4, 6)) is label


def test_an_image_keeps_its_edges_and_its_mean():
    image = np.zeros((10, 12, 2), np.uint8)
    image[:, 6:] = (100, 200)
    large = zoom.zoomed(image, 2)
    assert large.shape == (20, 24, 2)
    np.testing.assert_array_equal(large[:, :11], 0)
    np.testing.assert_array_equal(large[:, 13:], np.broadcast_to([100, 200], (20, 11, 2)))
    small = zoom.zoomed(image, 0.5)
    assert small.shape == (5, 6, 2)
    np.testing.assert_allclose(small.mean(axis=(0, 1)), [50, 100], atol=1)


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_the_prediction_is_of_the_image_as_it_is(factor):
    image = np.full((24, 36, 1), 20, np.uint8)
    image[4:12, 4:16], image[16:22, 20:32] = 250, 250
    predictor = Predictor(bright_variables(SMALL), card(SMALL), zoom=factor)
    found = predictor(image)
    assert found.probabilities.shape == (24, 36, 2)
    assert found.values.shape == (24 * factor, 36 * factor, 2)
    label = predictor.objects(found)
    assert label.shape == (24, 36)
    np.testing.assert_array_equal(np.bincount(label.ravel())[1:], [8 * 12, 6 * 12])
    np.testing.assert_array_equal(label > 0, image[..., 0] > 100)


def test_a_zoom_out_of_reason_and_an_image_too_large_for_it(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="zoom 0: choose a factor"):
        Predictor(bright_variables(SMALL), card(SMALL), zoom=0)
    from PIL import Image

    for name, size in (("small", 16), ("large", 40)):
        Image.fromarray(np.full((size, size), 9, np.uint8)).save(tmp_path / f"{name}.png")
    monkeypatch.setattr(predict_files, "STREAM_PIXELS", 2 * 40 * 40)
    inputs = [Input(name, tmp_path / f"{name}.png") for name in ("large", "small")]
    predictor = Predictor(bright_variables(SMALL), card(SMALL), zoom=2)
    report = predict_files.predict_files(predictor, inputs, tmp_path / "out", Wanted())
    assert [row["image"] for row in report.done] == ["small"]
    ((path, reason),) = report.failed
    assert path.name == "large.png"
    assert "--zoom 2 serves images of up to 0.0 megapixels" in reason
    monkeypatch.setattr(predict_files, "STREAM_PIXELS", 1000)  # less than the image, more than it is for the network
    predictor = dataclasses.replace(predictor, zoom=0.5)
    report = predict_files.predict_files(predictor, inputs[:1], tmp_path / "half", Wanted())
    assert [row["image"] for row in report.done] == ["large"]
