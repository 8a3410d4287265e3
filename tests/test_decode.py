"""Files that are damaged, dangerous or something else: told with the file's name."""

import io
import struct
import sys
import warnings
import zlib

import numpy as np
import pytest
import tifffile
from imagecodecs import png_encode
from PIL import Image

from unet_jax.data import decode
from unet_jax.data.images import read_image, read_label

RNG = np.random.default_rng(0)


def noise(*shape, dtype=np.uint8):
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def encoded(kind):
    buffer = io.BytesIO()
    pixels = RNG.integers(0, 255, (24, 24, 3), np.uint8)
    if kind == "tif":
        tifffile.imwrite(buffer, pixels, photometric="rgb", rowsperstrip=4)
    elif kind == "lzw":
        tifffile.imwrite(buffer, pixels, photometric="rgb", compression="lzw", rowsperstrip=4)
    elif kind == "png16":
        return png_encode(pixels.astype(np.uint16) * 257)
    else:
        Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


def failure(path):
    try:
        read_image(path)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "tif", "lzw", "png16"])
def test_a_file_cut_anywhere_is_refused_or_whole(tmp_path, kind):
    whole = encoded(kind)
    path = tmp_path / "cut.png"
    path.write_bytes(whole)
    pixels = read_image(path)
    refused = 0
    for length in [0, 1, 7, 30, *np.linspace(40, len(whole) - 1, 25).astype(int)]:
        path.write_bytes(whole[:length])
        error = failure(path)
        if error:
            assert error.startswith(f"{path}: ")
            assert "copy it again" in error or "convert" in error
            refused += 1
        else:  # only what follows the pixels may be missing
            np.testing.assert_array_equal(read_image(path), pixels)
    assert refused >= 24


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"<html>", "web page"),
        (b"GIF89a" + b"0" * 40, "cannot be read"),
        (b"RIFF" + b"0" * 40, "a WebP"),
        (b"version https://git-lfs.github", "git lfs pull"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 60, "cannot be read"),
        (b"hello world", "no image known"),
    ],
)
def test_wrong_content_is_named(tmp_path, content, said):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=f"a.png: .*{said}"):
        read_image(tmp_path / "a.png")
    with pytest.raises(ValueError, match=f"a.png: .*{said}"):
        read_label(tmp_path / "a.png")


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.png: no such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(ValueError, match="plain file"):
        read_image(tmp_path)


def test_a_decompression_bomb_is_refused_before_decoding_and_no_setting_moves(tmp_path):
    # A header that claims 2**15 x 2**14 pixels, twice the limit, before 100 bytes of data.
    header = struct.pack(">IIBBBBB", 2**15, 2**14, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "bomb.png").write_bytes(png + struct.pack(">I", 100) + b"IDAT" + b"\0" * 104)
    one_strip = {"compression": "zlib", "rowsperstrip": 2**15}
    tifffile.imwrite(tmp_path / "bomb.tif", iter([b"\0" * 9]), shape=(2**15, 2**14), dtype=np.uint8, **one_strip)
    limit, filters = Image.MAX_IMAGE_PIXELS, warnings.filters[:]
    for name in ("bomb.png", "bomb.tif"):
        with pytest.raises(ValueError, match=rf"{name}: claims \d+×\d+ pixels, more than the 268,435,456.*cut it"):
            read_image(tmp_path / name)
    assert (Image.MAX_IMAGE_PIXELS, warnings.filters[:]) == (limit, filters)


def test_pillows_own_limit_does_not_bind(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    Image.fromarray(noise(8, 8)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (8, 8, 1)
    monkeypatch.setattr(decode, "MAX_PIXELS", 63)
    with pytest.raises(ValueError, match="claims 8×8 pixels"):
        read_image(tmp_path / "a.png")


def test_a_missing_decoder_is_named(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", noise(4, 4))
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ValueError, match=r"a.tif: cannot be read .*install tifffile"):
        read_image(tmp_path / "a.tif")


def test_print_colours_and_animations_are_refused(tmp_path):
    Image.new("CMYK", (4, 4)).save(tmp_path / "cmyk.jpg")
    with pytest.raises(ValueError, match=r"cmyk.jpg: .*CMYK.*convert it to RGB"):
        read_image(tmp_path / "cmyk.jpg")
    frames = [Image.fromarray(noise(4, 4)) for _ in range(2)]
    frames[0].save(tmp_path / "film.png", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=r"film.png: is an animation of 2 frames"):
        read_image(tmp_path / "film.png")


@pytest.mark.filterwarnings("ignore:.*images with an alpha channel")
@pytest.mark.parametrize(("extra", "channels"), [("unspecified", 4), ("assocalpha", 3), ("unassalpha", 3)])
def test_a_fourth_sample_is_a_band_unless_the_file_calls_it_opacity(tmp_path, extra, channels):
    pixels = noise(6, 5, 4)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=[extra])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), pixels[..., :channels])
