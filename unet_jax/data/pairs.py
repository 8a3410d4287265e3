"""Which files of a folder belong together, and what its index.csv says about them; no file is decoded here."""

import csv
import os
import unicodedata
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

EXTENSIONS = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
LABEL_SUFFIXES = ("_mask", "_label", "_seg")
LAYOUT = "expected are images/NAME.png and labels/NAME.png (or masks/NAME.png), of any extension of " + " ".join(
    EXTENSIONS
)


class Pair(NamedTuple):
    """An image and its label."""

    id: str
    image: Path
    label: Path


class Matched(NamedTuple):
    """What lies in a folder: pairs, files without their other half, two files of one name, and what is not read."""

    pairs: list[Pair]
    images: list[Path]
    masks: list[Path]
    doubles: list[tuple[Path, Path]]
    slashed: list[Path]
    ignored: list[Path]
    rooms: tuple[Path, Path]


def match(folder: Path) -> Matched:
    """Sort out the files of a folder, whatever is wrong with them; find_pairs raises what is.

    Raises FileNotFoundError or ValueError only where images/ or labels/ are missing or both labels/ and masks/ there.
    """
    rooms = image_folder, label_folder = _rooms(folder)
    images, labels = _by_stem(image_folder), _by_stem(label_folder)
    named = _without_suffix(labels.files, images.files)
    return Matched(
        [
            Pair(stem, images.files[stem], named.files[stem])
            for stem in sorted(images.files.keys() & named.files.keys())
        ],
        [images.files[stem] for stem in sorted(images.files.keys() - named.files.keys())],
        [named.files[stem] for stem in sorted(named.files.keys() - images.files.keys())],
        images.doubles + labels.doubles + named.doubles,
        images.slashed + labels.slashed,
        images.ignored + labels.ignored,
        rooms,
    )


def find_pairs(folder: Path) -> list[Pair]:
    """Images and labels of the same name, sorted by name.

    A label may end in `_mask`, `_label` or `_seg`. Raises FileNotFoundError or ValueError, naming up to five files.
    """
    found = match(folder)
    image_folder, label_folder = found.rooms
    for path in found.slashed:
        raise ValueError(f"{path}: its name has a backslash, which other systems read as a folder: rename it")
    for one, other in found.doubles:
        raise ValueError(f"{one} and {other} are both for {_stem(one.name)}: rename or take away one of them")
    if found.ignored:
        what = _some(found.ignored, "entry", "entries")
        warnings.warn(f"{what} ignored: only files ending in {' '.join(EXTENSIONS)} are read", stacklevel=4)
    if not found.pairs and not found.images:
        raise ValueError(f"{image_folder}: no images in it, found {_found(image_folder)}; {LAYOUT}")
    if lonely := found.images:
        raise ValueError(
            f"{_some(lonely, 'image')} without a mask in {label_folder}: add the missing mask (all zero where there is "
            "nothing), give it the image's name, or take the image away"
        )
    if lonely := found.masks:
        raise ValueError(
            f"{_some(lonely, 'mask')} without an image in {image_folder}: add the missing image, give the mask the "
            "image's name, or take the mask away"
        )
    return found.pairs


def read_index(path: Path, ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Columns of an index.csv, in the order of `ids`; {} when there is no such file.

    The first column is `id`. Rows of images that are not in the folder are ignored, since a table may describe more
    than the part at hand; an image without a row is an error, since a score by column would silently leave it out.
    """
    if not path.exists():
        return {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            reader = csv.DictReader(file, delimiter=";" if ";" in header and "," not in header else ",", restval="")
            names = list(reader.fieldnames or [])
            if not names or names[0] != "id" or len(set(names)) < len(names):
                raise ValueError(f"{path}: its columns are {names}: name the first one id, and no two alike")
            rows: dict[str, dict[str, str]] = {}
            for row in reader:
                if None in row:
                    raise ValueError(
                        f"{path}, line {reader.line_num}: more cells than columns: put quotes round the text"
                    )
                stem = _stem(row["id"])
                if stem in rows:
                    raise ValueError(f"{path}, line {reader.line_num}: id {row['id']} a second time: take one row away")
                rows[stem] = row
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read ({error}): save it as CSV in UTF-8") from error
    if missing := [id for id in ids if id not in rows]:
        raise ValueError(f"{path}: no row for {_some(missing, 'image')}: add the rows, or take the file away")
    return {name: tuple(rows[id][name] for id in ids) for name in names[1:]}


def _rooms(folder: Path) -> tuple[Path, Path]:
    """The folders of images and of labels."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; {LAYOUT}")
    labels = [folder / name for name in ("labels", "masks") if (folder / name).is_dir()]
    if not (folder / "images").is_dir() or not labels:
        missing = "labels (or masks)" if (folder / "images").is_dir() else "images"
        parent = f"; did you mean {folder.parent}?" if (folder.parent / "images").is_dir() else ""
        raise ValueError(f"{folder}: no folder {missing} in it, found {_found(folder)}; {LAYOUT}{parent}")
    if len(labels) > 1:
        raise ValueError(f"{folder}: both labels and masks in it: rename the one that is not to be used")
    return folder / "images", labels[0]


def _stem(name: str) -> str:
    """Name without extension, in one spelling of accents (macOS writes another than Linux)."""
    stem, extension = os.path.splitext(name)
    return unicodedata.normalize("NFC", stem if extension.lower() in EXTENSIONS else name)


class _Files(NamedTuple):
    files: dict[str, Path]
    doubles: list[tuple[Path, Path]]
    slashed: list[Path]
    ignored: list[Path]


def _by_stem(folder: Path) -> _Files:
    """Files by their name without the extension, and those that cannot be taken."""
    found = _Files({}, [], [], [])
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in ("Thumbs.db", "desktop.ini"):
            continue
        stem = _stem(path.name)
        if path.suffix.lower() not in EXTENSIONS or path.is_dir():
            found.ignored.append(path)
        elif "\\" in stem:
            found.slashed.append(path)
        elif stem in found.files:
            found.doubles.append((found.files[stem], path))
        else:
            found.files[stem] = path
    return found


def _without_suffix(labels: dict[str, Path], images: Collection[str]) -> _Files:
    """Labels by the image they belong to, which decides whether a suffix is part of the name."""
    found = _Files({}, [], [], [])
    for stem, path in labels.items():
        if stem not in images:
            bare = next((stem.removesuffix(suffix) for suffix in LABEL_SUFFIXES if stem.endswith(suffix)), stem)
            stem = bare if bare in images else stem
        if stem in found.files:
            found.doubles.append((found.files[stem], path))
        else:
            found.files[stem] = path
    return found


def _some(things: Sequence[str | Path], one: str, many: str = "") -> str:
    """Their number and the first five."""
    names = ", ".join(str(thing) for thing in things[:5]) + (", ..." if len(things) > 5 else "")
    return f"{len(things)} {one if len(things) == 1 else many or one + 's'} ({names})"


def _found(folder: Path) -> str:
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "nothing"
