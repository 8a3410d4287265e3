"""Two pictures of a run: how it learned (`curves`) and what it does to images (`examples`)."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from unet_jax.figures import BLUE, DPI, FAINT, GREEN, INK, PURPLE, VERMILLION, dress, save_figure
from unet_jax.pictures import CONFUSED, FALSE, MISSED, PREDICTION, TRUTH, class_colours, panels

Series = Mapping[str, tuple[np.ndarray, str]]  # name: (value an epoch, colour)
GROUPS = ("best", "median", "worst")
PANEL, GAP, GROUP_GAP, MARGIN = 252, 6, 30, 52  # pixels; 252 divides by 2, 3, 4, 6, 7 and 9
NOTE = (
    "Field of view: the square in which most pixels disagree. Outlines: yellow truth, cyan prediction. "
    "Errors: orange missed, blue false, grey agreed. Dark images are contrast-stretched for display."
)
CLASS_NOTE = (
    "Field of view: the square in which most pixels disagree. Errors: orange missed, blue false, pink taken for "
    "another class, grey agreed. Dark images are contrast-stretched for display."
)
HATCH_NOTE = " Hatched: not annotated."
NAMED = 24  # classes whose names are written below in their colours


def choose_examples(iou: Sequence[float] | Shaped[np.ndarray, " n"], *, each: int = 3) -> dict[str, list[int]]:
    """Choose the images to show: `each` of the best, of those around the median, and of the worst, none twice.

    Args:
        iou: one score an image; those that are not finite (no score) are never chosen.
        each: images a group; fewer when there are fewer than 3 * each, shared out evenly: 1 image is the median,
            2 are best and worst, 5 are 2 + 1 + 2.

    Returns:
        Indices by "best" (best first), "median" (downwards), "worst" (worst first); equal scores in order of index.
    """
    score = np.asarray(iou, np.float64)
    order = [int(i) for i in np.argsort(-score, kind="stable") if np.isfinite(score[i])]
    share, rest = divmod(min(len(order), 3 * each), 3)
    outer, middle = share + (rest == 2), share + (rest == 1)
    start = (len(order) - middle) // 2
    return {
        "best": order[:outer],
        "median": order[start : start + middle],
        "worst": order[len(order) - outer :][::-1],
    }


def curves(rows: Sequence[Mapping[str, object]], path: str | Path, *, title: str = "") -> None:
    """Draw loss (left) and validation IoU and Dice (right) by epoch as a PNG of 150 dpi, the epoch of best IoU marked.

    Args:
        rows: metrics rows, {"epoch", "train_loss", "val_loss", "val_iou", "val_dice"}; a value that is missing, None or
            not finite leaves a gap.
        path: the PNG; it appears whole or not at all.
        title: a line above both panels.

    Raises:
        ValueError: no rows.
    """
    from matplotlib.figure import Figure

    if not rows:
        raise ValueError("no epochs to draw: give at least one metrics row")
    epoch = np.array([float(row["epoch"]) for row in rows])  # type: ignore[arg-type]
    figure = Figure(figsize=(8.4, 3.5), dpi=DPI, layout="constrained")
    if title:
        figure.suptitle(title, fontsize=11, fontweight="bold", color=INK, parse_math=False)
    left, right = figure.subplots(1, 2)
    losses = {"train": (_column(rows, "train_loss"), BLUE), "validation": (_column(rows, "val_loss"), VERMILLION)}
    scores = {"IoU": (_column(rows, "val_iou"), GREEN), "Dice": (_column(rows, "val_dice"), PURPLE)}
    iou = scores["IoU"][0]
    best = int(np.nanargmax(iou)) if np.isfinite(iou).any() else None
    for axes, name, series in ((left, "Loss", losses), (right, "Validation score", scores)):
        _lines(axes, epoch, series, name=name)
        if best is not None:
            axes.axvline(epoch[best], color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    known = np.concatenate([values[np.isfinite(values)] for values, _ in losses.values()])
    if known.size and known.min() > 0 and known.max() > 20 * np.median(known):
        left.set_yscale("log")  # one burst would flatten the rest
    low, high = right.get_ylim()
    if best is not None and iou[best] < low + 0.3 * (high - low):
        low -= 0.4 * (high - low)  # room for the words at the foot
    right.set_ylim(max(low, 0), min(high, 1))
    if best is not None:
        _mark_best(right, epoch, best, scores)
    _name_lines(left, losses)
    _name_lines(right, scores)
    save_figure(figure, path)


def _column(rows: Sequence[Mapping[str, object]], key: str) -> np.ndarray:
    found = [row.get(key) for row in rows]
    numbers = np.array([math.nan if value is None else float(value) for value in found])  # type: ignore[arg-type]
    return np.where(np.isfinite(numbers), numbers, math.nan)


def _lines(axes: Any, epoch: np.ndarray, series: Series, *, name: str) -> None:
    """Draw each series, with dots where a line would not show."""
    from matplotlib.ticker import MaxNLocator

    dress(axes, title=name, x="epoch")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    if len(epoch) == 1:
        axes.set_xlim(epoch[0] - 0.5, epoch[0] + 0.5)
    for values, colour in series.values():
        finite = np.pad(np.isfinite(values), 1)
        alone = finite[1:-1] & ~finite[:-2] & ~finite[2:]
        dots = np.flatnonzero(finite[1:-1] if len(epoch) <= 30 else alone).tolist()
        width = 1.8 if len(epoch) <= 200 else 1.0
        axes.plot(epoch, values, "-o", color=colour, linewidth=width, markersize=3.2, markevery=dots, zorder=3)


def _mark_best(axes: Any, epoch: np.ndarray, best: int, series: Series) -> None:
    """Put a dot on each series at index `best`, and the epoch and values at the foot of the dashed line."""
    from matplotlib.patheffects import withStroke

    side, away = ("right", -6) if best > len(epoch) / 2 else ("left", 6)
    lines = [(f"best: epoch {epoch[best]:.0f}", INK)]
    for name, (values, colour) in series.items():
        axes.plot(epoch[best], values[best], "o", color=colour, markersize=7, mec="white", zorder=4, clip_on=False)
        lines.append((f"{name} {_score(values[best])}", colour))
    for height, (text, colour) in zip((33, 20, 7), lines, strict=True):
        style = {"ha": side, "va": "bottom", "fontsize": 9, "textcoords": "offset points", "color": colour}
        noted = axes.annotate(text, (epoch[best], 0), (away, height), xycoords=("data", "axes fraction"), **style)
        noted.set_path_effects([withStroke(linewidth=3, foreground="white")])


def _name_lines(axes: Any, series: Series) -> None:
    """Write each series' name in its colour beside its last value, moved apart where two would overlap."""
    places = []
    for name, (values, colour) in series.items():
        if (finite := values[np.isfinite(values)]).size:
            height = axes.transAxes.inverted().transform(axes.transData.transform((0, finite[-1])))[1]
            places.append([height, name, colour])
    if len(places) == 2 and (short := 0.075 - abs(places[0][0] - places[1][0])) > 0:
        lower, upper = sorted(places, key=lambda place: place[0])
        lower[0], upper[0] = lower[0] - short / 2, upper[0] + short / 2
    for height, name, colour in places:
        axes.text(1.02, height, name, transform=axes.transAxes, color=colour, fontsize=9, va="center")
    if not places:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no finite values", transform=axes.transAxes, color=FAINT, fontsize=9, ha="center")


