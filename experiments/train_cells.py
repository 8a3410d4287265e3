"""Train a U-Net on cells: images in, a checkpoint, scores and pictures out.

    python -m experiments.train_cells                                # made-up cells, sized for this machine
    python -m experiments.train_cells --data dsb2018                 # 670 real images, downloaded
    python -m experiments.train_cells --data FOLDER                  # your images/ and labels/ (or masks/)
    python -m experiments.train_cells --preset paper                 # the teaching recipe, for a GPU or a TPU

Expected of `--data FOLDER --max-minutes 45` on two CPU cores, FOLDER holding 530 images of BBBC038: test IoU 0.881
pooled and 0.863 as a mean, AP 0.812 at IoU .50 (2026-11-23); of no option at all: IoU 0.953 after 9 minutes. Without a
GPU so far; README.md has every measured run with its commit.
"""

from unet_jax import startup

if __name__ == "__main__":
    startup.prepare()

import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import optax
from flax import linen as nn
from jax.sharding import Mesh

from experiments.cells_config import MAY_CHANGE, MENDS, Config, choose_mesh, choose_target, resolve, together
from unet_jax import augment, losses, metrics, models, object_scores, parallel, processes, targets, training, tuning
from unet_jax.checkpoint import Checkpoints, provenance
from unet_jax.data import normalisation
from unet_jax.data.named import open_named
from unet_jax.data.pipeline import Normalised, steps_per_epoch, train_batches, visits
from unet_jax.data.source import Source, describe_split, digest_of, fewer, is_few, split_any
from unet_jax.dry_run import describe
from unet_jax.evaluation import count_foreground, evaluate, validation_row
from unet_jax.folds import keep, rules, run_folds, split_fold
from unet_jax.heads import HEADS
from unet_jax.logs import plain
from unet_jax.loop import Budget, Position
from unet_jax.model_folder import read_model
from unet_jax.models import to_spec
from unet_jax.prediction import Predictor
from unet_jax.scorecard import draw, facts_of, summary, write_results
from unet_jax.session import opened, run_training
from unet_jax.startup import say, say_device
from unet_jax.transfer import start_from
from unet_jax.workdir import check_workdir

LOSSES = {
    "dice": losses.dice,
    "bce": losses.cross_entropy,
    "focal": losses.focal,
    "dice+bce": losses.weighted_sum((1.0, losses.dice), (1.0, losses.cross_entropy)),
}
SHORT = 10  # steps


def compose(config: Config, planned_steps: int) -> tuple[nn.Module, optax.GradientTransformation, Any, Any]:
    """Model, optimiser, training step and evaluation step of this experiment: change the research here."""
    head = HEADS[config.target]
    model = build(config, classes=head.outputs(rank=2))
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(),
        training.scheduled(config.learning_rate, planned_steps, shape=config.schedule),
    )
    loss = partial(head.loss, LOSSES[config.loss])
    changes = augment.strong() if config.augment else None
    if config.model == "Classifier":
        if config.target != "foreground":
            raise ValueError("--model Classifier says cell or no cell and nothing else: add --target foreground")
        loss = partial(of_windows, loss, config.window)
    step = training.make_train_step(
        model, optimizer, loss, target=head.target, augment=changes, refine=(augment.light, config.refine),
        accumulate=config.accumulate, axis_name="data" if config.parallel == "pmap" else None,
    )  # fmt: skip
    if config.skip_nonfinite:
        step = training.skipping_nonfinite(step)
    eval_step = training.make_eval_step(model, loss, head.count, target=head.target, classify=head.classify)
    return model, optimizer, step, eval_step


def build(config: Config, classes: int) -> nn.Module:
    """The network; ValueError for an option that it does not have."""
    kind, given = models.named(config.model), dataclasses.asdict(config)
    has = {field.name for field in dataclasses.fields(kind)}
    for name in ("remat", "deep_supervision", "upsample"):
        if given[name] != getattr(Config(), name) and name not in has:
            raise ValueError(f"--{name.replace('_', '-')} does not serve the {config.model}: leave it out")
    return kind(**{name: given[name] for name in has & given.keys() if given[name] is not None}, classes=classes)


