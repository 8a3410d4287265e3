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
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import optax
from flax import linen as nn
from jax.sharding import Mesh

from unet_jax import augment, losses, memory, metrics, models, object_scores, parallel, targets, training, tuning
from unet_jax.checkpoint import Checkpoints, provenance
from unet_jax.data.named import open_named
from unet_jax.data.pipeline import Normalised, steps_per_epoch, train_batches, visits
from unet_jax.data.source import Source, describe_split, fewer, split
from unet_jax.dry_run import analyse, lines, lower_step, tpu_devices
from unet_jax.evaluation import evaluate
from unet_jax.heads import HEADS
from unet_jax.lock import locked
from unet_jax.logs import MetricsLog, epoch_line, plain
from unet_jax.loop import Budget, Callbacks, Position, StopRequest, fit
from unet_jax.model_folder import read_model
from unet_jax.models import to_spec
from unet_jax.models.unet import check_size
from unet_jax.prediction import Predictor
from unet_jax.profiling import Profile
from unet_jax.scorecard import draw, write_results
from unet_jax.transfer import start_from
from unet_jax.workdir import check_workdir, new_workdir, open_workdir, remembered

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
    target: Literal["foreground", "border", "distance", "flow"] = "foreground"
    """What tells touching objects apart, see unet_jax/heads.py: all but foreground need masks that number objects."""
    model: str = "UNet"
    """Architecture, by its name in `unet-jax models`."""
    window: int = 32
    """Side in pixels of what the model Classifier gives one verdict on."""
    train_images: int | None = None
    """Train on that many of the training images only; a larger choice holds every smaller one."""
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
    profile: bool = False
    """Trace ten steps after the first five: WORKDIR/profile, for TensorBoard or https://ui.perfetto.dev."""
    seed: int = 0
    """Decides the weights, the order of the images and every random change of them."""


PRESETS: dict[str, dict[str, Any]] = {
    "small": {
        "epochs": 60, "max_minutes": 9.0, "widths": (16, 32, 64, 128, 256), "loss": "dice+bce", "norm": "group",
        "learning_rate": 2e-3, "schedule": "cosine",
    },
    "paper": {
        "epochs": 100, "max_minutes": None, "widths": (64, 128, 256, 512, 1024), "loss": "dice", "norm": "group",
        "learning_rate": 1e-4, "schedule": "constant",
    },
}  # fmt: skip
BUDGET = ("epochs", "max_minutes")
# between the starts of one run
MAY_CHANGE = {
    *BUDGET, "patience", "learning_rate", "workdir", "resume", "skip_nonfinite", "mesh", "dry_run", "topology",
    "remat", "accumulate", "profile",
}  # fmt: skip
MENDS = "--remat, --accumulate 2 (4, 8 ...), or a smaller --batch, --patch or --widths"  # where memory runs out


def resolve(config: Config, backend: str) -> Config:
    """The config with the preset chosen for `backend` and every field filled in; ValueError for impossible values."""
    config = remembered(config, budget=BUDGET)
    preset = config.preset if config.preset != "auto" else ("small" if backend == "cpu" else "paper")
    chosen = {k: v for k, v in PRESETS[preset].items() if getattr(config, k) is None}
    if config.epochs is not None and config.max_minutes is None:
        chosen["max_minutes"] = None  # who asks for epochs wants them all
    if config.max_minutes is not None and config.epochs is None:
        chosen["epochs"] = 1000
    dtype = config.dtype or ("float32" if backend == "cpu" else "bfloat16")  # bfloat16 is slow on a CPU
    workdir = config.workdir or new_workdir("cells")
    config = dataclasses.replace(config, preset=preset, workdir=workdir, dtype=dtype, **chosen)
    startup.check_least(config, epochs=1, batch=1, accumulate=1, patch=1, patience=1, seed=0, skip_nonfinite=0)
    startup.check_least(config, learning_rate=1e-9, max_minutes=0.01)
    if not 0 <= config.dropout < 1:
        raise ValueError(f"--dropout {config.dropout}: give a share of the features from 0 to below 1, such as 0.3")
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


def check_target(target: str, label_kind: str) -> None:
    """ValueError for a head that the masks cannot teach."""
    if target != "foreground" and label_kind != "instances":
        raise ValueError(
            f"--target {target} needs masks in which every object has its own number, these are {label_kind}: choose "
            "--target foreground, or --label-kind instances if the numbers are objects"
        )


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
        model, optimizer, loss, target=target, augment=changes, accumulate=config.accumulate,
        axis_name="data" if config.parallel == "pmap" else None,
    )  # fmt: skip
    if config.skip_nonfinite:
        step = training.skipping_nonfinite(step)
    eval_step = training.make_eval_step(model, loss, head.count, target=head.target, classify=head.classify)
    return model, optimizer, step, eval_step


