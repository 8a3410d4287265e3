"""The original paper as it was: unpadded U-Net on 30 slices of electron microscopy, scored as the challenge was.

    python -m experiments.train_isbi2012 --data FOLDER                     # sized for this machine
    python -m experiments.train_isbi2012 --data FOLDER --preset paper      # 64 to 1024 filters, for a GPU

FOLDER holds images/NN.png and labels/NN.png of the ISBI 2012 challenge: 512×512 grey, mask 255 inside a cell and 0 on
the membranes. Slices 0 to 23 are for training (of which the last two choose the checkpoint), 24 to 29 are scored:
V_rand and V_info after thinning, and the pixel error.

Expected of `--max-minutes 38` on two CPU cores: V_rand 0.956, V_info 0.975, pixel error 0.102 (2026-11-23). The network
of the paper, on a GPU: not yet measured.

As in the paper (Ronneberger et al. 2015): 572 pixels in, 388 out, and mirrored beyond the image's edge; momentum 0.99;
cross-entropy with class weights and border weights (w0 = 10, sigma = 5); elastic deformation from a 3×3 grid of
10 pixels; the mean over the image and its seven rotated and flipped versions. The preset for a CPU is narrower and has
batch normalisation.
"""

from unet_jax import startup

if __name__ == "__main__":
    startup.prepare()

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from unet_jax import augment, losses, metrics, parallel, processes, remote, report, targets, training
from unet_jax.checkpoint import provenance
from unet_jax.data import FolderSource, Normalised, Source, Subset, normalisation, steps_per_epoch, train_batches
from unet_jax.logs import plain, read_rows, write_json
from unet_jax.loop import Budget, Position
from unet_jax.membranes import Framed, membrane_counts, validator
from unet_jax.models import UNet, to_spec
from unet_jax.models.unet import margin, output_size
from unet_jax.partition_scores import choose_threshold, regions, score_stack
from unet_jax.prediction import Predictor
from unet_jax.scorecard import facts_of
from unet_jax.session import opened, run_training
from unet_jax.startup import say, say_device
from unet_jax.workdir import check_workdir, new_workdir, remembered, with_preset


@dataclasses.dataclass(frozen=True)
class Config:
    """What to train, on what, for how long. Fields left at None take the preset's value."""

    data: Path | None = None
    """Folder with images/ and labels/ of the challenge's training stack."""
    preset: Literal["auto", "small", "paper"] = "auto"
    """small: for a CPU; paper: the network of 2015, for an accelerator; auto: what this machine can carry."""
    workdir: Path | None = None
    """Folder of the run; runs/isbi2012-DATE-TIME when not given."""
    resume: bool = False
    """Go on with the run in --workdir, from its last checkpoint and with its options."""
    train_slices: int = 24
    """The first so many slices are for training, the others are scored."""
    held_back: int = 2
    """The last so many of the training slices choose the checkpoint, and are not trained on."""
    epochs: int | None = None
    """Passes over the training crops, at most."""
    max_minutes: float | None = None
    """Minutes of training and validation, at most; the learning rate comes down to zero when they end."""
    crops: int = 4
    """Crops of each slice in an epoch: 388² of 512² pixels are seen in each."""
    batch: int | None = None
    """Tiles a step: the paper's 1, or one for each of two cores."""
    tile: int = 572
    """Side of the network's input in pixels; 92 on each side give no output with four levels."""
    widths: tuple[int, ...] | None = None
    """Filters of each level, the last at the bottom."""
    norm: Literal["none", "batch", "group"] | None = None
    """Normalisation after every convolution; the paper has none."""
    dropout: float | None = None
    """Share of features dropped at the two deepest levels."""
    learning_rate: float | None = None
    """Step size at its highest; the momentum makes it a hundred times as much in a steady direction."""
    momentum: float = 0.99
    """The paper's, so that many earlier tiles decide each step of a batch of one."""
    w0: float = 10.0
    """Weight of the narrowest gap between two cells."""
    sigma: float = 5.0
    """How broad a gap still weighs more, in pixels."""
    elastic_sigma: float = 10.0
    """Displacement at each of 3×3 grid points, standard deviation in pixels."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Arithmetic of the network; parameters, logits and losses stay float32."""
    mesh: str | None = None
    """data=N,space=M: N devices share the batch, M each image; all that divide the batch when not given."""
    seed: int = 0
    """Decides the weights, the order of the crops and every random change of them."""


