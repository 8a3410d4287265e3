"""What `train_cells` can be asked for: its options, its presets, and what it makes of them."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from jax.sharding import Mesh

from unet_jax import parallel, startup
from unet_jax.dry_run import tpu_devices
from unet_jax.folds import one_fold
from unet_jax.models.unet import check_size
from unet_jax.transfer import like_init
from unet_jax.workdir import new_workdir, remembered, with_preset

Target = Literal["auto", "foreground", "border", "distance", "flow"]


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
    target: Target = "auto"
    """What tells touching objects apart, see unet_jax/heads.py; auto: flow where the masks number the objects, which
    all but foreground need."""
    model: str | None = None
    """Architecture, by its name in `unet-jax models`; that of --init, or UNet, when not given."""
    window: int = 32
    """Side in pixels of what the model Classifier gives one verdict on."""
    crops: int | None = None
    """Training crops an epoch; one an image, several of a large one, when not given. A few images are better gone
    through several times before they are scored."""
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
    """Up-convolution as in the 2015 paper, or repeat and convolve, which leaves no checkerboard; of the UNet."""
    deep_supervision: bool | None = None
    """Score what the decoder's coarser levels say too, while training; of UNet (off) and UNetPP (on)."""
    augment: bool = True
    """Flips, turns, rotation, scale, elastic deformation, brightness, contrast, gamma, noise and blur."""
    refine: float | None = None
    """Share of the training, at its end, whose images are only flipped and turned, so that outlines become exact."""
    learning_rate: float | None = None
    """Adam's step size at its highest; with --init a tenth of the preset's, so that what was learnt is kept."""
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
        "model": "UNet",
        "epochs": 60, "max_minutes": 9.0, "widths": (16, 32, 64, 128, 256), "loss": "dice+bce", "norm": "group",
        "learning_rate": 2e-3, "schedule": "cosine", "refine": 0.25,
    },
    "paper": {
        "model": "UNet",
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
    given, gentle = config.widths is not None, config.init is not None and config.learning_rate is None
    config = dataclasses.replace(with_preset(config, PRESETS[preset]), **options)
    if config.model == "FCN" and not given:
        config = dataclasses.replace(config, widths=deeper(config.widths))
    if gentle:
        config = dataclasses.replace(config, learning_rate=config.learning_rate / 10)
    startup.check_least(config, epochs=1, batch=1, accumulate=1, patch=1, patience=1, seed=0, skip_nonfinite=0)
    startup.check_least(config, learning_rate=1e-9, max_minutes=0.01, crops=1)
    startup.check_shares(config, "dropout", "refine")
    if config.batch % config.accumulate:
        raise ValueError(f"--accumulate {config.accumulate} does not divide --batch {config.batch} into equal parts")
    check_size((config.patch, config.patch), config.widths, "SAME")
    if config.model == "Classifier":
        check_window(config)
    if config.parallel == "pmap" and (config.dry_run or config.accumulate > 1 or "space" in (config.mesh or "")):
        raise ValueError(
            "--parallel pmap splits the batch alone: leave out space=M, --accumulate and --dry-run, or take jit"
        )
    if config.topology and not config.dry_run:
        raise ValueError(f"--topology {config.topology} is a TPU to compile for: add --dry-run")
    if not config.topology:
        choose_mesh(config)
    return config


def deeper(widths: tuple[int, ...]) -> tuple[int, ...]:
    """One level more at the bottom: the FCN fuses the strides 32, 16 and 8 where the others come down by 16."""
    return (*widths[:-1], *widths[-2:])


def check_window(config: Config) -> None:
    """ValueError for a window of the Classifier that does not tile the patch, or that its levels do not divide."""
    parts = 2 ** (len(config.widths) - 1)
    if config.window < 1 or config.patch % config.window or config.window % parts:
        raise ValueError(
            f"--window {config.window}: choose a multiple of {parts} that divides --patch {config.patch}, as "
            f"{len(config.widths)} --widths have {len(config.widths) - 1} down-samplings"
        )


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


def choose_mesh(config: Config) -> Mesh:
    """The devices to train on: those that --mesh asks for, or as many as divide the batch."""
    devices = tpu_devices(config.topology) if config.topology else None
    return parallel.chosen_mesh(config.mesh, together(config), config.patch, devices=devices)


def together(config: Config) -> int:
    """Images on the devices at a time."""
    return config.batch // config.accumulate
