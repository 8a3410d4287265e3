"""Whole cases through a trained model, in the space of their own files: labels, scores, volumes and pictures."""

import csv
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from unet_jax.data.nifti import read_nifti, write_label
from unet_jax.data.volume_folders import Case, Layout, distinct
from unet_jax.data.volumes import read_image, read_label
from unet_jax.logs import replacing
from unet_jax.regions import inside
from unet_jax.volume_prediction import VolumePredictor
from unet_jax.volume_report import score_case, summarise, three_planes, write_table


@dataclasses.dataclass(frozen=True)
class CaseScores:
    """Scores of each part's cases (see `volume_report.summarise`), and the seconds that predicting each took."""

    parts: dict[str, dict[str, object]]
    seconds: tuple[float, ...]

    def lines(self) -> list[str]:
        """The same for people: a line a region, and the mean Dice of a part."""
        lines = []
        for part, found in self.parts.items():
            for name, means in found["regions"].items():
                lines.append(
                    f"{part:>5} ({found['cases']} cases) {name}: Dice {means['dice']:.4f}, 95 % Hausdorff "
                    f"{means['hd95_mm']:.1f} mm, surface Dice {means['surface_dice']:.3f}, "
                    f"{means['prediction_ml']:.1f} ml (truth {means['truth_ml']:.1f} ml)"
                )
            lines.append(f"{part:>5}: mean Dice of the regions {found['dice_mean']:.4f}")
        return lines


def evaluate_cases(
    predictor: VolumePredictor,
    layout: Layout,
    parts: Mapping[str, Sequence[str]],
    folder: str | Path,
    *,
    tolerance: float = 1.0,
) -> CaseScores:
    """Predict and score cases; write predictions/ID.nii.gz, report/ID.png and per_case.csv in `folder`.

    Args:
        predictor: the model.
        layout: the folder of volumes that holds the cases.
        parts: names of the cases of each part, such as {"test": ("case7",)}.
        folder: where to write.
        tolerance: millimetres, of the surface Dice.

    Raises:
        ValueError: a case that cannot be read, naming the file.
    """
    folder, rows, seconds = Path(folder), [], []
    cases = {case.id: case for case in layout.cases}
    for part, ids in parts.items():
        for id in ids:
            image, grid = read_image(cases[id], layout.channels)
            began = time.perf_counter()
            label = predictor(image, grid)
            seconds.append(time.perf_counter() - began)
            write_label(folder / "predictions" / f"{id}.nii.gz", label, grid)
            truth = read_label(cases[id], layout)
            scores = score_case(truth, label, grid, layout.regions, tolerance=tolerance)
            rows.append((part, id, scores))
            mean = np.mean([found["dice"] for found in scores.values()])
            three_planes(
                folder / "report" / f"{id}.png", image[..., 0], truth, label, grid, layout.regions,
                title=f"{id} ({part}), {layout.channels[0]}: mean Dice {mean:.3f}",
            )  # fmt: skip
    write_table(folder / "per_case.csv", rows)
    by_part = {part: [scores for p, _, scores in rows if p == part] for part, _, _ in rows}
    return CaseScores({part: summarise(scores) for part, scores in by_part.items()}, tuple(seconds))


def predict_cases(
    predictor: VolumePredictor,
    cases: Sequence[Case],
    folder: str | Path,
    *,
    overwrite: bool = False,
    say: Callable[[str], None],
) -> tuple[list[str], list[str]]:
    """Predict cases without truth: labels/ID.nii.gz and pictures/ID.png, and volumes.csv over all labels there are.

    Args:
        predictor: the model.
        cases: names and files, see `volume_folders.find_images`; a case that is named again is predicted once.
        folder: where to write; a label that is there is kept unless `overwrite`.
        overwrite: make all anew.
        say: takes a line for the user after every case.

    Returns:
        Names of the cases that have a label now, and a line for every case that failed, naming the file.

    Raises:
        ValueError: two different cases of one name, of which one's label would be taken for the other's.
    """
    folder, done, failed = Path(folder), [], []
    for case in distinct(cases):
        path = folder / "labels" / f"{case.id}.nii.gz"
        try:
            if overwrite or not path.exists():
                image, grid = read_image(case, predictor.modalities)
                began = time.perf_counter()
                label = predictor(image, grid)
                say(f"{case.id}: {time.perf_counter() - began:.1f} s")
                picture = folder / "pictures" / f"{case.id}.png"
                three_planes(picture, image[..., 0], None, label, grid, predictor.regions, title=case.id)
                write_label(path, label, grid)
            else:
                say(f"{case.id}: {path} is there already and kept (--overwrite makes it again)")
            done.append(case.id)
        except (ValueError, OSError) as error:
            failed.append(str(error) if str(case.images[0].parent) in str(error) else f"{case.images[0]}: {error}")
    with replacing(folder / "volumes.csv") as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["case", *(f"{name} (ml)" for name in predictor.regions)])
        for id in done:
            label, grid = read_nifti(folder / "labels" / f"{id}.nii.gz")
            voxels = [np.count_nonzero(inside(label, members)) for members in predictor.regions.values()]
            writer.writerow([id, *(f"{n * grid.millilitres:.3f}" for n in voxels)])
    return done, failed
