"""Train on any folder of images and class masks: roads, defects, vessels, crops, organs, streets.

    python -m experiments.train_folder --data FOLDER
    python -m experiments.train_folder --data FOLDER --classes road=1 house=2 --ignore 255
    python -m experiments.train_folder --data FOLDER --palette colours.txt --epochs 40 --patch 512
    python -m experiments.train_folder --data textures               # 32 made-up classes, some rare

FOLDER holds images/ and masks/ (or labels/, gt/ ...), paired by name: 8 or 16 bit, any number of bands, any size. What
the masks hold is looked at and said: 0/255, soft edges, numbers of classes, colours. Patch, depth, batch, loss,
sampling and length are planned from the training images, printed with the reason and kept in plan.json; an option
overrides each.

Expected of `--data textures --max-minutes 20` on two CPU cores: IoU 0.694, the mean over the 31 classes in the test
images; 0 for the worst, of which they hold 9 pixels (2026-11-23). With a GPU: not yet measured.
"""

from unet_jax import startup

if __name__ == "__main__":
    startup.prepare()

import dataclasses
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import optax

from experiments.folder_config import MAY_CHANGE, PLANNED, Config, planned_before, resolve
from unet_jax import augment, class_scores, losses, metrics, parallel, processes, remote, scorecard, training
from unet_jax.checkpoint import provenance
from unet_jax.data import Normalised, Source, Subset, normalisation, steps_per_epoch, train_batches
from unet_jax.data.class_masks import decide, legend_of, survey
from unet_jax.data.legend import Legend, open_by
from unet_jax.data.pairs import find_pairs, places
from unet_jax.data.palette import find_palette, parse_classes, parse_ignore, read_palette
from unet_jax.data.source import digest_of
from unet_jax.data.statistics import measure
from unet_jax.data.textures import TexturedPatches
from unet_jax.data.windows import Windows, scheduled_visits, share_out
from unet_jax.evaluation import evaluate, validation_row
from unet_jax.logs import plain, write_json
from unet_jax.loop import Budget, Position
from unet_jax.models import UNet, to_spec
from unet_jax.planning import Plan, describe, make_plan
from unet_jax.session import opened, run_training
from unet_jax.startup import say, say_device
from unet_jax.workdir import check_workdir

SCENE = 4  # an image of this many patches a side or more is cut into windows


def open_source(config: Config) -> tuple[Source, Legend]:
    """The images that `--data` names, with labels 0..K-1, and what the values of their masks mean."""
    if config.data == "textures":
        made_up = TexturedPatches()
        return made_up, Legend(made_up.names, tuple((k,) for k in range(len(made_up.names))))
    folder = remote.fetched(config.data)
    pairs = find_pairs(folder)
    masks = [pair.label for pair in pairs]
    palette = config.palette or next(filter(None, map(find_palette, places(folder, pairs))), None)
    given = parse_classes(config.classes) if config.classes else read_palette(palette) if palette else None
    ignore = parse_ignore(config.ignore)
    found = survey(masks, colours=bool(given) and max(given.values()) > 65_535)
    legend = legend_of(given, found, ignore=ignore) if given else decide(found, ignore=ignore)
    return open_by(legend, folder), legend


def make_losses(classes: int, *, background: int | None = 0) -> dict[str, Any]:
    """The losses by name; with many classes an image that holds none of one says nothing about its overlap."""
    overlap = {"background": background is None, "present_only": classes > 2}
    return {
        "dice+ce": losses.weighted_sum((1.0, partial(losses.dice, **overlap)), (1.0, losses.cross_entropy)),
        "tversky+focal": losses.weighted_sum(
            (1.0, partial(losses.tversky, **overlap)), (4.0, partial(losses.focal, alpha=None))
        ),
    }


def compose(
    config: Config, plan: Plan, legend: Legend, planned_steps: int
) -> tuple[UNet, optax.GradientTransformation, Any, Any]:
    """Model, optimiser, training step and evaluation step of this experiment: change the research here."""
    classes = len(legend.names)
    model = UNet(plan.widths, classes=classes, norm=config.norm, dropout=config.dropout, dtype=config.dtype)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.scale_by_adam(), training.scheduled(config.learning_rate, planned_steps)
    )
    loss = make_losses(classes, background=legend.background)[plan.loss]
    count = partial(metrics.confusion, num_classes=classes)
    changes = augment.strong() if config.augment else None
    refine = (augment.light, config.refine) if config.augment else None
    step = training.make_train_step(model, optimizer, loss, target=lambda label: label, augment=changes, refine=refine)
    eval_step = training.make_eval_step(model, loss, count, target=lambda label: label)
    return model, optimizer, step, eval_step


