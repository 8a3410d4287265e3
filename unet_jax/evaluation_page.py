"""What `unet-jax evaluate` shows: charts and examples in OUTPUT/report, and report.html made of them and the scores."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unet_jax import charts, page, report
from unet_jax.data.normalisation import to_uint8
from unet_jax.data.source import Source
from unet_jax.degrade import SEVERITIES
from unet_jax.hard_cases import APART, PAIRS
from unet_jax.hard_cases import FOUND as MATCH
from unet_jax.logs import read_rows, replacing
from unet_jax.matching import match
from unet_jax.page import score, share, text
from unet_jax.pictures import EXTRA, FOUND, LOST, outcomes
from unet_jax.predicted import FromFolder, FromModel
from unet_jax.robustness import SHOWN, chart_lines, gallery
from unet_jax.scoring import Truth, read_as

ALL = "all images"
PANEL, GAP = 300, 10  # pixels; 300 divides by 2, 3, 4, 5 and 6
CASES = {
    "all": "all objects",
    "clear": "clear: neither touching nor in low contrast",
    "touching": "touching: within 2 pixels of a neighbour",
    "low_contrast": "in images of low contrast",
    APART: "touching pairs that came out as two",
    PAIRS: "touching pairs of which both were found",
}
Example = dict[str, Any]


def save_png(pixels: np.ndarray, path: Path) -> Path:
    """Write (H, W, 3) uint8; the file appears whole or not at all."""
    from PIL import Image

    with replacing(path) as scratch:
        Image.fromarray(pixels).save(scratch, format="PNG", optimize=True)
    return path


def draw_examples(
    folder: Path, source: Source, truths: Sequence[Truth], predicted: FromModel | FromFolder, table: dict[str, Any]
) -> list[Example]:
    """Draw best, median and worst images by their mean AP, each as it is, with its true and with its predicted objects.

    Returns {"group", "path", "index", "shown"} of each; images without any object are no example.
    """
    ap = np.where(table["objects"] + table["predicted"] > 0, table["ap_average"], np.nan)
    groups = [(group, i) for group, chosen in report.choose_examples(ap).items() for i in chosen]
    labels = predicted(source[i] for _, i in groups)
    drawn: list[Example] = []
    for (group, i), label in zip(groups, labels, strict=True):
        sample, truth = source[i], truths[i]
        guess = read_as(label, predicted.kind, num_classes=truth.num_classes, mask=truth.mask).objects
        matches = match(truth.reading.objects, guess, threshold=MATCH)
        squares, (h, w) = outcomes(sample["image"], truth.reading.objects, guess, matches, side=PANEL)
        gap = np.full((PANEL, GAP, 3), 255, np.uint8)
        sheet = np.concatenate([squares[0], gap, squares[1], gap, squares[2]], axis=1)
        height, width = sample["image"].shape[:2]
        whole = (h, w) == (height, width)
        shown = f"all {height}×{width} px" if whole else f"{h}×{w} of {height}×{width} px"
        name = f"example_{group}_{sum(example['group'] == group for example in drawn) + 1}.png"
        drawn.append({"group": group, "index": i, "path": save_png(sheet, folder / name), "shown": shown})
    return drawn


def draw_charts(folder: Path, results: dict[str, Any], training: Path | None) -> dict[str, Path]:
    """Draw what there is to draw, by name: "ap", "size", and "robustness" and "curves" where they are known."""
    objects, paths = results["objects"], {name: folder / f"{name}.png" for name in ("ap", "size")}
    lines = {"pooled": objects["ap_pooled"], "mean over images": objects["ap_mean"]}
    kinds = sorted(objects["by_kind"].items(), key=lambda item: -item[1]["objects"])
    if len(kinds) > 1:
        lines |= {f"{kind} ({part['images']})": part["ap_pooled"] for kind, part in kinds[:4]}
    charts.ap_curve({name.replace("_", " "): line for name, line in lines.items()}, paths["ap"])
    charts.recall_by_size(results["recall_by_area"], paths["size"])
    if "robustness" in results:
        paths["robustness"] = folder / "robustness.png"
        charts.robustness(chart_lines(results["robustness"]), SEVERITIES, paths["robustness"])
    if training is not None and training.exists() and (rows := read_rows(training)):
        paths["curves"] = folder / "curves.png"
        report.curves(rows, paths["curves"])
    return paths


def draw_gallery(folder: Path, source: Source, index: int, *, seed: int) -> Path:
    """Show what the severities look like, on a crop of one image."""
    sample = source[index]
    image = to_uint8(sample["image"])
    return save_png(gallery(image, sample["label"], name=sample["id"], seed=seed), folder / "severities.png")


def write_page(
    path: Path, results: dict[str, Any], source: Source, table: dict[str, Any], examples: Sequence[Example],
    pictures: dict[str, Path],
) -> None:  # fmt: skip
    """Write the page from results.json's content, the table of images and the pictures that were drawn."""
    about = results["about"]
    n = results["objects"]["images"]
    title = f"{about['name']}: scores on {n} image{'s' * (n != 1)}"
    body = [
        f"<h1>{text(title)}</h1>",
        f'<p class="faint">{text(about["data"])}, split {text(about["split"])} · {text(about["date"])} · '
        f"unet_jax {text(about['version'])} {text(about['commit'])}</p>",
        *(f'<div class="note">{text(note)}</div>' for note in about["notes"]),
        page.tiles(_first(results)),
        *_objects(results, pictures),
        *_hard(results),
        *_pixels(results),
        *(_robustness(results, pictures) if "robustness" in results else ()),
        *_examples(source, table, examples),
    ]
    if "curves" in pictures:
        body += ["<h2>Training</h2>", page.picture(pictures["curves"], "loss and validation score by epoch")]
    shown = {name: value for name, value in about.items() if name not in ("name", "notes")}
    body += ["<h2>How this was measured</h2>", page.facts(shown), "<h3>Rules</h3>", page.facts(results["rules"])]
    with replacing(path) as scratch:
        scratch.write_text(page.page(title, body), encoding="utf-8")