PRESETS: dict[str, dict[str, Any]] = {
    "small": {
        "epochs": 1000, "max_minutes": 60.0, "batch": 2, "widths": (16, 32, 64, 128, 256), "norm": "batch",
        "dropout": 0.0, "learning_rate": 5e-3, "dtype": "float32",
    },
    "paper": {
        "epochs": 300, "max_minutes": None, "batch": 1, "widths": (64, 128, 256, 512, 1024), "norm": "none",
        "dropout": 0.5, "learning_rate": 1e-3, "dtype": "bfloat16",
    },
}  # fmt: skip
BUDGET = ("epochs", "max_minutes")
MAY_CHANGE = {*BUDGET, "learning_rate", "workdir", "resume", "mesh"}
CLASSES = ["membrane", "inside"]


def resolve(config: Config, backend: str) -> Config:
    """The config with every field filled in; ValueError for impossible values."""
    config = remembered(config, budget=BUDGET)
    if config.data is None:
        raise ValueError("--data is missing: name the folder that holds images/ and labels/ of the ISBI 2012 stack")
    preset = config.preset if config.preset != "auto" else ("small" if backend == "cpu" else "paper")
    workdir = config.workdir or new_workdir("isbi2012")
    config = dataclasses.replace(with_preset(config, PRESETS[preset]), preset=preset, workdir=workdir)
    startup.check_least(config, epochs=1, batch=1, crops=1, seed=0, held_back=1, learning_rate=1e-9, max_minutes=0.01)
    output_size((config.tile, config.tile), config.widths, "VALID")
    return config


def open_stack(config: Config) -> dict[str, Subset]:
    """The slices to train on, those that choose the checkpoint, and those to score, in the files' order."""
    source = Normalised(FolderSource(remote.fetched(config.data), label_kind="binary").preload())
    last, first_scored = config.train_slices - config.held_back, config.train_slices
    if not 0 < last < first_scored < len(source):
        raise ValueError(
            f"--train-slices {first_scored}, --held-back {config.held_back} of {len(source)} slices: leave at least "
            "one slice to train on, and one to score"
        )
    parts = {"train": range(last), "val": range(last, first_scored), "test": range(first_scored, len(source))}
    return {name: Subset(source, rows) for name, rows in parts.items()}


def compose(
    config: Config, class_weights: tuple[float, ...], planned_steps: int
) -> tuple[UNet, optax.GradientTransformation, Any]:
    """Model, optimiser and training step of the paper."""
    model = UNet(config.widths, norm=config.norm, dropout=config.dropout, padding="VALID", dtype=config.dtype)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.trace(decay=config.momentum),
        training.scheduled(config.learning_rate, planned_steps),
    )
    bend = partial(augment.warp, rotation=15.0, elastic_sigma=config.elastic_sigma, elastic_grid=3)
    changes = augment.chain(augment.light, bend, augment.brightness, augment.contrast, augment.gamma)

    def loss(logits: jax.Array, pieces: jax.Array, mask: jax.Array) -> jax.Array:
        inside = targets.foreground(pieces)
        weight = jnp.asarray(class_weights)[inside] + targets.weight_map(pieces, w0=config.w0, sigma=config.sigma) - 1
        return losses.cross_entropy(logits, inside, mask, weight=weight)

    step = training.make_train_step(model, optimizer, loss, target=lambda pieces: pieces, augment=changes)
    return model, optimizer, step