def main(config: Config) -> int:
    """Run the experiment; the exit code is 0, or 128 + n when signal n stopped it (the run can be resumed)."""
    config = resolve(config, "tpu" if config.topology else jax.default_backend())
    if config.dry_run:
        return say_costs(config)
    check_workdir(config.workdir, dataclasses.asdict(config), resume=config.resume, may_change=MAY_CHANGE)
    source = open_named(config.data, label_kind=config.label_kind, ignore=config.ignore, say=print)
    source = Normalised(source).preload()
    check_target(config.target, source.label_kind)
    parts = split(source)
    if config.train_images is not None:
        parts["train"] = fewer(parts["train"], config.train_images)
    announce(config, parts)
    if source.label_kind == "classes":
        print("the masks hold classes: every class but 0 is learnt as cell")
    parts["train"] = visits(parts["train"], patch=(config.patch, config.patch))
    print(f"an epoch is {len(parts['train'])} crops of {config.patch}×{config.patch}; large images give several")
    planned_steps = config.epochs * steps_per_epoch(len(parts["train"]), config.batch)
    model, optimizer, step, eval_step = compose(config, planned_steps)
    state = training.init_state(model, optimizer, (config.patch, config.patch, source.channels), seed=config.seed)
    if config.init is not None and not config.resume:
        state = start(config, state)
    card = make_card(config, model, source)
    with locked(config.workdir):
        open_workdir(config.workdir, dataclasses.asdict(config))
        with Checkpoints(config.workdir / "checkpoints") as checkpoints, MetricsLog(config.workdir) as log:
            return train(config, parts, step, eval_step, state, card, checkpoints, log)


def start(config: Config, state: training.State) -> training.State:
    """The state with the parameters of the model that `--init` names."""
    state, fresh = start_from(state, read_model(config.init)[0])
    print(f"starting from {config.init}" + (f"; new: {', '.join(fresh)}" if fresh else ""))
    return state


def train(
    config: Config, parts: dict[str, Source], step: Any, eval_step: Any, state: training.State, card: dict[str, Any],
    checkpoints: Checkpoints, log: MetricsLog,
) -> int:  # fmt: skip
    """Train from `state` or from the last checkpoint, then score the test split with the best one."""
    mesh, patch, position = choose_mesh(config), (config.patch, config.patch), Position()
    state = jax.device_put(state, parallel.replicated(mesh))
    if config.resume:
        if checkpoints.latest_step() is not None:
            state, saved = checkpoints.restore(state)
            position = Position(**saved["position"])
        log.truncate_after(position.step)
        print(f"resumed after {position.epoch} epochs, at step {position.step}")
    # The outer eighth of a tile lacks context: there its neighbour's prediction is taken.
    score = partial(
        evaluate, jax.jit(eval_step), patch=patch, batch=together(config), margin=config.patch // 8, mesh=mesh
    )

    def validate(state: training.State) -> dict[str, float]:
        result = score(state, parts["val"])
        scores = metrics.summarise(result.counts)
        return {"val_loss": result.loss, "val_iou": scores["iou_pooled"], "val_dice": scores["dice_pooled"]}

    def epoch_done(row: dict[str, Any]) -> None:
        log.append(row)
        print(epoch_line(row), flush=True)

    def save(state: training.State, position: Position, score: float | None) -> None:
        checkpoints.save(state, {**card, "position": dataclasses.asdict(position)}, score=score)

    stream = train_batches(parts["train"], patch=patch, batch=config.batch, seed=config.seed, start_step=position.step)
    if config.parallel == "pmap":
        step = parallel.pmapped(step, mesh)
    else:
        step = jax.jit(step, donate_argnums=0, out_shardings=parallel.replicated(mesh))
        step = memory.measured(step, list(mesh.devices.flat), mends=MENDS, say=print)
    traced = Profile(config.workdir / "profile", say=print, steps=10 if config.profile else 0)
    with StopRequest() as stop, memory.mended(MENDS), traced as profile:
        state = fit(
            state,
            position,
            step=profile.watch(step),
            batches=((parallel.shard(batch, mesh), [str(i) for i in batch["id"]]) for batch in stream),
            steps_per_epoch=steps_per_epoch(len(parts["train"]), config.batch),
            budget=Budget(config.epochs, config.max_minutes, config.patience, config.skip_nonfinite),
            callbacks=Callbacks(validate, epoch_done, save, print),
            stop=stop,
        )
    if stop.signal is not None:
        print(f"stopped at step {position.step}; to go on: --workdir {config.workdir} --resume")
        return 128 + stop.signal
    state, card = checkpoints.restore(state, which="best")
    finish(config, card, score, state, parts, position, checkpoints)
    return 0