def of_windows(loss: Any, window: int, logits: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    """The loss of a classifier, whose verdict is right where its window holds an object anywhere."""
    return loss(logits, targets.any_in_window(target, window=window), mask)


def main(config: Config) -> int:
    """Run the experiment; the exit code is 0, or 128 + n when signal n stopped it (the run can be resumed)."""
    config = resolve(config, "tpu" if config.topology else jax.default_backend())
    if config.dry_run:
        return say_costs(config, choose_mesh(config))
    if config.folds is None:
        return train(config)
    return run_folds(config, train, open_source=partial(open_source, config), may_change=MAY_CHANGE, say=say)


def open_source(config: Config) -> Normalised:
    """All images, read and normalised."""
    return Normalised(open_named(config.data, label_kind=config.label_kind, ignore=config.ignore, say=say)).preload()


def train(config: Config) -> int:
    """One training, of a resolved config, and its scores."""
    mesh, patch = choose_mesh(config), (config.patch, config.patch)
    check_workdir(config.workdir, dataclasses.asdict(config), resume=config.resume, may_change=MAY_CHANGE)
    source = open_source(config)
    config = choose_target(config, source.label_kind)
    parts = split_any(source) if config.folds is None else split_fold(source, config.folds, config.fold)
    if config.train_images is not None:
        parts["train"] = fewer(parts["train"], config.train_images)
    announce(config, parts)
    if config.folds is None and is_few(source.ids):
        say(f"{len(source)} images are few: at least one is for validation and one for the test, whatever their names")
    crops = visits(parts["train"], patch=patch)
    steps = steps_per_epoch(config.crops or len(crops), config.batch)
    say(length_of_epoch(config, len(crops), steps))
    model, optimizer, step, eval_step = compose(config, config.epochs * steps)
    state = training.init_state(model, optimizer, (*patch, source.channels), seed=config.seed)
    card = make_card(config, model, source, parts)
    # The outer eighth of a tile lacks context: there its neighbour's prediction is taken.
    score = partial(
        evaluate, jax.jit(eval_step), patch=patch, batch=together(config), margin=config.patch // 8, mesh=mesh
    )
    with opened(config) as run:
        if config.init is not None and run.checkpoints.latest_step() is None:
            state, fresh = start_from(state, read_model(config.init)[0])
            say(f"starting from {config.init}" + (f"; new: {', '.join(fresh)}" if fresh else ""))
        state, position, signal = run_training(
            run,
            state,
            step=step,
            batches=partial(train_batches, crops, patch=patch, batch=config.batch, seed=config.seed),
            batch=config.batch,
            steps_per_epoch=steps,
            validate=lambda state: validation_row(score(state, parts["val"])),
            budget=Budget(config.epochs, config.max_minutes, config.patience, config.skip_nonfinite),
            card=card, mesh=mesh, resume=config.resume, say=say,
            compiled=partial(parallel.pmapped, mesh=mesh) if config.parallel == "pmap" else None,
            mends=MENDS, profile=config.workdir / "profile" if config.profile else None,
        )  # fmt: skip
        if signal is not None:
            return 128 + signal
        state, card = run.checkpoints.restore(state, which="best")
        finish(config, card, score, state, parts, position, run.checkpoints)
    return 0


def say_costs(config: Config, mesh: Mesh) -> int:
    """Compile the training step for the mesh and print what it costs; nothing is run or written."""
    channels, label_kind = 3, "instances"
    if config.data != "synthetic":  # of which nothing need be drawn
        source = open_named(config.data, label_kind=config.label_kind, ignore=config.ignore, say=say)
        channels, label_kind = source.channels, source.label_kind
    config = choose_target(config, label_kind)
    model, optimizer, step, _ = compose(config, planned_steps=1000)
    say(f"{config.topology or parallel.device_name()}, {config.dtype}")
    patch = (config.patch, config.patch)
    say(describe(model, optimizer, step, mesh, batch=config.batch, patch=patch, channels=channels))
    return 0


def announce(config: Config, parts: dict[str, Source]) -> None:
    """Say what will be trained, on what, and on which device."""
    say_device(parallel.device_name(), jax.default_backend(), preset=config.preset, target=config.target)
    say(describe_split(parts))
    say(f"workdir: {config.workdir}")
    if parts["train"].label_kind == "classes":
        say("the masks hold classes: every class but 0 is learnt as cell")


def length_of_epoch(config: Config, crops: int, steps: int) -> str:
    """What an epoch is, and what to do about one that is too short; `crops` show every training image once."""
    words = f"an epoch is {config.crops or crops} crops of {config.patch}×{config.patch}"
    if config.crops is not None:
        return f"{words}, so that every image is seen {config.crops / crops:.1f} times"
    if steps < SHORT:
        return f"{words}, {steps} steps: scoring takes much of the time; --crops 200 scores less often"
    return f"{words}; large images give several"


def make_card(config: Config, model: nn.Module, source: Normalised, parts: dict[str, Source]) -> dict[str, Any]:
    """What a checkpoint says of itself, for prediction and for the reader."""
    return {
        "model": to_spec(model),
        "channels": source.channels,
        "normalisation": normalisation.to_spec(source.how),
        "classes": ["background", "cell"],
        "head": config.target,
        "label_map": {"0": "background", "every other value": "cell"},
        "patch": [config.patch, config.patch],
        "config": plain(config),
        "train_images": digest_of(parts["train"].ids),
        "test_images": digest_of(parts["test"].ids),
        **provenance(),
    }


def finish(
    config: Config, card: dict[str, Any], score: Any, state: training.State, parts: dict[str, Source],
    position: Position, checkpoints: Checkpoints,
) -> None:  # fmt: skip
    """Choose how objects are separated on the validation split, score the test split once; results and pictures."""
    test, counts, began = parts["test"], None, time.perf_counter()
    result = score(state, test, keep_predictions=True)
    variables = parallel.on_host({"params": state.params, **state.model_state})
    if not processes.first():  # of several, which scored together
        return
    predictor = Predictor(variables, card, batch=config.batch)
    views = None
    if config.tta:
        views = count_foreground(dataclasses.replace(predictor, tta=True), (test[i] for i in range(len(test))))
    if test.label_kind == "instances":
        say("choosing how to separate objects, on the validation images")
        found = tuning.tune(predictor, parts["val"])
        checkpoints.amend(found)
        labels, counts = tuning.separate_all(predictor, test, **found["separation"])
        result = dataclasses.replace(result, predictions=labels)
    facts = {
        "test_eight_views": None if views is None else metrics.summarise(views),
        "objects": object_scores.summarise(counts) if counts else None,
        **facts_of(card, position, data=config.data, test=time.perf_counter() - began),
    }
    if config.folds is not None:
        keep(config.workdir, test, result, counts, views)
        facts["rules"] = rules(config.folds)
    results = write_results(config.workdir, test, result, facts)
    folder = draw(config.workdir, test, result, title=f"{config.model} on {Path(config.data).name}")
    say(summary(results))
    say(f"report: {folder / 'curves.png'}, {folder / 'examples.png'}, {config.workdir / 'results.json'}")


if __name__ == "__main__":
    startup.run(main, Config, description=__doc__)
