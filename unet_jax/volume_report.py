"""Scores, volumes and a picture of predicted volumes, region by region."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Shaped, UInt8

from unet_jax import regions, surface
from unet_jax.data.nifti import to_ras
from unet_jax.data.volumes import IGNORED, Grid, resample
from unet_jax.logs import replacing
from unet_jax.pictures import for_display, hatched, overlay
from unet_jax.report import draw_sheet
from unet_jax.shapes import bounding_box

Regions = Mapping[str, tuple[int, ...]]
COLUMNS = ("dice", "hd95_mm", "surface_dice", "truth_ml", "prediction_ml")
PLANES = ("sagittal", "coronal", "axial")  # across the axes right, front and up
COLOURS = ((255, 225, 25), (255, 120, 40), (40, 225, 255), (230, 120, 255), (120, 255, 120))
_SIDE, _GAP, _LEFT, _HEAD, _FOOT = 420, 8, 34, 74, 54  # pixels; the longest side of the head takes _SIDE of them


def score_case(
    truth: UInt8[np.ndarray, "x y z"],
    prediction: UInt8[np.ndarray, "x y z"],
    grid: Grid,
    names: Regions,
    *,
    tolerance: float = 1.0,
) -> dict[str, dict[str, float]]:
    """Scores of every region of a case (see `surface.scores`); voxels that are `IGNORED` in the truth do not count."""
    valid = truth != IGNORED
    return {
        name: surface.scores(
            regions.inside(truth, members), regions.inside(prediction, members), grid.spacing,
            valid=valid, tolerance=tolerance,
        )
        for name, members in names.items()
    }  # fmt: skip


def summarise(cases: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, object]:
    """Mean of every score over the cases, region by region, and the mean Dice of all regions."""
    means = {
        name: {score: float(np.mean([case[name][score] for case in cases])) for score in COLUMNS} for name in cases[0]
    }
    return {"cases": len(cases), "dice_mean": float(np.mean([m["dice"] for m in means.values()])), "regions": means}


def write_table(path: str | Path, rows: Sequence[tuple[str, str, Mapping[str, Mapping[str, float]]]]) -> None:
    """Write a CSV of (part, case, scores of its regions): a line a region of a case."""
    with replacing(path) as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["part", "case", "region", *COLUMNS])
        for part, case, scores in rows:
            for region, found in scores.items():
                writer.writerow([part, case, region, *(f"{found[name]:.4f}" for name in COLUMNS)])


def three_planes(
    path: str | Path,
    image: Shaped[np.ndarray, "x y z"],
    truth: UInt8[np.ndarray, "x y z"] | None,
    prediction: UInt8[np.ndarray, "x y z"],
    grid: Grid,
    names: Regions,
    *,
    title: str = "",
) -> None:
    """Draw one modality in three planes through the largest region, and the outlines of truth and prediction over it.

    The planes are those in which most of it is seen, all to one scale, cut to what the image holds, the patient's right
    on the left, as a radiologist looks at them.

    Args:
        path: the PNG.
        image: one modality, as it lies in the file.
        truth: classes, or None when nobody knows; where it is `IGNORED`, both are hatched and nothing is outlined.
        prediction: classes.
        grid: of the file.
        names: regions to outline, largest first.
        title: a line above everything.
    """
    known = [] if truth is None else [truth]
    if truth is not None:  # what nobody can judge is not shown as found
        prediction = np.where(truth == IGNORED, np.uint8(IGNORED), prediction)
    turned = [to_ras(values, grid)[0] for values in (image.astype(np.float32), prediction, *known)]
    spacing = to_ras(image, grid)[1].spacing
    slices = turned[0].shape
    box = bounding_box(turned[0] != 0)
    turned = [values[tuple(slice(a, b) for a, b in box)] for values in turned]
    shown = turned[-1] * (turned[-1] != IGNORED)
    largest = regions.inside(shown, next(iter(names.values())))
    if not largest.any():
        largest = turned[0] != 0
    at = [int(np.argmax(largest.sum(axis=tuple(a for a in range(3) if a != axis)))) for axis in range(3)]
    scale = _SIDE / max(n * mm for n, mm in zip(largest.shape, spacing, strict=True))
    kinds = ["image", *([] if truth is None else ["truth"]), "prediction"]
    drawn, blank = [], False
    for axis in (2, 1, 0):
        picture, predicted, *known = (_upright(values, axis, at[axis], spacing, scale) for values in turned)
        picture = for_display(np.ascontiguousarray(picture[..., None]))
        blank |= bool((predicted == IGNORED).any())
        name = f"{PLANES[axis]}, slice {box[axis][0] + at[axis] + 1} of {slices[axis]}"
        drawn.append((name, [_outlined(picture, label, names) for label in (None, *known, predicted)]))
    tall = max(column[0].shape[0] for _, column in drawn)
    tops = [_HEAD + row * (tall + _GAP) for row in range(len(kinds))]
    least = [max(column[0].shape[1], 270) for _, column in drawn]  # room for the name of the plane
    sheet = np.full((tops[-1] + tall + _FOOT, _LEFT + sum(least) + 2 * _GAP + 8, 3), 255, np.uint8)
    words: list[tuple[float, float, str, dict]] = [(8, 30, title, {"size": 13, "weight": "bold"})]
    left = _LEFT
    for (name, column), width in zip(drawn, least, strict=True):
        for top, panel in zip(tops, column, strict=True):
            middle = top + (tall - panel.shape[0]) // 2
            sheet[middle : middle + panel.shape[0], left : left + panel.shape[1]] = panel
        words.append((left, _HEAD - 10, name, {"size": 9}))
        left += width + _GAP
    style = {"rotation": 90, "ha": "center", "va": "center", "size": 11}
    words += [(20, top + tall / 2, kind, style) for top, kind in zip(tops, kinds, strict=True)]
    draw_sheet(sheet, words + _legend(sheet, names, tops[-1] + tall + 16, blank=blank), path)


def _upright(values: np.ndarray, axis: int, index: int, spacing: Sequence[float], scale: float) -> np.ndarray:
    """One plane, `scale` pixels a millimetre, up (or front) at the top, the patient's right on the left."""
    plane = np.take(values, index, axis=axis).T[::-1]  # rows from up or front, columns from left or from behind
    if axis != 0:
        plane = plane[:, ::-1]
    across, along = (mm for a, mm in enumerate(spacing) if a != axis)
    size = [max(1, round(n * mm * scale)) for n, mm in zip(plane.shape, (along, across), strict=True)]
    return resample(plane[..., None], (*size, 1), order=1 if plane.dtype.kind == "f" else 0)[..., 0]


def _outlined(picture: np.ndarray, label: np.ndarray | None, names: Regions) -> np.ndarray:
    if label is None:
        return picture
    picture = hatched(picture, label == IGNORED)
    for members, colour in zip(names.values(), COLOURS, strict=False):
        picture = overlay(picture, regions.inside(label, members), colour)
    return picture


def _legend(sheet: np.ndarray, names: Regions, top: int, *, blank: bool) -> list[tuple[float, float, str, dict]]:
    """Paint a bar of each region's colour, and one of hatches where some is `blank`; give the words beside them."""
    words, left = [], _LEFT
    for name, colour in zip(names, COLOURS, strict=False):
        sheet[top : top + 12, left : left + 22] = colour
        words.append((left + 30, top + 11, name, {"size": 9}))
        left += 60 + 13 * len(name)
    if blank:
        bar = sheet[top : top + 12, left : left + 22]
        bar[:] = hatched(np.zeros_like(bar), np.ones(bar.shape[:2], bool))
        words.append((left + 30, top + 11, "not annotated", {"size": 9}))
    return words
