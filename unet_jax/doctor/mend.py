"""A copy of a folder with what can be mended without guessing."""

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer, Shaped

from unet_jax.claims import Refused
from unet_jax.data.decode import Raw, decode
from unet_jax.data.images import colours_of, image_of, label_of, named
from unet_jax.data.labels import anti_aliased, fault_of, values_of
from unet_jax.data.pairs import Pair, index_file, read_index
from unet_jax.doctor.checkup import Report
from unet_jax.doctor.listing import namer
from unet_jax.doctor.look import Look
from unet_jax.doctor.volumes import is_volume
from unet_jax.logs import replacing
from unet_jax.outputs import write_label


class Mended(NamedTuple):
    """Pairs copied, (file, what was changed), and (file, why it is not in the copy)."""

    pairs: int
    changed: list[tuple[str, str]]
    left: list[tuple[str, str]]


def write_mended(
    report: Report, out: str | Path, *, threshold: float | None = None, ignore: int | None = None
) -> Mended:
    """Copy the usable pairs of a checked folder to `out`/images and `out`/labels, mended where that takes no guess.

    * Names: image and mask get the image's name. Files without their other half are left out.
    * Images: alpha is dropped; grey is repeated, and RGB whose channels are equal is cut, to what most images have.
    * Masks of one foreground (0/255, 0/1, or both among the files) become 0/1; equal RGB channels become one.
    * With `threshold`, masks that are anti-aliased, lossy or fractional become 1 where they reach it, else 0; one that
      reaches it nowhere is left out, as the threshold is hardly on its scale.
    All else is copied byte for byte. index.csv comes along where it fits. Duplicates are reported, never removed.

    Raises:
        FileExistsError, ValueError: `out` holds something, or lies in the folder; the folder holds volumes.
    """
    out = Path(out)
    _check_out(report, out)
    name = namer(report.folder)
    usual = Counter(seen.channels for seen in report.looks if seen.channels).most_common(1)
    done: list[str] = []
    changed: list[tuple[str, str]] = []
    left: list[tuple[str, str]] = []
    for seen in report.looks:
        pair = seen.pair
        try:
            label, label_note = _label(pair, report.kind, threshold=threshold, ignore=ignore)
            image, image_note = _image(seen, usual[0][0] if usual else 0)
        except Refused as error:
            left += [(name(path), str(error).removeprefix(f"{path}: ")) for path in _blamed(pair, str(error))]
            continue
        _write_image(pair.image, image, out / "images" / pair.id)
        _write_label(pair.label, label, out / "labels" / pair.id)
        done.append(pair.id)
        renamed = f"named as {name(pair.image)}" if pair.label.stem != pair.id else ""
        notes = ((pair.image, image_note), (pair.label, ", ".join(filter(None, (renamed, label_note)))))
        changed += [(name(path), note) for path, note in notes if note]
    left += [
        (file, finding.rule.message) for finding in report.findings for case in finding.cases for file in case.files
        if finding.code in ("no-mask", "no-image", "bad-name")
    ] + [(case.files[1], f"of one name with {case.files[0]}") for finding in report.findings for case in finding.cases
         if finding.code == "two-files"]  # fmt: skip
    return Mended(len(done), changed, left + _copy_index(report, out, done))


def _check_out(report: Report, out: Path) -> None:
    folder, place = Path(os.path.realpath(report.folder)), Path(os.path.realpath(out))  # resolve fails on a loop
    if any(is_volume(pair.image) for pair in report.pairs):
        raise ValueError(f"--fix-to {out}: volumes are only checked, not mended: follow the mends one by one")
    if place.is_relative_to(folder) or folder.is_relative_to(place):
        raise ValueError(f"--fix-to {out} overlaps {report.folder}: name a folder beside it")
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise FileExistsError(f"--fix-to {out}: holds something: name a new folder")


def _blamed(pair: Pair, message: str) -> list[Path]:
    return [path for path in (pair.image, pair.label) if message.startswith(f"{path}: ")] or [pair.image, pair.label]


