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
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax

from experiments import train_cells
from experiments.cells_config import Target, deeper
from unet_jax import comparison, report
from unet_jax.comparison_scores import score
from unet_jax.data.named import open_named
from unet_jax.data.source import Source, digest_of, split_any
from unet_jax.degrade import SEVERITIES
from unet_jax.logs import read_rows
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
CROPS = 200  # an epoch of the learning curve, whatever the number of images
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
    label_kind: Literal["instances", "binary", "classes"] | None = None
    """As in train_cells."""
    ignore: int | None = None
    """As in train_cells."""
    models: tuple[str, ...] | None = None
    """Rows to train, by name; all that the masks can teach when not given. The table has all that were ever trained."""
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
    target: Target = "foreground"
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
    """Train what is not trained yet, and write the table anew after every row."""
    startup.check_least(config, repeats=1, patch=1, batch=1, window=1, epochs=1, minutes_each=0.01)
    source = open_named(config.data, label_kind=config.label_kind, ignore=config.ignore, say=print)
    parts, names = split_any(source), chosen_rows(config.models, source.label_kind, config.target)
    check_rows(config, names, parts["train"])
    settings = dataclasses.asdict(config) | {"images": digest_of(source.ids)}
    there = config_of(config.workdir) is not None
    check_workdir(config.workdir, settings, resume=there, may_change={"models", "repeats", "learning_curve", "workdir"})
    open_workdir(config.workdir, settings)
    for seed in range(config.repeats):
        for name in names:
            folder = config.workdir / "runs" / f"{name}-seed{seed}"
            if code := train(train_config(config, name, folder, seed=seed)):
                return code
            score(folder, parts["test"], ROWS[name][0], seed)
            write(config, parts["test"])
    draw(config, parts["test"])
    write(config, parts["test"])
    if config.learning_curve:
        if code := learning_curve(config, parts["test"]):
            return code
        write(config, parts["test"])
    print((config.workdir / "table.md").read_text(encoding="utf-8"))
    return 0


def chosen_rows(models: tuple[str, ...] | None, label_kind: str, target: str = "foreground") -> list[str]:
    """Names of the rows: those asked for, or all that masks of this kind can teach."""
    able = [n for n, (_, options) in ROWS.items() if label_kind == "instances" or "target" not in options]
    if models is None:
        if len(able) < len(ROWS):
            print(f"the masks hold {label_kind}, not objects: without the rows {', '.join(ROWS.keys() - set(able))}")
        if target not in ("auto", "foreground"):
            print(f"--target {target}: without the classifier, which says of windows whether they hold a cell")
            able.remove("classifier")
        return able
    if not models or any(name not in ROWS for name in models):
        raise ValueError(f"--models {' '.join(models)}: choose among {', '.join(ROWS)}")
    if unable := [name for name in models if name not in able]:
        raise ValueError(
            f"--models {' '.join(unable)} need masks in which every object has its own number, these are {label_kind}: "
            "leave them out, or add --label-kind instances if the numbers are objects"
        )
    return list(models)


def check_rows(config: Config, names: Sequence[str], train: Source) -> None:
    """ValueError, before hours have passed, for a row that cannot be trained."""
    for name in names:
        run = train_config(config, name, config.workdir)
        try:
            model = train_cells.compose(train_cells.choose_target(run, train.label_kind), planned_steps=1)[0]
            shape = (1, config.patch, config.patch, train.channels)
            jax.eval_shape(partial(model.init, train=False), jax.random.PRNGKey(0), jax.numpy.zeros(shape))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    for count in config.learning_curve:
        if not 1 <= count <= len(train):
            raise ValueError(f"--learning-curve {count}: choose 1 to {len(train)}, as there are training images")


def trained(config: Config, test: Source) -> list[dict[str, Any]]:
    """The finished rows in the folder, of this command or an earlier one, in the order of `ROWS`."""
    found = []
    for name in ROWS:
        paths = (config.workdir / "runs").glob(f"{name}-seed*/row.json")
        folders = {int(path.parent.name.removeprefix(f"{name}-seed")): path.parent for path in paths}
        rows = (score(folders[seed], test, ROWS[name][0], seed) for seed in sorted(folders))
        found += [row | {"recipe": RECIPE.get(name)} for row in rows]
    return found


