"""Bands against the whole: files read by rows, objects stitched, and a large image as if it were small."""

import csv
import json
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from benchmarks import timing
from tests.trained import SMALL, bright_variables, card
from unet_jax import predict_files as files
from unet_jax.data.images import read_image, read_label
from unet_jax.data.rows import TiffRows, tiff_pixels
from unet_jax.inputs import Input
from unet_jax.prediction import Predictor
from unet_jax.results import Wanted
from unet_jax.streaming import PreparedRows

LAYOUTS = {
    "tiles": {"tile": (32, 48), "compression": "zlib", "predictor": True},
    "jpeg": {"tile": (32, 32), "compression": "jpeg"},
    "strips": {"rowsperstrip": 7, "compression": "lzw"},
    "plain": {},
    "big-endian": {"byteorder": ">", "bigtiff": True},
}


def noise(*shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float64])
def test_rows_are_those_of_the_whole_image(tmp_path, layout, samples, dtype):
    if layout == "jpeg" and dtype != np.uint8:
        pytest.skip("JPEG has 8 bits")
    image = noise(101, 67, samples, dtype=np.uint8 if dtype == np.float64 else dtype).astype(dtype)
    stored, photometric = (image, "rgb") if samples == 3 else (image[..., 0], "minisblack")
    tifffile.imwrite(tmp_path / "x.tif", stored, photometric=photometric, **LAYOUTS[layout])
    whole = read_image(tmp_path / "x.tif")
    with TiffRows(tmp_path / "x.tif") as rows:
        assert rows.shape == (101, 67, samples)
        for start, stop in ((0, 1), (0, 40), (33, 95), (30, 101), (100, 101), (0, 101)):
            np.testing.assert_array_equal(rows[start:stop], whole[start:stop])


def test_alpha_is_left_out(tmp_path):
    image = noise(40, 40, 4)
    tifffile.imwrite(tmp_path / "x.tif", image, photometric="rgb", extrasamples=["unassalpha"], tile=(16, 16))
    with TiffRows(tmp_path / "x.tif") as rows:
        assert rows.shape == (40, 40, 3)
        np.testing.assert_array_equal(rows[5:20], image[5:20, :, :3])


def test_files_that_cannot_be_read_by_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("unet_jax.data.rows._SEGMENT_BYTES", 1000)
    path = tmp_path / "x.tif"
    for options, mend in (
        ({"compression": "zlib", "rowsperstrip": 100}, "save it tiled"),
        ({"planarconfig": "separate", "photometric": "rgb"}, "planarconfig"),
    ):
        tifffile.imwrite(path, noise(*((3, 100, 50) if "planarconfig" in options else (100, 50))), **options)
        with pytest.raises(ValueError, match=f"x.tif: is large, .*{mend}"):
            TiffRows(path)
    tifffile.imwrite(path, noise(100, 50), photometric="miniswhite")
    with pytest.raises(ValueError, match="8 or 16 bit"):
        TiffRows(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match="truncated"):
        TiffRows(path)
    path.write_bytes(b"II*\0")
    with pytest.raises(ValueError, match="cannot be read"):
        TiffRows(path)
    assert tiff_pixels(path) == 0
    assert tiff_pixels(tmp_path / "absent.tif") == 0


