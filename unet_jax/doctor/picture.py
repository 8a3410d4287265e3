"""The checkup as a picture: four charts of the set, and an image of every kind of finding."""

import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from unet_jax.data.decode import decode
from unet_jax.data.images import image_of, label_of, named
from unet_jax.doctor.checkup import Report
from unet_jax.doctor.findings import Finding
from unet_jax.doctor.listing import namer
from unet_jax.doctor.look import Look
from unet_jax.doctor.volumes import is_volume, read_volume, read_volume_label
from unet_jax.figures import BLUE, DPI, FAINT, GREEN, INK, PURPLE, VERMILLION, dress, save_figure
from unet_jax.hard_cases import LOW_CONTRAST
from unet_jax.pictures import TRUTH, for_display, outline, overlay

COLOURS = {"error": VERMILLION, "warning": "#B07A00", "note": BLUE}
ACROSS, MOST = 5, 30
NOT_SHOWN = {"no-image", "ignored-file", "odd-size", "small-image", "case-clash", "two-files", "bad-name"}


def draw(report: Report, path: str | Path) -> None:
    """Draw the report as a PNG: sizes, foreground, objects or classes, contrast; then an example of each finding.

    Where these are few, the images with least, median and most foreground follow. Outlines are the masks.
    """
    from matplotlib.figure import Figure

    shown = _examples(report)
    rows = -(-len(shown) // ACROSS)
    height = 3.15 + 2.75 * rows
    figure = Figure(figsize=(13, height), dpi=DPI)
    counts = ", ".join(f"{report.count(level)} {level}s" for level in COLOURS)
    title = f"{report.folder.name or report.folder}: {len(report.pairs)} images with masks; {counts}"
    figure.text(0.02, 1 - 0.28 / height, title, fontsize=13, fontweight="bold", color=INK, parse_math=False)
    note = "An example of each finding: orange errors, amber warnings, blue notes. Yellow outlines: the mask."
    figure.text(0.02, 1 - 0.5 / height, note, fontsize=9, color=FAINT)
    top, bottom = 1 - 0.95 / height, 1 - 2.6 / height
    charts = figure.add_gridspec(1, 4, left=0.075, right=0.985, top=top, bottom=bottom, wspace=0.35).subplots()
    _charts(charts, report)
    if rows:
        grid = figure.add_gridspec(
            rows, ACROSS, left=0.015, right=0.985, top=1 - 3.55 / height, bottom=0.08 / height, wspace=0.05,
            hspace=0.62 / 2.1,
        )  # fmt: skip
        for place, (picture, level, code, words) in enumerate(shown):
            axes = figure.add_subplot(grid[place // ACROSS, place % ACROSS])
            _show(axes, picture, COLOURS.get(level, INK), code, words)
    save_figure(figure, path)


def _charts(charts: Any, report: Report) -> None:
    whole = [seen for seen in report.looks if seen.fault is None]
    sizes = Counter("×".join(map(str, seen.shape)) for seen in whole).most_common(6)
    _bars(charts[0], dict(sizes), "size (pixels), images", BLUE)
    _histogram(charts[1], [100 * seen.foreground for seen in whole], "foreground (% of an image)", GREEN)
    if report.kind == "classes":
        shares = {str(value): 100 * share for value, share in report.facts().get("classes", {}).items()}
        _bars(charts[2], dict(list(shares.items())[:8]), "class, % of the pixels", PURPLE)
    else:
        _histogram(charts[2], [float(seen.objects) for seen in whole], "objects an image", PURPLE)
    known = [seen.separability for seen in whole if np.isfinite(seen.separability)]
    _histogram(charts[3], known, "contrast (left of the line: low)", VERMILLION)
    if known:
        charts[3].axvline(LOW_CONTRAST, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))


def _bars(axes: Any, values: dict[str, float], title: str, colour: str) -> None:
    dress(axes, title=title, x="")
    axes.grid(visible=False)
    names = list(values)[::-1]
    bars = axes.barh(names, [values[name] for name in names], color=colour, height=0.65)
    axes.bar_label(bars, fmt="%.3g", fontsize=8, padding=3, color=INK)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])
    axes.margins(x=0.18)
    axes.set_ylim(min(len(names) - 6, 0) - 0.5, len(names) - 0.5)  # few bars are no thicker than six