def _image(seen: Look, usual: int) -> tuple[Shaped[np.ndarray, "h w c"] | None, str]:
    """The image where it has to change, None where the file can be copied, and what changes."""
    path = seen.pair.image
    if seen.fault is not None and seen.fault[2] != "label":
        raise Refused(f"{path}: {seen.fault[1]}" if seen.fault[2] == "image" else seen.fault[1])
    if not seen.finite:
        raise Refused(f"{path}: holds NaN or infinity")
    if not seen.alpha and seen.channels == usual:
        return None, ""
    with named(path):
        image = image_of(decode(path))
    note = "alpha dropped" if seen.alpha else ""
    if seen.channels != usual:
        if seen.channels == 1:
            image, how = image.repeat(usual, axis=-1), f"grey repeated to {usual} channels"
        elif usual == 1 and (image == image[..., :1]).all():
            image, how = image[..., :1], "equal channels made one"
        else:
            raise Refused(f"{path}: {seen.channels} channels, most images have {usual}")
        note = f"{note}, {how}" if note else how
    return image, note


def _label(
    pair: Pair, kind: str | None, *, threshold: float | None, ignore: int | None
) -> tuple[Integer[np.ndarray, "h w"] | None, str]:
    """The mask where it has to change, None where the file can be copied, and what changes."""
    with named(pair.label):
        raw = decode(pair.label)
        try:
            label = label_of(raw)
        except Refused as error:
            if threshold is None or error.fault not in ("lossy-mask", "fraction-mask"):
                raise
            return _thresholded(raw, threshold), f"1 from {threshold:g} upwards"
        values = values_of(label, ignore=ignore)
        if anti_aliased(values, kind):
            if threshold is None:
                raise Refused("holds greys between black and white: add --threshold 128 to make it 0/1")
            return _thresholded(raw, threshold), f"1 from {threshold:g} upwards"
        if fault := fault_of(values, kind):
            raise Refused(fault)
    if kind == "binary" and set(values.values) - {0, 1}:
        counts = label != ignore if ignore is not None else np.ones(label.shape, bool)
        return np.where(counts, label != 0, label).astype(label.dtype), f"{max(values.values)} made 1"
    if raw.values.ndim == 3:
        return label, "made one channel"
    if raw.values.dtype.kind == "f":
        return label, "whole numbers stored as such"
    return None, ""


def _thresholded(raw: Raw, threshold: float) -> Integer[np.ndarray, "h w"]:
    values = raw.values if raw.palette is None else colours_of(raw)  # the indices are in any order
    if values.ndim == 3:
        values = values[..., : 3 - 2 * raw.alpha].mean(axis=-1)
    if not np.isfinite(values).all():
        raise Refused("holds NaN or infinity")
    if values.max() < threshold:
        raise Refused(
            f"holds {values.max():g} at most, and --threshold is {threshold:g}: choose one between its values"
        )
    return (values >= threshold).astype(np.uint8)


def _write_image(source: Path, image: np.ndarray | None, target: Path) -> None:
    """Copy the file, or write the changed image: 8-bit grey or RGB as PNG, all else as TIFF."""
    if image is None:
        _copy(source, _ending(target, source.suffix.lower()))
        return
    if image.dtype == np.uint8 and image.shape[-1] in (1, 3):
        from PIL import Image

        with replacing(_ending(target, ".png")) as scratch:
            Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(scratch, format="PNG")
        return
    import tifffile

    colours = "rgb" if image.shape[-1] == 3 else "minisblack"
    array = image[..., 0] if image.shape[-1] == 1 else image
    with replacing(_ending(target, ".tif")) as scratch:
        tifffile.imwrite(scratch, array, photometric=colours, planarconfig="contig" if array.ndim == 3 else None)


def _write_label(source: Path, label: np.ndarray | None, target: Path) -> None:
    if label is None:
        _copy(source, _ending(target, source.suffix.lower()))
    elif label.dtype == np.uint8:
        from PIL import Image

        with replacing(_ending(target, ".png")) as scratch:
            Image.fromarray(label).save(scratch, format="PNG")
    else:
        write_label(_ending(target, ".tif"), label)


def _ending(target: Path, ending: str) -> Path:
    return target.with_name(target.name + ending)  # with_suffix would cut a name such as d.v2


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as scratch:
        shutil.copyfile(source, scratch)


def _copy_index(report: Report, out: Path, ids: list[str]) -> list[tuple[str, str]]:
    index = index_file(report.folder, report.pairs)
    if not index.is_file() or not ids:
        return []
    try:
        read_index(index, ids)
    except ValueError as error:
        return [(namer(report.folder)(index), str(error))]
    _copy(index, out / "index.csv")
    return []
