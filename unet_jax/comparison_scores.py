"""One row of a comparison: everything that is measured of a finished run."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax

from unet_jax import comparison, metrics, scoring, targets, training
from unet_jax.data.pipeline import Normalised, eval_tiles
from unet_jax.data.source import Source
from unet_jax.evaluation import count_foreground
from unet_jax.hard_cases import APART
from unet_jax.logs import read_rows, write_json
from unet_jax.models.cost import count_flop, count_parameters
from unet_jax.predicted import FromModel
from unet_jax.prediction import Predictor
from unet_jax.robustness import spoiled_iou


def score(folder: Path, test: Source, title: str, seed: int) -> dict[str, Any]:
    """The row of a finished run, kept in its folder as row.json; one of an older version is made anew.

    Pixels are scored as the network decides them (results.json), objects as they come out separated: the threshold
    of the separation, tuned for objects, would move the IoU of one row by a hundredth and of the next by nothing.
    iou_last is that of the weights with which the training ended, whatever the validation chose.
    """
    if (folder / "row.json").exists() and (row := _read(folder / "row.json")).keys() >= {"iou_spoiled", "iou_last"}:
        return row
    predictor = Predictor.load(folder)
    samples = [test[i] for i in range(len(test))]
    labels = FromModel(predictor, num_classes=2)(samples)
    truths = (scoring.Truth.of(sample, test.label_kind) for sample in samples)
    found = scoring.concatenate([t.score(label, "instances") for t, label in zip(truths, labels, strict=True)])
    scores = scoring.summarise(found)
    seen = (sample | {"image": predictor.prepare(sample["image"])} for sample in samples)
    spoiled = spoiled_iou(test, predictor)
    results = _read(folder / "results.json")
    log, shape = read_rows(folder / "metrics.jsonl"), (*predictor.input_size, int(predictor.card["channels"]))
    trials = predictor.card.get("separation_trials", ())
    row = {
        "name": title, "seed": seed, "parameters": count_parameters(predictor.model, shape),
        "gflop": count_flop(predictor.model, shape) / 1e9, "epochs": len(log), "steps": log[-1]["step"],
        "images_per_second": comparison.rate([line["images_per_second"] for line in log[1:] or log]),
        "val_ap": max(((trial["ap50"] + trial["ap75"]) / 2 for trial in trials), default=None),
        **{name: results["test"][name] for name in ("iou_pooled", "iou_mean", "dice_pooled", "dice_mean")},
        "iou_spoiled": sum(spoiled.values()) / len(spoiled),
        "spoiled": spoiled,
        "iou_last": metrics.summarise(count_foreground(Predictor.load(folder, which="latest"), seen))["iou_pooled"],
        "ap50": scores["objects"]["ap_pooled"]["0.50"], "ap75": scores["objects"]["ap_pooled"]["0.75"],
        **{case: scores["cases"][case]["rate"] for case in ("clear", "touching", "low_contrast", APART)},
        "accuracy": accuracy(predictor, test) if predictor.card["model"]["name"] == "Classifier" else None,
        "device": results["device"],
        "commit": predictor.card["commit"],
    }  # fmt: skip
    write_json(folder / "row.json", row)
    return row


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def accuracy(predictor: Predictor, test: Source) -> float:
    """Share of the classifier's windows, those wholly within an image, whose verdict is right."""
    module, right, total = predictor.model, 0, 0
    window, patch = module.window, predictor.input_size
    apply = jax.jit(partial(module.apply, jax.device_put(dict(predictor.variables))))
    for tiles in eval_tiles(Normalised(test), patch=patch, batch=predictor.batch, margin=0):
        image, label, outside = (jax.numpy.asarray(x) for x in (tiles["image"], tiles["label"], 1 - tiles["mask"]))
        truth = targets.any_in_window(targets.foreground(label), window=window)
        whole = targets.any_in_window(outside.astype("int32"), window=window) == 0
        verdict = training.likeliest(apply(training.to_unit(image)))
        right += int(((verdict == truth) & whole).sum())
        total += int(whole.sum())
    return right / total if total else float("nan")
