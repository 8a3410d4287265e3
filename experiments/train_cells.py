"""Train a U-Net on cells: images in, a checkpoint, scores and pictures out.

    python -m experiments.train_cells                                # made-up cells, sized for this machine
    python -m experiments.train_cells --data dsb2018                 # 670 real images, downloaded
    python -m experiments.train_cells --data FOLDER                  # your images/ and labels/ (or masks/)
    python -m experiments.train_cells --preset paper                 # the teaching recipe, for a GPU or a TPU

Scores, time, device and commit of measured runs stand in README.md.
"""

from unet_jax import startup

if __name__ == "__main__":
    startup.prepare()

import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import optax
from flax import linen as nn
from jax.sharding import Mesh

from unet_jax import augment, losses, metrics, models, object_scores, parallel, processes, targets, training, tuning
from unet_jax.checkpoint import Checkpoints, provenance
from unet_jax.data import normalisation
from unet_jax.data.named import open_named
from unet_jax.data.pipeline import Normalised, steps_per_epoch, train_batches, visits
from unet_jax.data.source import Source, describe_split, fewer, split
from unet_jax.dry_run import describe, tpu_devices
from unet_jax.evaluation import evaluate, validation_row
from unet_jax.folds import keep, one_fold, rules, run_folds, split_fold
from unet_jax.heads import HEADS
from unet_jax.logs import plain
from unet_jax.loop import Budget, Position
from unet_jax.model_folder import read_model
from unet_jax.models import to_spec
from unet_jax.models.unet import check_size
from unet_jax.prediction import Predictor, count_foreground
from unet_jax.scorecard import draw, facts_of, summary, write_results
from unet_jax.session import opened, run_training
from unet_jax.startup import say, say_device
from unet_jax.transfer import like_init, start_from
from unet_jax.workdir import check_workdir, new_workdir, remembered, with_preset

