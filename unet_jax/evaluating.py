"""A source of labelled images and predictions of them in; results.json, per_image.csv and report.html out."""

import datetime
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unet_jax import evaluation_page, parallel
from unet_jax.checkpoint import provenance
from unet_jax.data.source import Source, Subset, digest_of, parts_of
from unet_jax.logs import plain, write_json, write_per_image
from unet_jax.predicted import FromFolder, FromModel
from unet_jax.prediction import Predictor
from unet_jax.robustness import measure_robustness
from unet_jax.scoring import RULES, Scores, Truth, concatenate, per_image, summarise

NOTES = {
    "binary": "The labels say what is object and what is not, but not which pixels belong to one object: every "
    "connected piece of the foreground counts as an object, so touching ones count as one.",
    "classes": "The labels hold classes: every connected piece of one class counts as an object, and objects are "
    "matched whatever their class.",
}


@dataclass(frozen=True)
class Options:
    """What was asked for, beside images and predictions."""

    data: str
    split: str = "all"
    robustness: bool = False
    seed: int = 0
    model: Path | None = None
    command: str = ""


def part_of(source: Source, split: str) -> Subset:
    """The images of a split ("all", "train", "val" or "test"); ValueError when it holds none."""
    if split == "all":
        return Subset(source, range(len(source)))
    parts = parts_of(source.ids)
    chosen = [i for i, name in enumerate(source.ids) if parts[name] == split]
    if not chosen:
        raise ValueError(f"--split {split}: none of the {len(source)} images is in it: choose another, or --split all")
    return Subset(source, chosen)


def model_or_folder(
    source: Source,
    part: Subset,
    *,
    predictor: Predictor | None,
    predictions: Path | None,
    threshold: float | None = None,
    background: int | None = 0,
) -> FromModel | FromFolder:
    """Predictions of the images of `part`, by a model, or from a folder of label images.

    Args:
        source: all images, which say how many classes there are.
        part: those to be predicted.
        predictor: the model, or None.
        predictions: folder of label images, where `predictor` is None.
        threshold: of the foreground; None takes the card's, else 0.5.
        background: 0, or None where the labels are the model's classes and none of them is the background.

    Raises:
        FileNotFoundError, ValueError: see `FromFolder`; a model of fewer classes than the labels.
    """
    known = int(getattr(source, "classes", 2)) if source.label_kind == "classes" else 2
    if predictor is None:
        return FromFolder(Path(predictions or "."), (part[i] for i in range(len(part))), num_classes=known)
    of_model = len(predictor.card["classes"]) if known > 2 else 2
    if 2 < of_model < known:
        raise ValueError(
            f"the model tells {of_model} classes apart, the labels hold {known}: score it on labels of its "
            "own classes, or give --label-kind binary with labels of one"
        )
    return FromModel(predictor, num_classes=max(of_model, 2), threshold=threshold, background=background)


def score_source(
    source: Source, predicted: FromModel | FromFolder, *, tick: Callable[[], Any] = lambda: None
) -> tuple[list[Truth], Scores]:
    """What every image is scored against, and the scores of all; ValueError names an image that cannot be scored."""
    truths, rows = [], []
    labels = predicted(source[i] for i in range(len(source)))
    for i, label in zip(range(len(source)), labels, strict=True):
        truths.append(Truth.of(source[i], source.label_kind, num_classes=predicted.num_classes))
        rows.append(_named(source.ids[i], truths[i], label, predicted.kind))
        tick()
    return truths, concatenate(rows)


