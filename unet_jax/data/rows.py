"""A TIFF that is too large for the memory, read a few rows at a time."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from unet_jax.data.decode import Refused, check_tiff, has_alpha, single_page

_SEGMENT_BYTES = 2**28  # of a row of tiles, or a strip, once decoded


def tiff_pixels(path: str | Path) -> int:
    """Pixels of a one-page TIFF, from its header; 0 for any other file, and for one that cannot be read."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            page = single_page(tiff)
            return int(page.imagelength) * int(page.imagewidth)
    except Exception:  # whoever reads the file itself says what is wrong with it
        return 0


class TiffRows:
    """An image (H, W, C) in a TIFF or BigTIFF, of which `rows[a:b]` reads the rows from a up to b; alpha left out.

    Tiles, strips and uncompressed data serve, with 8 or 16 bits or float32. Reading downwards decodes every tile once;
    a row of tiles is held in memory. Needs no more than tifffile. Use it in a `with` statement.

    Raises:
        ValueError: naming the file and the mend, for what cannot be read a few rows at a time.
    """

    def __init__(self, path: str | Path):
        """Open the file and read its header."""
        import tifffile

        self.path = Path(path)
        try:
            self._tiff = tifffile.TiffFile(self.path)
        except OSError:
            raise
        except Exception as error:  # of tifffile, struct ...
            raise ValueError(f"{path}: cannot be read ({error}): copy it again") from error
        try:
            self._page = single_page(self._tiff)
            check_tiff(self._page, self._tiff.filehandle.size)
            self._check_rows()
        except Refused as error:
            self._tiff.close()
            raise ValueError(f"{path}: {error}") from None
        page = self._page
        self.samples = page.samplesperpixel
        self.shape = (page.imagelength, page.imagewidth, self.samples - has_alpha(page))
        self.dtype = np.dtype(page.dtype).newbyteorder("=")
        self._across = -(-page.imagewidth // page.tilewidth) if page.is_tiled else 1
        self._height = page.tilelength if page.is_tiled else page.rowsperstrip
        self._held: dict[int, np.ndarray] = {}  # rows of tiles, decoded

    def _check_rows(self) -> None:
        page = self._page
        if int(page.photometric) not in (1, 2, 6) or page.dtype not in (np.uint8, np.uint16, np.float32):
            raise Refused(
                f"is large, and stored as {page.photometric!s} {page.dtype}: save it as 8 or 16 bit grey or RGB"
            )
        if page.axes not in ("YX", "YXS"):
            raise Refused('is large, and its colours are stored apart: save it with planarconfig="contig", tiled')
        height = page.tilelength if page.is_tiled else page.rowsperstrip
        held = height * page.imagewidth * page.samplesperpixel * page.dtype.itemsize
        if held > _SEGMENT_BYTES and not self._plain:
            raise Refused("is large, and compressed in too large pieces to be read a few rows at a time: save it tiled")

    @property
    def _plain(self) -> bool:
        """Whether the pixels lie in the file one after the other as they are."""
        return bool(self._page.is_contiguous) and self._page.predictor == 1 and self._page.fillorder == 1

    def __getitem__(self, rows: slice, /) -> Shaped[np.ndarray, "n w c"]:
        """Rows from rows.start up to rows.stop."""
        start, stop, _ = rows.indices(self.shape[0])
        with_alpha = self._read_plain(start, stop) if self._plain else self._read_segments(start, stop)
        return with_alpha[..., : self.shape[2]]

    def _read_plain(self, start: int, stop: int) -> np.ndarray:
        page, width = self._page, self.shape[1] * self.samples
        kind = page.dtype.newbyteorder(self._tiff.byteorder)
        offset = page.dataoffsets[0] + start * width * kind.itemsize
        values = np.fromfile(self.path, kind, (stop - start) * width, offset=offset)
        return values.astype(self.dtype, copy=False).reshape(stop - start, self.shape[1], self.samples)

    def _read_segments(self, start: int, stop: int) -> np.ndarray:
        first, last = start // self._height, -(-stop // self._height)
        self._held = {number: rows for number, rows in self._held.items() if first <= number < last}
        for number in range(first, last):
            if number not in self._held:
                self._held[number] = self._decode(number)
        rows = [self._held[number] for number in range(first, last)]
        joined = rows[0] if len(rows) == 1 else np.concatenate(rows)
        return joined[start - first * self._height : stop - first * self._height]

    def _decode(self, number: int) -> np.ndarray:
        """One row of tiles, or one strip; tiles that the file leaves out are zero."""
        page, file = self._page, self._tiff.filehandle
        options: dict[str, Any] = {}
        if int(page.compression) in (6, 7, 34892):
            options = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
        top = number * self._height
        rows = np.zeros((min(self._height, self.shape[0] - top), self.shape[1], self.samples), self.dtype)
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
        return rows

    def __enter__(self) -> "TiffRows":
        """The rows themselves."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the file."""
        self._tiff.close()
