"""Which files of a folder belong together, and what its index.csv says about them; no file is decoded here."""

import csv
import os
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from unet_jax.claims import foreign_character
from unet_jax.data.parts import Part, find_parts
from unet_jax.data.rooms import EXTENSIONS, LAYOUT, Files, bare_images, bare_stem, found_in, stem_of

_INDEX_BYTES = 2**28


class Pair(NamedTuple):
    """An image and its label."""

    id: str
    image: Path
    label: Path


class Matched(NamedTuple):
    """What lies in a folder: pairs, files without their other half, two files of one name, and what is not read.

    `notes` say what was taken for what, or left out.
    """

    pairs: list[Pair]
    images: list[Path]
    masks: list[Path]
    doubles: list[tuple[Path, Path]]
    foreign: list[Path]
    ignored: list[Path]
    rooms: tuple[Path, Path]
    notes: tuple[str, ...] = ()


def match(folder: Path) -> Matched:
    """Sort out the files of a folder, whatever is wrong with them; find_pairs raises what is.

    Raises FileNotFoundError or ValueError only where images or masks are missing, or more than one folder may be meant.
    """
    parts, notes = find_parts(folder)
    found = [_match_part(part) for part in parts]
    if len(found) == 1:
        return found[0]._replace(notes=(*notes, *found[0].notes))
    pairs: dict[str, Pair] = {}
    doubles = [double for one in found for double in one.doubles]
    for part, one in zip(parts, found, strict=True):
        for pair in one.pairs:
            id = f"{part.name}_{pair.id}"  # names may come again in another part
            if id in pairs:
                doubles.append((pairs[id].image, pair.image))
            pairs[id] = pair._replace(id=id)
    return Matched(
        [pairs[id] for id in sorted(pairs)],
        [path for one in found for path in one.images],
        [path for one in found for path in one.masks],
        doubles,
        [path for one in found for path in one.foreign],
        [path for one in found for path in one.ignored],
        (folder, folder),
        (*notes, *(note for one in found for note in one.notes)),
    )


def _match_part(part: Part) -> Matched:
    images, labels = part.images, part.labels
    named, notes = _without_suffix(labels.files, images.files), []
    if cores := not images.files.keys() & named.files.keys():
        named = named._replace(files=_by_core(images.files, named.files, sparse=part.sparse))
    ids = sorted(images.files.keys() & named.files.keys())
    pairs = [Pair(id, images.files[id], named.files[id]) for id in ids]
    lonely = [images.files[stem] for stem in sorted(images.files.keys() - named.files.keys())]
    if cores and pairs and (first := pairs[0]).id not in stem_of(first.label.name):
        notes.append(
            f"{first.label.name} is taken for the mask of {first.image.name}, and the other {len(pairs) - 1} likewise: "
            "their names are alike but for what all have in common"
        )
    if seconds := images.seconds + labels.seconds:
        notes.append(f"{_some(seconds, 'mask')} of a second observer left out: the first one's count")
    if part.sparse and pairs and lonely:
        notes.append(f"{part.rooms[0]}: {len(lonely)} of {len(images.files)} images have no mask and are left out")
        lonely = []
    return Matched(
        pairs,
        lonely,
        [named.files[stem] for stem in sorted(named.files.keys() - images.files.keys())],
        images.doubles + labels.doubles + named.doubles,
        images.foreign + labels.foreign,
        images.ignored + labels.ignored,
        part.rooms,
        tuple(notes),
    )


def find_pairs(folder: Path) -> list[Pair]:
    """Images and labels of the same name, sorted by name.

    A label may end in `_mask`, `_label` or another of `rooms.LABEL_SUFFIXES`. Where no name of an image is that of a
    label, they belong together when they differ in what all images, or all labels, have in common (21_training,
    21_manual1), which is said in a warning, as is what `parts` leaves out or reads together.

    Raises FileNotFoundError or ValueError, naming up to five files.
    """
    found = match(folder)
    image_folder, label_folder = found.rooms
    for path in found.foreign:
        raise ValueError(f"{path}: its name has {foreign_character(path.name)}: rename it")
    for one, other in found.doubles:
        raise ValueError(f"{one} and {other} are both for {stem_of(one.name)}: rename or take away one of them")
    if found.ignored:
        what = _some(found.ignored, "entry", "entries")
        warnings.warn(f"{what} ignored: only files ending in {' '.join(EXTENSIONS)} are read", stacklevel=4)
    if not found.pairs and not found.images:
        raise ValueError(f"{image_folder}: no images in it, found {found_in(image_folder)}; {LAYOUT}")
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
    for note in found.notes:
        warnings.warn(note, stacklevel=4)
    return found.pairs


