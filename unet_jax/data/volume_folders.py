"""Folders of volumes: which files belong to a case, what the channels are called, and what a label's values mean.

Two layouts: the Medical Segmentation Decathlon's (dataset.json, imagesTr/, labelsTr/; also as nnU-Net writes it), and
BraTS's own (a folder a case with t1, t1ce, t2, flair, seg, or since 2023 t1n, t1c, t2w, t2f, seg).
"""

import dataclasses
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from unet_jax.data.nifti import read_grid
from unet_jax.data.volume_labels import is_ignored, names_of

ENDINGS = (".nii.gz", ".nii")
MODALITIES = ("FLAIR", "T1w", "T1gd", "T2w")  # the Decathlon's order, so that one model serves both layouts
TUMOUR = ("background", "oedema", "non-enhancing tumour", "enhancing tumour")
TUMOUR_REGIONS = {"whole tumour": (1, 2, 3), "tumour core": (2, 3), "enhancing tumour": (3,)}
_SUFFIXES = {  # of BraTS's files, until 2021 and since 2023: channel, or None for the label
    "flair": 0, "t1": 1, "t1ce": 2, "t1gd": 2, "t2": 3, "seg": None,
    "t2f": 0, "t1n": 1, "t1c": 2, "t2w": 3,
}  # fmt: skip
_SINCE_2023 = ("t2f", "t1n", "t1c", "t2w")
_BRATS = re.compile(rf"(.+)[_-]({'|'.join(_SUFFIXES)})\.nii(\.gz)?", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Case:
    """Files of one patient: one image with all channels or one a channel, and the label unless there is none."""

    id: str
    images: tuple[Path, ...]
    label: Path | None


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a folder of volumes holds.

    `classes` are the names of class 0 to K - 1, `values` the class of each value in a label file, `ignore` the values
    that were not annotated, `regions` overlapping unions of classes, largest first (the classes themselves when the
    folder does not tell of a brain tumour).
    """

    root: Path
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    values: dict[int, int]
    ignore: tuple[int, ...]
    regions: dict[str, tuple[int, ...]]
    cases: tuple[Case, ...]


def find_cases(root: str | Path, *, ignore: int | None = None) -> Layout:
    """Read a folder's layout; `ignore` is one more value that was not annotated.

    Raises:
        FileNotFoundError: no such folder, neither layout, or a modality or a label that is missing.
        ValueError: a dataset.json that cannot be understood, two cases of one name, more modalities than were declared.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; give one with dataset.json, imagesTr/ and labelsTr/")
    layout = _decathlon(root) if (root / "dataset.json").is_file() else _brats(root)
    layout = dataclasses.replace(layout, cases=distinct(layout.cases))
    return layout if ignore is None else dataclasses.replace(layout, ignore=(*layout.ignore, ignore))


def find_images(path: str | Path, channels: Sequence[str]) -> tuple[Case, ...]:
    """Cases without labels in a folder, or in one file: see the three forms of an image in `find_cases`.

    A folder holds files with all `channels`, or CASE_0000.nii.gz ..., in it or in its imagesTs/ or imagesTr/; or cases
    of BraTS. One file that holds one modality stands for its case.

    Raises FileNotFoundError when there is none, or a modality is missing; ValueError for two cases of one name.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: name a NIfTI file, or a folder of them")
    room = next((path / name for name in ("imagesTs", "imagesTr") if (path / name).is_dir()), path)
    files = [path] if path.is_file() else _listed_in(room, "*")
    if files and not any(_BRATS.fullmatch(file.name) for file in files):
        ids = [_base(file) if len(channels) > 1 else stem(file) for file in files]
        images = [file.with_name(id + file.name.removeprefix(stem(file))) for id, file in zip(ids, files, strict=True)]
        return distinct(_case(id, image, None, len(channels)) for id, image in zip(ids, images, strict=True))
    found = _brats_files(path if path.is_dir() else path.parent)
    if path.is_file():
        found = {case: files for case, files in found.items() if path in files.values()}
    if not found:
        raise FileNotFoundError(f"{path} holds no NIfTI file (.nii, .nii.gz): name one that does")
    return distinct(_brats_case(folder, id, files, labelled=False) for (folder, id), files in found.items())


def distinct(cases: Iterable[Case]) -> tuple[Case, ...]:
    """Every case once; ValueError for two of one name, by which labels and scores are kept, whose files differ."""
    found: dict[str, Case] = {}
    for case in cases:
        first = found.setdefault(case.id, case)
        if first is not case and _files_of(first) != _files_of(case):
            raise ValueError(
                f"two cases are called {case.id} ({first.images[0]} and {case.images[0]}): rename the files of one; to "
                "predict alone, it is enough to run them one after the other into two --output folders"
            )
    return tuple(found.values())


def _files_of(case: Case) -> list[Path]:
    return [path.resolve() for path in (*case.images, case.label) if path is not None]


def _base(file: Path) -> str:
    """Name of the case of which a file may be one modality: without _0001 where it holds a single volume.

    Where it cannot be read, the case's first two files say so; it is told of when the case is read.
    """
    base = re.sub(r"_\d{4}$", "", stem(file))
    if base == stem(file):
        return base
    first = (file.with_name(f"{base}_{i:04d}{file.name.removeprefix(stem(file))}") for i in range(2))
    return base if next(filter(None, map(_volumes_in, (file, *first))), 0) == 1 else stem(file)


def _volumes_in(file: Path) -> int:
    try:
        return read_grid(file)[1]
    except (ValueError, OSError):
        return 0


def _listed_in(root: Path, pattern: str) -> list[Path]:
    """NIfTI files by name, without what is hidden by a dot: macOS leaves a ._NAME beside every NAME."""
    found = (path for path in root.glob(pattern) if path.name.endswith(ENDINGS))
    return sorted(path for path in found if not any(part[0] == "." for part in path.relative_to(root).parts))


def stem(path: Path) -> str:
    """Name of a NIfTI file without its ending."""
    return next((path.name.removesuffix(e) for e in ENDINGS if path.name.endswith(e)), path.stem)


def _decathlon(root: Path) -> Layout:
    path = root / "dataset.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        channels = facts.get("channel_names") or facts["modality"]
        channels = tuple(str(name) for _, name in sorted(channels.items(), key=lambda pair: int(pair[0])))
        names, regions = names_of(facts["labels"])
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        fault = error if isinstance(error, ValueError) else repr(error)
        raise ValueError(
            f'{path}: {fault}; it needs "modality" (or "channel_names") such as {{"0": "FLAIR"}} and '
            '"labels" such as {"0": "background", "1": "oedema"}'
        ) from error
    ignore = tuple(value for value, name in names.items() if is_ignored(name))
    kept = sorted(value for value in names if value not in ignore)
    values = {value: number for number, value in enumerate(kept)}
    classes = tuple(names[value] for value in kept)
    regions = {name: tuple(values[v] for v in members) for name, members in regions.items()}
    cases = tuple(_case(id, image, label, len(channels)) for id, image, label in _listed(root, facts))
    if not cases:
        raise FileNotFoundError(f"{root} holds no labelled case: {path.name} lists none, and labelsTr/ has no NIfTI")
    return Layout(root, channels, classes, values, ignore, regions or _regions_of(classes), cases)


def _regions_of(classes: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """The three regions of a brain tumour when the classes are its parts, else each class by itself."""
    oedema, core, enhancing = (
        [i for i, name in enumerate(classes) if re.search(pattern, name, re.IGNORECASE)]
        for pattern in (r"o?edema", r"non.?enhanc|necro", r"(?<!non-)(?<!non)(?<!non )enhanc")
    )
    if len(classes) == 4 and [len(oedema), len(core), len(enhancing)] == [1, 1, 1]:
        inner = (*core, *enhancing)
        members = ((*oedema, *inner), inner, tuple(enhancing))
        return {name: tuple(sorted(m)) for name, m in zip(TUMOUR_REGIONS, members, strict=True)}
    return {name: (i,) for i, name in enumerate(classes) if i}


def _listed(root: Path, facts: dict[str, Any]) -> list[tuple[str, Path, Path]]:
    """Id, image and label of every training case, by dataset.json, else by what labelsTr/ holds."""
    rows = facts.get("training") or []
    if rows and all(isinstance(row, dict) and {"image", "label"} <= set(row) for row in rows):
        pairs = [(root / row["image"], root / row["label"]) for row in rows]
    else:
        pairs = [(root / "imagesTr" / label.name, label) for label in _listed_in(root / "labelsTr", "*")]
    return [(stem(label), image, label) for image, label in pairs]


def _case(id: str, image: Path, label: Path | None, channels: int) -> Case:
    ending = image.name.removeprefix(stem(image))
    parts = tuple(image.with_name(f"{stem(image)}_{i:04d}{ending}") for i in range(channels))
    images = (image,) if image.exists() else parts
    wanted = f"{'the model takes' if label is None else 'dataset.json tells of'} {channels} modalities"
    missing = [path for path in images if not path.exists()]
    if missing == list(parts):
        raise FileNotFoundError(
            f"case {id}: {image} is missing: put it there (or one file a modality, {parts[0].name} ...), or take the "
            "case out, also of dataset.json"
        )
    missing += [label] if label is not None and not label.exists() else []
    if missing:
        raise FileNotFoundError(
            f"case {id}: {missing[0]} is missing, {wanted}: put it there, or take the case out, also of dataset.json"
        )
    beyond = image.with_name(f"{stem(image)}_{channels:04d}{ending}")
    if images == parts and beyond.exists():
        raise ValueError(f"case {id}: {wanted}, and there is {beyond} too: name it in dataset.json, or take it out")
    return Case(id, images, label)


def _brats_files(root: Path) -> dict[tuple[Path, str], dict[str, Path]]:
    """Files of each case (its folder and name) by what BraTS calls them."""
    found: dict[tuple[Path, str], dict[str, Path]] = defaultdict(dict)
    for path in _listed_in(root, "**/*"):
        if match := _BRATS.fullmatch(path.name):
            found[path.parent, match[1]][match[2].lower()] = path
    return found


def _brats(root: Path) -> Layout:
    found = _brats_files(root)
    if not found:
        raise FileNotFoundError(
            f"{root} holds no volumes in a known layout: give it dataset.json, imagesTr/ and labelsTr/ (Medical "
            "Segmentation Decathlon), or a folder a case with CASE_flair.nii.gz, _t1, _t1ce, _t2 and _seg (BraTS)"
        )
    cases = tuple(_brats_case(folder, id, files) for (folder, id), files in found.items())
    newer = any(suffix in files for files in found.values() for suffix in _SINCE_2023)
    values = {0: 0, 1: 2, 2: 1, (3 if newer else 4): 3}  # BraTS counts from the middle of the tumour outwards
    return Layout(root, MODALITIES, TUMOUR, values, (), dict(TUMOUR_REGIONS), cases)


def _brats_case(folder: Path, id: str, files: dict[str, Path], *, labelled: bool = True) -> Case:
    by_channel = {_SUFFIXES[suffix]: path for suffix, path in files.items()}
    if missing := [name for i, name in enumerate(MODALITIES) if i not in by_channel]:
        raise FileNotFoundError(
            f"case {id} in {folder}: no file for {', '.join(missing)} beside {', '.join(sorted(files))}: put it there, "
            "or take the case out"
        )
    if labelled and None not in by_channel:
        raise FileNotFoundError(f"case {id} in {folder}: no {id}_seg.nii.gz: put it there, or take the case out")
    return Case(id, tuple(by_channel[i] for i in range(len(MODALITIES))), by_channel[None] if labelled else None)
