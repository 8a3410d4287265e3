"""Files that a prediction leaves: label images, tables, polygons, pictures. Each appears whole or not at all."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Integer, Shaped

from unet_jax.logs import replacing
from unet_jax.pictures import PREDICTION, for_display, overlay
from unet_jax.polygons import Polygon

LABELS, OBJECTS, POLYGONS, OVERLAYS = "labels", "objects", "polygons", "overlays"
PROBABILITIES, SPREAD = "probabilities", "spread"
ENDINGS = {OBJECTS: ".csv", POLYGONS: ".geojson", OVERLAYS: ".png", PROBABILITIES: ".tif", SPREAD: ".tif"}
TILE = 256  # of a label image that is written tile by tile
SUMMARY = ("image", "height", "width", "objects", "covered_pixels", "covered_share")
_MOST = 2**16 - 1  # ids in 16 bits


def id_type(largest: int) -> type[np.unsignedinteger]:
    """uint16 for up to 65,535 objects, else uint32."""
    return np.uint16 if largest <= _MOST else np.uint32


def write_label(path: Path, label: Integer[np.ndarray, "h w"]) -> None:
    """Write ids as TIFF or PNG, by the path's ending; ValueError for more objects than a PNG can number."""
    kind = id_type(int(label.max(initial=0)))
    if path.suffix == ".png":
        if kind is not np.uint16:
            raise ValueError(f"{path}: more than {_MOST:,} objects, which a PNG cannot number: write TIFF instead")
        _write_png(path, label.astype(kind))
    else:
        _write_tiff(path, label.astype(kind), axes="YX")


def write_label_rows(
    path: Path, rows: Iterable[Integer[np.ndarray, "_ w"]], shape: tuple[int, int], largest: int
) -> None:
    """Write ids that come as bands of rows as a tiled TIFF (BigTIFF where it is needed), tile by tile."""
    import tifffile

    kind = id_type(largest)
    with replacing(path) as scratch:
        tifffile.imwrite(
            scratch,
            _tiles(rows, shape[1], kind),
            shape=shape,
            dtype=kind,
            tile=(TILE, TILE),
            compression="zlib",
            photometric="minisblack",
            metadata=None,
        )


def _tiles(rows: Iterable[np.ndarray], width: int, kind: type[np.unsignedinteger]) -> Iterator[np.ndarray]:
    """Cut bands of any height into square tiles, filled up with zeros at the right and lower edge."""
    across = -(-width // TILE)
    held = np.zeros((0, across * TILE), kind)
    for band in rows:
        held = np.concatenate([held, np.pad(band.astype(kind), ((0, 0), (0, across * TILE - width)))])
        while len(held) >= TILE:
            yield from (held[:TILE, i * TILE : (i + 1) * TILE] for i in range(across))
            held = held[TILE:]
    if len(held):
        held = np.pad(held, ((0, TILE - len(held)), (0, 0)))
        yield from (held[:, i * TILE : (i + 1) * TILE] for i in range(across))


def write_probabilities(path: Path, values: Float32[np.ndarray, "h w *k"]) -> None:
    """Write (H, W) or (H, W, K) numbers as a float32 TIFF, one page a class."""
    channels = values.ndim == 3
    _write_tiff(path, np.moveaxis(values, -1, 0) if channels else values, axes="CYX" if channels else "YX")


def write_overlay(path: Path, image: Shaped[np.ndarray, "h w c"], label: Integer[np.ndarray, "h w"]) -> None:
    """Write the image with the outline of every object as PNG."""
    _write_png(path, overlay(for_display(image), label, PREDICTION))


def write_objects(path: Path, image: str, columns: Mapping[str, np.ndarray]) -> None:
    """Write the objects table of one image: its name under `image`, then the columns of `measure.table`."""
    with replacing(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *columns])
        for start in range(0, len(columns["id"]), 10_000):  # as Python's numbers a million rows take a gigabyte
            rows = zip(*(column[start : start + 10_000].tolist() for column in columns.values()), strict=True)
            writer.writerows([image, *map(_word, row)] for row in rows)


def write_polygons(
    path: Path, objects: Iterable[tuple[int, list[Polygon]]], columns: Mapping[str, np.ndarray], *, name: str
) -> None:
    """Write the outlines of objects as GeoJSON that QuPath opens: detections of the class `name`, in pixels.

    `columns` are those of `measure.table`; area, mean intensity and mean probability become measurements.
    """
    measurements = [column for column in ("area", "mean_intensity", "mean_probability") if column in columns]
    with replacing(path) as scratch, scratch.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for count, (number, parts) in enumerate(objects):
            one, row = len(parts) == 1, int(np.searchsorted(columns["id"], number))
            feature = {
                "type": "Feature",
                "geometry": {"type": "Polygon" if one else "MultiPolygon", "coordinates": parts[0] if one else parts},
                "properties": {
                    "objectType": "detection",
                    "name": str(number),
                    "classification": {"name": name, "color": list(PREDICTION)},
                    "measurements": {m: float(_word(columns[m][row].item())) for m in measurements},
                },
            }
            file.write((",\n" if count else "\n") + json.dumps(feature, separators=(",", ":")))
        file.write("\n]}\n")


def write_summary(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write summary.csv, a row an image, with the columns `SUMMARY`."""
    with replacing(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, SUMMARY)
        writer.writeheader()
        writer.writerows(rows)


def summary_row(image: str, shape: Sequence[int], objects: int | str, covered: int) -> dict[str, object]:
    """A row of summary.csv; `objects` is "" where they were not told apart."""
    height, width = shape
    return dict(zip(SUMMARY, (image, height, width, objects, covered, _word(covered / (height * width))), strict=True))


def join_objects(folder: Path, names: Iterable[str]) -> None:
    """Put the tables objects/NAME.csv of a folder together as objects.csv; an image without one is left out."""
    files = [path for name in names if (path := folder / OBJECTS / f"{name}.csv").is_file()]
    if not files:
        return
    with replacing(folder / "objects.csv") as scratch, scratch.open("wb") as out:
        for number, path in enumerate(files):
            with path.open("rb") as file:
                header = file.readline()
                if number == 0:
                    out.write(header)
                out.writelines(file)


def _word(value: float | int) -> str:
    """A number with at most eight digits that matter; whole numbers with all of theirs."""
    return str(value) if isinstance(value, int) else format(value, ".8g")


def _write_tiff(path: Path, array: np.ndarray, *, axes: str) -> None:
    import tifffile

    metadata = {"axes": axes} if axes != "YX" else None
    with replacing(path) as scratch:
        tifffile.imwrite(scratch, array, photometric="minisblack", compression="zlib", metadata=metadata)


def _write_png(path: Path, array: np.ndarray) -> None:
    from PIL import Image

    with replacing(path) as scratch, scratch.open("wb") as file:
        Image.fromarray(array).save(file, format="PNG", compress_level=4)
