"""Files that a prediction leaves: label images, tables, polygons, pictures. Each appears whole or not at all."""

import csv
import json
import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Integer, Shaped, UInt8

from unet_jax.logs import replacing
from unet_jax.pictures import PREDICTION, for_display, overlay
from unet_jax.polygons import Polygon

LABELS, OBJECTS, POLYGONS, OVERLAYS = "labels", "objects", "polygons", "overlays"
PROBABILITIES, SPREAD, ATTENTION = "probabilities", "spread", "attention"
ENDINGS = {OBJECTS: ".csv", POLYGONS: ".geojson", OVERLAYS: ".png", ATTENTION: ".png"}
ENDINGS |= {PROBABILITIES: ".tif", SPREAD: ".tif"}
TILE = 256  # of a label image that is written tile by tile
SUMMARY = ("image", "height", "width", "objects", "covered_pixels", "covered_share")  # volumes: depth as well
_MOST = 2**16 - 1  # ids in 16 bits
_TIFF_BYTES = 2**32 - 2**25


def id_type(largest: int) -> type[np.unsignedinteger]:
    """uint16 for up to 65,535 objects, else uint32."""
    return np.uint16 if largest <= _MOST else np.uint32


def write_label(path: Path, label: Integer[np.ndarray, "*s"]) -> None:
    """Write ids (H, W) as TIFF or PNG, by the path's ending, or (D, H, W) as a TIFF with a page a plane.

    ValueError for more objects than a PNG can number.
    """
    kind = id_type(int(label.max(initial=0)))
    if path.suffix == ".png":
        if kind is not np.uint16:
            raise ValueError(f"{path}: more than {_MOST:,} objects, which a PNG cannot number: write TIFF instead")
        _write_png(path, label.astype(kind))
    else:
        _write_tiff(path, label.astype(kind), axes="ZYX"[-label.ndim :])


def write_label_rows(
    path: Path, rows: Iterable[Integer[np.ndarray, "_ w"]], shape: tuple[int, int], largest: int
) -> None:
    """Write ids that come as bands of rows as a tiled TIFF."""
    _write_tiles(path, [rows], shape, id_type(largest), photometric="minisblack", compression="zlib")


def write_probability_rows(
    path: Path, classes: Sequence[Iterable[Float32[np.ndarray, "_ w"]]], shape: tuple[int, int]
) -> None:
    """Write numbers that come as bands of rows, class by class, as a tiled float32 TIFF, one page a class."""
    options = {"pages": len(classes), "metadata": {"axes": "CYX"}} if len(classes) > 1 else {}
    _write_tiles(path, classes, shape, np.float32, photometric="minisblack", compression="zlib", **options)


def write_overlay_rows(path: Path, rows: Iterable[UInt8[np.ndarray, "_ w 3"]], shape: tuple[int, int]) -> None:
    """Write a picture that comes as bands of rows as a tiled TIFF, compressed as JPEG."""
    options = {"photometric": "rgb", "compression": "jpeg", "compressionargs": {"level": 95}, "subsampling": (1, 1)}
    _write_tiles(path, [rows], (*shape, 3), np.uint8, **options)


def _write_tiles(
    path: Path,
    bands: Iterable[Iterable[np.ndarray]],
    shape: tuple[int, ...],
    kind: type[np.number],
    *,
    pages: int = 1,
    metadata: Mapping[str, str] | None = None,
    **options: Any,
) -> None:
    """Pages of a shape, each in bands of rows, tile by tile; a BigTIFF where offsets of 32 bits might not do."""
    import tifffile

    large = pages * math.prod(shape) * np.dtype(kind).itemsize > _TIFF_BYTES  # before compression, which may not help
    tiles = (tile for rows in bands for tile in _tiles(rows, shape[1], kind))
    shape = (pages, *shape) if pages > 1 else shape
    options |= {"shape": shape, "dtype": kind, "tile": (TILE, TILE), "bigtiff": large, "metadata": metadata}
    with replacing(path) as scratch:
        tifffile.imwrite(scratch, tiles, **options)