def evaluate_source(
    source: Source,
    predicted: FromModel | FromFolder,
    output: Path,
    options: Options,
    *,
    tick: Callable[[], Any] = lambda: None,
) -> dict[str, Any]:
    """Score every image, and write results.json, per_image.csv, report/*.png and report.html.

    Args:
        source: N images with labels.
        predicted: gives a label image for each.
        output: folder of the results.
        options: what to measure, and what is told of it.
        tick: called after every image, 26 N times with robustness.

    Returns:
        What results.json holds.
    """
    began = time.perf_counter()
    truths, scores = score_source(source, predicted, tick=tick)
    kinds = source.columns.get("kind", ())
    classes = predicted.predictor.card["classes"] if isinstance(predicted, FromModel) else ()
    found = summarise(scores, kinds=kinds, classes=classes, background=predicted.background)
    results = {"about": about(source, predicted, options), **found}
    if options.robustness and isinstance(predicted, FromModel):
        results["robustness"] = measure_robustness(source, truths, predicted, scores, seed=options.seed, tick=tick)
    results["about"]["seconds"] = round(time.perf_counter() - began, 1)
    results["rules"] = RULES
    table = per_image(scores, background=predicted.background)
    separability = np.array([truth.cases.separability for truth in truths])
    columns = {**table, "separability": separability}
    write_per_image(output / "per_image.csv", source.ids, texts=source.columns, scores=columns)
    write_json(output / "results.json", results)  # before the pictures, so that nothing is lost with one of them
    show(output, source, truths, predicted, plain(results), table, options)
    return plain(results)


def same_training(card: Mapping[str, Any], source: Source) -> bool:
    """Whether the model's training images are those that a training on all images of `source` would have."""
    ids = (source.source if isinstance(source, Subset) else source).ids
    return card.get("train_images") == digest_of(id for id, part in parts_of(ids).items() if part == "train")


def _named(name: str, truth: Truth, label: np.ndarray, kind: str) -> Scores:
    try:
        return truth.score(label, kind)
    except ValueError as error:
        raise ValueError(f"image {name}: {error}") from error


def show(
    output: Path, source: Source, truths: list[Truth], predicted: FromModel | FromFolder, results: dict[str, Any],
    table: dict[str, np.ndarray], options: Options,
) -> None:  # fmt: skip
    """Draw the pictures and write the page."""
    folder = output / "report"
    training = options.model / "metrics.jsonl" if options.model else None
    pictures = evaluation_page.draw_charts(folder, results, training)
    examples = evaluation_page.draw_examples(folder, source, truths, predicted, table)
    if "robustness" in results:
        middle = next((e["index"] for e in examples if e["group"] == "median"), 0)
        pictures["severities"] = evaluation_page.draw_gallery(folder, source, middle, seed=options.seed)
    evaluation_page.write_page(output / "report.html", results, source, table, examples, pictures)


def about(source: Source, predicted: FromModel | FromFolder, options: Options) -> dict[str, Any]:
    """What the numbers are of, where they come from, and what must be said with them."""
    notes = [NOTES[source.label_kind]] if source.label_kind in NOTES else []
    facts: dict[str, Any] = {"name": Path(predicted.facts.get("predictions", options.model or "")).name or "model"}
    if predicted.background is None:
        notes.append(
            f"{predicted.predictor.card['classes'][0]} is a class like any other in the scores of pixels, but its "
            "pieces are no objects."
        )
    if predicted.kind == "binary":
        notes.append("The predictions hold one number only: every connected piece of theirs counts as an object.")
    if isinstance(predicted, FromModel):
        card = predicted.predictor.card
        learnt = str(card.get("config", {}).get("data", ""))
        folds = card.get("config", {}).get("folds")  # whose tests are no part of this split
        sure = same_training(card, source)
        named = Path(learnt).name == Path(options.data).name  # which another folder may be too
        if (options.split != "test" or folds) and (sure or named):
            mend = "Those are in results.json above its folder." if folds else "--split test is."
            seen = "by which it was chosen" if options.split == "val" else "that it has seen"
            notes.append(
                f"The model was trained on a part of {Path(learnt).name}, and the split {options.split} "
                f"{'holds' if sure else 'may hold'} images {seen}: these scores are not those of new images. {mend}"
            )
        other = card.get("test_images") not in (None, digest_of(source.ids))
        if options.split == "test" and other and (sure or named):
            notes.append(
                "These are not the test images of the model's training, which dealt them in another way: it may have "
                "seen some. Its scores of images that it has not seen are in results.json of its folder."
            )
        facts |= {"trained_on": learnt, "training_commit": card.get("commit", ""), "device": parallel.device_name()}
    return {
        **facts, "data": options.data, "split": options.split, "label_kind": source.label_kind, **predicted.facts,
        "background": predicted.background,
        **provenance(), "command": options.command,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(), "notes": notes,
    }  # fmt: skip
