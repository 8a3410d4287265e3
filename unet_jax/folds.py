"""Cross-validation: every image is once in the test of a model that has not seen it, and the scores are joined.

WORKDIR/fold0, fold1 ... are trainings like any other; WORKDIR/labels/ holds what each image's own test model predicted,
WORKDIR/results.json, per_image.csv and report/examples.png the scores of all.
"""

import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unet_jax import metrics, object_scores, outputs, processes, remote
from unet_jax.data.images import read_label
from unet_jax.data.source import Source, Subset, place_of, split_by
from unet_jax.evaluation import Evaluation
from unet_jax.logs import replacing
from unet_jax.object_scores import ObjectCounts
from unet_jax.scorecard import RULES, draw_examples, summary, write_results
from unet_jax.workdir import check_workdir, config_of, open_workdir, remembered

VALIDATION = 0.15  # share of the images that are not in a fold's test
COUNTS = "out_of_fold.npz"


def fold_of(id: str, folds: int) -> int:
    """The fold in whose test an image is, 0 to folds - 1: `place_of` it times `folds`, rounded down."""
    return int(place_of(id) * folds)


def part_of(id: str, folds: int, fold: int) -> str:
    """What an image is for the model of a fold: "test", "val" or "train", by the hash of its id alone.

    Going round from the end of the fold's own part, the first 15 % of the others are for validation.
    """
    behind = (place_of(id) * folds - fold - 1) % folds
    return "test" if fold_of(id, folds) == fold else "val" if behind < VALIDATION * (folds - 1) else "train"


def split_fold(source: Source, folds: int, fold: int) -> dict[str, Subset]:
    """The parts of a source for the model of one fold; ValueError when one is empty."""
    mend = f"or choose fewer than {folds} folds" if folds > 2 else "until no fold lacks one"
    return split_by(source, lambda id: part_of(id, folds, fold), mend=mend)


def rules(folds: int) -> dict[str, str]:
    """The rules of a score, with how the images were split."""
    words = (
        f"{folds} folds by a hash of the image's name; each is the test of the model trained on the others, of which "
        f"{VALIDATION:.0%} chose the checkpoint"
    )
    return {**RULES, "split": words}


def one_fold(folds: int | None, fold: int | Literal["all"] | None) -> int | None:
    """The fold to train, None for all; ValueError for one that cannot be."""
    fold = None if fold == "all" else fold
    if folds is None and fold is not None:
        raise ValueError(f"--fold {fold} of how many? Add --folds 5")
    if folds is not None and folds < 2:
        raise ValueError(f"--folds {folds}: give 2 or more, usually 5")
    if fold is not None and not 0 <= fold < folds:
        raise ValueError(f"--fold {fold} of {folds}: give 0 to {folds - 1}, or all")
    return fold


def run_folds(
    config: Any,
    train: Callable[[Any], int],
    *,
    open_source: Callable[[], Source],
    may_change: Collection[str],
    say: Callable[[str], None],
) -> int:
    """Train the folds that `config.fold` asks for and that are not trained yet; join the scores when all are.

    The same command, or --resume, goes on where it was stopped. `--workdir DIR/foldK --resume` does so for one fold.

    Args:
        config: dataclass with workdir, folds, fold (None for all), resume, data and model.
        train: trains a config whose fold is a number and whose workdir is its own; ends with `keep`.
        open_source: all images.
        may_change: options that may differ between the starts.
        say: takes each line for the user.

    Returns:
        The exit code: 0, or that of the training that was stopped.
    """
    root = config.workdir
    if not processes.alone() or (root / remote.NOTE).exists():
        raise ValueError(
            "--folds serves one process and a folder on its disk: start it on one host, and copy the folder"
        )
    if root.name == f"fold{config.fold}" and (config_of(root) or {}).get("fold") == config.fold:
        root = root.parent  # its options are checked with those of the fold
    else:
        settings = {**dataclasses.asdict(config), "fold": None}
        there = config_of(root) is not None
        check_workdir(root, settings, resume=there or config.resume, may_change=may_change)
        open_workdir(root, settings)
    for fold in range(config.folds) if config.fold is None else [config.fold]:
        folder = root / f"fold{fold}"
        if is_done(folder):
            say(f"fold {fold} is trained")
            continue
        say(f"\n== fold {fold} of {config.folds}")
        run = dataclasses.replace(config, workdir=folder, fold=fold, resume=config_of(folder) is not None)
        if code := train(remembered(run, budget=("epochs", "max_minutes"))):
            say(f"to go on with all folds: --workdir {root} --resume")
            return code
    if missing := [str(fold) for fold in range(config.folds) if not is_done(root / f"fold{fold}")]:
        say(f"not trained yet: fold {', '.join(missing)}; with the last one the scores are joined")
        return 0
    say("\n== all folds")
    results = join(root, open_source(), config.folds, title=f"{config.model} on {Path(config.data).name}")
    say(summary(results))
    say(f"report: {root / 'report' / 'examples.png'}, {root / 'results.json'}, {root / outputs.LABELS}")
    return 0


