"""One file to raw numbers: PNG, JPEG, GIF and BMP by pillow, TIFF by tifffile, told apart by their first bytes."""

import os
import stat
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from unet_jax.claims import Refused, take
from unet_jax.data.tiff_claims import check_chain, check_segments, take_page

__all__ = ["MAX_PIXELS", "Raw", "Refused", "content_of", "decode"]

MAX_PIXELS = 2**28
_MOST_PACKED = 1032  # bytes that one byte of deflate can become
_LOSSY_TIFF = {6: "JPEG", 7: "JPEG", 34892: "lossy JPEG"}
READ = ("PNG", "JPEG", "TIFF", "GIF", "BMP")
_KNOWN = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"RIFF": "a WebP",
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"\x93NUMPY": "a numpy array",
    b"\x89HDF": "an HDF5 file",
    b"<": "a text or web page",
    b"version https://git-lfs": "a Git LFS pointer (fetch the real file with `git lfs pull`)",
}


class Raw(NamedTuple):
    """A file's own numbers: values (H, W) or (H, W, C), bits a value; palette (n, 3) uint8 if values are indices."""

    values: np.ndarray
    bits: int
    alpha: bool = False
    palette: np.ndarray | None = None
    lossy: str = ""


def decode(path: Path) -> Raw:
    """Numbers of one file in a format of `READ`, upright as viewers show it; Refused, or what the decoder raises."""
    check_plain(path)
    with path.open("rb") as file:
        head = file.read(32)
        if not head:
            raise Refused("is empty (0 bytes): copy it again")
        content = content_of(head)
        file.seek(0)
        if content == "PNG":
            return _decode_png(file, head)
        if content == "JPEG":
            return _decode_jpeg(file)
        if content == "TIFF":
            return _decode_tiff(file)
        if content in ("GIF", "BMP"):
            return _decode_old(file, content)
    raise Refused(f"holds {content}, whatever its name says: convert it to PNG or TIFF")