LOSSES = {
    "dice": losses.dice,
    "bce": losses.cross_entropy,
    "focal": losses.focal,
    "dice+bce": losses.weighted_sum((1.0, losses.dice), (1.0, losses.cross_entropy)),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What to train, on what, for how long. Fields left at None take the preset's value."""

    data: str = "synthetic"
    """synthetic (made-up cells), dsb2018 (BBBC038, downloaded, or its zip), or a folder of your own."""
    preset: Literal["auto", "small", "paper"] = "auto"
    """small: for a CPU; paper: the teaching recipe, for an accelerator; auto: what this machine can carry."""
    init: str | None = None
    """Start from a trained model, such as nuclei, which comes with the package, or the folder of another training."""
    workdir: Path | None = None
    """Folder of the run; runs/cells-DATE-TIME when not given."""
    resume: bool = False
    """Go on with the run in --workdir, from its last checkpoint and with its options."""
    label_kind: Literal["instances", "binary", "classes"] | None = None
    """What the numbers in the masks mean, where the masks of all images do not tell."""
    ignore: int | None = None
    """Value of mask pixels that do not count."""
    epochs: int | None = None
    """Passes over the training images, at most."""
    max_minutes: float | None = None
    """Minutes of training and validation, at most; the learning rate comes down to zero when they end."""
    patience: int | None = None
    """Stop after this many epochs without a better validation IoU; None: never, as the cosine schedule has an end."""
    batch: int = 8
    """Images a step, over all devices: the recipe's 8 also suits 2 to 8 devices."""
    patch: int = 256
    """Side of the training crop in pixels: the recipe's size, which 4 levels divide."""
    target: Literal["auto", "foreground", "border", "distance", "flow"] = "auto"
    """What tells touching objects apart, see unet_jax/heads.py; auto: flow where the masks number the objects, which
    all but foreground need."""
    model: str = "UNet"
    """Architecture, by its name in `unet-jax models`."""
    window: int = 32
    """Side in pixels of what the model Classifier gives one verdict on."""
    train_images: int | None = None
    """Train on that many of the training images only; a larger choice holds every smaller one."""
    folds: int | None = None
    """Cross-validation: so many models, each trained without one part of the images and tested on it. The budget is
    that of each; WORKDIR/results.json has the scores of all."""
    fold: int | Literal["all"] | None = None
    """With --folds: the one to train, from 0 on (several machines may share the work); all in turn when not given."""
    widths: tuple[int, ...] | None = None
    """Filters of each level, the last at the bottom: one down-sampling less than there are numbers."""
    loss: Literal["dice", "bce", "focal", "dice+bce"] | None = None
    """Dice alone is the recipe; adding cross-entropy learns faster in a short training."""
    norm: Literal["none", "batch", "group"] | None = None
    """Normalisation after every convolution; group looks at each image alone, which suits sets of many stains."""
    dropout: float = 0.0
    """Share of features dropped at the two deepest levels; 0.3 to 0.5 helps when there are few images."""
    upsample: Literal["transpose", "resize"] = "transpose"
    """Up-convolution as in the 2015 paper, or repeat and convolve, which leaves no checkerboard."""
    augment: bool = True
    """Flips, turns, rotation, scale, elastic deformation, brightness, contrast, gamma, noise and blur."""
    refine: float | None = None
    """Share of the training, at its end, whose images are only flipped and turned, so that outlines become exact."""
    learning_rate: float | None = None
    """Adam's step size at its highest."""
    schedule: Literal["cosine", "constant"] | None = None
    """The recipe is constant; cosine ends a short training better."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Arithmetic of the network; parameters, logits and losses stay float32. bfloat16 is for accelerators."""
    skip_nonfinite: int = 0
    """Steps whose loss or gradient is NaN or infinite to skip, in all; 0: stop at the first, as it means an error."""
    mesh: str | None = None
    """data=N,space=M: N devices share the batch, M each image; all that divide the batch when not given."""
    parallel: Literal["jit", "pmap"] = "jit"
    """jit: one program over the mesh, and the partitioner does the rest; pmap: one a device, over data alone."""
    dry_run: bool = False
    """Compile the training step, say what it costs on the mesh, and leave."""
    topology: str | None = None
    """With --dry-run: a TPU slice to compile for (v5e:4x4, v5p:4x4x4 ...); needs libtpu, but no TPU."""
    remat: bool = False
    """Compute the network's levels again for the gradient instead of keeping them: less memory, more time."""
    accumulate: int = 1
    """Parts of a batch, one after the other in the memory of one, before each update: the gradient of the whole batch.
    Batch norm sees a part's images at a time, as with a smaller batch; none and group are not affected."""
    tta: bool = True
    """Score the test images once more by the mean of eight views of each (test-time augmentation)."""
    profile: bool = False
    """Trace ten steps after the first five: WORKDIR/profile, for TensorBoard or https://ui.perfetto.dev."""
    seed: int = 0
    """Decides the weights, the order of the images and every random change of them."""


PRESETS: dict[str, dict[str, Any]] = {
    "small": {
        "epochs": 60, "max_minutes": 9.0, "widths": (16, 32, 64, 128, 256), "loss": "dice+bce", "norm": "group",
        "learning_rate": 2e-3, "schedule": "cosine", "refine": 0.25,
    },
    "paper": {
        "epochs": 100, "max_minutes": None, "widths": (64, 128, 256, 512, 1024), "loss": "dice", "norm": "group",
        "learning_rate": 1e-4, "schedule": "constant", "refine": 0.0,
    },
}  # fmt: skip
BUDGET = ("epochs", "max_minutes")
# between the starts of one run
MAY_CHANGE = {
    *BUDGET, "patience", "learning_rate", "workdir", "resume", "skip_nonfinite", "mesh", "dry_run", "topology",
    "remat", "accumulate", "tta", "profile",
}  # fmt: skip
MENDS = "--remat, --accumulate 2 (4, 8 ...), or a smaller --batch, --patch or --widths"  # where memory runs out


def resolve(config: Config, backend: str) -> Config:
    """The config with the preset chosen for `backend` and every field filled in; ValueError for impossible values."""
    config = like_init(remembered(config, budget=BUDGET))
    preset = config.preset if config.preset != "auto" else ("small" if backend == "cpu" else "paper")
    dtype = config.dtype or ("float32" if backend == "cpu" else "bfloat16")  # bfloat16 is slow on a CPU
    workdir = config.workdir or new_workdir("cells")
    options = {"preset": preset, "workdir": workdir, "dtype": dtype, "fold": one_fold(config.folds, config.fold)}
    config = dataclasses.replace(with_preset(config, PRESETS[preset]), **options)
    startup.check_least(config, epochs=1, batch=1, accumulate=1, patch=1, patience=1, seed=0, skip_nonfinite=0)
    startup.check_least(config, learning_rate=1e-9, max_minutes=0.01)
    for name in ("dropout", "refine"):
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"--{name} {getattr(config, name)}: give a share from 0 to below 1, such as 0.3")
    if config.batch % config.accumulate:
        raise ValueError(f"--accumulate {config.accumulate} does not divide --batch {config.batch} into equal parts")
    check_size((config.patch, config.patch), config.widths, "SAME")
    if config.parallel == "pmap" and (config.dry_run or config.accumulate > 1 or "space" in (config.mesh or "")):
        raise ValueError(
            "--parallel pmap splits the batch alone: leave out space=M, --accumulate and --dry-run, or take jit"
        )
    if config.topology and not config.dry_run:
        raise ValueError(f"--topology {config.topology} is a TPU to compile for: add --dry-run")
    if not config.topology:
        choose_mesh(config)
    return config