def _first(results: dict[str, Any]) -> list[tuple[str, str]]:
    objects, pixels, cases = results["objects"], results["pixels"], results["cases"]
    return [
        (score(objects["ap_pooled"]["0.50"]), "AP at IoU 0.5, pooled"),
        (score(objects["ap_pooled"]["0.75"]), "AP at IoU 0.75, pooled"),
        (score(objects["pq_pooled"]), "panoptic quality, pooled"),
        (score(pixels["iou_pooled"]), "pixel IoU, pooled"),
        (score(pixels["dice_pooled"]), "pixel Dice, pooled"),
        (share(cases[APART]["rate"]), "of touching pairs came out as two"),
        (share(cases["clear"]["rate"]), "of clear objects found"),
        (share(cases["low_contrast"]["rate"]), "of objects in low contrast found"),
    ]


def _grouped(part: dict[str, Any], group: str = "by_kind") -> list[tuple[str, dict[str, Any]]]:
    """The groups, and all images under them."""
    kinds = [(name.replace("_", " "), rows) for name, rows in part[group].items()]
    return [*(kinds if len(kinds) > 1 else []), (ALL, part)]


def _objects(results: dict[str, Any], pictures: dict[str, Path]) -> list[str]:
    head = ["", "images", "true objects", "predicted", "AP .5 pooled", "AP .5 mean", "AP .75 pooled", "AP .9 pooled",
            "AP .5–.95 pooled", "F1 pooled", "PQ pooled", "matched IoU", "count off by"]  # fmt: skip
    rows = []
    for name, part in _grouped(results["objects"]):
        ap = part["ap_pooled"]
        values = [ap["0.50"], part["ap_mean"]["0.50"], ap["0.75"], ap["0.90"], part["ap_pooled_average"]]
        values += [part["f1_pooled"], part["pq_pooled"], part["matched_iou_pooled"]]
        off = part["count_error"]["relative"]
        rows.append([name, part["images"], part["objects"], part["predicted"], *map(score, values), share(off)])
    caption = "F1, PQ and matched IoU at IoU 0.5. Count off by: |predicted − true| / true, mean over images."
    both = (
        page.picture(pictures["ap"], "average precision by the IoU of a match"),
        page.picture(pictures["size"], "share of objects found by their area"),
    )
    return [
        "<h2>Objects</h2>",
        page.table(head, rows, caption=caption, bold=[ALL]),
        f'<div class="charts">{"".join(both)}</div>',
    ]


def _hard(results: dict[str, Any]) -> list[str]:
    cases = results["cases"]
    kinds = cases["by_kind"] if len(cases["by_kind"]) > 1 else {}
    rows = []
    for name, words in CASES.items():
        row = cases[name]
        rates = (share(kind[name]["rate"]) for kind in kinds.values())
        rows.append([words, row["images"], row["objects"], row["found"], share(row["rate"]), *rates])
    head = ["case", "images", "objects or pairs", "found", "rate", *(kind.replace("_", " ") for kind in kinds)]
    return ["<h2>Hard cases</h2>", page.table(head, rows, caption="Found: matched at IoU ≥ 0.5. Cases come from image "
            "and truth, never from the prediction.")]  # fmt: skip