@pytest.mark.parametrize("shape", [(60, 50, 3), (2100, 2050, 1)])
def test_prepared_rows_are_those_of_the_prepared_image(tmp_path, shape):
    """The larger one is measured on a grid of every third pixel."""
    image = (noise(*shape, dtype=np.uint16) // 7 + 100).astype(np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", image if shape[2] == 3 else image[..., 0])
    rgb = Predictor(bright_variables(SMALL, 3), card(SMALL, channels=3))
    rgb.card["normalisation"].update(low=2.0, high=97.0)
    whole = rgb.prepare(image)
    with TiffRows(tmp_path / "x.tif") as rows:
        prepared = PreparedRows(rows, rgb)
        assert prepared.shape == whole.shape
        np.testing.assert_array_equal(prepared[11:53], whole[11:53])


def test_prepared_rows_refuse_values_that_are_not_numbers(tmp_path):
    image = np.ones((40, 40), np.float32)
    image[20, 3] = np.nan
    tifffile.imwrite(tmp_path / "x.tif", image)
    predictor = Predictor(bright_variables(SMALL), card(SMALL))
    with TiffRows(tmp_path / "x.tif") as rows, pytest.raises(ValueError, match=r"x.tif: .*not a number"):
        PreparedRows(rows, predictor)


def rings(path):
    return {
        feature["properties"]["name"]: (
            feature["properties"]["measurements"],
            sorted(sorted(map(tuple, ring)) for ring in _all_rings(feature["geometry"])),
        )
        for feature in json.loads(path.read_text())["features"]
    }


def _all_rings(geometry):
    polygons = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
    return [ring[1:] for polygon in polygons for ring in polygon]


def test_a_large_image_gives_what_it_would_give_in_one_piece(tmp_path, monkeypatch):
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).random((150, 110)), 3)
    image = np.repeat((255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)[..., None], 3, axis=-1)
    tifffile.imwrite(tmp_path / "sub.x.tif", image, photometric="rgb", tile=(32, 32), compression="zlib")
    predictor = Predictor(bright_variables(SMALL, 3), card(SMALL, channels=3))
    inputs = [Input("plate/sub.x", tmp_path / "sub.x.tif")]
    wanted = Wanted(overlay=True, probabilities=True)
    whole = files.predict_files(predictor, inputs, tmp_path / "whole", wanted)
    monkeypatch.setattr(files, "STREAM_PIXELS", 1000)
    seen, told, tiles = [], [], 13 * 9  # of 16 pixels, 12 apart at most: 1 + ceil(134 / 12), 1 + ceil(94 / 12)
    bands = files.predict_files(
        predictor, inputs, tmp_path / "bands", wanted, images=lambda *n: told.append(n), tiles=lambda *n: seen.append(n)
    )
    assert told == [(0, 1), (1, 0)]
    assert [sum(column) for column in zip(*seen, strict=True)] == [tiles, tiles]
    assert bands.done == whole.done
    assert bands.done[0]["objects"] > 10
    one, other = tmp_path / "whole", tmp_path / "bands"
    np.testing.assert_array_equal(
        read_label(other / "labels/plate/sub.x.tif"), read_label(one / "labels/plate/sub.x.tif")
    )
    assert rings(other / "polygons/plate/sub.x.geojson") == rings(one / "polygons/plate/sub.x.geojson")
    for name in ("probabilities/plate/sub.x.tif",):
        np.testing.assert_array_equal(tifffile.imread(other / name), tifffile.imread(one / name))
    drawn, want = (
        read_image(path).astype(int) for path in (other / "overlays/plate/sub.x.tif", one / "overlays/plate/sub.x.png")
    )
    assert drawn.shape == want.shape
    assert np.abs(drawn - want).mean() < 5  # a lossy picture
    with (one / "objects.csv").open() as a, (other / "objects.csv").open() as b:
        assert list(csv.DictReader(a)) == list(csv.DictReader(b))
    assert sorted(path.name for path in (other / "labels/plate").iterdir()) == ["sub.x.tif"]
    assert files.predict_files(predictor, inputs, other, wanted).kept == ["plate/sub.x"]


def test_a_large_image_in_classes_instead_of_objects(tmp_path, monkeypatch):
    image = noise(60, 50)
    tifffile.imwrite(tmp_path / "x.tif", image)
    predictor = Predictor(bright_variables(SMALL), card(SMALL))
    inputs = [Input("x", tmp_path / "x.tif")]
    whole = files.predict_files(predictor, inputs, tmp_path / "whole", Wanted(instances=False))
    monkeypatch.setattr(files, "STREAM_PIXELS", 1000)
    bands = files.predict_files(predictor, inputs, tmp_path / "bands", Wanted(instances=False))
    assert bands.done == whole.done
    np.testing.assert_array_equal(*(read_label(tmp_path / f / "labels/x.tif") for f in ("whole", "bands")))


