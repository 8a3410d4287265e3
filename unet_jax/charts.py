"""Charts of an evaluation, as PNG: average precision by IoU, objects found by size, scores of spoiled images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unet_jax.figures import BLUE, DPI, FAINT, GREEN, INK, PURPLE, VERMILLION, dress, save_figure

COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, "#8a6d00", "#4d4d4d")


def ap_curve(lines: Mapping[str, Mapping[str, float]], path: str | Path) -> None:
    """Draw average precision (0 to 1) by the IoU of a match, a line a name, the first one boldest.

    Args:
        lines: name to {"0.50": AP, ...}, all at the same thresholds.
        path: of the PNG.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 3.6), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    dress(axes, title="Average precision", x="IoU from which two objects match", y="TP / (TP + FP + FN)")
    for number, (name, scores) in enumerate(lines.items()):
        bold = {"linewidth": 2.4, "marker": "o", "markersize": 4.5} if number == 0 else {"linewidth": 1.3}
        style = (0, (4, 2)) if number == 1 else "-"
        colour = COLOURS[number % len(COLOURS)]
        axes.plot([float(t) for t in scores], list(scores.values()), color=colour, linestyle=style, label=name, **bold)
    axes.set_ylim(0, 1)
    axes.set_xticks([0.5, 0.6, 0.7, 0.8, 0.9])
    axes.legend(fontsize=8.5, frameon=False, labelcolor=INK)
    save_figure(figure, path)


def recall_by_size(rows: Mapping[str, Mapping[str, Any]], path: str | Path) -> None:
    """Draw the share of true objects that were found, a bar a group of areas, with the number of objects over it.

    Args:
        rows: "area 32-63" and the like to {"objects", "rate"}; a rate of None (no object) has no bar.
        path: of the PNG.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 3.6), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    dress(axes, title="Objects found, by size", x="area of the true object in pixels", y="share found (IoU ≥ 0.5)")
    rates = [row["rate"] for row in rows.values()]
    places = np.arange(len(rates))
    axes.bar(places, [rate or 0 for rate in rates], color=BLUE, width=0.78)
    for place, rate, row in zip(places, rates, rows.values(), strict=True):
        label = "none" if rate is None else f"{rate:.0%}\nof {row['objects']:,}"
        axes.annotate(label, (place, rate or 0), (0, 3), textcoords="offset points", ha="center", fontsize=7.5,
                      color=FAINT if rate is None else INK)  # fmt: skip
    axes.set_xticks(places, [name.removeprefix("area ").replace(">=", "≥").replace("-", "–\n") for name in rows])
    axes.tick_params(axis="x", labelsize=7.5, length=0)
    axes.grid(visible=False, axis="x")
    axes.set_ylim(0, 1.17)
    axes.set_yticks(np.arange(0, 1.01, 0.2))
    save_figure(figure, path)


def robustness(
    scores: Mapping[str, Mapping[str, Sequence[float]]], amounts: Mapping[str, Sequence[float]], path: str | Path
) -> None:
    """Draw scores by severity, a panel a way of spoiling images, a line a score, severity 0 the image as it is.

    Args:
        scores: way to name of the score to six values.
        amounts: way to the five measures of its severities, written below them.
        path: of the PNG.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 2.9), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, len(scores), sharey=True, squeeze=False)[0]
    for axes, (way, lines) in zip(panels, scores.items(), strict=True):
        dress(axes, title=way, x="severity")
        for colour, (name, values) in zip(COLOURS, lines.items(), strict=False):
            axes.plot(range(len(values)), values, "-o", color=colour, linewidth=1.8, markersize=3.6, label=name)
        axes.set_xticks(range(6), ["0\n"] + [f"{i}\n{amount:g}" for i, amount in enumerate(amounts[way], start=1)])
        axes.tick_params(axis="x", labelsize=7.5)
        axes.set_ylim(0, 1)
    panels[0].legend(fontsize=8, frameon=False, labelcolor=INK, loc="lower left")
    save_figure(figure, path)
