"""Train a 3-D U-Net on brain tumours in MRI: four modalities in, three overlapping regions out.

    python -m experiments.train_brain_tumour                              # made-up heads, to see it work
    python -m experiments.train_brain_tumour --data FOLDER                # Medical Segmentation Decathlon, or BraTS
    python -m experiments.train_brain_tumour --data FOLDER --max-minutes 60 --test-cases BRATS_119

FOLDER holds dataset.json, imagesTr/ and labelsTr/ (the Decathlon's Task01_BrainTumour; also one file a modality, as
nnU-Net has it), or a folder a case with CASE_flair, _t1, _t1ce, _t2 and _seg (BraTS). Whole tumour, core and enhancing
tumour are sigmoid outputs of their own; --outputs classes learns oedema, non-enhancing and enhancing tumour apart.

Expected of `--max-minutes 45 --centred 0.67 --crops 60 --test-cases BRATS_119` on two CPU cores, FOLDER holding two
cropped cases of the Decathlon: mean Dice 0.947 on the case that was trained on, 0.567 on the other, which one head
cannot teach; 2.8 s a case (2026-11-23). With a GPU: not yet measured.
"""

from unet_jax import startup

if __name__ == "__main__":
    startup.prepare()

import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from experiments.brain_config import MAY_CHANGE, PRESETS, Config, resolve
from unet_jax import augment, losses, memory, metrics, parallel, processes, regions, remote, report, surface, training
from unet_jax.checkpoint import provenance
from unet_jax.data import normalisation
from unet_jax.data.phantom import write_phantoms
from unet_jax.data.pipeline import steps_per_epoch, train_batches
from unet_jax.data.source import Subset
from unet_jax.data.volume_folders import find_cases
from unet_jax.data.volume_source import VolumeSource, share_cases
from unet_jax.evaluation import evaluate
from unet_jax.logs import plain, read_rows, write_json
from unet_jax.loop import Budget, Position
from unet_jax.models import UNet, to_spec
from unet_jax.scorecard import facts_of
from unet_jax.session import opened, run_training
from unet_jax.startup import say, say_device
from unet_jax.volume_evaluation import evaluate_cases
from unet_jax.volume_planning import VolumePlan, plan_volumes
from unet_jax.volume_prediction import VolumePredictor
from unet_jax.workdir import check_workdir


def open_source(config: Config) -> VolumeSource:
    """The cases that `--data` names, read and checked."""
    folder = remote.fetched(config.data)
    if config.data == "phantom":
        print("Made-up heads: six phantoms with a tumour of known regions. For real ones: --data FOLDER")
        folder = startup.cache_dir() / "phantoms"
        processes.in_turn(lambda: (folder / "dataset.json").exists() or write_phantoms(folder, 6))
    source = VolumeSource(find_cases(folder, ignore=config.ignore), spacing=config.spacing)
    if config.outputs == "regions":
        try:
            regions.own_classes(tuple(source.layout.regions.values()))
        except ValueError as error:  # only a dataset.json may give regions of its own
            raise ValueError(f"{folder / 'dataset.json'}: {error} (--outputs classes)") from error
    if source.spacing is not None:
        say(f"resampled to {'×'.join(f'{mm:g}' for mm in source.spacing)} mm; labels are written back as the files lie")
    return source.preload()


def make_plan(config: Config, source: VolumeSource) -> VolumePlan:
    """Patch and strides for the median case: no longer than it is, halved where it is thick enough."""
    size = np.median([source[i]["label"].shape for i in range(len(source))], axis=0).tolist()
    most = PRESETS[config.preset]["patch"]
    return plan_volumes(size, source.voxel, depth=len(config.widths) - 1, most=most, patch=config.patch)


def compose(
    config: Config, members: regions.Regions, source: VolumeSource, plan: VolumePlan, planned_steps: int
) -> tuple[UNet, optax.GradientTransformation, Any, Any]:
    """Model, optimiser, training step and evaluation step of this experiment: change the research here."""
    if config.outputs == "regions":
        both = losses.weighted_sum((1.0, losses.dice), (1.0, losses.cross_entropy))
        outputs, loss, decide = len(members), regions.region_loss(both, members), regions.decide(members)
        entropy = regions.region_loss(losses.cross_entropy, members)
    else:
        overlap = partial(losses.dice, background=False)
        outputs, decide, entropy = len(source.layout.classes), regions.exclusive, losses.cross_entropy
        loss = losses.weighted_sum((1.0, overlap), (1.0, losses.cross_entropy))
    model = UNet(config.widths, outputs, config.norm, config.dropout, dtype=config.dtype, strides=plan.strides)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(),
        training.scheduled(config.learning_rate, planned_steps),
    )
    # A thin patch is turned less out of its plane: what comes in from beyond its faces is only mirrored.
    side = [n * mm for n, mm in zip(plan.patch, source.voxel, strict=True)]
    tilt = 30.0 * min(side) / max(side)
    changes = augment.volume(rotation=(tilt, tilt, 30.0), spacing=source.voxel) if config.augment else None
    count = partial(regions.count_regions, decide=decide, regions=members)
    refine = (augment.flips, config.refine) if config.augment else None
    step = training.make_train_step(model, optimizer, loss, target=same, augment=changes, refine=refine)
    # Most tiles of a head hold no tumour, and have a Dice loss near 1 for a few faint voxels: `validate` adds that of
    # the decided regions, pooled over the cases.
    eval_step = training.make_eval_step(model, entropy, count, target=same, classify=decide)
    return model, optimizer, step, eval_step


