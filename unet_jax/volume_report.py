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
from unet_jax.pictures import for_display, overlay
from unet_jax.report import draw_sheet

Regions = Mapping[str, tuple[int, ...]]
COLUMNS = ("dice", "hd95_mm", "surface_dice", "truth_ml", "prediction_ml")
PLANES = ("sagittal", "coronal", "axial")  # across the axes right, front and up
COLOURS = ((255, 225, 25), (255, 120, 40), (40, 225, 255), (230, 120, 255), (120, 255, 120))
_HEIGHT, _GAP, _LEFT, _HEAD, _FOOT = 330, 6, 34, 74, 54  # pixels


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

    The planes are those in which most of it is seen, patient's right on the left, as a radiologist looks at them.

    Args:
        path: the PNG.
        image: one modality, as it lies in the file.
        truth: classes, or None when nobody knows.
        prediction: classes.
        grid: of the file.
        names: regions to outline, largest first.
        title: a line above everything.
    """
    known = [] if truth is None else [truth]
    turned = [to_ras(values, grid)[0] for values in (image.astype(np.float32), prediction, *known)]
    spacing = to_ras(image, grid)[1].spacing
    shown = turned[-1] * (turned[-1] != IGNORED)
    largest = regions.inside(shown, next(iter(names.values())))
    if not largest.any():
        largest = turned[0] != 0
    at = [int(np.argmax(largest.sum(axis=tuple(a for a in range(3) if a != axis)))) for axis in range(3)]
    columns = [[_upright(values, axis, at[axis], spacing) for values in turned] for axis in range(3)]
    kinds = ["image", *([] if truth is None else ["truth"]), "prediction"]
    widths = [column[0].shape[1] for column in columns]
    height = _HEAD + len(kinds) * (_HEIGHT + _GAP) + _FOOT
    width = _LEFT + sum(widths) + _GAP * 2 + 8
    sheet = np.full((height, width, 3), 255, np.uint8)
    words: list[tuple[float, float, str, dict]] = [(8, 30, title, {"size": 13, "weight": "bold"})]
    left = _LEFT
    for axis, column in enumerate(columns):
        picture = for_display(np.ascontiguousarray(column[0][..., None]))
        for row, kind in enumerate(kinds):
            top = _HEAD + row * (_HEIGHT + _GAP)
            label = None if kind == "image" else column[1 if kind == "prediction" else 2]
            sheet[top : top + _HEIGHT, left : left + widths[axis]] = _outlined(picture, label, names)
            if axis == 0:
                style = {"rotation": 90, "ha": "center", "va": "center", "size": 11}
                words.append((20, top + _HEIGHT / 2, kind, style))
        words.append((left, _HEAD - 10, f"{PLANES[axis]}, slice {at[axis] + 1} of {largest.shape[axis]}", {"size": 9}))
        left += widths[axis] + _GAP
    draw_sheet(sheet, words + _legend(sheet, names, height - _FOOT + 16), path)


def _upright(values: np.ndarray, axis: int, index: int, spacing: Sequence[float]) -> np.ndarray:
    """One plane as a picture of `_HEIGHT` rows, up (or front) at the top, the patient's right on the left, to scale."""
    plane = np.take(values, index, axis=axis).T[::-1]  # rows from up or front, columns from left or from behind
    if axis != 0:
        plane = plane[:, ::-1]
    across, along = (s for a, s in enumerate(spacing) if a != axis)
    width = max(1, round(_HEIGHT * plane.shape[1] * across / (plane.shape[0] * along)))
    return resample(plane[..., None], (_HEIGHT, width, 1), order=1 if plane.dtype.kind == "f" else 0)[..., 0]


def _outlined(picture: np.ndarray, label: np.ndarray | None, names: Regions) -> np.ndarray:
    if label is None:
        return picture
    for members, colour in zip(names.values(), COLOURS, strict=False):
        picture = overlay(picture, regions.inside(label, members), colour)
    return picture


def _legend(sheet: np.ndarray, names: Regions, top: int) -> list[tuple[float, float, str, dict]]:
    """Paint a bar of each region's colour and give the words beside it."""
    words, left = [], _LEFT
    for name, colour in zip(names, COLOURS, strict=False):
        sheet[top : top + 12, left : left + 22] = colour
        words.append((left + 30, top + 11, name, {"size": 9}))
        left += 60 + 13 * len(name)
    return words