def test_a_large_damaged_image_is_a_failure_like_any_other(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "STREAM_PIXELS", 1000)
    tifffile.imwrite(tmp_path / "x.tif", noise(64, 64, 3), photometric="rgb", tile=(32, 32), compression="zlib")
    data = bytearray((tmp_path / "x.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "x.tif") as tiff:
        offset = tiff.pages[0].dataoffsets[3]
    data[offset : offset + 50] = bytes(50)
    (tmp_path / "x.tif").write_bytes(data)
    predictor = Predictor(bright_variables(SMALL, 3), card(SMALL, channels=3))
    report = files.predict_files(predictor, [Input("x", tmp_path / "x.tif")], tmp_path / "out", Wanted())
    assert [(path.name, "damaged at row 32" in reason) for path, reason in report.failed] == [("x.tif", True)]
    assert not list((tmp_path / "out").rglob("x.*"))


MEASURE = """
import sys
from pathlib import Path
import numpy as np, tifffile
from tests.trained import SMALL, bright_variables, card
from unet_jax import predict_files as files
from unet_jax.inputs import Input
from unet_jax.prediction import Predictor
from unet_jax.results import Wanted

folder = Path(sys.argv[1])
disc = np.zeros((256, 256, 3), np.uint8)
y, x = np.mgrid[:256, :256]
disc[np.hypot(y - 120, x - 130) < 100] = 200

def tiles():
    for row in range(79):
        for column in range(79):
            tile = disc.copy()
            tile[250:253] = 200 if row == 3 else tile[250:253]  # two lines that cross the whole image, and each other
            tile[:, 245:248] = 200 if column == 5 else tile[:, 245:248]
            yield tile

tifffile.imwrite(folder / "x.tif", tiles(), shape=(20_000, 20_000, 3), dtype=np.uint8,
                 photometric="rgb", tile=(256, 256), compression="zlib")
predictor = Predictor(bright_variables(SMALL, 3), card(SMALL, channels=3, tile=256))
predictor(disc)
print("ready", flush=True)
report = files.predict_files(predictor, [Input("x", folder / "x.tif")], folder / "out", Wanted(overlay=True))
print(report.failed)
"""


@pytest.mark.slow
def test_twenty_thousand_pixels_square_take_less_than_two_gigabytes(tmp_path):
    """A disc in every square of 256 pixels, and two lines; each crosses borders of tiles and is one object."""
    process = subprocess.Popen([sys.executable, "-c", MEASURE, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    before = peak = timing.memory(process.pid)[0]
    while process.poll() is None:
        peak = max(peak, (timing.memory(process.pid) or (0,))[0])
        time.sleep(0.05)
    print(f"{(peak - before) / 2**20:.0f} MiB above {before / 2**20:.0f} MiB")
    assert (process.returncode, process.stdout.read()) == (0, b"[]\n")
    process.stdout.close()
    y, x = np.mgrid[:256, :256]
    disc = np.hypot(y - 120, x - 130) < 100
    with (tmp_path / "out" / "objects.csv").open() as file:
        areas = Counter(int(row["area"]) for row in csv.DictReader(file))
    whole, right, lower = (int(part.sum()) for part in (disc, disc[:, :32], disc[:32]))  # 20,000 = 78 · 256 + 32
    assert areas == {whole: 78 * 78, right: 78, lower: 78, 3 * 40_000 - 9: 1}
    with tifffile.TiffFile(tmp_path / "out" / "labels" / "x.tif") as tiff:
        assert tiff.pages[0].tile == (256, 256)
    assert peak - before < 2 * 2**30
