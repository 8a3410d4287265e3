"""What names, first bytes and hashes tell of a folder, before a pixel is decoded."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from unet_jax.data.decode import READ, content_of
from unet_jax.data.pairs import Matched, Pair, index_file, match, read_index
from unet_jax.data.source import parts_of, split_of
from unet_jax.doctor.findings import Case
from unet_jax.doctor.volumes import declared_labels, is_volume, match_volumes

_WORDS = {"", "image", "images", "img", "mask", "masks", "label", "labels", "seg", "segmentation", "gt", "annotation"}


class Survey(NamedTuple):
    """The pairs of a folder, those that only differ in spelling, what was found, and the labels dataset.json names.

    `parts` says of every pair, by its id, in which part of the data a training would have it.
    """

    matched: Matched
    almost: list[Pair]
    found: list[tuple[str, Case]]
    declared: dict[int, str]
    parts: dict[str, str]

    @property
    def pairs(self) -> list[Pair]:
        """All pairs, those of different spelling too."""
        return self.matched.pairs + self.almost


def survey(folder: Path) -> Survey:
    """Pair the files of a folder and say what is wrong with their names; errors only where there are no two folders."""
    name = namer(folder)
    volumes = (folder / "imagesTr").is_dir()
    matched = match_volumes(folder) if volumes else match(folder)
    almost = [] if volumes else _almost(matched)
    paired = {path for pair in almost for path in (pair.image, pair.label)}
    found = [("almost-paired", Case((name(pair.image), name(pair.label)))) for pair in almost]
    for code, paths in (("no-mask", matched.images), ("no-image", matched.masks)):
        found += [(code, Case((name(path),))) for path in paths if path not in paired]
    found += [("two-files", Case((name(one), name(other)))) for one, other in matched.doubles]
    found += [("bad-name", Case((name(path),))) for path in matched.foreign]
    found += [("ignored-file", Case((name(path),))) for path in matched.ignored]
    found += _clashes(matched, name)
    ids = tuple(pair.id for pair in matched.pairs)
    index = index_file(folder, matched.pairs)
    try:
        read_index(index, ids)
        declared = declared_labels(folder) if volumes else {}
    except (ValueError, OSError) as error:
        found.append(("index", Case((name(index),), str(error))))
        declared = {}
    every = [*ids, *(pair.id for pair in almost)]
    parts = {id: split_of(id) for id in every} if volumes else parts_of(every)  # few volumes are split by hand
    if not volumes and len(every) < 3:
        found.append(("empty-split", Case((), f"{len(every)} of them")))
    return Survey(matched, almost, found, declared, parts)


def first_bytes(pairs: Sequence[Pair], parts: Mapping[str, str], name: Callable[[Path], str]) -> list[tuple[str, Case]]:
    """What is no image by its first bytes, masks that are JPEG, and files that are equal byte for byte."""
    found = []
    sizes: dict[int, list[Pair]] = defaultdict(list)
    for pair in pairs:
        for path in (pair.image, pair.label):
            if is_volume(path):
                continue
            try:
                size = path.stat().st_size
                with path.open("rb") as file:
                    content = content_of(file.read(32)) if size else "0 bytes"
            except OSError as error:
                size, content = 0, error.strerror or str(error)
            if content == "JPEG" and path is pair.label:
                found.append(("lossy-mask", Case((name(path),), "a JPEG")))
            elif content not in READ:
                found.append(("unreadable", Case((name(path),), f"holds {content}")))
            elif path is pair.image:
                sizes[size].append(pair)
    for equal in sizes.values():
        found += _equal(equal, parts, name) if len(equal) > 1 else []
    return found


def namer(folder: Path) -> Callable[[Path], str]:
    """A function that gives a file's name below `folder`, with slashes; what is no text in it, as numbers."""

    def name(path: Path) -> str:
        inner = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
        return inner.encode("utf-8", "backslashreplace").decode()

    return name


def _equal(pairs: Sequence[Pair], parts: Mapping[str, str], name: Callable[[Path], str]) -> list[tuple[str, Case]]:
    same: dict[bytes, list[Pair]] = defaultdict(list)
    for pair in pairs:
        with pair.image.open("rb") as file:
            same[hashlib.file_digest(file, "sha256").digest()].append(pair)
    found = []
    for group in same.values():
        if len(group) > 1:
            where = [parts[pair.id] for pair in group]
            code = "duplicate-across-splits" if len(set(where)) > 1 else "duplicate"
            found.append((code, Case(tuple(name(pair.image) for pair in group), " and ".join(where[:4]))))
    return found


def _almost(matched: Matched) -> list[Pair]:
    """Files alone whose names become one when case, separators and words such as image or mask are left out."""
    rooms: list[dict[str, list[Path]]] = []
    for paths in (matched.images, matched.masks):
        names: dict[str, list[Path]] = defaultdict(list)
        for path in paths:
            names[_bare(path)].append(path)
        rooms.append(names)
    images, masks = rooms
    sure = [key for key in images.keys() & masks.keys() if key and len(images[key]) == len(masks[key]) == 1]
    return sorted(Pair(images[key][0].stem, images[key][0], masks[key][0]) for key in sure)


def _bare(path: Path) -> str:
    return "_".join(word for word in re.split(r"[\W_]+", path.stem.lower()) if word not in _WORDS)


def _clashes(matched: Matched, name: Callable[[Path], str]) -> list[tuple[str, Case]]:
    folded: dict[str, list[Path]] = defaultdict(list)
    for pair in matched.pairs:
        folded[pair.id.casefold()].append(pair.image)
    return [("case-clash", Case(tuple(map(name, paths)))) for paths in folded.values() if len(paths) > 1]
