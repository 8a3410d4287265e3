"""Models side by side: a table over seeds as Markdown, CSV and one HTML page, the same images under all, curves."""

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unet_jax import page
from unet_jax.figures import BLUE, DPI, INK, VERMILLION, dress, save_figure
from unet_jax.hard_cases import APART
from unet_jax.logs import replacing
from unet_jax.pictures import PREDICTION, TRUTH, error_map, field_of_view, for_display, magnified, overlay

COLUMNS = {  # key of a row: its heading and the form of its mean
    "parameters": ("parameters", "{:,.0f}"),
    "gflop": ("GFLOP", "{:.2f}"),
    "images_per_second": ("images/s", "{:.1f}"),
    "epochs": ("epochs", "{:.0f}"),
    "iou_pooled": ("IoU pooled", "{:.3f}"),
    "iou_mean": ("IoU mean", "{:.3f}"),
    "dice_pooled": ("Dice pooled", "{:.3f}"),
    "dice_mean": ("Dice mean", "{:.3f}"),
    "iou_spoiled": ("IoU spoiled", "{:.3f}"),
    "val_ap": ("val AP", "{:.3f}"),
    "ap50": ("AP@.5", "{:.3f}"),
    "ap75": ("AP@.75", "{:.3f}"),
    "clear": ("clear", "{:.1%}"),
    "touching": ("touching", "{:.1%}"),
    "low_contrast": ("low contrast", "{:.1%}"),
    APART: ("pairs apart", "{:.1%}"),
    "accuracy": ("accuracy", "{:.1%}"),
}
PANEL, GAP, NAMES = 200, 6, 190  # pixels