def _pixels(results: dict[str, Any]) -> list[str]:
    names = ("iou", "dice", "precision", "recall")
    shown = ("IoU", "Dice", "precision", "recall")
    head = ["", "images", *(f"{name} {way}" for name in shown for way in ("pooled", "mean"))]
    keys = [f"{name}_{way}" for name in names for way in ("pooled", "mean")]
    pixels = results["pixels"]
    rows = [[name, part["images"], *(score(part[k]) for k in keys)] for name, part in _grouped(pixels)]
    of_each = [
        [name, f"{row['pixels']:,}", *(score(row[k]) for k in names)] for name, row in pixels["by_class"].items()
    ]
    classes = page.table(["", "pixels", *shown], of_each, caption="Class by class, pooled.")
    alone = len(of_each) == 2 and results["about"]["background"] == 0
    what = "Foreground against background" if alone else "Means over the classes that are there"
    if not alone and "iou_foreground" in pixels:
        what += f"; IoU of all but the background as one {score(pixels['iou_foreground'])}"
    caption = f"{what}. Pooled: pixels of all images together; mean: over images."
    return ["<h2>Pixels</h2>", page.table(head, rows, bold=[ALL], caption=caption), classes]


def _robustness(results: dict[str, Any], pictures: dict[str, Path]) -> list[str]:
    found = results["robustness"]
    rows = []
    for name, pick in ((SHOWN[0], lambda row: row["objects"]["ap_pooled"]["0.50"]),
                       (SHOWN[1], lambda row: row["pixels"]["iou_pooled"])):  # fmt: skip
        rows += [[f"{kind}: {name}", *(score(pick(row)) for row in found["scores"][kind])] for kind in SEVERITIES]
    meaning = "; ".join(f"{kind}: {found['measures'][kind]}" for kind in SEVERITIES)
    caption = f"Pooled over the same images. Severity 0 is the image as it is. {meaning}. Seed {found['seed']}."
    return [
        "<h2>Robustness</h2>",
        page.picture(pictures["robustness"], "scores by severity, for five ways of spoiling an image"),
        page.table(["", *(f"severity {i}" for i in range(6))], rows, caption=caption),
        page.picture(
            pictures["severities"], "one crop spoiled in five ways",
            caption=f"One crop at severities 0 to 5, from top to bottom: {', '.join(SEVERITIES)}.",
        ),
    ]  # fmt: skip


def _examples(source: Source, table: dict[str, Any], examples: Sequence[Example]) -> list[str]:
    kinds = source.columns.get("kind", ("",) * len(source))
    keys = page.key(FOUND, "found, and what found it"), page.key(LOST, "missed"), page.key(EXTRA, "false")
    pieces = [
        "<h2>Examples</h2>",
        "<p>Best, median and worst images by their mean AP. The field of view is the square in which most pixels "
        f"belong to objects that went wrong. Outlines: {' · '.join(keys)}.</p>",
    ]
    group = ""
    for example in examples:
        i = example["index"]
        if example["group"] != group:
            group = example["group"]
            pieces.append(f"<h3>{text(group)}</h3>")
            heads = "".join(f"<span>{words}</span>" for words in ("image", "true objects", "predicted objects"))
            pieces.append(f'<div class="heads">{heads}</div>')
        ident = source.ids[i] if len(source.ids[i]) <= 24 else f"{source.ids[i][:16]}…"
        numbers = {name: table[name][i] for name in ("ap_0.50", "ap_average", "iou")}
        counts = {name: int(table[name][i]) for name in ("objects", "matched", "missed", "false")}
        words = [
            f"<b>{text(ident)}</b>", text(kinds[i].replace("_", " ")),
            f"AP {score(numbers['ap_0.50'])} at 0.5<br>AP {score(numbers['ap_average'])} mean .5–.95",
            f"pixel IoU {score(numbers['iou'])}",
            f"{counts['objects']} objects: {counts['matched']} found, {counts['missed']} missed; "
            f"{counts['false']} false",
            text(example["shown"]),
        ]  # fmt: skip
        words = "<br>".join(filter(None, words))
        shown = page.picture(example["path"], f"image, true and predicted objects of {source.ids[i]}")
        pieces.append(f'<div class="example"><figcaption>{words}</figcaption>{shown}</div>')
    return pieces
