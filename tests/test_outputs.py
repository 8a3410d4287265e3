import csv
import json

import numpy as np
import pytest
import tifffile
from PIL import Image

from unet_jax import outputs
from unet_jax.data.images import read_image, read_label
from unet_jax.measure import measure, table
from unet_jax.polygons import trace


@pytest.mark.parametrize(("largest", "kind"), [(0, np.uint16), (65_535, np.uint16), (65_536, np.uint32)])
def test_label_images_take_32_bits_where_16_do_not_do(tmp_path, largest, kind):
    label = np.array([[0, largest, 1], [2, 0, 0]], np.int32)
    outputs.write_label(tmp_path / "a" / "x.tif", label)
    found = read_label(tmp_path / "a" / "x.tif")
    assert found.dtype == kind
    np.testing.assert_array_equal(found, label)
    if largest < 2**16:
        outputs.write_label(tmp_path / "x.png", label)
        np.testing.assert_array_equal(read_label(tmp_path / "x.png"), label)
        with Image.open(tmp_path / "x.png") as picture:
            assert picture.mode == "I;16"
    else:
        with pytest.raises(ValueError, match=r"more than 65,535 objects, .*write TIFF"):
            outputs.write_label(tmp_path / "x.png", label)
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == (["x.png", "x.tif"] if largest < 2**16 else ["x.tif"])


@pytest.mark.parametrize("shape", [(1, 1), (256, 512), (300, 700), (513, 255)])
def test_label_image_from_bands_of_rows(tmp_path, shape):
    label = np.random.default_rng(0).integers(0, 9, shape).astype(np.int32)
    bands = np.split(label, [n for n in (5, 5, 100, 401) if n < shape[0]])
    outputs.write_label_rows(tmp_path / "x.tif", bands, shape, largest=8)
    np.testing.assert_array_equal(read_label(tmp_path / "x.tif"), label)
    with tifffile.TiffFile(tmp_path / "x.tif") as tiff:
        assert tiff.pages[0].tile == (256, 256)


def test_a_band_that_fails_leaves_no_file(tmp_path):
    def bands():
        yield np.zeros((300, 300), np.int32)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        outputs.write_label_rows(tmp_path / "x.tif", bands(), (600, 300), largest=1)
    assert not list(tmp_path.iterdir())


def test_probabilities_have_a_page_a_class(tmp_path):
    values = np.random.default_rng(0).random((5, 7, 2), np.float32)
    outputs.write_probabilities(tmp_path / "x.tif", values)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "x.tif"), np.moveaxis(values, -1, 0))
    outputs.write_probabilities(tmp_path / "x.tif", values[..., :1])
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "x.tif"), values[..., 0])


def scene():
    """Object 1 is a ring of 8 pixels around one of background; object 4 two pixels at the lower right corner."""
    label = np.zeros((6, 8), np.int32)
    label[1:4, 1:4] = 1
    label[2, 2] = 0
    label[5, 6:] = 4
    image = np.zeros((6, 8, 3), np.uint16)
    image[5, 6], image[5, 7] = (10, 20, 30), (1000, 2000, 3000)
    probability = np.full((6, 8), 0.75, np.float32)
    return label, image, probability


def test_objects_table(tmp_path):
    outputs.write_objects(tmp_path / "o.csv", "plate, 1/a", table(measure(*scene())))
    with (tmp_path / "o.csv").open(newline="") as file:
        ring, pair = csv.DictReader(file)
    # The ring: variances 6/8 both ways, so a circle. The pair: 1/4 along x, 0 along y, so a line.
    assert ring == {
        "image": "plate, 1/a", "id": "1", "centroid_y": "2", "centroid_x": "2", "area": "8", "min_y": "1", "min_x": "1",
        "max_y": "4", "max_x": "4", "eccentricity": "0", "mean_intensity": "0", "mean_probability": "0.75",
    }  # fmt: skip
    assert pair == {
        "image": "plate, 1/a", "id": "4", "centroid_y": "5", "centroid_x": "6.5", "area": "2", "min_y": "5",
        "min_x": "6", "max_y": "6", "max_x": "8", "eccentricity": "1", "mean_intensity": "1010",
        "mean_probability": "0.75",
    }  # fmt: skip


def test_polygons_for_qupath(tmp_path):
    label, image, probability = scene()
    outputs.write_polygons(
        tmp_path / "p.geojson", trace(label).items(), table(measure(label, image, probability)), name="cell"
    )
    found = json.loads((tmp_path / "p.geojson").read_text())
    assert found["type"] == "FeatureCollection"
    ring, pair = found["features"]
    assert (ring["type"], ring["geometry"]["type"]) == ("Feature", "Polygon")
    outline, hole = ring["geometry"]["coordinates"]
    assert outline[0] == outline[-1]
    assert {tuple(point) for point in outline} == {(1, 1), (4, 1), (4, 4), (1, 4)}
    assert {tuple(point) for point in hole} == {(2, 2), (3, 2), (3, 3), (2, 3)}
    assert pair["properties"] == {
        "objectType": "detection",
        "name": "4",
        "classification": {"name": "cell", "color": [40, 225, 255]},
        "measurements": {"area": 2, "mean_intensity": 1010, "mean_probability": 0.75},
    }


def test_an_image_without_objects(tmp_path):
    label = np.zeros((3, 3), np.int32)
    columns = table(measure(label, np.zeros((3, 3, 1), np.uint8), np.zeros((3, 3), np.float32)))
    outputs.write_objects(tmp_path / "o.csv", "a", columns)
    outputs.write_polygons(tmp_path / "p.geojson", trace(label).items(), columns, name="cell")
    assert (tmp_path / "o.csv").read_text().startswith("image,id,centroid_y")
    assert len((tmp_path / "o.csv").read_text().splitlines()) == 1
    assert json.loads((tmp_path / "p.geojson").read_text()) == {"type": "FeatureCollection", "features": []}


def test_overlay_is_the_image_with_outlines(tmp_path):
    label = np.zeros((40, 40), np.int32)
    label[10:30, 10:30] = 1
    outputs.write_overlay(tmp_path / "x.png", np.full((40, 40, 3), 100, np.uint8), label)
    drawn = read_image(tmp_path / "x.png")
    assert drawn[0, 0].tolist() == drawn[20, 20].tolist() == [100, 100, 100]
    assert drawn[10, 20].tolist() == [40, 225, 255]


def test_summary(tmp_path):
    outputs.write_summary(tmp_path / "s.csv", [outputs.summary_row("a", (4, 5), 3, 5)])
    assert (tmp_path / "s.csv").read_text().split() == [
        "image,height,width,objects,covered_pixels,covered_share",
        "a,4,5,3,5,0.25",
    ]
