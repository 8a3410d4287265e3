"""What a TIFF claims: its chain of pages, and the sizes of its strips and tiles, before any is decoded."""

import math
import re
import struct
from typing import Any, BinaryIO

from unet_jax.claims import Refused, check_pages, take

_PLAIN = (1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 34926, 50000)  # told how much to give by tifffile, and give no more
_JPEG, _JPEG2000 = (6, 7, 34892), (33003, 33004, 33005, 34712)
_TILE_PIXELS = 2**24  # a tile may have these, however small its image is
_ALONE = (0x01, *range(0xD0, 0xDA))  # markers of JPEG without a length
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_SOC_SIZ = b"\xff\x4f\xff\x51"


def check_chain(file: BinaryIO) -> None:
    """Refused when the pages of an open TIFF lead in a circle, or are too many; the file is left at its beginning."""
    head = file.read(16)
    if head[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return  # no TIFF, as whoever reads it says
    order, big = "<" if head[:2] == b"II" else ">", 43 in head[2:4]
    tags, tag, link = ("Q", 20, "Q") if big else ("H", 12, "I")
    start = head[8:16] if big else head[4:8]
    seen: set[int] = set()
    offset = struct.unpack(order + link, start)[0] if len(start) == struct.calcsize(link) else 0
    while offset:
        if offset in seen:
            raise Refused("is damaged, its pages lead in a circle: export it again")
        seen.add(offset)
        check_pages(len(seen))
        file.seek(offset)
        count = file.read(struct.calcsize(tags))
        if len(count) < struct.calcsize(tags):
            break  # beyond the end: the decoder says so
        file.seek(struct.unpack(order + tags, count)[0] * tag, 1)
        following = file.read(struct.calcsize(link))
        offset = struct.unpack(order + link, following)[0] if len(following) == struct.calcsize(link) else 0
    file.seek(0)


def check_ome(words: str | None) -> None:
    """Refused when the XML of an OME-TIFF claims more pages than a list of them could hold."""
    for pixels in re.findall(r"<(?:\w+:)?Pixels\b[^>]*>", words or ""):
        check_pages(math.prod(int(n[:20]) for n in re.findall(r"Size[CTZ]\s*=\s*[\"'](\d+)", pixels)))


def check_segments(page: Any, file: Any) -> None:
    """Refused when a strip or tile of a page would be larger once decoded than the page lets expect.

    `file` is tifffile's handle. Codecs that go by sizes of their own are held to the page's, or not accepted.
    """
    if page.dtype is None:
        raise Refused(f"holds numbers of {page.bitspersample} bits, which nothing reads: save it with 8 or 16 bits")
    height, width = _segment(page)
    if height * width * max(page.tiledepth, 1) > max(_TILE_PIXELS, page.imagelength * page.imagewidth):
        raise Refused(f"claims tiles of {height}×{width} pixels, larger than itself: save it again")
    codec = int(page.compression)
    if codec not in (*_PLAIN, *_JPEG, *_JPEG2000):
        raise Refused(f"is compressed with {page.compression!s}, which is not read: save it with LZW or deflate")
    if codec in _JPEG and page.jpegtables and jpeg_size(page.jpegtables) is not None:
        raise Refused("is damaged, its JPEG tables hold an image: export it again")
    check_own_sizes(page, page, file)


def check_own_sizes(page: Any, first: Any, file: Any) -> None:
    """Refused when a JPEG within a page states a larger size than the strips and tiles of `first`, its key page."""
    codec, (height, width) = int(first.compression), _segment(first)
    if codec in _PLAIN:
        return
    for start, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        if count:
            file.seek(start)
            found = (jpeg_size if codec in _JPEG else _jpeg2000_size)(file.read(count))
            if found is None or found[0] > height or found[1] > width:
                sizes = "no size" if found is None else f"{found[0]}×{found[1]}"
                raise Refused(f"is damaged, a part of {height}×{width} pixels states {sizes} itself: export it again")


def _segment(page: Any) -> tuple[int, int]:
    """Height and width of a page's strips or tiles."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip, page.imagelength), page.imagewidth


def take_page(page: Any) -> None:
    """Say that a whole page is about to be decoded: see `claims.take`."""
    take(page.imagelength * page.imagewidth * page.samplesperpixel * page.dtype.itemsize)


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Height and width that a JPEG's frame states; None where no frame is found."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _FRAMES:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return height, width
        if marker == 0xFF:  # filling
            at += 1
        elif marker in _ALONE:
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _jpeg2000_size(data: bytes) -> tuple[int, int] | None:
    """The largest height and width that may be those of a JPEG 2000's code stream."""
    sizes = [struct.unpack(">II", data[m.end() + 4 : m.end() + 12]) for m in re.finditer(re.escape(_SOC_SIZ), data)
             if len(data) >= m.end() + 12]  # fmt: skip
    return (max(h for _, h in sizes), max(w for w, _ in sizes)) if sizes else None