def choose_mesh(config: Config) -> Mesh:
    """The devices to train on: those that --mesh asks for, or as many as divide the batch."""
    devices = tpu_devices(config.topology) if config.topology else None
    if config.mesh is None and devices is None:
        return parallel.data_mesh(together(config))
    words = config.mesh or f"data={len(devices)}"
    return parallel.make_mesh(words, together(config), config.patch, devices=devices)


def together(config: Config) -> int:
    """Images on the devices at a time."""
    return config.batch // config.accumulate


def say_costs(config: Config) -> int:
    """Compile the training step for the mesh and print what it costs; nothing is run or written."""
    from unet_jax.data.synthetic import SyntheticCells

    source = SyntheticCells  # of which nothing need be drawn
    if config.data != "synthetic":
        source = open_named(config.data, label_kind=config.label_kind, ignore=config.ignore, say=print)
    mesh, channels = choose_mesh(config), source.channels
    check_target(config.target, source.label_kind)
    model, optimizer, step, _ = compose(config, planned_steps=1000)
    shape = (config.patch, config.patch, channels)
    state = jax.eval_shape(lambda: training.init_state(model, optimizer, shape, seed=config.seed))
    lowered = lower_step(step, state, mesh, batch=config.batch, patch=shape[:-1], channels=channels)
    axes = ", ".join(f"{name}={size}" for name, size in mesh.shape.items())
    print(f"{config.topology or parallel.device_name()}, mesh {axes}, {config.batch} images a step, {config.dtype}")
    print("\n".join(lines(analyse(lowered.compile()))))
    return 0


def announce(config: Config, parts: dict[str, Source]) -> None:
    """Say what will be trained, on what, and on which device."""
    print(f"device: {parallel.device_name()}; preset: {config.preset}")
    if warning := startup.unseen_accelerator(jax.default_backend()):
        print(warning, file=sys.stderr)
    print(describe_split(parts))
    print(f"workdir: {config.workdir}")


def make_card(config: Config, model: nn.Module, source: Source) -> dict[str, Any]:
    """What a checkpoint says of itself, for prediction and for the reader."""
    return {
        "model": to_spec(model),
        "channels": source.channels,
        "normalisation": {"method": "percentile", "low": 1.0, "high": 99.8, "over": "all channels of the image"},
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
    test, began = parts["test"], time.perf_counter()
    result = score(state, test, keep_predictions=True)
    objects = None
    if test.label_kind == "instances":
        predictor = Predictor({"params": state.params, **state.model_state}, card, batch=config.batch)
        print("choosing how to separate objects, on the validation images", flush=True)
        found = tuning.tune(predictor, parts["val"])
        checkpoints.amend(found)
        labels, counts = tuning.separate_all(Predictor(predictor.variables, card | found, batch=config.batch), test)
        objects = object_scores.summarise(counts)
        result = dataclasses.replace(result, predictions=labels)
    chosen = card["position"]
    facts = {
        "best": {"epoch": chosen["epoch"], "val_iou": chosen["best_score"]},
        "objects": objects,
        "epochs": position.epoch,
        "seconds": {"training": position.seconds, "test": time.perf_counter() - began},
        "device": parallel.device_name(),
        "data": config.data,
        "version": card["version"],
        "commit": card["commit"],
    }
    scores = write_results(config.workdir, test, result, facts)["test"]
    folder = draw(config.workdir, test, result, title=f"{config.model} on {Path(config.data).name}")
    print(
        f"test ({scores['images']} images, checkpoint of epoch {chosen['epoch']}): "
        f"IoU {scores['iou_pooled']:.4f} pooled, {scores['iou_mean']:.4f} mean over images; "
        f"Dice {scores['dice_pooled']:.4f} pooled, {scores['dice_mean']:.4f} mean over images"
    )
    if objects is not None:
        print(
            f"objects: AP {objects['ap_pooled']['0.50']:.3f} at IoU .50 and {objects['ap_pooled']['0.75']:.3f} at .75, "
            f"pooled; {objects['predicted']:,} found, {objects['objects']:,} true"
        )
    print(f"report: {folder / 'curves.png'}, {folder / 'examples.png'}, {config.workdir / 'results.json'}")


if __name__ == "__main__":
    startup.run(main, Config, description=__doc__)
