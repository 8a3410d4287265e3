"""What folders and files of images and of masks are called, and which is which by its name; no file is opened."""

import os
import re
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from unet_jax.claims import foreign_character
from unet_jax.data import palette

EXTENSIONS = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".gif", ".bmp")
LABEL_SUFFIXES = (
    "_mask", "_label", "_seg", "_gt", "_masks", "_labels", "_groundtruth", "_ground_truth", "_annotation",
    "_segmentation", "_manual1", "_lab", "_1stho", "_2ndho",
)  # fmt: skip
IMAGE_SUFFIXES = ("_sat", "_image", "_img")
_FIRST, _SECOND = "_1stho", "_2ndho"  # two observers drew the same image, as in CHASE_DB1
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
    """Files by their name without the extension, those that cannot be taken, and what a second observer drew."""

    files: dict[str, Path]
    doubles: list[tuple[Path, Path]]
    foreign: list[Path]
    ignored: list[Path]
    seconds: tuple[Path, ...] = ()


def stem_of(name: str) -> str:
    """Name without extension, in one spelling of accents (macOS writes another than Linux)."""
    stem, extension = os.path.splitext(name)
    return unicodedata.normalize("NFC", stem if extension.lower() in EXTENSIONS else name)


def bare_stem(stem: str, suffixes: Sequence[str] = LABEL_SUFFIXES) -> str:
    """A mask's name without what says that it is one: road_1 for road_1_mask and road_1-GT."""
    plain = stem.lower().replace("-", "_")
    return next((stem[: -len(suffix)] for suffix in suffixes if plain.endswith(suffix)), stem)


def bare_images(stems: Iterable[str]) -> dict[str, str]:
    """Images' names by what is left without a suffix that says that they are images: 12 for 12_sat."""
    return {bare: stem for stem in stems if (bare := bare_stem(stem, IMAGE_SUFFIXES)) != stem}


def found_in(folder: Path) -> str:
    """The first names in a folder."""
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "nothing"


def subfolders(folder: Path) -> dict[str, Path]:
    """Folders in a folder, by their names in small letters and digits alone."""
    named: dict[str, Path] = {}
    for path in sorted(p for p in folder.iterdir() if p.is_dir()):
        named.setdefault(re.sub(r"[\W_]", "", path.name.lower()), path)
    return named


def rooms_of(folder: Path) -> tuple[list[Path], list[Path]]:
    """Subfolders of images, and of masks; of several those that hold pictures."""
    named = subfolders(folder)
    vessels = [named[name] for name in _VESSELS if name in named]
    images, labels = ([named[n] for n in names if n in named] for names in (IMAGE_ROOMS, LABEL_ROOMS))
    return _filled(images), vessels[:1] or _filled(labels)


def is_filled(room: Path) -> bool:
    """Whether it holds pictures."""
    return any(p.suffix.lower() in EXTENSIONS for p in room.iterdir())


def _filled(rooms: list[Path]) -> list[Path]:
    return rooms if len(rooms) < 2 else [room for room in rooms if is_filled(room)] or rooms


def files_in(room: Path) -> Files:
    """The files of a folder that holds images alone, or masks alone."""
    return _by_stem(_entries(room))


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
    plain = {stem.lower(): stem for stem in found.files}
    again = [stem for stem in plain if stem.endswith(_SECOND) and stem.removesuffix(_SECOND) + _FIRST in plain]
    return found._replace(seconds=tuple(found.files.pop(plain[stem]) for stem in again))


def _may_be_read(path: Path) -> bool:
    """Whether it is a plain file, or leads nowhere, of which whoever reads it tells; no folder, pipe or device."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True


def mixed_files(folder: Path) -> tuple[Files, Files]:
    """Images and masks of one folder: NAME.png with NAME_mask.png, NAME_sat.jpg with NAME_mask.png, NAME.jpg with
    NAME.png.
    """
    paths = [p for p in _entries(folder) if p.name not in ("index.csv", *palette.FILES)]  # those tell of the images
    named: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        if path.suffix.lower() in EXTENSIONS and path.is_file():
            named[stem_of(path.name)].append(path)
    masks, images = set(), named.keys() | bare_images(named).keys()
    for stem, files in named.items():
        photographs = [path for path in files if path.suffix.lower() in (".jpg", ".jpeg")]
        if bare_stem(stem) != stem and bare_stem(stem) in images:
            masks |= set(files)
        elif len(files) == 2 and len(photographs) == 1:  # a mask is no JPEG where there is a choice
            masks |= set(files) - set(photographs)
    return _by_stem([p for p in paths if p not in masks]), _by_stem([p for p in paths if p in masks])
