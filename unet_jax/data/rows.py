"""Images that are too large for the memory, read a few rows at a time: a TIFF, or a part of an array with more axes."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from unet_jax.claims import Refused
from unet_jax.data.decode import check_tiff, has_alpha, single_page
from unet_jax.data.images import as_read, named
from unet_jax.data.stored import Page, Stored, page_axes, space
from unet_jax.data.tiff_claims import check_chain

_SEGMENT_BYTES = 2**28  # of a row of tiles, or a strip, once decoded


def tiff_pixels(path: str | Path) -> int:
    """Pixels of a one-page TIFF, from its header; 0 for any other file, and for one that cannot be read."""
    import tifffile

    try:
        with open(path, "rb") as file:
            check_chain(file)
        with tifffile.TiffFile(path) as tiff:
            page = single_page(tiff)
            return int(page.imagelength) * int(page.imagewidth)
    except Exception:  # whoever reads the file itself says what is wrong with it
        return 0


class HeldRows:
    """An image (*S, C) of which `rows[a:b]` reads the rows from a up to b along the first axis.

    It is stored in pieces of `_height` rows; reading downwards decodes every piece once. Use it in a `with` statement.
    """

    path: Path
    shape: tuple[int, ...]
    _height: int
    _held: dict[int, np.ndarray]  # pieces, decoded

    def __getitem__(self, rows: slice, /) -> Shaped[np.ndarray, "..."]:
        """Rows from rows.start up to rows.stop."""
        start, stop, _ = rows.indices(self.shape[0])
        return self._read(start, stop)[..., : self.shape[-1]]

    def _read(self, start: int, stop: int) -> np.ndarray:
        first, last = start // self._height, -(-stop // self._height)
        self._held = {number: rows for number, rows in self._held.items() if first <= number < last}
        for number in range(first, last):
            if number not in self._held:
                self._held[number] = self._decode(number)
        rows = [self._held[number] for number in range(first, last)]
        joined = rows[0] if len(rows) == 1 else np.concatenate(rows)
        return joined[start - first * self._height : stop - first * self._height]

    def _decode(self, number: int) -> np.ndarray:
        """One piece."""
        raise NotImplementedError

    def __enter__(self) -> "HeldRows":
        """The rows themselves."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the file."""


class ArrayRows(HeldRows):
    """One image (*S, C) of an array with more axes, which whoever opened it closes; uint8, uint16 or float32.

    A piece is as high as the array's own chunks.
    """

    def __init__(self, path: Path, stored: Stored, page: Page, rank: int):
        """Nothing is read yet."""
        self.path, self._stored, self._axes = path, stored, space(rank)
        self._place = dict(zip(page_axes(stored.axes, rank), page.place, strict=True))
        self.shape = (*(stored.size(axis) for axis in self._axes), stored.channels)
        chunks = getattr(stored.array, "chunks", None)
        self._height = int(chunks[stored.axes.index(self._axes[0])]) if chunks else 64
        self._held = {}

    def check_height(self) -> "HeldRows":
        """The rows themselves; Refused for chunks too large to be read a few rows at a time."""
        row = int(np.prod(self.shape[1:])) * np.dtype(self._stored.array.dtype).itemsize
        if self._height * row > _SEGMENT_BYTES:
            raise Refused(f"is large, and its chunks are {self._height} rows high: save it in chunks of 512 × 512")
        return self

    def _decode(self, number: int) -> np.ndarray:
        rows = slice(number * self._height, min((number + 1) * self._height, self.shape[0]))
        parts = {self._axes[0]: rows} | self._place
        with named(self.path):
            values = np.asarray(self._stored.array[tuple(parts.get(axis, slice(None)) for axis in self._stored.axes)])
        left = [axis for axis in self._stored.axes if axis not in self._place]
        values = values if "c" in left else values[..., None]
        left = left if "c" in left else [*left, "c"]
        values = values.transpose([left.index(axis) for axis in (*self._axes, "c")])
        return as_read(np.ascontiguousarray(values))


class ImageRows(HeldRows):
    """An image (H, W, C) that is in memory."""

    def __init__(self, path: Path, image: Shaped[np.ndarray, "h w c"]):
        """Nothing is copied."""
        self.path, self.shape, self._image = path, image.shape, image

    def _read(self, start: int, stop: int) -> np.ndarray:
        return self._image[start:stop]