def write(config: Config, test: Source) -> None:
    """The tables of all finished rows, with the pictures that are there."""
    pictures = {
        "The same test images under every model (seed 0)": config.workdir / "models.png",
        "Loss and test IoU by number of training images": config.workdir / "learning_curve.png",
    }
    there = {words: path for words, path in pictures.items() if path.exists()}
    rows, title = trained(config, test), f"Models on {Path(config.data).name}"
    comparison.write_tables(rows, config.workdir, title=title, notes=notes(config, rows, len(test)), pictures=there)


def train_config(config: Config, name: str, folder: Path, **changes: Any) -> train_cells.Config:
    """The options of one run."""
    names = ("data", "label_kind", "ignore", "epochs", "widths", "patch", "window", "batch", "learning_rate")
    shared = {key: getattr(config, key) for key in names}
    shared |= {"target": config.target, "max_minutes": config.minutes_each, "tta": False}
    options = {**shared, **ROWS[name][1], **changes}
    if name == "fcn" and config.widths is not None:
        options["widths"] = deeper(config.widths)
    return train_cells.resolve(train_cells.Config(workdir=folder, **options), jax.default_backend())


def train(run: train_cells.Config) -> int:
    """Train one run, or what is left of it; the exit code of train_cells."""
    if (run.workdir / "results.json").exists():
        return 0
    print(f"\n== {run.workdir.name}", flush=True)
    return train_cells.main(dataclasses.replace(run, resume=config_of(run.workdir) is not None))


def draw(config: Config, test: Source) -> None:
    """models.png, the same images under every trained model: the best, median and worst of the last one."""
    folders = {name: config.workdir / "runs" / f"{name}-seed0" for name in ROWS}
    folders = {name: folder for name, folder in folders.items() if (folder / "row.json").exists()}
    with (list(folders.values())[-1] / "per_image.csv").open(encoding="utf-8", newline="") as file:
        iou = [float(row["iou"] or "nan") for row in csv.DictReader(file)]
    chosen = [i for part in report.choose_examples(iou, each=1).values() for i in part]
    samples = [test[i] for i in chosen]
    predictions = {
        ROWS[name][0]: list(FromModel(Predictor.load(folder), num_classes=2)(samples))
        for name, folder in folders.items()
    }
    comparison.draw_models(samples, predictions, config.workdir / "models.png")


def learning_curve(config: Config, test: Source) -> int:
    """Train the U-Net on few images, with and without augmentation, and draw the curves."""
    curves: dict[int, dict[str, list]] = {}
    scores: dict[int, dict[str, dict[str, float]]] = {}
    for count in config.learning_curve:
        for name, on in (("with", True), ("without", False)):
            folder = config.workdir / "runs" / f"unet-{count}-images-{name}"
            if code := train(train_config(config, "unet", folder, augment=on, train_images=count, crops=CROPS)):
                return code
            curves.setdefault(count, {})[name] = read_rows(folder / "metrics.jsonl")
            row = score(folder, test, f"{count} images, {name}", 0)
            scores.setdefault(count, {})[name] = {"chosen": row["iou_pooled"], "last": row["iou_last"]}
            print(
                f"{count} images, {name} augmentation: test IoU {row['iou_pooled']:.3f} of the checkpoint that "
                f"validation chose, {row['iou_last']:.3f} of the last; of spoiled images {row['iou_spoiled']:.3f}"
            )
    comparison.draw_learning_curves(curves, config.workdir / "learning_curve.png", test=scores, crops=CROPS)
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
        f"IoU spoiled: pooled, the mean over five ways of spoiling the test images ({', '.join(SEVERITIES)}) at "
        "severity 3 of 5, as in evaluate --robustness; the augmentation has noise and blur too, but none so strong.",
        "Val AP: of the validation images, the mean of IoU .5 and .75, by which it was chosen how objects are "
        "separated; it compares heads fairly.",
        "Clear, touching, low contrast: share of such objects that were found (IoU ≥ 0.5); pairs apart: "
        "share of touching pairs that came out as two. Parameters and GFLOP for "
        f"one {config.patch}×{config.patch} image; images/s in training, the median over the epochs.",
        f"The classifier says of {config.window}×{config.window} windows whether they hold a cell: accuracy is the "
        "share of right verdicts, and its IoU that of the map with windows painted whole.",
        "The last column is the teaching recipe's own table, measured on other images.",
    ]


if __name__ == "__main__":
    startup.run(main, Config, description=__doc__)