def _histogram(axes: Any, values: list[float], title: str, colour: str) -> None:
    dress(axes, title=title, x="", y="images")
    if not values:
        axes.text(0.5, 0.5, "nothing could be read", transform=axes.transAxes, ha="center", fontsize=9, color=FAINT)
        return
    low, high = min(values), max(values)
    axes.hist(values, bins=min(30, max(len(values) // 4, 8)), range=(low, high) if high > low else None, color=colour)
    axes.yaxis.get_major_locator().set_params(integer=True)


def _show(axes: Any, picture: np.ndarray, colour: str, code: str, words: str) -> None:
    axes.imshow(picture, interpolation="nearest", aspect="equal")
    axes.set_anchor("NW")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=2)
    axes.set_title(words, loc="left", fontsize=7.5, color=INK, parse_math=False, pad=4)
    axes.annotate(
        code, (0, 1), (0, 29), xycoords="axes fraction", textcoords="offset points", fontsize=9, fontweight="bold",
        color=colour,
    )  # fmt: skip


def _examples(report: Report) -> list[tuple[np.ndarray, str, str, str]]:
    """Picture, level, code and words of what is shown: the first case of each finding that can be."""
    name = namer(report.folder)
    by_file = {name(path): seen for seen in report.looks for path in (seen.pair.image, seen.pair.label)}
    found = []
    for finding in report.findings:
        if finding.code in NOT_SHOWN:
            continue
        for case in finding.cases[:5]:
            known = [by_file[file] for file in case.files[:2] if file in by_file]
            file, detail = (case.files or ("",))[0], case.detail
            if len(known) == 2 and known[0] is not known[1]:
                picture = _beside(*(_picture(seen, report.ignore) for seen in known))
            else:
                picture = _picture(known[0], report.ignore) if known else _alone(report.folder / file)
            if picture is not None:
                found.append((picture, finding.rule.level, _heading(finding), _caption(file, detail)))
                break
    if len(found) < ACROSS:
        found += _typical(report, name)
    return found[:MOST]


def _typical(report: Report, name: Callable[[Path], str]) -> list[tuple[np.ndarray, str, str, str]]:
    """The images with least, median and most foreground, in the form of examples."""
    whole = sorted((s for s in report.looks if s.fault is None), key=lambda seen: seen.foreground)
    places = {0: "least foreground", len(whole) // 2: "median", len(whole) - 1: "most foreground"}
    found = []
    for place, words in places.items():
        if whole and (picture := _picture(whole[place], report.ignore)) is not None:
            share = f"{whole[place].foreground:.1%}"
            found.append((picture, "", words, _caption(name(whole[place].pair.image), share)))
    return found


def _heading(finding: Finding) -> str:
    return f"{finding.code} ({len(finding.cases)})"


def _caption(file: str, detail: str) -> str:
    head, _, tail = file.rpartition("/")
    short = f"{tail[:16]}…{tail[-8:]}" if len(tail) > 26 else tail
    lines = [f"{head}/{short}" if head else short, textwrap.shorten(detail, 37, placeholder=" …")]
    return "\n".join(lines)


def _picture(seen: Look, ignore: int | None) -> np.ndarray | None:
    """The image with the outline of its mask; either alone where the other cannot be read; None if neither can."""
    image, label = (_tried(path, mask=mask) for path, mask in ((seen.pair.image, False), (seen.pair.label, True)))
    if image is not None and image.dtype.kind == "f":
        image = np.nan_to_num(image, posinf=0, neginf=0)
    if label is not None and ignore is not None:
        label = np.where(label == ignore, 0, label)
    if image is None:
        return None if label is None else _of_mask(label)
    if label is not None and label.shape == image.shape[:2] and label.size < 2**24:
        shown, label = _shrunk(for_display(image)), _shrunk(label.astype(np.int32))
        return overlay(shown, label, TRUTH) if outline(label).any() else shown
    return _shrunk(for_display(image))


def _beside(one: np.ndarray | None, other: np.ndarray | None) -> np.ndarray | None:
    """Two pictures with a white line between them, wide ones below each other."""
    if one is None or other is None:
        return one if other is None else other
    along = 0 if one.shape[1] > 1.5 * one.shape[0] else 1
    size = max(one.shape[1 - along], other.shape[1 - along])
    parts = []
    for part in (one, np.full((6, 6, 3), 255, np.uint8), other):
        room = [(0, 0), (0, 0), (0, 0)]
        room[1 - along] = (0, size - part.shape[1 - along])
        parts.append(np.pad(part, room, constant_values=255))
    return np.concatenate(parts, axis=along)


def _alone(path: Path) -> np.ndarray | None:
    image = _tried(path, mask=False) if path.is_file() else None
    return None if image is None else _shrunk(for_display(image))


def _tried(path: Path, *, mask: bool) -> np.ndarray | None:
    """The pixels of a file, of a volume the middle slice, or None."""
    try:
        if is_volume(path):
            volume = read_volume_label(path) if mask else read_volume(path)[..., :1]
            return volume[:, :, volume.shape[2] // 2]
        with named(path):
            raw = decode(path)
            return label_of(raw) if mask else image_of(raw)
    except (ValueError, OSError, MemoryError):
        return None


def _of_mask(label: np.ndarray) -> np.ndarray:
    return _shrunk(np.where(label[..., None] != 0, np.uint8(255), np.uint8(40)).repeat(3, axis=-1))


def _shrunk(array: np.ndarray, side: int = 384) -> np.ndarray:
    """Every n-th pixel, so that the longer side is at most `side`, or repeated to at least half of that."""
    step = -(-max(array.shape[:2]) // side)
    array = array[::step, ::step]
    times = max(side // 2 // max(array.shape[:2]), 1)
    return array.repeat(times, axis=0).repeat(times, axis=1)