class TiffRows(HeldRows):
    """An image (H, W, C) in a TIFF or BigTIFF, alpha left out.

    Tiles, strips and uncompressed data serve. A row of tiles is held in memory. Needs no more than tifffile.

    Raises:
        ValueError: naming the file and the mend, for what cannot be read a few rows at a time.
    """

    def __init__(self, path: str | Path):
        """Open the file and read its header."""
        import tifffile

        self.path = Path(path)
        with named(self.path):
            with self.path.open("rb") as file:
                check_chain(file)
            self._tiff = tifffile.TiffFile(self.path)
        try:
            self._page = single_page(self._tiff)
            check_tiff(self._page, self._tiff.filehandle)
            self._check_rows()
        except BaseException as error:
            self._tiff.close()
            with named(self.path):
                raise error
        page = self._page
        self.samples = page.samplesperpixel
        self.shape = (page.imagelength, page.imagewidth, self.samples - has_alpha(page))
        self._dtype = np.dtype(page.dtype).newbyteorder("=")
        self._across = -(-page.imagewidth // page.tilewidth) if page.is_tiled else 1
        self._height = page.tilelength if page.is_tiled else page.rowsperstrip
        self._held: dict[int, np.ndarray] = {}  # rows of tiles, decoded

    def _check_rows(self) -> None:
        page = self._page
        if int(page.photometric) not in (1, 2, 6) or page.dtype.kind not in "uif" or page.bitspersample < 8:
            raise Refused(
                f"is large, and stored as {page.photometric!s} {page.dtype}: save it as 8 or 16 bit grey or RGB"
            )
        if page.axes not in ("YX", "YXS"):
            raise Refused('is large, and its colours are stored apart: save it with planarconfig="contig", tiled')
        if self._plain and page.dataoffsets[0] + page.nbytes > self._tiff.filehandle.size:
            raise Refused("is damaged or truncated, some of its pixels are missing: copy it again")
        height = page.tilelength if page.is_tiled else page.rowsperstrip
        held = height * page.imagewidth * page.samplesperpixel * page.dtype.itemsize
        if held > _SEGMENT_BYTES and not self._plain:
            raise Refused("is large, and compressed in too large pieces to be read a few rows at a time: save it tiled")

    @property
    def _plain(self) -> bool:
        """Whether the pixels lie in the file one after the other as they are."""
        return bool(self._page.is_contiguous) and self._page.predictor == 1 and self._page.fillorder == 1

    def _read(self, start: int, stop: int) -> np.ndarray:
        return as_read(self._read_plain(start, stop)) if self._plain else super()._read(start, stop)

    def _read_plain(self, start: int, stop: int) -> np.ndarray:
        page, width = self._page, self.shape[1] * self.samples
        kind = page.dtype.newbyteorder(self._tiff.byteorder)
        offset = page.dataoffsets[0] + start * width * kind.itemsize
        values = np.fromfile(self.path, kind, (stop - start) * width, offset=offset)
        return values.astype(self._dtype, copy=False).reshape(stop - start, self.shape[1], self.samples)

    def _decode(self, number: int) -> np.ndarray:
        """One row of tiles, or one strip; tiles that the file leaves out are zero."""
        page, file = self._page, self._tiff.filehandle
        options: dict[str, Any] = {}
        if int(page.compression) in (6, 7, 34892):
            options = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
        top = number * self._height
        rows = np.zeros((min(self._height, self.shape[0] - top), self.shape[1], self.samples), self._dtype)
        for index in range(number * self._across, (number + 1) * self._across):
            file.seek(page.dataoffsets[index])
            data = file.read(page.databytecounts[index])
            try:
                values, (_, _, _, left, _), _ = page.decode(data or None, index, **options)
            except Exception as error:  # every codec raises its own
                raise ValueError(f"{self.path}: damaged at row {top} ({error}): copy it again") from error
            if values is not None:
                part = values[0, : len(rows), : self.shape[1] - left]
                rows[: part.shape[0], left : left + part.shape[1]] = part
        return as_read(rows)

    def __exit__(self, *exc: object) -> None:
        """Close the file."""
        self._tiff.close()