def choose_target(config: Config, label_kind: str) -> Config:
    """The config with its head chosen; ValueError for one that the masks cannot teach."""
    if config.target == "auto":
        able = label_kind == "instances" and config.model != "Classifier"
        return dataclasses.replace(config, target="flow" if able else "foreground")
    if config.target != "foreground" and label_kind != "instances":
        raise ValueError(
            f"--target {config.target} needs masks in which every object has its own number, these are {label_kind}: "
            "choose --target foreground, or --label-kind instances if the numbers are objects"
        )
    return config


def compose(config: Config, planned_steps: int) -> tuple[nn.Module, optax.GradientTransformation, Any, Any]:
    """Model, optimiser, training step and evaluation step of this experiment: change the research here."""
    head = HEADS[config.target]
    kind, given = models.named(config.model), dataclasses.asdict(config)
    options = {f.name: given[f.name] for f in dataclasses.fields(kind) if f.name in given}
    if config.remat and "remat" not in options:
        raise ValueError(f"--remat serves the UNet, not the {config.model}: leave it out")
    model = kind(**options, classes=head.outputs(rank=2))
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(),
        training.scheduled(config.learning_rate, planned_steps, shape=config.schedule),
    )
    loss = partial(head.loss, LOSSES[config.loss])
    changes = augment.strong() if config.augment else None
    target = head.target
    if config.model == "Classifier":
        if config.target != "foreground":
            raise ValueError("--model Classifier says cell or no cell and nothing else: add --target foreground")
        target = lambda label: targets.any_in_window(head.target(label), window=config.window)  # noqa: E731
    step = training.make_train_step(
        model, optimizer, loss, target=target, augment=changes, refine=(augment.light, config.refine),
        accumulate=config.accumulate, axis_name="data" if config.parallel == "pmap" else None,
    )  # fmt: skip
    if config.skip_nonfinite:
        step = training.skipping_nonfinite(step)
    eval_step = training.make_eval_step(model, loss, head.count, target=head.target, classify=head.classify)
    return model, optimizer, step, eval_step


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
    parts = split(source) if config.folds is None else split_fold(source, config.folds, config.fold)
    if config.train_images is not None:
        parts["train"] = fewer(parts["train"], config.train_images)
    announce(config, parts)
    crops = visits(parts["train"], patch=patch)
    say(f"an epoch is {len(crops)} crops of {config.patch}×{config.patch}; large images give several")
    steps = steps_per_epoch(len(crops), config.batch)
    model, optimizer, step, eval_step = compose(config, config.epochs * steps)
    state = training.init_state(model, optimizer, (*patch, source.channels), seed=config.seed)
    if config.init is not None and not config.resume:
        state, fresh = start_from(state, read_model(config.init)[0])
        say(f"starting from {config.init}" + (f"; new: {', '.join(fresh)}" if fresh else ""))
    card = make_card(config, model, source)
    # The outer eighth of a tile lacks context: there its neighbour's prediction is taken.
    score = partial(
        evaluate, jax.jit(eval_step), patch=patch, batch=together(config), margin=config.patch // 8, mesh=mesh
    )
    with opened(config) as run:
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


def choose_mesh(config: Config) -> Mesh:
    """The devices to train on: those that --mesh asks for, or as many as divide the batch."""
    devices = tpu_devices(config.topology) if config.topology else None
    return parallel.chosen_mesh(config.mesh, together(config), config.patch, devices=devices)


def together(config: Config) -> int:
    """Images on the devices at a time."""
    return config.batch // config.accumulate


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


def make_card(config: Config, model: nn.Module, source: Normalised) -> dict[str, Any]:
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
        **provenance(),
    }


def finish(
    config: Config, card: dict[str, Any], score: Any, state: training.State, parts: dict[str, Source],
    position: Position, checkpoints: Checkpoints,
) -> None:  # fmt: skip
    """Choose how objects are separated on the validation split, score the test split once; results and pictures."""
    test, counts, began = parts["test"], None, time.perf_counter()
    result = score(state, test, keep_predictions=True)
    if not processes.first():  # of several, which scored together
        return
    variables = parallel.on_host({"params": state.params, **state.model_state})
    predictor = Predictor(variables, card, batch=config.batch)
    views = count_foreground(dataclasses.replace(predictor, tta=True), test) if config.tta else None
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