def check_plain(path: Path) -> None:
    """Refused for a folder, and for a pipe or a device, which might never end; OSError when nothing is there."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise Refused("is not a plain file: put the file itself there")


def pixels_of(path: Path) -> int:
    """Pixels of a PNG, JPEG, GIF or BMP by its header; 0 for any other file, and for one that cannot be read."""
    from PIL import BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin

    plugins = {
        "PNG": PngImagePlugin.PngImageFile, "JPEG": JpegImagePlugin.JpegImageFile,
        "GIF": GifImagePlugin.GifImageFile, "BMP": BmpImagePlugin.BmpImageFile,
    }  # fmt: skip
    try:
        check_plain(path)
        with path.open("rb") as file:
            content = content_of(file.read(32))
            file.seek(0)
            if content not in plugins:
                return 0
            picture = plugins[content](file)
            return picture.height * picture.width
    except Exception:  # whoever reads the file itself says what is wrong with it
        return 0


def content_of(head: bytes) -> str:
    """What a file is by its first 32 bytes: one of `READ`, or words for anything else."""
    return next((name for magic, name in _KNOWN.items() if head.startswith(magic)), "no image known here")


def _check_size(height: int, width: int, channels: int = 1) -> None:
    if height <= 0 or width <= 0:
        raise Refused(f"has no pixels ({height}×{width}): save it again")
    if height * width > MAX_PIXELS or height * width * channels > 4 * MAX_PIXELS:
        raise Refused(
            f"claims {height}×{width} pixels, more than the {MAX_PIXELS:,} accepted: cut it into smaller images"
        )


def _upright(array: np.ndarray, picture: Any) -> np.ndarray:
    """Turn by the EXIF orientation, as every viewer and drawing program does before a mask is drawn."""
    orientation = picture.getexif().get(0x0112, 1)
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    rows, columns = (-1 if orientation in bad else 1 for bad in ((3, 4, 7, 8), (2, 3, 6, 7)))
    return array[::rows, ::columns]


def _decode_png(file: BinaryIO, head: bytes) -> Raw:
    from PIL import PngImagePlugin

    # The plugin itself, since Image.open's guard against huge images hangs on a setting of the whole process.
    picture = PngImagePlugin.PngImageFile(file)
    _check_size(picture.height, picture.width)
    bits, colour = head[24], head[25]
    if picture.is_animated:
        raise Refused(f"is an animation of {picture.n_frames} frames: save each in a file of its own")
    _check_packed(picture, bits, file)
    take(picture.height * picture.width * len(picture.getbands()) * (2 if bits == 16 else 1))
    values = np.asarray(picture)
    if bits == 16 and colour != 0:  # pillow would cut 16-bit colour to 8 bits without a word
        from imagecodecs import png_decode

        file.seek(0)
        values = np.asarray(png_decode(file.read()))
    elif colour == 0 and bits in (2, 4):  # pillow stretches these to 0..255; a label needs the numbers themselves
        values = values // (255 // (2**bits - 1))
    palette = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3) if colour == 3 else None
    return Raw(_upright(values, picture), 8 if palette is not None else bits, colour in (4, 6), palette)


def _check_packed(picture: Any, bits: int, file: BinaryIO) -> None:
    """Refused for a PNG whose pixels the file cannot hold: deflate packs a thousandfold at best."""
    size = os.fstat(file.fileno()).st_size
    if picture.height * picture.width * bits // 8 > _MOST_PACKED * size:
        raise Refused(
            f"claims {picture.height}×{picture.width} pixels in {size} bytes, and is cut short: copy it again"
        )


def _decode_jpeg(file: BinaryIO) -> Raw:
    from PIL import JpegImagePlugin

    picture = JpegImagePlugin.JpegImageFile(file)
    _check_size(picture.height, picture.width)
    if picture.mode not in ("L", "RGB"):
        raise Refused(f"has the colours of a printing press ({picture.mode}): convert it to RGB")
    take(picture.height * picture.width * len(picture.getbands()))
    return Raw(_upright(np.asarray(picture), picture), 8, lossy="JPEG")


def _decode_old(file: BinaryIO, content: str) -> Raw:
    from PIL import BmpImagePlugin, GifImagePlugin

    picture = GifImagePlugin.GifImageFile(file) if content == "GIF" else BmpImagePlugin.BmpImageFile(file)
    _check_size(picture.height, picture.width)
    if (frames := getattr(picture, "n_frames", 1)) > 1:
        raise Refused(f"is an animation of {frames} frames: save each in a file of its own")
    take(picture.height * picture.width * len(picture.getbands()))
    values, mode = np.asarray(picture), picture.mode
    palette = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3) if mode == "P" else None
    return Raw(values, 1 if mode == "1" else 8, mode == "RGBA", palette)


def _decode_tiff(file: BinaryIO) -> Raw:
    import tifffile

    check_chain(file)
    with tifffile.TiffFile(file) as tiff:
        page = single_page(tiff)
        _check_size(page.imagelength, page.imagewidth, page.samplesperpixel)
        check_tiff(page, tiff.filehandle)
        take_page(page)
        values = page.asarray()
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if page.axes == "SYX":  # planes stored one after the other, which the header states: no guess
        values = np.moveaxis(values, 0, -1)
    photometric, bits = int(page.photometric), page.bitspersample
    if photometric == 0 and values.dtype.kind in "ub":  # 0 is white: turn to what is seen
        values = ~values if values.dtype.kind == "b" else np.array(2**bits - 1, values.dtype) - values
    palette = (page.colormap.T >> 8).astype(np.uint8) if photometric == 3 else None
    return Raw(values, bits, has_alpha(page), palette, _LOSSY_TIFF.get(int(page.compression), ""))


def single_page(tiff: Any) -> Any:
    """The one page at full size, pyramid levels and thumbnails apart; Refused for a stack."""
    full = [page for page in tiff.pages if not page.is_reduced and not page.is_mask]
    pages = (tiff.imagej_metadata or {}).get("images", 1) if len(full) == 1 else len(full)
    if pages != 1:
        raise Refused(
            f"is a stack of {pages} pages of shape {tiff.pages[0].shape}: save each slice in a file of its own or, "
            "if the pages are channels, as one page with tifffile.imwrite(name, numpy.moveaxis(stack, 0, -1), "
            'photometric="rgb", or planarconfig="contig" if there are not 3)'
        )
    return full[0]


def has_alpha(page: Any) -> bool:
    """Whether the last of a page's samples is opacity, as ExtraSamples must say: else it is a band, such as NIR."""
    return page.samplesperpixel > 1 and any(int(extra) in (1, 2) for extra in page.extrasamples[-1:])


def is_complete(page: Any, file_size: int) -> bool:
    """Whether all strips or tiles of a page lie within the file."""
    parts = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    return len(parts) == int(np.prod(page.chunked)) and all(start + count <= file_size for start, count in parts)


def check_tiff(page: Any, file: Any) -> None:
    """Refuse a page of a file (tifffile's handle) that cannot be read with certainty, before a pixel is decoded."""
    height, samples = page.imagelength, page.samplesperpixel
    if not is_complete(page, file.size):
        raise Refused("is damaged or truncated, some of its pixels are missing: copy it again")
    if page.axes not in ("YX", "YXS", "SYX"):
        raise Refused(f"has the axes {page.axes}, shape {page.shape}: save it as one page (height, width, channels)")
    if page.axes == "YXS" and height <= 4 < samples:
        raise Refused(
            f"has the shape {page.shape}, which looks like channels first: save it as (height, width, channels) with "
            "tifffile.imwrite(name, numpy.moveaxis(array, 0, -1))"
        )
    orientation = page.tags.valueof(274, default=1)
    if int(orientation) != 1:
        raise Refused(
            f"is stored turned (orientation {int(orientation)}), which programs read differently: save upright"
        )
    ycbcr_jpeg = int(page.photometric) == 6 and int(page.compression) in (6, 7)  # the decoder gives RGB
    if int(page.photometric) not in (0, 1, 2, 3) and not ycbcr_jpeg:
        raise Refused(f"has the colours {page.photometric!s}: convert it to grey or RGB")
    check_segments(page, file)
