"""Folders that hold a trained model: the folder of a training, or a small one of a card and parameters."""

import hashlib
import json
import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from unet_jax import pretrained, remote
from unet_jax.cards import check_card
from unet_jax.logs import replacing, write_json

CARD, PARAMETERS = "card.json", "params.npz"
CARD_BYTES = 2**24  # a card is some kB


def read_model(folder: str | Path, *, which: str = "best") -> tuple[dict[str, Any], dict[str, Any]]:
    """Variables ({"params": ...} and model state, float32 numpy) and card of the model in a folder.

    Args:
        folder: of a training (with checkpoints/ in it), its checkpoints/ itself, or one that `write_model` made; or
            the name of a model that comes with the package.
        which: "best" or "latest" checkpoint; a small folder holds one only.

    Raises:
        FileNotFoundError: the folder holds no model, or a model without a card.
        ValueError: what it holds is damaged, or its card lacks what prediction needs.
    """
    folder = pretrained.resolve(folder)
    if (folder / PARAMETERS).exists() or (folder / CARD).exists():
        variables, card = _read_small(folder)
    else:
        inner = remote.checkpoints_of(folder)
        inner = inner if inner.is_dir() else folder
        if not inner.is_dir() or not any(entry.name.isdecimal() for entry in inner.iterdir()):
            raise FileNotFoundError(
                f"{folder} holds no model: name the --workdir of a training (with checkpoints/ in it), a folder "
                f"with {CARD} and {PARAMETERS}, or a model of the package ({', '.join(pretrained.names())})"
            )
        from unet_jax.checkpoint import load  # orbax takes a second to import

        variables, card = load(inner, which=which)
    try:
        check_card(card, variables)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    return variables, card


def write_model(
    variables: Mapping[str, Any], card: Mapping[str, Any], folder: str | Path, *, dtype: str = "float16"
) -> None:
    """Write card.json and params.npz, which `read_model` reads, with parameters of `dtype` ("float16" or "float32").

    Statistics of normalisation stay float32: a variance may be out of float16's range. Raises ValueError when a
    parameter is.
    """
    if dtype not in ("float16", "float32"):
        raise ValueError(f"parameters as {dtype}: choose float16 or float32")
    arrays = {}
    for name, value in traverse_util.flatten_dict(dict(variables), sep="/").items():
        as_stored = dtype if name.startswith("params/") else "float32"
        with np.errstate(over="ignore"):
            arrays[name] = np.asarray(value).astype(as_stored)
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name} is out of the range of {as_stored}: choose float32, or another checkpoint")
    folder = Path(folder)
    with replacing(folder / PARAMETERS) as scratch, scratch.open("wb") as file:
        np.savez(file, **arrays)
    write_json(folder / CARD, card)


def check_shapes(wanted: Mapping[str, Any], variables: Mapping[str, Any]) -> None:
    """ValueError where variables are not of the names and shapes that their model has."""
    want, have = (
        {name: np.shape(array) for name, array in traverse_util.flatten_dict(dict(tree), sep="/").items()}
        for tree in (wanted, variables)
    )
    if wrong := sorted(name for name in want.keys() | have.keys() if want.get(name) != have.get(name)):
        raise ValueError(
            f"{len(wrong)} parameters do not fit the model of the card, among them {wrong[0]}: copy the folder "
            "again, its card and its parameters belong to two models"
        )


def fingerprint(models: Iterable[Mapping[str, Any]]) -> str:
    """Twelve letters that tell the variables of one or more models apart, from all numbers."""
    digest = hashlib.sha256()
    for variables in models:
        for name, array in sorted(traverse_util.flatten_dict(dict(variables), sep="/").items()):
            digest.update(name.encode() + np.ascontiguousarray(array, np.float32).tobytes())
    return digest.hexdigest()[:12]


def _arrays(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Name and values of the arrays in an npz; ValueError, before any is made, for one that is not of the file's size.

    `numpy.savez` stores without compression, so what is read is never larger than the file.
    """
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            with archive.open(entry) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
                if dtype.kind not in "biuf":
                    raise ValueError(f"{entry.filename} holds {dtype}, not numbers")
                size = math.prod(shape) * dtype.itemsize
                if entry.compress_type != zipfile.ZIP_STORED or size != entry.file_size - file.tell():
                    raise ValueError(
                        f"{entry.filename} says it has the shape {shape}, which is not what the file holds"
                    )
            with archive.open(entry) as file:
                yield entry.filename.removesuffix(".npy"), np.lib.format.read_array(file, allow_pickle=False)


def _read_small(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    for name, what in ((CARD, "card, which says what the model is"), (PARAMETERS, "parameters")):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no {name}, the {what}: copy the folder again, whole")
    try:
        if (folder / CARD).stat().st_size > CARD_BYTES:
            raise ValueError(f"a card of more than {CARD_BYTES} bytes")
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        arrays = {name: array.astype(np.float32) for name, array in _arrays(folder / PARAMETERS)}
        variables = traverse_util.unflatten_dict(arrays, sep="/")
    except Exception as error:  # of the system, json, zipfile, numpy; a name that is both an array and a folder
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{folder}: {CARD} or {PARAMETERS} is damaged ({reason}): copy the folder again") from error
    if not isinstance(card, dict):
        raise ValueError(f"{folder / CARD}: not a JSON object: copy the folder again")
    return variables, card
