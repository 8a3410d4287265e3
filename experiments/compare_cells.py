"""Train every architecture on the same cells with the same budget, and set their scores side by side.

    python -m experiments.compare_cells --data FOLDER --workdir DIR          # every model, this machine's preset
    python -m experiments.compare_cells --data FOLDER --workdir DIR --models unet unetpp --minutes-each 20 --repeats 3
    python -m experiments.compare_cells --data FOLDER --workdir DIR --models unet --learning-curve 16 64 256

Writes table.md, table.csv, table.html and models.png (and learning_curve.png) into DIR. The same command again goes on
where it was stopped: a finished run is not trained again. Measured tables, with their commands, stand in README.md.
"""

from unet_jax import startup

if __name__ == "__main__":
    startup.prepare()

import csv
import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import jax

from experiments import train_cells
from unet_jax import comparison, report, scoring, targets, training
from unet_jax.data.named import open_named
from unet_jax.data.pipeline import Normalised, eval_tiles
from unet_jax.data.source import Source, split
from unet_jax.hard_cases import APART
from unet_jax.logs import read_rows, write_json
from unet_jax.models.cost import count_flop, count_parameters
from unet_jax.predicted import FromModel
from unet_jax.prediction import Predictor
from unet_jax.workdir import check_workdir, config_of, open_workdir