def _tiles(rows: Iterable[np.ndarray], width: int, kind: type[np.number]) -> Iterator[np.ndarray]:
    """Cut bands of any height into square tiles, filled up with zeros at the right and lower edge."""
    across, held = -(-width // TILE), None
    for band in rows:
        band = np.pad(band.astype(kind), ((0, 0), (0, across * TILE - width), *((0, 0),) * (band.ndim - 2)))
        held = band if held is None else np.concatenate([held, band])
        while len(held) >= TILE:
            yield from (held[:TILE, i * TILE : (i + 1) * TILE] for i in range(across))
            held = held[TILE:]
    if held is not None and len(held):
        held = np.pad(held, ((0, TILE - len(held)), *((0, 0),) * (held.ndim - 1)))
        yield from (held[:, i * TILE : (i + 1) * TILE] for i in range(across))


def write_probabilities(path: Path, values: Float32[np.ndarray, "*s k"]) -> None:
    """Write (*S, K) numbers as a float32 TIFF, one page a class (and plane)."""
    one, space = values.shape[-1] == 1, "ZYX"[-(values.ndim - 1) :]
    _write_tiff(path, values[..., 0] if one else np.moveaxis(values, -1, 0), axes=space if one else f"C{space}")


def write_overlay(path: Path, image: Shaped[np.ndarray, "h w c"], label: Integer[np.ndarray, "h w"]) -> None:
    """Write the image with the outline of every object as PNG."""
    _write_png(path, overlay(for_display(image), label, PREDICTION))


def write_objects(path: Path, image: str, columns: Mapping[str, np.ndarray]) -> None:
    """Write the objects table of one image: its name under `image`, then the columns of `measure.table`."""
    with replacing(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *columns])
        for start in range(0, len(columns["id"]), 10_000):  # as Python's numbers a million rows take a gigabyte
            texts = (_words(column[start : start + 10_000]) for column in columns.values())
            writer.writerows([image, *row] for row in zip(*texts, strict=True))


def write_polygons(
    path: Path, objects: Iterable[tuple[int, list[Polygon]]], columns: Mapping[str, np.ndarray], *, name: str
) -> None:
    """Write the outlines of objects as GeoJSON that QuPath opens: detections of the class `name`, in pixels.

    `columns` are those of `measure.table`; area, mean intensity and mean probability become measurements.
    """
    ids, area, intensity, probability = (
        columns[column] for column in ("id", "area", "mean_intensity", "mean_probability")
    )
    encode = json.JSONEncoder(separators=(",", ":")).encode
    kind = encode({"name": name, "color": list(PREDICTION)})
    with replacing(path) as scratch, scratch.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for count, (number, parts) in enumerate(objects):  # put together by hand: an encoder takes three times as long
            shape, places = ("Polygon", parts[0]) if len(parts) == 1 else ("MultiPolygon", parts)
            row = bisect_left(ids, number)
            numbers = f'"area":{area[row]},"mean_intensity":{_word(intensity[row])}'
            numbers += f',"mean_probability":{_word(probability[row])}'
            geometry = f'{{"type":"{shape}","coordinates":{encode(places)}}}'
            about = f'"name":"{number}","classification":{kind},"measurements":{{{numbers}}}'
            properties = f'{{"objectType":"detection",{about}}}'
            feature = f'{{"type":"Feature","geometry":{geometry},"properties":{properties}}}'
            file.write((",\n" if count else "\n") + feature)
        file.write("\n]}\n")


def write_summary(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write summary.csv, a row an image, with the columns `SUMMARY`, and `depth` where one has it."""
    rows = list(rows)
    names = ["image", *["depth"] * any("depth" in row for row in rows), *SUMMARY[1:]]
    with replacing(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)


def summary_row(image: str, shape: Sequence[int], objects: int | str, covered: int) -> dict[str, object]:
    """A row of summary.csv; `objects` is "" where they were not told apart."""
    *depth, height, width = shape
    share = _word(covered / math.prod(shape))
    row = dict(zip(SUMMARY, (image, height, width, objects, covered, share), strict=True))
    return row | ({"depth": depth[0]} if depth else {})


def join_objects(folder: Path, names: Iterable[str]) -> None:
    """Put the tables objects/NAME.csv of a folder together as objects.csv; an image without one is left out."""
    files = [path for name in names if (path := folder / OBJECTS / f"{name}.csv").is_file()]
    if not files:
        (folder / "objects.csv").unlink(missing_ok=True)
        return
    with replacing(folder / "objects.csv") as scratch, scratch.open("wb") as out:
        for number, path in enumerate(files):
            with path.open("rb") as file:
                header = file.readline()
                if number == 0:
                    out.write(header)
                out.writelines(file)


def _words(column: np.ndarray) -> list[str]:
    """The numbers of a column: whole ones with all of their digits."""
    return list(map(str if column.dtype.kind in "iu" else _word, column.tolist()))


def _word(value: float) -> str:
    """A number with at most eight digits that matter."""
    return format(value, ".8g")


def _write_tiff(path: Path, array: np.ndarray, *, axes: str) -> None:
    import tifffile

    metadata = {"axes": axes} if axes != "YX" else None
    with replacing(path) as scratch:
        tifffile.imwrite(scratch, array, photometric="minisblack", compression="zlib", metadata=metadata)


def _write_png(path: Path, array: np.ndarray) -> None:
    from PIL import Image

    with replacing(path) as scratch, scratch.open("wb") as file:
        Image.fromarray(array).save(file, format="PNG", compress_level=4)