def is_done(folder: Path) -> bool:
    """Whether the fold in this folder is trained and scored."""
    return (folder / "results.json").exists()


def keep(
    workdir: Path, test: Source, result: Evaluation, objects: ObjectCounts | None, views: np.ndarray | None = None
) -> None:
    """Keep what joining needs of a fold: counts of its test images in WORKDIR, their label images beside it.

    `views` (N, K, K) are the counts of pixels by the mean of eight views.
    """
    for name, label in zip(test.ids, result.predictions, strict=True):
        outputs.write_label(workdir.parent / outputs.LABELS / f"{name}.tif", np.asarray(label))
    arrays = {"ids": np.array(test.ids), "pixels": result.counts, "loss": np.array(result.loss)}
    if views is not None:
        arrays["views"] = views
    if objects is not None:
        arrays |= {name: getattr(objects, name) for name in ("true", "predicted", "tp", "iou")}
    with replacing(workdir / COUNTS) as scratch, scratch.open("wb") as file:
        np.savez(file, **arrays)


def join(root: Path, source: Source, folds: int, *, title: str) -> dict[str, Any]:
    """Write the scores of all folds' tests as of one: results.json, per_image.csv, report/examples.png.

    Returns what results.json holds. Raises ValueError when the images are not those that the folds were tested on.
    """
    kept = [dict(np.load(root / f"fold{fold}" / COUNTS, allow_pickle=False)) for fold in range(folds)]
    ids = [str(name) for part in kept for name in part["ids"]]
    if sorted(ids) != sorted(source.ids):
        raise ValueError(
            f"{root}: the folds were tested on {len(ids)} images, and {len(set(source.ids) ^ set(ids))} names differ "
            f"from the {len(source)} that there are now: restore the data, or name a new --workdir"
        )
    place = {name: i for i, name in enumerate(ids)}
    order = [place[name] for name in source.ids]
    shared = set.intersection(*(set(part) for part in kept)) - {"ids", "loss"}
    columns = {name: np.concatenate([part[name] for part in kept])[order] for name in shared}
    pixels, views = columns.pop("pixels"), columns.pop("views", None)
    objects = ObjectCounts(**columns) if columns else None
    loss = math.fsum(float(part["loss"]) * len(part["ids"]) for part in kept) / len(ids)
    of_folds = [_read(root / f"fold{fold}" / "results.json") for fold in range(folds)]
    facts = {
        "test_eight_views": None if views is None else metrics.summarise(views),
        "objects": object_scores.summarise(objects) if objects else None,
        "folds": [_fold_row(fold, results) for fold, results in enumerate(of_folds)],
        "over_folds": {
            name: {"mean": statistics.fmean(values), "deviation": statistics.stdev(values)}
            for name in ("iou_pooled", "iou_mean", "dice_pooled", "dice_mean")
            for values in [[results["test"][name] for results in of_folds]]
        },
        **{name: ", ".join(sorted({str(results[name]) for results in of_folds})) for name in ("device", "commit")},
        "data": of_folds[0]["data"],
        "rules": rules(folds),
    }
    tested = {"fold": [str(fold_of(name, folds)) for name in source.ids]}
    results = write_results(root, source, Evaluation(loss, pixels, []), facts, columns=tested)
    draw_examples(
        root / "report", source, pixels, lambda i: read_label(root / outputs.LABELS / f"{source.ids[i]}.tif"),
        title=title,
    )  # fmt: skip
    return results


def _fold_row(fold: int, results: dict[str, Any]) -> dict[str, Any]:
    return {"fold": fold, **results["test"], "best": results["best"], "epochs": results["epochs"],
            "seconds": results["seconds"]}  # fmt: skip


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