def _column_of(item: Mapping[str, Any], classes: int) -> tuple[list[np.ndarray], list[str]]:
    """The four squares of one image (as it is, truth, prediction, errors) and the lines under them."""
    image, truth, prediction = (np.asarray(item[name]) for name in ("image", "label", "prediction"))
    if not image.shape[:2] == truth.shape == prediction.shape:
        shapes = f"image {image.shape[:2]}, label {truth.shape}, prediction {prediction.shape}"
        raise ValueError(f"{item['id']}: sizes differ ({shapes}): give all three at the image's size")
    squares, whole = panels(image, truth, prediction, side=PANEL, classes=classes, mask=item.get("mask"))
    height, width = image.shape[:2]
    shown = f"all {height}×{width} px" if whole == (height, width) else f"{whole[0]}×{whole[1]} of {height}×{width} px"
    kind = str(item.get("kind") or "").replace("_", " ")
    name = textwrap.shorten(" · ".join(filter(None, (_short(str(item["id"])), kind))), 27, placeholder=" …")
    return squares, [name, f"IoU {_score(item['iou'])}  Dice {_score(item['dice'])}", shown]


def _short(name: str) -> str:
    """A name that fits under a picture; what tells names apart most often stands at their end."""
    return name if len(name) <= 12 else f"…{name[-8:]}"


