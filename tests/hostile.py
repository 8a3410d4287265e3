"""Files that lie about themselves: each builder writes one, its entry in a table says what has to be told of it."""

import gzip
import io
import json
import os
import struct
import zlib

import nibabel
import numpy as np
import tifffile
from PIL import Image

NOISE = np.random.default_rng(0).integers(0, 255, (24, 24), np.uint8)


def png(width, height, data, *extra, bits=8, colour=0):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def good_png():
    file = io.BytesIO()
    Image.fromarray(NOISE).save(file, "PNG")
    return file.getvalue()


def bmp(width, height):
    return b"BM" + struct.pack("<IIIIiiHHIIiiII", 99, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(45)


def jpeg(height=24, width=24):
    """A small JPEG whose frame states another size."""
    file = io.BytesIO()
    Image.fromarray(NOISE).save(file, "JPEG")
    data = bytearray(file.getvalue())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def tiff(tags, data=b"", *, pages=1, circle=False):
    """A classic TIFF of one segment; `tags` (number, type, count, value) come on top of those of an 8-bit image."""
    base = {256: (4, 1, 24), 257: (4, 1, 24), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 273: (4, 1, 8),
            277: (3, 1, 1), 278: (4, 1, 24), 279: (4, 1, len(data))}  # fmt: skip
    base |= {number: rest for number, *rest in tags}
    out, length = bytearray(b"II*\0" + struct.pack("<I", 8 + len(data)) + data), 6 + 12 * len(base)
    for page in range(pages):
        out += struct.pack("<H", len(base))
        for number, (kind, count, value) in sorted(base.items()):
            out += struct.pack("<HHI", number, kind, count)
            out += struct.pack("<I", value) if kind == 4 or count > 1 else struct.pack("<HH", value, 0)
        last = page == pages - 1
        out += struct.pack("<I", (8 + len(data) if circle else 0) if last else 8 + len(data) + (page + 1) * length)
    return bytes(out)


def described(words):
    file = io.BytesIO()
    tifffile.imwrite(file, NOISE, description=words, metadata=None)
    return file.getvalue()


OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels '
    'ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="24" SizeY="24" SizeC="1" SizeZ="100000" SizeT="100000">'
    '<TiffData/></Pixels></Image></OME>'
)  # fmt: skip
TILED = [(322, 4, 1, 2**15), (323, 4, 1, 2**15), (324, 4, 1, 8)]
ZEROS = zlib.compress(bytes(2**26), 9)  # 64 MiB in 64 KiB

IMAGES = {  # name: (content, what has to be said); content None: made by `special`
    "claims.png": (png(2**15, 2**14, zlib.compress(bytes(99))), "claims 16384×32768 pixels"),
    "side.png": (png(65_000, 65_000, zlib.compress(bytes(99))), "claims 65000×65000 pixels"),
    "colours.png": (png(2**14, 2**14, zlib.compress(bytes(99)), bits=16, colour=6), "claims 16384×16384 pixels in"),
    "text.png": (png(24, 24, b"", (b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26), 9))), "cannot be read"),
    "cut.png": (good_png()[:300], "copy it again"),
    "empty.png": (b"", "is empty"),
    "words.png": (b"hello world", "no image known"),
    "page.png": (b"<html></html>", "web page"),
    "film.png": (b"GIF89a" + bytes(40), "no pixels|cannot be read"),
    "side.jpg": (jpeg(65_000, 65_000), "claims 65000×65000 pixels"),
    "side.gif": (
        b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + b"," + bytes(20),
        "claims 65535×65535|read",
    ),
    "claims.bmp": (bmp(65_000, 65_000), "claims 65000×65000 pixels"),
    "short.bmp": (bmp(999, 999), "copy it again"),
    "cut.jpg": (jpeg()[:200], "copy it again"),
    "claims.tif": (tiff([(256, 4, 1, 65_000), (257, 4, 1, 65_000)], bytes(9)), "claims 65000×65000 pixels"),
    "channels.tif": (tiff([(277, 3, 1, 65_535)], bytes(9)), "copy it again|channels|missing"),
    "short.tif": (tiff([], bytes(9)), "copy it again"),
    "tile.tif": (tiff([*TILED, (325, 4, 1, 9), (259, 3, 1, 8)], zlib.compress(bytes(99))), "larger than itself"),
    "strip.tif": (tiff([(259, 3, 1, 7)], jpeg(65_000, 65_000)), "states 65000×65000 itself"),
    "foreign.tif": (tiff([(259, 3, 1, 34933)], png(65_000, 65_000, b"")), "compressed with"),
    "circle.tif": (tiff([], NOISE.tobytes(), pages=150, circle=True), "lead in a circle"),
    "self.tif": (tiff([], NOISE.tobytes(), circle=True), "lead in a circle"),
    "many.tif": (tiff([(273, 4, 2**31 - 1, 8), (279, 4, 2**31 - 1, 8)], NOISE.tobytes()), "copy it again"),
    "words.tif": (tiff([(270, 2, 2**31 - 1, 8)], NOISE.tobytes()), ""),  # a broken comment harms no pixel
    "cut.tif": (tiff([], NOISE.tobytes())[:-40], "copy it again"),
    "imagej.tif": (described("ImageJ=1.53\nimages=1000000000\nslices=1000000000\nhyperstack=true\n"), "stack of"),
    "loop.png": (None, "cannot be read"),
    "nowhere.png": (None, "no such file"),
    "folder.png": (None, "plain file"),
    "pipe.png": (None, "plain file"),
    "device.png": (None, "plain file"),
}
BOMB = png(24, 24, ZEROS)  # says 24 × 24 and holds 64 MiB: the 24 × 24 are read, and no more
STACKS = {"ome.tif": (described(OME), "10,000,000,000 pages")}
ILL_NAMES = ("a\\b.png", "line\nbreak.png", b"bytes\xff.png".decode("utf-8", "surrogateescape"))
GOOD_NAMES = (
    "two words.png",
    "Größe 細胞 🔬.png",
    "a.b.c.png",
    "-rf.png",
    "$(touch x).png",
    "<b>&amp;.png",
    "x" * 240 + ".png",
)