def main(config: Config) -> int:
    """Run the experiment; the exit code is 0, or 128 + n when signal n stopped it (the run can be resumed)."""
    config = resolve(config, jax.default_backend())
    check_workdir(config.workdir, dataclasses.asdict(config), resume=config.resume, may_change=MAY_CHANGE)
    parts = open_stack(config)
    framed = Framed(parts["train"], margin(config.widths))
    crops = Subset(framed, np.repeat(np.arange(len(framed)), config.crops).tolist())
    a_pass = steps_per_epoch(len(crops), config.batch)
    model, optimizer, step = compose(config, framed.class_weights, config.epochs * a_pass)
    state = training.init_state(model, optimizer, (config.tile, config.tile, framed.channels), seed=config.seed)
    mesh = parallel.chosen_mesh(config.mesh, config.batch, config.tile)
    say_device(parallel.device_name(), jax.default_backend(), preset=config.preset, workdir=config.workdir)
    print(", ".join(f"{name}: {len(part)} slices" for name, part in parts.items()))
    card = {
        "model": to_spec(model),
        "channels": framed.channels,
        "normalisation": normalisation.to_spec(framed.how),
        "classes": CLASSES,
        "label_map": {"0": "membrane", "every other value": "inside"},
        "patch": [config.tile, config.tile],
        "config": plain(config),
        **provenance(),
    }
    with opened(config) as run:
        _, position, signal = run_training(
            run,
            state,
            step=step,
            batches=partial(
                train_batches, crops, patch=(config.tile, config.tile), batch=config.batch, seed=config.seed
            ),
            batch=config.batch,
            steps_per_epoch=a_pass,
            validate=validator(model, parts["val"], tile=(config.tile, config.tile), batch=config.batch),
            budget=Budget(config.epochs, config.max_minutes),
            card=card, mesh=mesh, resume=config.resume, say=say,
        )  # fmt: skip
        if signal is not None:
            return 128 + signal
        run.checkpoints.wait()
        if processes.first():
            finish(config, parts, position)
    return 0


def finish(config: Config, parts: dict[str, Subset], position: Position) -> None:
    """Score the last slices once with the best checkpoint, mean of eight views, and write results and pictures."""
    predictor = Predictor.load(config.workdir, batch=8, tta=True)
    truths, inside = {}, {}
    for name, part in parts.items():
        samples = [part[i] for i in range(len(part))]
        truths[name] = [sample["label"] > 0 for sample in samples]
        inside[name] = [found.foreground for found in predictor.run(sample["image"] for sample in samples)]
    # The few slices held back say too little: one hole in a membrane moves their score by a tenth.
    known = score_stack(truths["train"] + truths["val"], inside["train"] + inside["val"])
    rows, chosen = score_stack(truths["test"], inside["test"]), choose_threshold(known)
    scores = next(row for row in rows if row["threshold"] == chosen)
    best = {name: max(row[name] for row in rows) for name in ("v_rand", "v_info")}
    card = predictor.card
    results = {
        "test": {"slices": len(parts["test"]), **scores},
        "challenge_rule": best,
        "by_threshold": rows,
        "rules": {
            "threshold": "amid the best V_rand on all slices that are not scored, those of the training included",
            "challenge_rule": "the best over the thresholds, chosen on the scored slices, as the challenge did",
        },
        **facts_of(card, position, data=str(config.data)),
    }
    write_json(config.workdir / "results.json", results)
    draw(config.workdir, parts["test"], [p >= chosen for p in inside["test"]])
    print(
        f"test ({len(parts['test'])} slices, threshold {chosen}): V_rand {scores['v_rand']:.4f}, V_info "
        f"{scores['v_info']:.4f}, pixel error {scores['pixel_error']:.4f}; by the challenge's rule V_rand "
        f"{best['v_rand']:.4f}, V_info {best['v_info']:.4f}"
    )
    print(f"report: {config.workdir / 'report'}, {config.workdir / 'results.json'}")


def draw(workdir: Path, source: Source, maps: list[np.ndarray]) -> None:
    """Draw the curves, and the pieces of every scored slice beside the truth."""
    report.curves(read_rows(workdir / "metrics.jsonl"), workdir / "report" / "curves.png", title="U-Net of 2015")
    counts = np.stack([membrane_counts(source[i]["label"] > 0, maps[i]) for i in range(len(source))])
    iou, dice = (score(counts)[:, 1] for score in (metrics.iou, metrics.dice))
    items = [
        {
            "image": source[i]["image"], "id": source[i]["id"], "group": group, "iou": iou[i], "dice": dice[i],
            "label": regions(source[i]["label"] > 0, thin=False), "prediction": regions(maps[i], thin=False),
        }
        for group, rows in report.choose_examples(iou).items()
        for i in rows
    ]  # fmt: skip
    report.examples(items, workdir / "report" / "examples.png", title="Scored slices (IoU and Dice of the membranes)")


if __name__ == "__main__":
    startup.run(main, Config, description=__doc__)