def examples(
    items: Sequence[Mapping[str, Any]], path: str | Path, *, title: str = "", classes: Sequence[str] = ()
) -> None:
    """Draw images beside truth, prediction and errors, one column an image, as a PNG of 150 dpi.

    Args:
        items: each {"image": (h, w, c), "label": (h, w) ids or classes, "prediction": (h, w) bool or ids, "id": str,
            "kind": str or "", "iou": float, "dice": float, "group": "best" | "median" | "worst"}; drawn group by group.
            With "mask": (h, w) bool, what lies outside was not annotated: it is hatched and no error.
        path: the PNG; it appears whole or not at all.
        title: a line above everything.
        classes: names of the classes, where label and prediction are painted class by class, not outlined.

    Raises:
        ValueError: no items, an unknown group, or sizes that differ within an item.
    """
    if not items:
        raise ValueError("no examples to draw: give at least one item")
    if strange := {str(item["group"]) for item in items} - set(GROUPS):
        raise ValueError(f"unknown group {', '.join(sorted(strange))}: use one of {', '.join(GROUPS)}")
    groups = [[_column_of(item, len(classes)) for item in items if item["group"] == group] for group in GROUPS]
    starts, x = [], MARGIN
    for group in groups:
        starts.append([x + i * (PANEL + GAP) for i in range(len(group))])
        x += len(group) * (PANEL + GAP) + (GROUP_GAP - GAP if group else 0)
    width = max(x - GROUP_GAP + 8, 2 * PANEL + MARGIN)
    partial = any(not np.all(item.get("mask", True)) for item in items)
    note = textwrap.wrap((CLASS_NOTE if classes else NOTE) + partial * HATCH_NOTE, width // 9)
    names = _class_names(classes, width)
    head, foot = (100 if title else 58), 96 + 22 * (len(note) + len({y for _, y, _, _ in names}))
    rows = [head + i * (PANEL + GAP) for i in range(4)]
    height = rows[-1] + PANEL + foot
    sheet = np.full((height, width, 3), 255, np.uint8)
    words: list[tuple[float, float, str, dict[str, Any]]] = [(8, 32, title, {"size": 13, "weight": "bold"})]
    for name, group, lefts in zip(GROUPS, groups, starts, strict=True):
        for (squares, caption), left in zip(group, lefts, strict=True):
            for top, square in zip(rows, squares, strict=True):
                sheet[top : top + PANEL, left : left + PANEL] = square
            words += [(left, height - foot + 24 + 22 * i, line, {"size": 8.5}) for i, line in enumerate(caption)]
        if group:
            sheet[head - 10 : head - 7, lefts[0] : lefts[-1] + PANEL] = 60
            words.append((lefts[0], head - 18, name, {"size": 13, "weight": "bold"}))
    words += [(x, height - foot + 96 + y, name, style) for x, y, name, style in names]
    words.append((8, height - 22 * len(note) + 4, "\n".join(note), {"size": 8, "va": "top", "color": FAINT}))
    draw_sheet(sheet, words + _row_names(sheet, rows, classes), path)


def _score(value: Any) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "n/a"


def _class_names(classes: Sequence[str], width: int) -> list[tuple[float, float, str, dict[str, Any]]]:
    """The first classes by name in their colours, in lines from y = 0 on that fill the width."""
    words, x, y = [], 8.0, 0.0
    for name, colour in zip(classes[1:NAMED], class_colours(len(classes))[1:NAMED], strict=False):
        long = 12 * len(name) + 20
        x, y = (8.0, y + 22) if x > 8 and x + long > width else (x, y)
        words.append((x, y, name, {"size": 8, "weight": "bold", "color": tuple(colour / 255)}))
        x += long
    return words


def _row_names(
    sheet: np.ndarray, rows: Sequence[int], classes: Sequence[str]
) -> list[tuple[float, float, str, dict[str, Any]]]:
    """Paint a bar of each row's colour beside it and give the words for it."""
    words = []
    errors = [("missed", MISSED), ("false", FALSE), *([("other", CONFUSED)] if classes else [])]
    part = PANEL // len(errors)
    for top, size, name, colour in (
        (rows[0], PANEL, "image", None),
        (rows[1], PANEL, "truth", None if classes else TRUTH),
        (rows[2], PANEL, "prediction", None if classes else PREDICTION),
        *((rows[3] + i * part, part, name, colour) for i, (name, colour) in enumerate(errors)),
    ):
        if colour is not None:
            sheet[top : top + size, MARGIN - 16 : MARGIN - 6] = colour
        words.append((20, top + size / 2, name, {"size": 11, "rotation": 90, "ha": "center", "va": "center"}))
    return words


def draw_sheet(sheet: np.ndarray, words: Sequence[tuple[float, float, str, dict[str, Any]]], path: str | Path) -> None:
    """Put `words` (x, y in pixels from the upper left, text, style) on `sheet`, pixel for pixel, and save it."""
    from matplotlib.figure import Figure

    height, width = sheet.shape[:2]
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    figure.figimage(sheet)
    for x, y, text, style in words:
        figure.text(x / width, 1 - y / height, text, parse_math=False, **{"color": INK, **style})
    save_figure(figure, path)
