"""What `train_folder` can be asked for: its options, and what a run that is gone on with had planned."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from unet_jax import startup
from unet_jax.workdir import new_workdir, remembered


@dataclasses.dataclass(frozen=True)
class Config:
    """What to train, on what, for how long. Fields left at None are planned from the images."""

    data: str = ""
    """A folder that holds images/ and masks/ (or labels/), or textures: 32 made-up classes."""
    classes: tuple[str, ...] = ()
    """NAME=VALUE for every class of the masks; VALUE may be R,G,B or #RRGGBB. 0 is the background, unless it is
    named as a class of its own: road=0, but not void=0."""
    palette: Path | None = None
    """A file of lines NAME VALUE or NAME R G B; palette.txt, class_dict.csv and the like in the folder are found."""
    ignore: str | None = None
    """Value (or colour) of mask pixels that do not count."""
    workdir: Path | None = None
    """Folder of the run; runs/folder-DATE-TIME when not given."""
    resume: bool = False
    """Go on with the run in --workdir, from its last checkpoint and with its options."""
    patch: int | None = None
    """Side of the training crops in pixels."""
    widths: tuple[int, ...] | None = None
    """Filters of each level, the last at the bottom: one down-sampling less than there are numbers."""
    batch: int | None = None
    """Crops a step, over all devices."""
    normalisation: Literal["percentile", "channel-percentile"] | None = None
    """Grey levels of all channels stretched alike, or each channel by itself."""
    loss: Literal["dice+ce", "tversky+focal"] | None = None
    """Overlap and cross-entropy, or their forms for rare foreground."""
    centred: float | None = None
    """Share of the crops that lie around a pixel of a class chosen at random."""
    balance: float | None = None
    """Images with a class that fewer than this share of the images hold are visited more often."""
    crops: int | None = None
    """Crops in an epoch."""
    epochs: int | None = None
    """Passes over the crops, at most."""
    max_minutes: float | None = None
    """Minutes of training and validation, at most; the learning rate comes down to zero when they end."""
    patience: int | None = None
    """Stop after this many epochs without a better validation IoU; None: never."""
    refine: float = 0.25
    """Share of the steps, the last ones, in which images are only flipped and turned."""
    learning_rate: float = 2e-3
    """Adam's step size at its highest; comes down to zero along a cosine."""
    norm: Literal["none", "batch", "group"] = "group"
    """Normalisation after every convolution; group looks at each image alone."""
    dropout: float = 0.0
    """Share of features dropped at the two deepest levels."""
    augment: bool = True
    """Flips, turns, rotation, scale, elastic deformation, brightness, contrast, gamma, noise and blur."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Arithmetic of the network; bfloat16 on an accelerator, which a CPU would be slow at."""
    mesh: str | None = None
    """data=N,space=M: N devices share the batch, M each image; all that divide the batch when not given."""
    seed: int = 0
    """Decides the weights, the order of the images and every random change of them."""


PLANNED = ("patch", "widths", "batch", "normalisation", "loss", "centred", "balance", "crops", "epochs")
BUDGET = ("epochs", "max_minutes")
MAY_CHANGE = {*BUDGET, "patience", "learning_rate", "workdir", "resume", "mesh"}


def resolve(config: Config, backend: str) -> Config:
    """The config with what is not planned filled in; ValueError for impossible values."""
    config = remembered(config, budget=BUDGET)
    if not config.data:
        raise ValueError("--data is missing: name a folder that holds images/ and masks/ (or labels/), or textures")
    dtype = config.dtype or ("float32" if backend == "cpu" else "bfloat16")
    config = dataclasses.replace(config, workdir=config.workdir or new_workdir("folder"), dtype=dtype)
    startup.check_least(
        config, epochs=1, batch=1, patch=1, patience=1, seed=0, learning_rate=1e-9, max_minutes=0.01, crops=1, balance=0
    )
    startup.check_shares(config, "dropout", "centred", "refine")
    return config


def planned_before(config: Config) -> dict[str, Any]:
    """What the run that is gone on with planned, but for its length: the rules of another version may differ."""
    path = config.workdir / "plan.json"
    if not config.resume or not path.exists():
        return {}
    plan = json.loads(path.read_text(encoding="utf-8"))
    return {name: tuple(v) if isinstance(v := plan[name], list) else v for name in PLANNED if name != "epochs"}
