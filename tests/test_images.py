"""Files to arrays: every bit kept, and nothing guessed."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
from imagecodecs import png_encode
from PIL import Image, ImageOps

from unet_jax.data.images import read_image, read_label

RNG = np.random.default_rng(0)


def noise(*shape, dtype=np.uint8):
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_png_and_tiff_keep_every_bit(tmp_path, name, dtype, channels):
    pixels = noise(5, 7, channels, dtype=dtype)
    if name.endswith("png"):
        (tmp_path / name).write_bytes(png_encode(pixels if channels == 3 else pixels[..., 0]))
    else:
        tifffile.imwrite(
            tmp_path / name, pixels[..., 0] if channels == 1 else pixels, photometric="rgb" if channels == 3 else None
        )
    image = read_image(str(tmp_path / name))
    assert image.dtype == dtype
    np.testing.assert_array_equal(image, pixels)
    label = read_label(tmp_path / name) if channels == 1 else None
    assert label is None or (label == pixels[..., 0]).all()


def test_jpeg_has_the_size_and_about_the_values(tmp_path):
    Image.new("RGB", (9, 4), (200, 100, 50)).save(tmp_path / "a.JPG", quality=95)
    image = read_image(tmp_path / "a.JPG")
    assert image.shape == (4, 9, 3)
    np.testing.assert_allclose(image[2, 3], [200, 100, 50], atol=4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_viewers_do(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise(3, 5, 3)).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as picture:
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.asarray(ImageOps.exif_transpose(picture)))


def test_palette_image_becomes_rgb(tmp_path):
    picture = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8)).convert("P")
    picture.putpalette([9, 8, 7, 1, 2, 3, 255, 0, 4])
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), [[[9, 8, 7], [1, 2, 3]], [[255, 0, 4], [1, 2, 3]]])
    np.testing.assert_array_equal(read_label(tmp_path / "a.png"), [[0, 1], [2, 1]])  # colours: the index is the class


def test_grey_palette_label_counts_by_its_grey_not_its_order(tmp_path):
    picture = Image.fromarray(np.array([[0, 1], [1, 1]], np.uint8)).convert("P")
    picture.putpalette([255, 255, 255, 0, 0, 0])  # white first: an index would turn the mask inside out
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label(tmp_path / "a.png"), [[255, 0], [0, 0]])


def test_a_class_keeps_its_number_where_the_colours_a_file_uses_happen_to_be_grey(tmp_path):
    picture = Image.fromarray(np.array([[0, 7]], np.uint8)).convert("P")
    picture.putpalette([0, 0, 0, *[128, 0, 0] * 6, 128, 128, 128])  # class 7 of Pascal VOC is drawn in grey
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label(tmp_path / "a.png"), [[0, 7]])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped_and_said_once_a_folder(tmp_path, mode):
    channels = len(mode)
    pixels = noise(4, 4, channels)
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels, mode=None).save(tmp_path / name)
    with pytest.warns(UserWarning, match="alpha channel; it is dropped"):
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels[..., :-1])
    np.testing.assert_array_equal(read_image(tmp_path / "b.png"), pixels[..., :-1])  # a second warning would raise


def test_sixteen_bit_alpha_and_tiff_alpha(tmp_path):
    pixels = noise(4, 4, 4, dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(png_encode(pixels))
    with pytest.warns(UserWarning, match="alpha"):
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels[..., :3])
    tifffile.imwrite(tmp_path / "b.tif", pixels, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(read_image(tmp_path / "b.tif"), pixels[..., :3])


def test_low_bit_depths(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "one.png")
    np.testing.assert_array_equal(read_image(tmp_path / "one.png")[..., 0], [[255, 0]])
    np.testing.assert_array_equal(read_label(tmp_path / "one.png"), [[1, 0]])
    # Two bits a pixel, 3 0 2 1 = 0b11001001, after the filter byte: pillow reads 255 0 170 85.
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 4, 1, 2, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0\xc9")),
        (b"IEND", b""),
    ]
    png = b"".join(struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)
    (tmp_path / "two.png").write_bytes(b"\x89PNG\r\n\x1a\n" + png)
    np.testing.assert_array_equal(read_label(tmp_path / "two.png"), [[3, 0, 2, 1]])
    np.testing.assert_array_equal(read_image(tmp_path / "two.png")[..., 0], [[255, 0, 170, 85]])


def test_tiff_number_types(tmp_path):
    for dtype in (np.float32, np.float64, np.int16):
        tifffile.imwrite(tmp_path / "a.tif", np.array([[-3, 5]], dtype))
        image = read_image(tmp_path / "a.tif")
        assert image.dtype == np.float32
        np.testing.assert_array_equal(image[..., 0], [[-3, 5]])
    np.testing.assert_array_equal(read_label(tmp_path / "a.tif"), [[-3, 5]])
    tifffile.imwrite(tmp_path / "ids.tif", np.array([[0.0, 70000.0]], np.float32))
    np.testing.assert_array_equal(read_label(tmp_path / "ids.tif"), [[0, 70000]])
    tifffile.imwrite(tmp_path / "half.tif", np.array([[0.0, 0.5]], np.float32))
    with pytest.raises(ValueError, match=r"half.tif: holds fractions.*round it"):
        read_label(tmp_path / "half.tif")


def test_tiff_forms(tmp_path):
    pixels = noise(6, 5, 3)
    tifffile.imwrite(tmp_path / "big.tif", pixels.astype(">u2"), photometric="rgb", byteorder=">", bigtiff=True)
    np.testing.assert_array_equal(read_image(tmp_path / "big.tif"), pixels)
    planes = np.moveaxis(pixels, -1, 0)
    tifffile.imwrite(tmp_path / "planes.tif", planes, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image(tmp_path / "planes.tif"), pixels)  # the header says which axis is which
    tifffile.imwrite(tmp_path / "white.tif", np.array([[0, 250]], np.uint8), photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "white.tif")[..., 0], [[255, 5]])
    tifffile.imwrite(tmp_path / "lzw.tif", pixels, photometric="rgb", compression="lzw")
    np.testing.assert_array_equal(read_image(tmp_path / "lzw.tif"), pixels)
    colours = np.zeros((3, 256), np.uint16)
    colours[:, 1] = [65535, 256, 0]
    tifffile.imwrite(tmp_path / "palette.tif", np.array([[0, 1]], np.uint8), photometric="palette", colormap=colours)
    np.testing.assert_array_equal(read_image(tmp_path / "palette.tif"), [[[0, 0, 0], [255, 1, 0]]])
    with tifffile.TiffWriter(tmp_path / "pyramid.tif") as writer:
        writer.write(pixels, photometric="rgb")
        writer.write(pixels[::2, ::2], photometric="rgb", subfiletype=1)
    np.testing.assert_array_equal(read_image(tmp_path / "pyramid.tif"), pixels)


def test_stacks_and_channels_first_are_refused_with_the_mend(tmp_path):
    tifffile.imwrite(tmp_path / "stack.tif", noise(3, 8, 8), photometric="minisblack")
    with pytest.raises(ValueError, match=r"stack.tif: is a stack of 3 pages .*moveaxis"):
        read_image(tmp_path / "stack.tif")
    tifffile.imwrite(tmp_path / "imagej.tif", noise(3, 8, 8), imagej=True)
    with pytest.raises(ValueError, match=r"imagej.tif: is a stack of 3 pages"):
        read_image(tmp_path / "imagej.tif")
    tifffile.imwrite(tmp_path / "first.tif", noise(3, 9, 8), photometric="rgb", planarconfig="contig")
    with pytest.raises(ValueError, match=r"first.tif: .*channels first.*moveaxis"):
        read_image(tmp_path / "first.tif")
    tifffile.imwrite(tmp_path / "turned.tif", noise(4, 4), extratags=[(274, "H", 1, 6, True)])
    with pytest.raises(ValueError, match=r"turned.tif: is stored turned \(orientation 6\).*upright"):
        read_image(tmp_path / "turned.tif")


def test_tiffs_that_are_no_plain_image_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "lab.tif", noise(16, 16, 3), photometric="cielab")
    with pytest.raises(ValueError, match=r"lab.tif: has the colours .*convert it to grey or RGB"):
        read_image(tmp_path / "lab.tif")
    tifffile.imwrite(tmp_path / "deep.tif", noise(16, 16, 16), volumetric=True, tile=(16, 16, 16))
    with pytest.raises(ValueError, match=r"deep.tif: has the axes ZYX.*save it as one page"):
        read_image(tmp_path / "deep.tif")
    tifffile.imwrite(tmp_path / "wave.tif", np.ones((2, 2), np.complex64))
    for read in (read_image, read_label):
        with pytest.raises(ValueError, match=r"wave.tif: holds numbers of type complex64"):
            read(tmp_path / "wave.tif")


def test_rgb_labels(tmp_path):
    grey = noise(4, 4)
    Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_label(tmp_path / "grey.png"), grey)
    Image.fromarray(np.stack([grey] * 3 + [np.full_like(grey, 255)], -1)).save(tmp_path / "opaque.png")
    np.testing.assert_array_equal(read_label(tmp_path / "opaque.png"), grey)
    Image.fromarray(noise(4, 4, 3)).save(tmp_path / "colour.png")
    with pytest.raises(ValueError, match=r"colour.png: is a colour drawing.*save it as grey PNG"):
        read_label(tmp_path / "colour.png")
    Image.fromarray(noise(4, 4, 4) * np.array([0, 0, 0, 1], np.uint8)).save(tmp_path / "drawn.png")
    with pytest.raises(ValueError, match=r"drawn.png: has a varying alpha channel: flatten"):
        read_label(tmp_path / "drawn.png")


def test_lossy_labels_are_refused_by_content(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png", format="JPEG")
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((16, 16), np.uint8), compression="jpeg")
    for name in ("a.png", "b.tif"):
        with pytest.raises(ValueError, match=rf"{name}: is compressed with JPEG.*export the mask again as PNG"):
            read_label(tmp_path / name)
        assert read_image(tmp_path / name).max() == 0
