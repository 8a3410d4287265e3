"""Make a trained model one that comes with the package: small weights, and a card that says all there is to know.

    python -m scripts.package_model --workdir DIR --data FOLDER   # into unet_jax/pretrained/nuclei

DIR is the folder of a finished `experiments.train_cells`, FOLDER the images it was trained on. The scores in the
card are those of the weights as they are written, in float16, on the test split.
"""

from unet_jax import startup

if __name__ == "__main__":
    startup.prepare()

import dataclasses
import datetime
import json
import math
import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.cells_config import PRESETS, Config
from unet_jax import pretrained
from unet_jax.data.named import open_named
from unet_jax.data.source import Source, count_kinds, split
from unet_jax.evaluating import score_source
from unet_jax.hard_cases import APART, PAIRS
from unet_jax.model_folder import CARD, PARAMETERS, read_model, write_model
from unet_jax.predicted import FromModel
from unet_jax.prediction import Predictor
from unet_jax.scoring import summarise
from unet_jax.startup import flags, say

MOST_BYTES = 8 * 10**6
KEPT = (
    "model", "channels", "normalisation", "classes", "head", "label_map", "patch", "separation", "version", "commit",
    "train_images", "test_images",
)  # fmt: skip
_PLACE = re.compile(r"""(?:^|[\s='"])(?:/|~|\.\./|[A-Za-z]:\\)[\w.]""")  # an absolute path, a home, a folder above
FEW, WEAK = 40, 0.6  # training images of a kind, AP at IoU 0.5 on it: below them the card warns
ABOUT: dict[str, dict[str, Any]] = {
    "nuclei": {
        "summary": "nuclei in 2-D microscopy: fluorescence, stained tissue, bright field",
        "data": {
            "name": "BBBC038v1, stage 1 of the 2018 Data Science Bowl: 670 images",
            "url": "https://bbbc.broadinstitute.org/BBBC038",
            "licence": "CC0 1.0",
            "citation": "Caicedo et al. 2019, Nature Methods 16, 1247",
        },
        "not_for": [
            "whole cells, cytoplasm or membranes: it was taught nuclei alone",
            "volumes: it sees one plane at a time",
            "decisions on patients: it was never tested for them",
        ],
    }
}


@dataclasses.dataclass(frozen=True)
class PackageModel:
    """Write card.json and params.npz of a trained model into the package."""

    workdir: Path
    """Folder of a finished training."""
    data: str
    """The images it was trained on, as its --data."""
    name: str = "nuclei"
    """What users call it: --model NAME, --init NAME."""
    note: str = ""
    """What else is to be said of the data, such as who corrected the masks."""
    output: Path = Path(pretrained.__file__).parent
    """Folder of the models."""
    overwrite: bool = False
    """Replace the model of that name."""


def main(config: PackageModel) -> int:
    """Write the model; ValueError when it is too large, or was not trained on this data."""
    folder = config.output / config.name
    if folder.exists() and not config.overwrite:
        raise ValueError(f"{folder} exists: name another, or add --overwrite")
    variables, card = read_model(config.workdir)
    asked = card.get("config", {})
    if asked.get("folds") is not None:
        raise ValueError(f"{config.workdir} is a fold, whose test images are not those of the split: train without it")
    parts = split(open_named(config.data, label_kind=asked.get("label_kind"), ignore=asked.get("ignore")))
    steps = history(config.workdir)
    if steps[-1]["test_images"] != len(parts["test"]):
        raise ValueError(
            f"{config.workdir} was tested on {steps[-1]['test_images']} images, the test split of {config.data} has "
            f"{len(parts['test'])}: give the --data of the training"
        )
    card = {
        "name": config.name,
        **ABOUT.get(config.name, {"summary": config.note}),
        **{name: card[name] for name in KEPT if name in card},
        "config": {"data": Path(config.data).name},
        "training": steps,
    }
    card["data"] = card.get("data", {}) | {"note": config.note, **describe_data(parts)}
    with tempfile.TemporaryDirectory() as scratch:
        write_model(variables, card, scratch)
        say(f"scoring {len(parts['test'])} test images")
        card["scores"] = score(Predictor.load(scratch), parts["test"])
        card["not_for"] = [*card.get("not_for", []), *limits(card)]
        write_model(variables, card, scratch)
        size = check(card, Path(scratch))
    write_model(variables, card | {"bytes": size}, folder)
    best = card["scores"]["all"]
    say(f"{folder}: {size / 1e6:.1f} MB; AP {best['ap50']:.3f} at IoU 0.5, {best['ap75']:.3f} at 0.75")
    return 0


