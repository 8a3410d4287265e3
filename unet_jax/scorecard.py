"""What a scored run leaves behind: results.json, per_image.csv, and the two pictures of its report."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from unet_jax import memory, metrics, parallel, report
from unet_jax.data.source import Source
from unet_jax.evaluation import Evaluation
from unet_jax.logs import read_rows, write_json, write_per_image
from unet_jax.loop import Position

RULES = {
    "empty": metrics.EMPTY_RULE,
    "pooled": "the pixels of all images counted together, then one ratio",
    "mean": "one ratio an image, then the mean over the images",
    "test_eight_views": "as test, with the probabilities of eight flips and turns of each image averaged",
    "split": "70/15/15 by a hash of the image's name; validation chose the checkpoint, test was scored once",
}


def facts_of(card: Mapping[str, Any], position: Position, *, data: str, **seconds: float) -> dict[str, Any]:
    """What the results of every experiment hold: the best epoch, time, peak memory, device, data, version, commit."""
    return {
        "best": {"epoch": card["position"]["epoch"], "val_iou": card["position"]["best_score"]},
        "epochs": position.epoch,
        "seconds": {"training": position.seconds, **seconds},
        "peak_bytes": memory.peak_bytes(),
        "device": parallel.device_name(),
        "data": data,
        "version": card["version"],
        "commit": card["commit"],
    }


def write_results(
    workdir: Path, source: Source, result: Evaluation, facts: Mapping[str, Any],
    *, columns: Mapping[str, Sequence[str]] = MappingProxyType({}), background: int | None = 0,
) -> dict[str, Any]:  # fmt: skip
    """Write results.json (scores, by kind where the source has kinds, rules, `facts`) and per_image.csv.

    Returns what results.json holds. The source's columns and these stand in per_image.csv beside the scores, which are
    means over the classes but `background` (0, or None where every class counts).
    """
    kinds = source.columns.get("kind", ())
    results = {
        "test": metrics.summarise(result.counts, background=background),
        "by_kind": metrics.by_group(result.counts, kinds, background=background) if kinds else {},
        "rules": RULES,
        **facts,
    }
    scores = metrics.per_image(result.counts, background=background)
    write_per_image(workdir / "per_image.csv", source.ids, texts={**source.columns, **columns}, scores=scores)
    write_json(workdir / "results.json", results)  # last: where it is, a run counts as finished
    return results


def summary(results: Mapping[str, Any]) -> str:
    """What `write_results` returned, in lines for people: pixels, by eight views and objects where they were scored."""
    views, objects = results.get("test_eight_views"), results.get("objects")
    images = results["test"]["images"]
    lines = [f"test ({images} images, {_of_what(results)}): {_pixels(results['test'])}"]
    if views:
        lines.append(f"by the mean of eight views (--tta): {_pixels(views)}")
    if objects:
        ap = objects["ap_pooled"]
        lines.append(
            f"objects: AP {ap['0.50']:.3f} at IoU .50 and {ap['0.75']:.3f} at .75, pooled; "
            f"{objects['predicted']:,} found, {objects['objects']:,} true"
        )
    return "\n".join(lines)


def _pixels(scores: Mapping[str, Any]) -> str:
    return (
        f"IoU {scores['iou_pooled']:.4f} pooled, {scores['iou_mean']:.4f} mean over images; "
        f"Dice {scores['dice_pooled']:.4f} pooled, {scores['dice_mean']:.4f} mean over images"
    )


def _of_what(results: Mapping[str, Any]) -> str:
    if "folds" in results:
        return f"each by the one of {len(results['folds'])} models that has not seen it"
    return f"checkpoint of epoch {results['best']['epoch']}"


def draw(
    workdir: Path, source: Source, result: Evaluation, *, title: str, classes: Sequence[str] = (),
    background: int | None = 0,
) -> Path:  # fmt: skip
    """Draw report/curves.png from metrics.jsonl, and report/examples.png of the best, median and worst images.

    With the names of more than two `classes`, every class is painted in a colour of its own.
    """
    folder = workdir / "report"
    report.curves(read_rows(workdir / "metrics.jsonl"), folder / "curves.png", title=title)
    draw_examples(
        folder, source, result.counts, result.predictions.__getitem__, title=title, classes=classes,
        background=background,
    )  # fmt: skip
    return folder


def draw_examples(
    folder: Path,
    source: Source,
    counts: np.ndarray,
    prediction: Callable[[int], np.ndarray],
    *,
    title: str,
    classes: Sequence[str] = (),
    background: int | None = 0,
) -> None:
    """Draw examples.png, of the images with the best, median and worst IoU by their counts (N, K, K)."""
    scores = metrics.per_image(counts, background=background)
    iou, dice = scores["iou"], scores["dice"]
    kinds = source.columns.get("kind", ("",) * len(source))
    items = []
    for group, chosen in report.choose_examples(np.asarray(iou)).items():
        for i in chosen:
            sample = {k: source[i][k] for k in ("image", "label", "mask", "id")}
            scores = {"iou": float(iou[i]), "dice": float(dice[i])}
            items.append({**sample, **scores, "prediction": prediction(i), "kind": kinds[i], "group": group})
    named = classes if len(classes) > 2 else ()
    report.examples(items, folder / "examples.png", title=f"{title}: test images", classes=named)
