"""A source of volumes: every case read and checked once, kept on the disk in 8 bits as the network sees it."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np

from unet_jax import startup
from unet_jax.data import normalisation
from unet_jax.data.normalisation import ZScore
from unet_jax.data.source import Subset, split
from unet_jax.data.volume_folders import Case, Layout
from unet_jax.data.volumes import (
    BRAIN,
    IGNORED,
    check_case,
    common_spacing,
    prepare,
    read_image,
    read_label,
    spacing_of,
)
from unet_jax.logs import replacing

_VERSION = 1  # raise when the same files begin to give other arrays


class VolumeSource:
    """Cases of a folder of volumes: image (X, Y, Z, C) uint8, label of classes, mask False where not annotated.

    A case is read once: it is kept in `cache_dir` (5 bytes a voxel of the box around the brain) and from there mapped
    into memory, so that a crop reads the image where it lies and no more. `spacing` is what they are resampled to, or
    None; `voxel` the millimetres of their voxels in either case.

    Args:
        layout: of the folder, see `volume_folders.find_cases`.
        spacing: millimetres along right, front and up; None: as the files have it, or their median where they differ.
        normalise: grey levels to 8 bits.
        cache_dir: `startup.cache_dir()` / "volumes" when not given.

    Raises:
        ValueError, FileNotFoundError: a case whose files do not fit together, naming the file.
    """

    label_kind = "classes"
    normalised = True

    def __init__(
        self,
        layout: Layout,
        *,
        spacing: tuple[float, ...] | None = None,
        normalise: ZScore = BRAIN,
        cache_dir: str | Path | None = None,
    ):
        """Read the headers of all files."""
        grids = [check_case(case, layout.channels) for case in layout.cases]
        self.layout, self.normalise = layout, normalise
        self.spacing = spacing or common_spacing(grids)
        self.voxel = self.spacing or spacing_of(grids[0])
        self.ids = tuple(case.id for case in layout.cases)
        self.channels = len(layout.channels)
        self.columns: dict[str, tuple[str, ...]] = {}
        self._folder = startup.cache_dir() / "volumes" if cache_dir is None else Path(cache_dir).expanduser()

    def preload(self) -> "VolumeSource":
        """Read every case now, so that one that cannot be is named before a training begins; returns itself."""
        for case in self.layout.cases:
            self._files(case)
        return self

    def __len__(self) -> int:
        """Number of cases."""
        return len(self.layout.cases)

    def __getitem__(self, index: SupportsIndex, /) -> dict[str, Any]:
        """The case at `index`."""
        case = self.layout.cases[range(len(self))[index]]
        image, label = (np.load(path, mmap_mode="r", allow_pickle=False) for path in self._files(case))
        mask = np.asarray(label != IGNORED)
        return {"image": image, "label": np.where(mask, label, 0).astype(np.int32), "mask": mask, "id": case.id}

    def _files(self, case: Case) -> tuple[Path, Path]:
        """Files of the image and of the label, made when they are not there."""
        image, label = (self._folder / f"{self._key(case)}-{what}.npy" for what in ("image", "label"))
        if not (image.exists() and label.exists()):
            values, grid = read_image(case, self.layout.channels)
            seen, frame = prepare(values, grid, spacing=self.spacing, normalise=self.normalise)
            truth = frame.forth(read_label(case, self.layout), order=0)
            if (truth == IGNORED).all():
                raise ValueError(f"{case.label}: no voxel of the brain is annotated ({IGNORED}): take the case out")
            _save(image, seen)
            _save(label, np.ascontiguousarray(truth))
        return image, label

    def _key(self, case: Case) -> str:
        """Letters that change with the files and with what is done to them."""
        files = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in (*case.images, case.label)]
        facts = [
            _VERSION,
            files,
            self.spacing,
            normalisation.to_spec(self.normalise),
            sorted(self.layout.values.items()),
        ]
        text = json.dumps([*facts, self.layout.ignore, self.layout.channels])
        return f"{case.id}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


FEW = 40  # cases: below, no hash can split them


def share_cases(source: VolumeSource, *, test: Sequence[str] = (), val: Sequence[str] = ()) -> dict[str, Subset]:
    """Training, validation and test cases, {"train", "val", "test"}: no patient is in two, unless there are too few.

    By a hash of their names from `FEW` cases on; below, the last fifth is for the test and the fifth before it for
    validation. Where a fifth is none, the last is for the test, and the first training case validates too.

    Args:
        source: all cases.
        test: names of those that are only scored; chosen as above when empty.
        val: names of those that choose the checkpoint, likewise.

    Raises:
        ValueError: for a name that no case has, and where none is left to train on.
    """
    if unknown := {*test, *val} - set(source.ids):
        raise ValueError(f"no case {', '.join(sorted(unknown))}: there are {', '.join(source.ids[:20])}")
    if len(source) >= FEW and not (test or val):
        return split(source)
    fifth = len(source) // 5
    test = list(test) or [id for id in source.ids if id not in val][-max(1, fifth) :]
    rest = [id for id in source.ids if id not in test]
    val = list(val) or (rest[-fifth:] if fifth else [])
    train = [id for id in rest if id not in val]
    if not train:
        raise ValueError(f"{len(source)} cases, of which none is left to train on: add cases, or name fewer to test")
    parts = {"train": train, "val": val or train[:1], "test": test}
    return {name: Subset(source, [source.ids.index(id) for id in ids]) for name, ids in parts.items()}


def _save(path: Path, array: np.ndarray) -> None:
    with replacing(path) as scratch, scratch.open("wb") as file:
        np.save(file, array)
