"""Whole cases through a trained model, in the space of their own files: labels, scores, volumes and pictures."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from unet_jax.data.nifti import write_label
from unet_jax.data.volume_folders import Layout
from unet_jax.data.volumes import read_image, read_label
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
            image, grid = read_image(cases[id], layout)
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