def over_seeds(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry a name, in the order they come: "name", "seeds", "recipe", (mean, standard deviation) of every column.

    The deviation is that of a sample (n - 1), None for a single seed; a column without a number is None.
    """
    entries = []
    for name in dict.fromkeys(row["name"] for row in rows):
        part = [row for row in rows if row["name"] == name]
        entry: dict[str, Any] = {"name": name, "seeds": len(part), "recipe": part[0].get("recipe")}
        for key in COLUMNS:
            values = [row[key] for row in part if row.get(key) is not None]
            spread = statistics.stdev(values) if len(values) > 1 else None
            entry[key] = (statistics.fmean(values), spread) if values else None
        entries.append(entry)
    return entries


def cells(entry: Mapping[str, Any]) -> list[str]:
    """An entry as texts: name, seeds, "mean ± deviation" of every column, the recipe's; "–" where there is none."""
    texts = [str(entry["name"]), str(entry["seeds"])]
    for key, (_, form) in COLUMNS.items():
        value = entry[key]
        spread = f" ± {form.format(value[1])}" if value and value[1] else ""
        texts.append("–" if value is None else form.format(value[0]) + spread)
    return [*texts, entry["recipe"] or "–"]


def write_tables(
    rows: Sequence[Mapping[str, Any]], folder: Path, *, title: str, notes: Sequence[str], pictures: Mapping[str, Path]
) -> None:
    """Write table.md, table.csv (a row a run, unrounded) and table.html, which holds the pictures too.

    Args:
        rows: one a run: "name", "seed", the keys of `COLUMNS`, None where there is no number; "recipe", words to set
            beside them, may be there.
        folder: of the three files.
        title: of page and table.
        notes: sentences that say what the numbers are.
        pictures: words for each PNG, and its path.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("no run to compare: name at least one model")
    head = ["", "seeds", *(name for name, _ in COLUMNS.values()), "the recipe"]
    body = [cells(entry) for entry in over_seeds(rows)]
    lines = [f"# {title}", "", *(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body)), ""]
    with replacing(folder / "table.md") as scratch:
        scratch.write_text("\n".join([*lines, *(f"- {note}" for note in notes)]) + "\n", encoding="utf-8")
    with replacing(folder / "table.csv") as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "seed", *COLUMNS])
        writer.writerows([[row.get(key) for key in ("name", "seed", *COLUMNS)] for row in rows])
    parts = [f"<h1>{page.text(title)}</h1>", page.table(head, body), *(f"<p>{page.text(note)}</p>" for note in notes)]
    parts += [page.picture(path, words, caption=words) for words, path in pictures.items()]
    with replacing(folder / "table.html") as scratch:
        scratch.write_text(page.page(title, parts), encoding="utf-8")


def draw_models(
    samples: Sequence[Mapping[str, Any]], predictions: Mapping[str, Sequence[np.ndarray]], path: Path
) -> None:
    """Draw the same fields of view under every model: the image, the truth, then each model's outlines and errors.

    Args:
        samples: {"image", "label", "id"} each.
        predictions: name of the model to a label image a sample; the last model's errors choose the field of view.
        path: of the PNG.
    """
    from matplotlib.figure import Figure

    names = ["image", "truth", *predictions]
    height, width = (n * (PANEL + GAP) + GAP for n in (len(names), 2 * len(samples)))
    sheet = np.full((height + 60, NAMES + width, 3), 255, np.uint8)
    reference = list(predictions.values())[-1]
    for j, sample in enumerate(samples):
        rows, columns, zoom = field_of_view(sample["label"], reference[j], panel=PANEL)

        def shown(array: np.ndarray, rows: slice = rows, columns: slice = columns, zoom: float = zoom) -> np.ndarray:
            return magnified(array[rows, columns], zoom)

        picture, truth = shown(for_display(sample["image"])), shown(sample["label"])
        drawn = [[picture], [overlay(picture, truth, TRUTH)]]
        for labels in predictions.values():
            guess = shown(labels[j])
            drawn.append([overlay(picture, guess, PREDICTION), error_map(truth, guess)])
        for i, line in enumerate(drawn):
            for k, square in enumerate(line):
                top, left = GAP + i * (PANEL + GAP), NAMES + GAP + (2 * j + k) * (PANEL + GAP)
                sheet[top : top + square.shape[0], left : left + square.shape[1]] = square
    figure = Figure(figsize=(sheet.shape[1] / DPI, sheet.shape[0] / DPI), dpi=DPI)
    figure.figimage(sheet)
    for i, name in enumerate(names):
        y = 1 - (GAP + i * (PANEL + GAP) + PANEL / 2) / sheet.shape[0]
        figure.text(8 / sheet.shape[1], y, name.replace(", ", ",\n"), fontsize=8.5, va="center", color=INK)
    words = "outlines: yellow truth, cyan prediction\nerrors: orange missed, blue false, grey agreed"
    figure.text(NAMES / sheet.shape[1], 12 / sheet.shape[0], words, fontsize=8, color=INK)
    save_figure(figure, path)


def draw_learning_curves(
    runs: Mapping[int, Mapping[str, Sequence[Mapping[str, Any]]]],
    path: Path,
    *,
    test: Mapping[int, Mapping[str, Mapping[str, float]]],
    crops: int,
) -> None:
    """Draw loss by epoch, a panel a number of training images, and the test IoU by that number on the right.

    Args:
        runs: number of images to "with" and "without" augmentation to metrics rows.
        path: of the PNG.
        test: the same to the IoU on the test images, of the checkpoint "chosen" by validation and of the "last" one.
        crops: of an epoch.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * (len(runs) + 1), 4.4), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, len(runs) + 1)
    colours = {"with": BLUE, "without": VERMILLION}
    top = max(row["val_loss"] for pair in runs.values() for rows in pair.values() for row in rows)
    for axes, (count, pair) in zip(panels, runs.items(), strict=False):
        dress(axes, title=f"{count} images", x=f"epoch of {crops} crops", y="loss")
        for name, rows in pair.items():
            epoch = [row["epoch"] for row in rows]
            for words, key, style in (("training", "train_loss", (0, (2, 1.5))), ("validation", "val_loss", "-")):
                label = f"{words}, {name} augmentation"
                axes.plot(epoch, [row[key] for row in rows], color=colours[name], linestyle=style, label=label)
        axes.set_ylim(0, top * 1.05)
    dress(panels[-1], title="Test IoU", x="training images", y="pooled IoU")
    for name in colours:
        for words, key, style in (("chosen by validation", "chosen", "-o"), ("last", "last", ":s")):
            values = [test[count][name][key] for count in test]
            panels[-1].plot(range(len(test)), values, style, color=colours[name], label=f"{words}, {name} augmentation")
    panels[-1].set_xticks(range(len(test)), [str(count) for count in test])
    for axes in (panels[0], panels[-1]):  # below, as any corner may hold a line
        axes.legend(fontsize=7, frameon=False, labelcolor=INK, loc="upper center", bbox_to_anchor=(0.5, -0.17))
    save_figure(figure, path)


def rate(values: Sequence[float]) -> float | None:
    """The median of the finite numbers, None when there is none."""
    finite = [value for value in values if math.isfinite(value)]
    return statistics.median(finite) if finite else None