def places(folder: Path, pairs: Sequence[Pair]) -> list[Path]:
    """Where index.csv and the palette of pairs found in a folder may lie: in the part of it that was read, or above."""
    read = Path(os.path.commonpath([path.parent for pair in pairs for path in (pair.image, pair.label)] or [folder]))
    above = [read, *read.parents]
    return above[: above.index(folder) + 1] if folder in above else [folder]


def index_file(folder: Path, pairs: Sequence[Pair]) -> Path:
    """The index.csv of pairs found in a folder, the nearest to them; where there is none, a path without a file."""
    tables = [place / "index.csv" for place in places(folder, pairs)]
    return next((path for path in tables if path.is_file()), tables[-1])


def read_index(path: Path, ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Columns of an index.csv, in the order of `ids`; {} when there is no such file.

    The first column is `id`. Rows of images that are not in the folder are ignored, since a table may describe more
    than the part at hand; an image without a row is an error, since a score by column would silently leave it out.
    """
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > _INDEX_BYTES:
            raise ValueError(f"{path}: larger than {_INDEX_BYTES >> 20} MiB: leave out what is not about images")
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
                stem = stem_of(row["id"])
                if stem in rows:
                    raise ValueError(f"{path}, line {reader.line_num}: id {row['id']} a second time: take one row away")
                rows[stem] = row
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read ({error}): save it as CSV in UTF-8") from error
    if missing := [id for id in ids if id not in rows]:
        raise ValueError(f"{path}: no row for {_some(missing, 'image')}: add the rows, or take the file away")
    return {name: tuple(rows[id][name] for id in ids) for name in names[1:]}


def _without_suffix(labels: dict[str, Path], images: Collection[str]) -> Files:
    """Labels by the image they belong to, which decides whether a suffix is part of the name."""
    found, suffixed = Files({}, [], [], []), bare_images(images)
    for stem, path in labels.items():
        if stem not in images:
            bare = bare_stem(stem)
            stem = bare if bare in images else suffixed.get(bare, stem)
        if stem in found.files:
            found.doubles.append((found.files[stem], path))
        else:
            found.files[stem] = path
    return found


def _by_core(images: dict[str, Path], labels: dict[str, Path], *, sparse: bool) -> dict[str, Path]:
    """Labels by the image whose name is the same but for a beginning and an end that all images, or labels, share.

    All are, or none; `sparse` labels are of some of the images.
    """
    ours, theirs = _cores(list(images)), _cores(list(labels))
    if not theirs or not (theirs.keys() <= ours.keys() if sparse else theirs.keys() == ours.keys()):
        return labels
    return {ours[core]: labels[theirs[core]] for core in theirs}


def _cores(stems: list[str]) -> dict[str, str]:
    """Names by what tells them apart; numbers are not cut in two. {} where that is nothing, or not enough."""
    start = len(_beginning(stems).rstrip("0123456789"))
    rests = [stem[start:] for stem in stems]
    end = len(_beginning([rest[::-1] for rest in rests])[::-1].lstrip("0123456789"))
    cores = {rest[: len(rest) - end]: stem for rest, stem in zip(rests, stems, strict=True)}
    return cores if len(cores) == len(stems) and all(cores) else {}


def _beginning(words: list[str]) -> str:
    """What all words begin with."""
    first, last = min(words, default=""), max(words, default="")
    return first[: next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def _some(things: Sequence[str | Path], one: str, many: str = "") -> str:
    """Their number and the first five."""
    names = ", ".join(str(thing) for thing in things[:5]) + (", ..." if len(things) > 5 else "")
    return f"{len(things)} {one if len(things) == 1 else many or one + 's'} ({names})"
