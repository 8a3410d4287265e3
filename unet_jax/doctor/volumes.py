"""NIfTI volumes as the doctor sees them: a file a case in imagesTr/ and labelsTr/, the Decathlon's layout.

One file a channel (NAME_0000.nii.gz) and BraTS's folders are trained on, and not checked yet.
"""

import json
import re
from pathlib import Path

import numpy as np
from jaxtyping import Integer, Shaped

from unet_jax.claims import Refused
from unet_jax.data.decode import MAX_PIXELS
from unet_jax.data.nifti import read_grid, read_nifti
from unet_jax.data.pairs import Matched, Pair
from unet_jax.data.volume_folders import ENDINGS, names_of, stem


def is_volume(path: Path) -> bool:
    """Whether its name is that of a NIfTI file."""
    return path.name.endswith(ENDINGS)


def match_volumes(folder: Path) -> Matched:
    """Pair imagesTr/NAME.nii.gz with labelsTr/NAME.nii.gz; ValueError for the layouts that are not checked."""
    rooms = folder / "imagesTr", folder / "labelsTr"
    if not rooms[1].is_dir():
        raise ValueError(f"{folder}: imagesTr/ without labelsTr/: add the labels")
    files: list[dict[str, Path]] = []
    ignored = []
    for room in rooms:
        entries = [path for path in sorted(room.iterdir()) if not path.name.startswith(".")]
        files.append({stem(path): path for path in entries if is_volume(path)})
        ignored += [path for path in entries if not is_volume(path)]
    images, labels = files
    if channel := next(
        (name for name in images.keys() - labels.keys() if re.sub(r"_\d{4}$", "", name) in labels), None
    ):
        raise ValueError(
            f"{images[channel]}: one file a channel is not checked yet: check a copy with (x, y, z, channels)"
        )
    pairs = [Pair(name, images[name], labels[name]) for name in sorted(images.keys() & labels.keys())]
    alone, orphans = (
        [a[name] for name in sorted(a.keys() - b.keys())] for a, b in ((images, labels), (labels, images))
    )
    return Matched(pairs, alone, orphans, [], [], ignored, rooms)


def declared_labels(folder: Path) -> dict[int, str]:
    """Names of the label values in dataset.json, {} without one."""
    path = folder / "dataset.json"
    if not path.is_file():
        return {}
    try:
        return names_of(json.loads(path.read_text(encoding="utf-8"))["labels"])[0]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(
            f'{path}: {error!r}; it needs "labels" such as {{"0": "background", "1": "oedema"}}'
        ) from error


def ignored_value(labels: dict[int, str]) -> int | None:
    """The value that dataset.json calls ignore, if any."""
    return next((value for value, name in labels.items() if name.strip().lower() == "ignore"), None)


def read_volume(path: Path) -> Shaped[np.ndarray, "x y z c"]:
    """A volume's numbers (X, Y, Z, C); ValueError naming the file, before memory is taken for one that is too large."""
    grid, channels = read_grid(path)
    if int(np.prod(grid.shape, dtype=np.int64)) * channels > MAX_PIXELS:
        raise Refused(f"{path}: claims {grid.shape} × {channels} voxels, more than {MAX_PIXELS:,}: cut it")
    return read_nifti(path)[0]


def read_volume_label(path: Path) -> Integer[np.ndarray, "x y z"]:
    """A label volume's whole numbers (X, Y, Z); ValueError naming the file."""
    values = read_volume(path)
    if values.shape[-1] != 1:
        raise Refused(f"{path}: has {values.shape[-1]} channels: save one label a voxel, (x, y, z)")
    if values.dtype.kind == "f":
        if (values != np.rint(values)).any():
            raise Refused(f"{path}: holds fractions: save whole numbers, one a class", fault="fraction-mask")
        values = values.astype(np.int32)
    return values[..., 0]


def same_place(pair: Pair) -> bool:
    """Whether the voxels of volume and labels lie in the same places."""
    return read_grid(pair.image)[0].agrees(read_grid(pair.label)[0])