def same(label: jax.Array) -> jax.Array:
    """The classes themselves are learnt."""
    return label


def main(config: Config) -> int:
    """Run the experiment; the exit code is 0, or 128 + n when signal n stopped it (the run can be resumed)."""
    config = resolve(config, jax.default_backend())
    check_workdir(config.workdir, dataclasses.asdict(config), resume=config.resume, may_change=MAY_CHANGE)
    source = open_source(config)
    parts = share_cases(source, test=config.test_cases, val=config.val_cases)
    plan = make_plan(config, source)
    announce(config, parts, plan)
    members, patch = tuple(source.layout.regions.values()), plan.patch
    crops = Subset(parts["train"], list(range(len(parts["train"]))) * math.ceil(config.crops / len(parts["train"])))
    a_pass = steps_per_epoch(len(crops), config.batch)
    model, optimizer, step, eval_step = compose(config, members, source, plan, config.epochs * a_pass)
    state = training.init_state(model, optimizer, (*patch, source.channels), seed=config.seed)
    mesh = parallel.chosen_mesh(config.mesh, config.batch, patch[0])
    # The outer eighth of a tile lacks context: there its neighbour's prediction is taken.
    margin = [n // 8 for n in patch]
    score = partial(evaluate, jax.jit(eval_step), patch=patch, batch=config.batch, margin=margin, mesh=mesh)

    def validate(state: training.State) -> dict[str, float]:
        result = score(state, parts["val"])
        pooled = result.counts.sum(axis=0)  # (R, 2, 2)
        dice, iou = (ratio(pooled)[:, 1] for ratio in (metrics.dice, metrics.iou))
        by_region = {f"val_{name}": float(d) for name, d in zip(source.layout.regions, dice, strict=True)}
        loss = result.loss + 1 - float(dice.mean())
        return {"val_loss": loss, "val_iou": float(iou.mean()), "val_dice": float(dice.mean()), **by_region}

    with opened(config) as run:
        if processes.first():
            write_json(run.workdir / "plan.json", plan)
        _, position, signal = run_training(
            run,
            state,
            step=step,
            batches=partial(
                train_batches, crops, patch=patch, batch=config.batch, seed=config.seed, centred=config.centred
            ),
            batch=config.batch,
            steps_per_epoch=a_pass,
            validate=validate,
            budget=Budget(config.epochs, config.max_minutes),
            card=make_card(config, model, source, patch), mesh=mesh, resume=config.resume, say=say,
        )  # fmt: skip
        if signal is not None:
            return 128 + signal
        run.checkpoints.wait()
        if processes.first():
            finish(config, source, parts, position)
    return 0


def announce(config: Config, parts: dict[str, Subset], plan: VolumePlan) -> None:
    """Say what will be trained, on what, and on which device."""
    say_device(parallel.device_name(), jax.default_backend(), preset=config.preset, workdir=config.workdir)
    for name, part in parts.items():
        print(f"{name:>5}: {len(part)} cases ({', '.join(part.ids[:8])}{' …' if len(part) > 8 else ''})")
    if set(parts["val"].ids) <= set(parts["train"].ids):
        print("too few cases to keep some for validation: a training case chooses the checkpoint, which flatters it")
    print(*plan.lines(), f"{config.centred:.0%} of the crops lie around the tumour", sep="\n")


def make_card(config: Config, model: UNet, source: VolumeSource, patch: tuple[int, ...]) -> dict[str, Any]:
    """What a checkpoint says of itself, for prediction and for the reader."""
    layout = source.layout
    return {
        "model": to_spec(model),
        "channels": source.channels,
        "modalities": layout.channels,
        "normalisation": normalisation.to_spec(source.normalise),
        "orientation": "RAS",
        "spacing": source.spacing,
        "classes": layout.classes,
        "label_map": {str(value): layout.classes[number] for value, number in layout.values.items()},
        "outputs": config.outputs,
        "regions": regions.to_spec(layout.regions),
        "patch": list(patch),
        "config": plain(config),
        **provenance(),
    }


def finish(config: Config, source: VolumeSource, parts: dict[str, Subset], position: Position) -> None:
    """Score the test cases once, and a training case, with the best checkpoint; labels, pictures, results."""
    predictor = VolumePredictor.load(config.workdir, overlap=config.overlap, batch=config.batch)
    chosen = {"test": parts["test"].ids, "train": parts["train"].ids[: config.scored_train_cases]}
    scores = evaluate_cases(predictor, source.layout, chosen, config.workdir, tolerance=config.tolerance)
    facts = {
        **scores.parts,
        "rules": {"empty": surface.EMPTY_RULE, "surface_dice_mm": config.tolerance},
        # the first case holds the compilation
        **facts_of(
            predictor.card, position, data=config.data, first_case=scores.seconds[0], a_case=min(scores.seconds)
        ),
    }
    write_json(config.workdir / "results.json", facts)
    title = f"3-D U-Net on {Path(config.data).name}"
    report.curves(read_rows(config.workdir / "metrics.jsonl"), config.workdir / "report" / "curves.png", title=title)
    print("\n".join(scores.lines()))
    print(
        f"{min(scores.seconds):.1f} s to predict a case; peak memory of the run {memory.size(facts['peak_bytes'] or 0)}"
    )
    print(f"report: {config.workdir / 'report'}, labels: {config.workdir / 'predictions'}")


if __name__ == "__main__":
    startup.run(main, Config, description=__doc__)