def special(path):
    """What is no file."""
    kind = path.stem
    if kind == "loop":
        path.symlink_to(path.name)
    elif kind == "nowhere":
        path.symlink_to("absent")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")


def write(folder, table=IMAGES):
    folder.mkdir(parents=True, exist_ok=True)
    for name, (content, _) in table.items():
        special(folder / name) if content is None else (folder / name).write_bytes(content)
    return folder


def nifti_header(shape, *, kind=4, begin=352.0, bits=16):
    head = nibabel.Nifti1Header()
    head["dim"] = [len(shape), *shape, *[1] * (7 - len(shape))]
    head["datatype"], head["bitpix"], head["magic"], head["sform_code"] = kind, bits, b"n+1", 1
    head["srow_x"], head["srow_y"], head["srow_z"] = np.eye(4)[:3]
    return head.binaryblock[:108] + struct.pack("<f", begin) + head.binaryblock[112:] + bytes(4)


VOLUMES = {
    "claims.nii": (nifti_header((30_000, 30_000, 30_000)) + bytes(99), "cannot hold"),
    "claims.nii.gz": (gzip.compress(nifti_header((30_000, 30_000, 300)) + bytes(99)), "cannot hold"),
    "negative.nii": (nifti_header((-4, 4, 4)) + bytes(999), "has the axes|cannot be read"),
    "header.nii.gz": (gzip.compress(nifti_header((4, 4, 4), begin=2e9) + bytes(2**20)), "header is 2e"),
    "colours.nii": (nifti_header((4, 4, 4), kind=128, bits=24) + bytes(999), "numbers of type"),
    "waves.nii": (nifti_header((4, 4, 4), kind=32, bits=64) + bytes(999), "numbers of type"),
    "unknown.nii": (nifti_header((4, 4, 4), kind=77) + bytes(999), "cannot be read"),
    "short.nii": (nifti_header((4, 4, 4)) + bytes(9), "cannot hold"),
    "words.nii": (b"hello world" * 99, "cannot be read"),
    "words.nii.gz": (b"\x1f\x8b hello", "cannot be read"),
    "empty.nii": (b"", "cannot be read"),
}


def zarr_folder(path, version=2, **changes):
    """An array of 24 × 24 bytes that says something else."""
    path.mkdir(parents=True)
    if version == 2:
        words = {"zarr_format": 2, "shape": [24, 24], "chunks": [24, 24], "dtype": "|u1", "fill_value": 0, "order": "C",
                 "compressor": None, "filters": None}  # fmt: skip
        (path / ".zarray").write_text(json.dumps(words | changes))
        (path / "0.0").write_bytes(NOISE.tobytes())
    else:
        (path / "zarr.json").write_text(json.dumps(changes))
    return path


class Trap:
    """Opened by pickle, it makes a file."""

    def __init__(self, file):
        self.file = str(file)

    def __reduce__(self):
        return (os.mkdir, (self.file,))