def prepare(config: Config) -> tuple[Plan, Legend, dict[str, Source], normalisation.Normalisation]:
    """Look at the folder, say what was found, and plan; the parts are normalised, scenes of the training part cut."""
    images, legend = open_source(config)
    source, parts, remarks = share_out(images)
    for line in (*legend.notes, *remarks):
        print(f"note: {line}")
    print(", ".join(f"{name}: {len(part)} images" for name, part in parts.items()))
    found = measure(parts["train"], legend.names, background=legend.background)
    chosen = planned_before(config) | {name: v for name in PLANNED if (v := getattr(config, name)) is not None}
    if config.max_minutes is not None and config.epochs is None:
        chosen["epochs"] = 10_000  # the minutes decide
    plan = make_plan(found, accelerator=jax.default_backend() != "cpu", **chosen)
    print("the plan, from the training images:", *describe(plan), sep="\n")
    how = normalisation.from_spec({"method": plan.normalisation})
    ready: Source = Normalised(images, how).preload()
    ready = Windows(ready, source.side) if isinstance(source, Windows) else ready
    parts = {name: Subset(ready, part.indices) for name, part in parts.items()}
    patch = (plan.patch, plan.patch)
    scenes = Windows(parts["train"], SCENE * plan.patch)
    parts["train"] = scheduled_visits(scenes, patch=patch, crops=plan.crops, balance=plan.balance)
    return plan, legend, parts, how


def main(config: Config) -> int:
    """Run the experiment; the exit code is 0, or 128 + n when signal n stopped it (the run can be resumed)."""
    config = resolve(config, jax.default_backend())
    check_workdir(config.workdir, dataclasses.asdict(config), resume=config.resume, may_change=MAY_CHANGE)
    say_device(parallel.device_name(), jax.default_backend(), workdir=config.workdir)
    plan, legend, parts, how = prepare(config)
    patch, mesh = (plan.patch, plan.patch), parallel.chosen_mesh(config.mesh, plan.batch, plan.patch)
    a_pass = steps_per_epoch(len(parts["train"]), plan.batch)
    model, optimizer, step, eval_step = compose(config, plan, legend, plan.epochs * a_pass)
    state = training.init_state(model, optimizer, (*patch, parts["val"].channels), seed=config.seed)
    # The outer eighth of a tile lacks context: there its neighbour's prediction is taken.
    score = partial(evaluate, jax.jit(eval_step), patch=patch, batch=plan.batch, margin=plan.patch // 8, mesh=mesh)

    def validate(state: training.State) -> dict[str, float]:
        return validation_row(score(state, parts["val"]), background=legend.background)

    with opened(config) as run:
        if processes.first() and not (config.workdir / "plan.json").exists():
            write_json(config.workdir / "plan.json", plan)
        state, position, signal = run_training(
            run,
            state,
            step=step,
            batches=partial(
                train_batches, parts["train"], patch=patch, batch=plan.batch, seed=config.seed, centred=plan.centred,
                background=legend.background,
            ),
            batch=plan.batch,
            steps_per_epoch=a_pass,
            validate=validate,
            budget=Budget(plan.epochs, config.max_minutes, config.patience),
            mesh=mesh, resume=config.resume, say=say,
            card=make_card(config, plan, legend, model, parts["test"], how),
        )  # fmt: skip
        if signal is not None:
            return 128 + signal
        state, card = run.checkpoints.restore(state, which="best")
        finish(config, card, score, state, legend, parts["test"], position)
    return 0


def make_card(
    config: Config, plan: Plan, legend: Legend, model: UNet, test: Source, how: normalisation.Normalisation
) -> dict[str, Any]:
    """What a checkpoint says of itself, for prediction and for the reader."""
    return {
        "model": to_spec(model),
        "channels": test.channels,
        "normalisation": normalisation.to_spec(how),
        "classes": list(legend.names),
        "label_map": plain(legend),
        "patch": [plan.patch, plan.patch],
        "plan": plain(plan),
        "config": plain(config),
        "test_images": digest_of(test.ids),
        **provenance(),
    }


def finish(
    config: Config, card: dict[str, Any], score: Any, state: training.State, legend: Legend, test: Source,
    position: Position,
) -> None:  # fmt: skip
    """Score the test split once with the best checkpoint, class by class, and write results and pictures."""
    began = time.perf_counter()
    result = score(state, test, keep_predictions=True)
    if not processes.first():  # of several, which scored together
        return
    rows = class_scores.by_class(result.counts, legend.names)
    scores = class_scores.summarise(result.counts, legend.names, background=legend.background)
    facts = {
        "test": scores,
        "classes": rows,
        "rules": {**scorecard.RULES, "classes": class_scores.RULE},
        **scorecard.facts_of(card, position, data=config.data, test=time.perf_counter() - began),
    }
    scorecard.write_results(config.workdir, test, result, facts, background=legend.background)
    title = f"U-Net on {Path(config.data).name}"
    folder = scorecard.draw(
        config.workdir, test, result, title=title, classes=legend.names, background=legend.background
    )
    print(*class_scores.table(rows), sep="\n")
    for line in class_scores.warnings_of(rows):
        print(line, file=sys.stderr if line.startswith("WARNING") else sys.stdout)
    worst = scores["worst_class"]
    print(
        f"test ({scores['images']} images, checkpoint of epoch {card['position']['epoch']}): IoU "
        f"{scores['iou_pooled']:.4f}, Dice {scores['dice_pooled']:.4f}, pooled and meaned over classes; "
        + (f"worst class {worst} {scores['worst_iou']:.4f}" if worst else "no foreground in the truth of these images")
        + f"; means over images {scores['iou_mean']:.4f}, {scores['dice_mean']:.4f}"
    )
    print(f"report: {folder / 'curves.png'}, {folder / 'examples.png'}, {config.workdir / 'results.json'}")


if __name__ == "__main__":
    startup.run(main, Config, description=__doc__)