def history(workdir: Path) -> list[dict[str, Any]]:
    """The trainings that led to the model, oldest first: command, epochs, minutes, device, commit, date."""
    try:
        config, results = (json.loads((workdir / f"{name}.json").read_text()) for name in ("config", "results"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error.filename} is not there: name the --workdir of a finished training") from error
    before = Path(config["init"] or "")
    steps = history(before) if config["init"] and (before / "config.json").is_file() else []
    day = datetime.date.fromtimestamp((workdir / "results.json").stat().st_mtime)
    return [
        *steps,
        {
            "command": command(config),
            "epochs": results["epochs"],
            "best_epoch": results["best"]["epoch"],
            "minutes": round(results["seconds"]["training"] / 60, 1),
            "device": results["device"],
            "commit": results["commit"],
            "date": day.isoformat(),
            "test_images": results["test"]["images"],
        },
    ]


def command(config: Mapping[str, Any]) -> str:
    """The command line that gives a training's config, without the folders of this machine."""
    given = dict(config)
    for name in ("workdir", "resume", "mesh", "profile", "dtype"):
        given.pop(name, None)
    if "/" in given["data"] or "\\" in given["data"]:
        given["data"] = "FOLDER"
    if init := given.get("init"):
        given["init"] = "the one before" if (Path(init) / "config.json").is_file() else Path(init).name
    defaults = dataclasses.asdict(Config()) | PRESETS[config["preset"]] | {"preset": "auto"}
    return shlex.join(["python", "-m", "experiments.train_cells", *flags(given, defaults)])


def describe_data(parts: Mapping[str, Source]) -> dict[str, Any]:
    """How the images were split, of which kinds they are, and how large the objects of the training are."""
    areas = [np.bincount(parts["train"][i]["label"].ravel())[1:] for i in range(len(parts["train"]))]
    areas = np.concatenate([area[area > 0] for area in areas])
    diameters = np.percentile(2 * np.sqrt(areas / math.pi), (5, 50, 95))
    return {
        "split": "70/15/15 by a hash of the image's name",
        "images": {name: len(part) for name, part in parts.items()},
        "kinds": {name: count_kinds(part) for name, part in parts.items()},
        "objects_in_training": len(areas),
        "diameter": {name: round(float(d), 1) for name, d in zip(("5 %", "50 %", "95 %"), diameters, strict=True)},
    }


def score(predictor: Predictor, test: Source) -> dict[str, Any]:
    """Objects, pixels and hard cases of the test split, by kind of image; shares and scores with four digits."""
    _, scores = score_source(test, FromModel(predictor, num_classes=2))
    found = summarise(scores, kinds=test.columns.get("kind", ()))

    def row(objects: Mapping[str, Any], pixels: Mapping[str, Any]) -> dict[str, Any]:
        values = {"ap50": objects["ap_pooled"]["0.50"], "ap75": objects["ap_pooled"]["0.75"]}
        values |= {"pq": objects["pq_pooled"], "iou": pixels["iou_pooled"], "dice": pixels["dice_pooled"]}
        counts = {"images": objects["images"], "objects": objects["objects"]}
        return counts | {name: round(value, 4) for name, value in values.items()}

    objects, pixels, cases = found["objects"], found["pixels"], found["cases"]
    rates = {name: cases[name]["rate"] for name in ("clear", "touching", "low_contrast", PAIRS, APART)}
    return {
        "split": "test",
        "of": "the weights as they are here, in float16, pooled over the images; AP is TP / (TP + FP + FN)",
        "all": row(objects, pixels),
        "by_kind": {name: row(part, pixels["by_kind"][name]) for name, part in objects["by_kind"].items()},
        "found": {name: rate if rate is None else round(rate, 4) for name, rate in rates.items()},
    }


def limits(card: Mapping[str, Any]) -> list[str]:
    """What data and scores say it is not good for."""
    data, kinds = card["data"], card["scores"]["by_kind"]
    found = [
        f"objects of other sizes: those it was taught were {data['diameter']['5 %']:g} to {data['diameter']['95 %']:g} "
        "pixels across (nine in ten of them): --zoom 2 enlarges images whose objects are half as wide"
    ]
    if least := card.get("separation", {}).get("min_area"):
        found.append(
            f"objects of fewer than {least:g} pixels: they are dropped, which is best on the validation images"
        )
    for kind, count in data["kinds"]["train"].items():
        row = kinds.get(kind)
        if count < FEW or (row and row["ap50"] < WEAK):
            words = f"AP {row['ap50']:.2f} at IoU 0.5 on {row['images']} test images" if row else "no test image"
            found.append(f"{kind.replace('_', ' ')}: {count} training images, {words}")
    return found


def check(card: Mapping[str, Any], folder: Path) -> int:
    """Bytes of the folder; ValueError when they are too many, or when the card names a place on this machine."""
    size = sum((folder / name).stat().st_size for name in (CARD, PARAMETERS))
    if size > MOST_BYTES:
        raise ValueError(f"{size:,} bytes are more than {MOST_BYTES:,}: train with fewer --widths")
    if bad := [text for text in _texts(card) if _PLACE.search(text)]:
        raise ValueError(f"the card names a place on this machine: {bad[0]!r}: leave it out")
    return size


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


if __name__ == "__main__":
    startup.run(main, PackageModel, description=__doc__)
