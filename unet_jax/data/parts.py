"""Which folders of a set hold images and masks that belong together, as published sets are laid out; none is opened.

In this order: images/ and labels/ (or other names in `rooms`); images beside masks in one folder; the only folder for
training that holds both; folders whose names are alike but for a word (train and train_labels, 01 and 01_ST/SEG);
folders of categories with images beside masks. Folders of pictures that are not read are named in a note.
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
_HELD_OUT = ("val", "test")  # how the names of parts begin that are not to be trained on


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
    for look in (_plain, _training, _partnered, _with_partner, _categories):
        parts, notes = look(folder)
        if parts:
            return parts, [*_left_out(folder, parts), *notes]
    missing = "labels (or masks)" if rooms_of(folder)[0] else "images"
    raise ValueError(f"{folder}: no folder {missing} in it, found {found_in(folder)}; {LAYOUT}{_hint(folder)}")


def _plain(folder: Path) -> tuple[list[Part], list[str]]:
    """The images and masks of this folder itself."""
    images, labels = rooms_of(folder)
    if images and labels:
        return [_of(_single(images, folder), _single(labels, folder))], []
    return [part] if (part := _beside(folder)) else [], []


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
        train = [path for path in subfolders(folder).values() if _is_for(path.name, "train")]
        if found and train and _is_for(found[0].name, *_HELD_OUT):
            raise ValueError(
                f"{folder}: of {train[0].name}, which is for training by its name, no masks are found, only of "
                f"{found[0].name}: to read that, name it with --data {found[0].rooms[0]}{_hint(folder)}"
            )
        return found, []
    if all(part.sparse for part in found):
        return found, [_together(folder, found)]
    training = [part for part in found if _is_for(part.name, "train")]
    if len(training) == 1:
        return training, []
    names = ", ".join(str(part.rooms[0]) for part in found)
    raise ValueError(f"{folder}: {names} have masks each: name one of them, as in --data {found[0].rooms[0]}")


def _is_for(name: str, *parts: str) -> bool:
    return name.lower().startswith(parts)


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
    training = [path for path in subfolders(folder).values() if _is_for(path.name, "train")]
    training = [path for path in training if _reads(path) and not _with_partner(path)[0]]
    return find_parts(training[0]) if len(training) == 1 and not any(rooms_of(folder)) else ([], [])


def _categories(folder: Path) -> tuple[list[Part], list[str]]:
    """All folders of images beside masks, such as one for each kind of defect; not those for training and test."""
    if any(rooms_of(folder)):
        return [], []
    found = []
    for path in subfolders(folder).values():
        with suppress(OSError):
            found += [part] if (part := _beside(path)) else []
    if len(found) < 2 or any(_is_for(part.name, "train", *_HELD_OUT) for part in found):
        return [], []
    return found, [_together(folder, found)]


def _together(folder: Path, found: list[Part]) -> str:
    names = ", ".join(part.name for part in found)
    return f"{folder}: {len(found)} folders are read together ({names}): to read one alone, name it with --data"


def _left_out(folder: Path, parts: list[Part]) -> list[str]:
    """A note that names the folders of pictures in this one that are not read, but for masks of what is named."""
    named = subfolders(folder)
    rooms = [[{room, *room.parents} for room in part.rooms] for part in parts]
    read, whole = {p for one, other in rooms for p in one | other}, {p for one, other in rooms for p in one & other}
    starts = {key.removesuffix(word) for key, path in named.items() if path not in whole for word in _IMAGE_WORDS}
    masks = {start + word for start in starts for word in _LABEL_WORDS}
    left = [str(path) for key, path in named.items() if path not in read and key not in masks and _has_pictures(path)]
    inside = [str(path) for path in named.values() if path in read]
    what = f"{inside[0]} is read, and" if len(parts) == 1 and inside else f"{folder}:"
    return [f"{what} left out is {', '.join(left)}: to read that, name it with --data"] if left else []


def _has_pictures(folder: Path) -> bool:
    """Whether it, or a folder in it, holds pictures."""
    with suppress(OSError):
        return folder.name[0] != "." and any(is_filled(path) for path in (folder, *subfolders(folder).values()))
    return False


def _hint(folder: Path) -> str:
    """Where else, above first, then below: the part for training before others."""
    below = sorted(subfolders(folder).values(), key=lambda path: (not _is_for(path.name, "train"), path.name))
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