ROWS: dict[str, tuple[str, dict[str, Any]]] = {  # what --models names: title, options of train_cells
    "classifier": ("CNN classifier, sliding", {"model": "Classifier"}),
    "fcn": ("FCN", {"model": "FCN"}),
    "unet-plain": ("U-Net, no augmentation", {"model": "UNet", "augment": False}),
    "unet": ("U-Net", {"model": "UNet"}),
    "unetpp": ("UNet++", {"model": "UNetPP"}),
    "attention": ("Attention U-Net", {"model": "AttentionUNet"}),
    "resunet": ("ResUNet", {"model": "ResUNet"}),
    "transunet": ("TransUNet", {"model": "TransUNet"}),
    "unetr": ("UNETR", {"model": "UNETR"}),
    "border": ("U-Net, border head", {"model": "UNet", "target": "border"}),
    "distance": ("U-Net, distance head", {"model": "UNet", "target": "distance"}),
    "flow": ("U-Net, flow head", {"model": "UNet", "target": "flow"}),
}
FEW = 200  # crops an epoch of the learning curve, whatever the number of images
RECIPE = {  # what the teaching recipe gives, on its own images
    "classifier": "accuracy 78 %", "fcn": "IoU 0.65", "unet-plain": "IoU 0.87, Dice 0.91", "unet": "IoU 0.92",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """What to compare. Everything else is as in train_cells, whose preset for this machine serves all rows."""

    workdir: Path
    """Folder of the comparison."""
    data: str = "synthetic"
    """As in train_cells: synthetic, dsb2018, or a folder of your own."""
    models: tuple[str, ...] = tuple(ROWS)
    """Rows of the table, in this order."""
    minutes_each: float | None = None
    """Minutes of training for each run."""
    epochs: int | None = None
    """Epochs, and so steps, of each run; with --minutes-each, at most."""
    repeats: int = 1
    """Runs of each row, with the seeds 0, 1, ...; the table gives mean and standard deviation."""
    learning_curve: tuple[int, ...] = ()
    """Train the U-Net also on so many images only, with and without augmentation, and draw how it learnt."""
    widths: tuple[int, ...] | None = None
    """Filters of each level, the preset's when not given; the FCN has one more down-sampling, as in its paper."""
    target: str = "foreground"
    """What the rows learn that name no head; foreground, as in the recipe, is all that the classifier can say."""
    patch: int = 256
    """Side of the training crop in pixels."""
    window: int = 32
    """Side in pixels of what the classifier gives one verdict on."""
    batch: int = 8
    """Images a step."""
    learning_rate: float | None = None
    """Adam's step size at its highest, of all rows; the preset's when not given."""


def main(config: Config) -> int:
    """Train what is not trained yet, and write the table."""
    if not config.models or any(name not in ROWS for name in config.models):
        raise ValueError(f"--models {' '.join(config.models)}: choose among {', '.join(ROWS)}")
    startup.check_least(config, repeats=1, patch=1, batch=1, window=1, epochs=1, minutes_each=0.01)
    settings, there = dataclasses.asdict(config), config_of(config.workdir) is not None
    check_workdir(config.workdir, settings, resume=there, may_change={"models", "repeats", "learning_curve", "workdir"})
    open_workdir(config.workdir, settings)
    test = split(open_named(config.data, say=print))["test"]
    rows = []
    for seed in range(config.repeats):
        for name in config.models:
            folder = config.workdir / "runs" / f"{name}-seed{seed}"
            if code := train(train_config(config, name, folder, seed=seed)):
                return code
            rows.append({**score(folder, test, ROWS[name][0], seed), "recipe": RECIPE.get(name)})
    pictures = {"The same test images under every model (seed 0)": draw(config, test)}
    if config.learning_curve:
        if code := learning_curve(config, test):
            return code
        pictures["Loss and test IoU by number of training images"] = config.workdir / "learning_curve.png"
    title = f"Models on {Path(config.data).name}"
    comparison.write_tables(rows, config.workdir, title=title, notes=notes(config, rows, len(test)), pictures=pictures)
    print((config.workdir / "table.md").read_text(encoding="utf-8"))
    return 0


def train_config(config: Config, name: str, folder: Path, **changes: Any) -> train_cells.Config:
    """The options of one run."""
    shared = {k: getattr(config, k) for k in ("data", "epochs", "widths", "patch", "window", "batch", "learning_rate")}
    shared |= {"target": config.target, "max_minutes": config.minutes_each, "tta": False}
    options = {**shared, **ROWS[name][1], **changes}
    run = train_cells.resolve(train_cells.Config(workdir=folder, **options), jax.default_backend())
    if run.model == "FCN":
        run = dataclasses.replace(run, widths=(*run.widths[:-1], *run.widths[-2:]))
    return run


def train(run: train_cells.Config) -> int:
    """Train one run, or what is left of it; the exit code of train_cells."""
    if (run.workdir / "results.json").exists():
        return 0
    print(f"\n== {run.workdir.name}", flush=True)
    return train_cells.main(dataclasses.replace(run, resume=config_of(run.workdir) is not None))


def score(folder: Path, test: Source, title: str, seed: int) -> dict[str, Any]:
    """The row of a finished run, kept in its folder as row.json."""
    if (folder / "row.json").exists():
        return json.loads((folder / "row.json").read_text(encoding="utf-8"))
    predictor = Predictor.load(folder)
    samples = [test[i] for i in range(len(test))]
    labels = FromModel(predictor, num_classes=2)(samples)
    truths = (scoring.Truth.of(sample, test.label_kind) for sample in samples)
    found = scoring.concatenate([t.score(label, "instances") for t, label in zip(truths, labels, strict=True)])
    scores = scoring.summarise(found)
    log, shape = read_rows(folder / "metrics.jsonl"), (*predictor.input_size, int(predictor.card["channels"]))
    row = {
        "name": title, "seed": seed, "parameters": count_parameters(predictor.model, shape),
        "gflop": count_flop(predictor.model, shape) / 1e9, "epochs": len(log), "steps": log[-1]["step"],
        "images_per_second": comparison.rate([line["images_per_second"] for line in log[1:] or log]),
        **{k: scores["pixels"][k] for k in ("iou_pooled", "iou_mean", "dice_pooled", "dice_mean")},
        "ap50": scores["objects"]["ap_pooled"]["0.50"], "ap75": scores["objects"]["ap_pooled"]["0.75"],
        **{case: scores["cases"][case]["rate"] for case in ("clear", "touching", "low_contrast", APART)},
        "accuracy": accuracy(predictor, test) if predictor.card["model"]["name"] == "Classifier" else None,
        "device": json.loads((folder / "results.json").read_text(encoding="utf-8"))["device"],
        "commit": predictor.card["commit"],
    }  # fmt: skip
    write_json(folder / "row.json", row)
    return row


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


def draw(config: Config, test: Source) -> Path:
    """The picture of the same images under every model: the best, median and worst of the last one."""

    def folder(name: str) -> Path:
        return config.workdir / "runs" / f"{name}-seed0"

    with (folder(config.models[-1]) / "per_image.csv").open(encoding="utf-8", newline="") as file:
        iou = [float(row["iou"]) for row in csv.DictReader(file)]
    chosen = [i for part in report.choose_examples(iou, each=1).values() for i in part]
    samples = [test[i] for i in chosen]
    predictions = {
        ROWS[name][0]: list(FromModel(Predictor.load(folder(name)), num_classes=2)(samples)) for name in config.models
    }
    path = config.workdir / "models.png"
    comparison.draw_models(samples, predictions, path)
    return path


def learning_curve(config: Config, test: Source) -> int:
    """Train the U-Net on few images, with and without augmentation, and draw the curves."""
    curves: dict[int, dict[str, list]] = {}
    scores: dict[int, dict[str, float]] = {}
    for count in config.learning_curve:
        for name, on in (("with", True), ("without", False)):
            folder = config.workdir / "runs" / f"unet-{count}-images-{name}"
            if code := train(train_config(config, "unet", folder, augment=on, train_images=count, crops=FEW)):
                return code
            curves.setdefault(count, {})[name] = read_rows(folder / "metrics.jsonl")
            scores.setdefault(count, {})[name] = score(folder, test, f"{count} images, {name}", 0)["iou_pooled"]
    comparison.draw_learning_curves(curves, config.workdir / "learning_curve.png", test=scores, crops=FEW)
    return 0


def notes(config: Config, rows: list[dict[str, Any]], images: int) -> list[str]:
    """What must be said with the numbers."""
    minutes = train_config(config, "unet", config.workdir).max_minutes
    budget = f"{minutes:g} minutes" if minutes else f"{rows[0]['steps']} steps"
    devices, commits = (", ".join(sorted({str(row[key]) for row in rows})) for key in ("device", "commit"))
    return [
        f"{images} test images, the same for all rows, as are the training images and the seeds; {budget} of training "
        f"a run on {devices}; commit {commits}; target: {config.target} unless the row names a head; with augmentation "
        "unless the row denies it.",
        "Clear, touching, low contrast: share of such objects that were found (IoU ≥ 0.5); pairs apart: "
        "share of touching pairs that came out as two. Parameters and GFLOP for "
        f"one {config.patch}×{config.patch} image; images/s in training, the median over the epochs.",
        f"The classifier says of {config.window}×{config.window} windows whether they hold a cell: accuracy is the "
        "share of right verdicts, and its IoU that of the map with every window painted whole.",
        "The last column is the teaching recipe's own table, measured on other images.",
    ]


if __name__ == "__main__":
    startup.run(main, Config, description=__doc__)
