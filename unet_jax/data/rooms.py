"""Where a folder keeps its images and its masks, by the names that people give such folders; no file is opened."""

import os
import re
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from unet_jax.claims import foreign_character

EXTENSIONS = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".gif", ".bmp")
LABEL_SUFFIXES = (
    "_mask", "_label", "_seg", "_gt", "_masks", "_labels", "_groundtruth", "_ground_truth", "_annotation",
    "_segmentation", "_manual1",
)  # fmt: skip
IMAGE_ROOMS = ("images", "image", "imgs", "img")
LABEL_ROOMS = (
    "labels", "masks", "label", "mask", "gt", "gts", "groundtruth", "annotations", "annotation", "segmentations",
)  # fmt: skip
# Sets of retinal vessels have these, and beside them a mask/ that holds the field of view.
_VESSELS = ("1stmanual", "manual1")
LAYOUT = "expected are images/NAME.png and labels/NAME.png (or masks/NAME.png), of any extension of " + " ".join(
    EXTENSIONS
)


class Files(NamedTuple):
    """Files by their name without the extension, and those that cannot be taken."""

    files: dict[str, Path]
    doubles: list[tuple[Path, Path]]
    foreign: list[Path]
    ignored: list[Path]


def stem_of(name: str) -> str:
    """Name without extension, in one spelling of accents (macOS writes another than Linux)."""
    stem, extension = os.path.splitext(name)
    return unicodedata.normalize("NFC", stem if extension.lower() in EXTENSIONS else name)


def bare_stem(stem: str) -> str:
    """A mask's name without what says that it is one: road_1 for road_1_mask and road_1-GT."""
    plain = stem.lower().replace("-", "_")
    return next((stem[: -len(suffix)] for suffix in LABEL_SUFFIXES if plain.endswith(suffix)), stem)


def find_files(folder: Path) -> tuple[tuple[Path, Path], Files, Files]:
    """The folders of images and of masks, and the files in both.

    They are subfolders named as in `IMAGE_ROOMS` and `LABEL_ROOMS`, whatever their case. Without either, images and
    masks may lie in `folder` itself: NAME.png with NAME_mask.png, or NAME.jpg with NAME.png.

    Raises FileNotFoundError for no folder, ValueError where one of both is missing, or is there twice.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; {LAYOUT}")
    images, labels = _rooms_of(folder)
    if not images and not labels:
        mixed = _mixed(folder)
        if mixed[0].files and mixed[1].files:
            return (folder, folder), *mixed
    if not images or not labels:
        missing = "labels (or masks)" if images else "images"
        raise ValueError(f"{folder}: no folder {missing} in it, found {found_in(folder)}; {LAYOUT}{_hint(folder)}")
    for rooms in (images, labels):
        if len(rooms) > 1:
            names = " and ".join(room.name for room in rooms)
            raise ValueError(f"{folder}: both {names} in it: rename the one that is not to be used")
    rooms = images[0], labels[0]
    return rooms, *(_by_stem(_entries(room)) for room in rooms)


def found_in(folder: Path) -> str:
    """The first names in a folder."""
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "nothing"


def _rooms_of(folder: Path) -> tuple[list[Path], list[Path]]:
    """Subfolders of images, and of masks; of several those that hold pictures."""
    named: dict[str, Path] = {}
    for path in sorted(p for p in folder.iterdir() if p.is_dir()):
        named.setdefault(re.sub(r"[\W_]", "", path.name.lower()), path)
    vessels = [named[name] for name in _VESSELS if name in named]
    images, labels = ([named[n] for n in names if n in named] for names in (IMAGE_ROOMS, LABEL_ROOMS))
    return _filled(images), vessels[:1] or _filled(labels)


def _filled(rooms: list[Path]) -> list[Path]:
    if len(rooms) < 2:
        return rooms
    return [room for room in rooms if any(p.suffix.lower() in EXTENSIONS for p in room.iterdir())] or rooms


def _hint(folder: Path) -> str:
    near = [folder.parent, *sorted(path for path in folder.iterdir() if path.is_dir())]
    whole = next((path for path in near if all(_rooms_of(path))), None)
    return f"; did you mean {whole}?" if whole else ""


def _entries(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.iterdir()) if p.name[0] != "." and p.name not in ("Thumbs.db", "desktop.ini")]


def _by_stem(paths: Sequence[Path]) -> Files:
    found = Files({}, [], [], [])
    for path in paths:
        stem = stem_of(path.name)
        if path.suffix.lower() not in EXTENSIONS or not _may_be_read(path):
            found.ignored.append(path)
        elif foreign_character(stem):
            found.foreign.append(path)
        elif stem in found.files:
            found.doubles.append((found.files[stem], path))
        else:
            found.files[stem] = path
    return found


def _may_be_read(path: Path) -> bool:
    """Whether it is a plain file, or leads nowhere, of which whoever reads it tells; no folder, pipe or device."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True


def _mixed(folder: Path) -> tuple[Files, Files]:
    """Images and masks of one folder."""
    paths = _entries(folder)
    named: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        if path.suffix.lower() in EXTENSIONS and path.is_file():
            named[stem_of(path.name)].append(path)
    masks = set()
    for stem, files in named.items():
        photographs = [path for path in files if path.suffix.lower() in (".jpg", ".jpeg")]
        if bare_stem(stem) != stem and bare_stem(stem) in named:
            masks |= set(files)
        elif len(files) == 2 and len(photographs) == 1:  # a mask is no JPEG where there is a choice
            masks |= set(files) - set(photographs)
    return _by_stem([p for p in paths if p not in masks]), _by_stem([p for p in paths if p in masks])
