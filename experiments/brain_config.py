"""What `train_brain_tumour` can be asked for: its options, its presets, and what it makes of them."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from unet_jax import startup
from unet_jax.workdir import new_workdir, remembered, with_preset


@dataclasses.dataclass(frozen=True)
class Config:
    """What to train, on what, for how long. Fields left at None take the preset's value, or follow from the data."""

    data: str = "phantom"
    """phantom (six made-up heads), or a folder of volumes."""
    preset: Literal["auto", "small", "full"] = "auto"
    """small: for a CPU; full: for an accelerator; auto: what this machine can carry."""
    workdir: Path | None = None
    """Folder of the run; runs/brain-DATE-TIME when not given."""
    resume: bool = False
    """Go on with the run in --workdir, from its last checkpoint and with its options."""
    ignore: int | None = None
    """Value of label voxels that do not count, besides what dataset.json calls ignore."""
    test_cases: tuple[str, ...] = ()
    """Cases that are only scored; by default chosen by a hash of their names, or the last fifth where there are few."""
    val_cases: tuple[str, ...] = ()
    """Cases that choose the checkpoint."""
    outputs: Literal["regions", "classes"] = "regions"
    """Overlapping regions, which is what is scored, or classes of which each voxel has one."""
    patch: tuple[int, int, int] | None = None
    """Voxels of the training crop to the right, front and up; the preset's, smaller where the volumes are."""
    spacing: tuple[float, float, float] | None = None
    """Millimetres to resample to; by default as the files have it, or their median where they differ."""
    epochs: int | None = None
    """Passes over `crops` crops, at most."""
    max_minutes: float | None = None
    """Minutes of training and validation, at most; the learning rate comes down to zero when they end."""
    crops: int = 100
    """Crops an epoch, shared evenly by the cases; at least one of each."""
    centred: float = 0.5
    """Share of the crops around a voxel of the tumour, which fills a few percent of a head; each class as often."""
    batch: int = 2
    """Crops a step, over all devices: two, as nnU-Net, since a crop holds a million voxels."""
    widths: tuple[int, ...] | None = None
    """Filters of each level, the last at the bottom: one down-sampling less than there are numbers."""
    norm: Literal["none", "batch", "group"] = "group"
    """Normalisation after every convolution; a batch of two is too small for batch statistics."""
    dropout: float = 0.0
    """Share of features dropped at the two deepest levels."""
    augment: bool = True
    """Flips, rotation about three axes, scale, elastic deformation, blur, brightness, contrast, gamma and noise."""
    refine: float = 0.25
    """Share of the steps, the last ones, in which volumes are only flipped."""
    learning_rate: float = 2e-3
    """Adam's step size at its highest; it follows a cosine to zero."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Arithmetic of the network; parameters, logits and losses stay float32."""
    overlap: float = 0.5
    """Share of a tile that the next one covers too when whole volumes are predicted."""
    tolerance: float = 1.0
    """Millimetres that two surfaces may lie apart and still agree, in the surface Dice."""
    scored_train_cases: int = 1
    """So many training cases are scored too, to see what the network could learn by heart."""
    mesh: str | None = None
    """data=N,space=M: N devices share the batch, M each volume; all that divide the batch when not given."""
    seed: int = 0
    """Decides the weights, the order of the cases and every random change of them."""


PRESETS: dict[str, dict[str, Any]] = {
    "small": {"epochs": 1000, "max_minutes": 40.0, "widths": (16, 32, 64, 128), "patch": (96, 96, 96)},
    "full": {"epochs": 300, "max_minutes": None, "widths": (32, 64, 128, 256, 320), "patch": (128, 128, 128)},
}
BUDGET = ("epochs", "max_minutes")
MAY_CHANGE = {*BUDGET, "learning_rate", "workdir", "resume", "mesh"}  # between the starts of one run


def resolve(config: Config, backend: str) -> Config:
    """The config with the preset chosen for `backend`; ValueError for impossible values."""
    config = remembered(config, budget=BUDGET)
    preset = config.preset if config.preset != "auto" else ("small" if backend == "cpu" else "full")
    dtype = config.dtype or ("float32" if backend == "cpu" else "bfloat16")
    workdir = config.workdir or new_workdir("brain")
    chosen = {name: value for name, value in PRESETS[preset].items() if name != "patch"}  # which the volumes may limit
    config = dataclasses.replace(with_preset(config, chosen), preset=preset, workdir=workdir, dtype=dtype)
    startup.check_least(config, epochs=1, batch=1, crops=1, seed=0, learning_rate=1e-9, max_minutes=0.01, tolerance=0)
    startup.check_shares(config, "dropout", "refine", "overlap")
    if not 0 <= config.centred <= 1:
        raise ValueError(f"--centred {config.centred}: give a share from 0 to 1, such as 0.5")
    return config
