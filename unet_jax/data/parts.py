"""Which folders of a set hold images and masks that belong together, as published sets are laid out; none is opened.

In this order: images/ and labels/ (or other names in `rooms`); images beside masks in one folder; folders whose names
are alike but for a word (train and train_labels, 01 and 01_ST/SEG); a folder for training that holds any of these;
folders of categories with images beside masks.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from unet_jax.data.rooms import (
    IMAGE_ROOMS,
    LABEL_ROOMS,
    LAYOUT,
    Files,
    files_in,
    found_in,
    is_filled,
    mixed_files,
    rooms_of,
    stem_of,
    subfolders,
)

# What the name of a folder of images ends in, and that of its masks; what stands before is the same in both.
_IMAGE_WORDS = (*IMAGE_ROOMS, "sat", "")
_LABEL_WORDS = ("st", *LABEL_ROOMS, "lab", "map")
_INNER = "SEG"  # the Cell Tracking Challenge: 01_ST/SEG (every image) and 01_GT/SEG (some images), beside TRA
_SPLITS = ("train", "val", "test")  # how the names of parts begin that are not to be mixed


class Part(NamedTuple):
    """Images and masks to be paired; `name` tells the parts of a set apart, `sparse` may lack masks of some images."""

    rooms: tuple[Path, Path]
    images: Files
    labels: Files
    name: str = ""
    sparse: bool = False


def find_parts(folder: Path) -> tuple[list[Part], list[str]]:
    """The parts of the set in a folder, all to be read, and what the user should know of the choice.

    Raises FileNotFoundError for no folder, ValueError where images or masks are missing, or there twice.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; {LAYOUT}")
    images, labels = rooms_of(folder)
    if not (images and labels):
        if beside := _beside(folder):
            return [beside], []
        for look in (_partnered, _with_partner, _training, _categories):
            parts, notes = look(folder)
            if parts:
                return parts, notes
        missing = "labels (or masks)" if images else "images"
        raise ValueError(f"{folder}: no folder {missing} in it, found {found_in(folder)}; {LAYOUT}{_hint(folder)}")
    return [_of(_single(images, folder), _single(labels, folder))], []


def _single(rooms: list[Path], folder: Path) -> Path:
    if len(rooms) > 1:
        names = " and ".join(room.name for room in rooms)
        raise ValueError(f"{folder}: both {names} in it: rename the one that is not to be used")
    return rooms[0]


def _of(images: Path, labels: Path) -> Part:
    return Part((images, labels), files_in(images), files_in(labels), stem_of(images.name), labels.name == _INNER)


def _beside(folder: Path) -> Part | None:
    """Images beside masks in this folder or, where it has folders of images alone, in the one of them that has both."""
    images, labels = rooms_of(folder)
    found = [(room, mixed_files(room)) for room in images or [folder] if not labels]
    parts = [Part((room, room), *files, stem_of(folder.name)) for room, files in found if all(f.files for f in files)]
    return parts[0] if len(parts) == 1 else None


def _pairs_of_rooms(folder: Path) -> Iterator[tuple[Path, Path, str]]:
    """Folders of images, those of their masks, and what both names begin with."""
    named = subfolders(folder)
    for key, images in named.items():
        for word in (word for word in _IMAGE_WORDS if key.endswith(word)):
            start = key.removesuffix(word)
            rooms = [_inner(named[start + end], end) for end in _LABEL_WORDS if start + end in named]
            rooms = [room for room in rooms if room is not None and room != images and is_filled(room)]
            if rooms and is_filled(images):
                sparse = [room for room in rooms if room.name == _INNER]
                yield images, sparse[0] if sparse else _single(rooms, folder), start
                break


def _inner(room: Path, word: str) -> Path | None:
    inner = room / _INNER
    return inner if inner.is_dir() else None if word == "st" else room


def _partnered(folder: Path) -> tuple[list[Part], list[str]]:
    """The pairs of folders in this one: that for training, all sequences, or the only one."""
    found = [_of(images, labels) for images, labels, _ in _pairs_of_rooms(folder)]
    if len(found) < 2:
        return found, []
    if all(part.sparse for part in found):
        return found, [_together(folder, found)]
    training = [part for part in found if part.name.lower().startswith("train")]
    others = [str(part.rooms[0]) for part in found if part not in training]
    if len(training) == 1:
        return training, [
            f"{training[0].rooms[0]} is read, and left out is {', '.join(others)}: to read that, name it with --data"
        ]
    names = ", ".join(str(part.rooms[0]) for part in found)
    raise ValueError(f"{folder}: {names} have masks each: name one of them, as in --data {found[0].rooms[0]}")


def _with_partner(folder: Path) -> tuple[list[Part], list[str]]:
    """A folder of images whose masks lie in the folder beside it: train_img, named itself."""
    if folder.name in ("", "..") or not is_filled(folder):
        return [], []
    with suppress(OSError, ValueError):
        pairs = _pairs_of_rooms(folder.parent)
        return [_of(folder, labels) for images, labels, start in pairs if start and images.name == folder.name], []
    return [], []


def _training(folder: Path) -> tuple[list[Part], list[str]]:
    """What the only subfolder for training holds, beside those for validation and test."""
    splits = [path for path in subfolders(folder).values() if path.name.lower().startswith(_SPLITS)]
    training = [path for path in splits if path.name.lower().startswith("train") and _reads(path)]
    if len(training) != 1 or any(rooms_of(folder)):
        return [], []
    parts, notes = find_parts(training[0])
    others = ", ".join(str(path) for path in splits if path != training[0])
    left = f", and left out is {others}: to read that, name it with --data" if others else ""
    return parts, [f"{training[0]} is read{left}", *notes]


def _categories(folder: Path) -> tuple[list[Part], list[str]]:
    """All folders of images beside masks, such as one for each kind of defect; not those for training and test."""
    if any(rooms_of(folder)):
        return [], []
    found = []
    for path in subfolders(folder).values():
        with suppress(OSError):
            found += [part] if (part := _beside(path)) else []
    if len(found) < 2 or any(part.name.lower().startswith(_SPLITS) for part in found):
        return [], []
    return found, [_together(folder, found)]


def _together(folder: Path, found: list[Part]) -> str:
    names = ", ".join(part.name for part in found)
    return f"{folder}: {len(found)} folders are read together ({names}): to read one alone, name it with --data"


def _hint(folder: Path) -> str:
    """Where else, above first, then below: the part for training before others."""
    below = sorted(subfolders(folder).values(), key=lambda path: (not path.name.lower().startswith("train"), path.name))
    near = [path for path in below if _reads(path)]
    if _reads(folder.parent, beside=False):
        near.insert(0, folder.parent)
    more = f" Or {', '.join(str(path) for path in near[1:4])}?" if near[1:] else ""
    return f"; did you mean {near[0]}?{more}" if near else ""


def _reads(folder: Path, *, beside: bool = True) -> bool:
    with suppress(OSError, ValueError):
        if all(rooms_of(folder)) or _partnered(folder)[0]:
            return True
        return beside and bool(_beside(folder) or _categories(folder)[0])
    return False
