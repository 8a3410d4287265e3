"""The legend that a model's card keeps: read back, refused where no training writes it, and scored by."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from tests.folders import save
from tests.trained import SMALL, TILE, bright_variables, card, random_variables, save_run
from unet_jax.commands.evaluate import Evaluate, evaluate
from unet_jax.data.legend import Legend, how_to_read, legend_in
from unet_jax.logs import plain
from unet_jax.models import UNet

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
LAND = Legend(("water", "wood", "field"), ((0x0000FF,), (0x00FF00,), (0xFF0000,)), (0xFFFFFF,), colours=True)
SOFT = Legend(("background", "road"), ((0,), (255,)), threshold=128)
OBJECTS = Legend(("background", "cell"), ((0,), ()), objects=True)


def told(legend):
    """The card of a model that was trained by this legend, as it is read from a file."""
    return json.loads(json.dumps({"classes": legend.names, "label_map": plain(legend)}))


@pytest.mark.parametrize("legend", [LAND, SOFT, OBJECTS, dataclasses.replace(LAND, background=None)])
def test_a_card_gives_the_legend_back(legend):
    assert legend_in(told(dataclasses.replace(legend, notes=("greys",)))) == legend


def test_models_of_objects_have_none():
    assert legend_in({"label_map": {"0": "background", "every other value": "cell"}}) is None
    assert legend_in({}) is None


@pytest.mark.parametrize(
    "changes",
    [{"names": ["water"]}, {"values": [0, 1, 2]}, {"values": 5}, {"threshold": 9}, {"background": 2}, {"ignored": "a"},
     {"ignored": None}, {"names": ["a", "b", "c"]}, {"values": [[float("inf")], [0], [1]]}, {"values": [[], [0], [1]]},
     {"values": [[0], [0], [1]]}, {"colours": "yes"}, {"background": False}, {"ignored": [10**400]}],
    ids=str,
)  # fmt: skip
def test_a_legend_that_no_training_writes_is_refused(changes):
    known = told(LAND)
    with pytest.raises(ValueError, match="ask for the model again"):
        legend_in(known | {"label_map": known["label_map"] | changes})


@pytest.fixture(scope="module")
def wood_everywhere():
    """Parameters of a network of three classes that says the second of every pixel."""
    variables = random_variables(UNet((4, 8), classes=3))
    params = {name: dict(part) for name, part in variables["params"].items()}
    params["logits"] = {"kernel": 0 * params["logits"]["kernel"], "bias": np.array([0, 9, 0], np.float32)}
    return {**variables, "params": params}


def picture(path, colours):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(colours, np.uint8)).save(path)


def results(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("background", [0, None])
def test_masks_in_colours_are_scored_by_the_legend_of_the_model(wood_everywhere, tmp_path, capsys, background):
    legend = dataclasses.replace(LAND, background=background)
    known = card(UNet((4, 8), classes=3)) | told(legend)
    workdir = save_run(tmp_path / "run", wood_everywhere, known)
    mask = np.zeros((TILE, TILE, 3), np.uint8)
    mask[:4], mask[4:8], mask[8:12], mask[12:] = BLUE, GREEN, GREEN, WHITE  # white does not count
    second = np.full((TILE, TILE, 3), GREEN, np.uint8)
    for name, colours in (("a", mask), ("b", second)):
        save(
            tmp_path / "land" / "images" / f"{name}.png",
            np.full((TILE, TILE), 9, np.uint8) + np.eye(TILE, dtype=np.uint8),
        )
        picture(tmp_path / "land" / "masks" / f"{name}.png", colours)
    assert evaluate(Evaluate(str(tmp_path / "land"), tmp_path / "out", model=workdir)) == 0
    assert "not in the truth of these images, and so without a score: field" in capsys.readouterr().out
    pixels = results(tmp_path / "out")["pixels"]
    assert {name: row["iou"] for name, row in pixels["by_class"].items()} == {
        "water": 0, "wood": pytest.approx(24 / 28), "field": None}  # fmt: skip
    water = 0 if background is None else None
    assert pixels["iou_pooled"] == pytest.approx(np.mean([24 / 28] + [water] * (water is not None)))
    assert pixels["worst_class"] == ("water" if background is None else "wood")
    assert pixels["iou_mean"] == pytest.approx((8 / 12 / (2 if background is None else 1) + 1) / 2)
    notes = results(tmp_path / "out")["about"]["notes"]
    assert any("water is a class like any other" in note for note in notes) == (background is None)
    assert "Means over the classes" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_colour_that_the_training_did_not_know_is_named(wood_everywhere, tmp_path):
    workdir = save_run(tmp_path / "run", wood_everywhere, card(UNet((4, 8), classes=3)) | told(LAND))
    mask = np.full((TILE, TILE, 3), GREEN)
    mask[:4] = 1, 2, 3
    save(tmp_path / "land" / "images" / "a.png", np.full((TILE, TILE), 9, np.uint8))
    picture(tmp_path / "land" / "masks" / "a.png", mask)
    with pytest.raises(ValueError, match=r"a\.png: holds #010203, which no class has: give --ignore VALUE"):
        evaluate(Evaluate(str(tmp_path / "land"), tmp_path / "out", model=workdir))
    evaluate(Evaluate(str(tmp_path / "land"), tmp_path / "out", model=workdir, ignore="#010203"))
    assert results(tmp_path / "out")["pixels"]["iou_pooled"] == 1


@pytest.mark.parametrize(
    ("legend", "ignore", "kind", "skipped"),
    [
        (OBJECTS, None, None, None),
        (dataclasses.replace(OBJECTS, ignored=(65_535,)), None, None, 65_535),
        (Legend(("background", "road"), ((0,), (255,)), (9,)), None, "binary", 9),
        (Legend(("background", "road"), ((0,), (255,))), 7, "binary", 7),
    ],
    ids=str,
)
def test_masks_of_one_foreground_need_no_legend(legend, ignore, kind, skipped):
    assert how_to_read(legend, ignore) == (kind, skipped, None)


@pytest.mark.parametrize("legend", [LAND, SOFT, Legend(("background", "road"), ((0,), (255,)), (9,))], ids=str)
def test_all_others_are_read_by_it(legend):
    assert how_to_read(legend, 7) == (None, 7, legend)


def two_cells(folder, mask):
    """An image with two bright squares, and its mask."""
    image = np.full((TILE, TILE), 10, np.uint8)
    image[2:6, 2:6] = image[2:6, 9:13] = 240
    save(folder / "images" / "a.png", image)
    save(folder / "labels" / "a.png", mask)
    return str(folder)


def test_soft_edges_are_cut_as_in_the_training_and_numbered_objects_stay_apart(tmp_path):
    soft = np.zeros((TILE, TILE), np.uint8)
    soft[1:7, 1:7] = soft[1:7, 8:14] = 90  # the rim that the legend takes for road from 128 on
    soft[2:6, 2:6] = soft[2:6, 9:13] = 255
    workdir = save_run(tmp_path / "soft", bright_variables(SMALL), card(SMALL) | told(SOFT))
    evaluate(Evaluate(two_cells(tmp_path / "roads", soft), tmp_path / "out", model=workdir))
    assert results(tmp_path / "out")["pixels"]["iou_pooled"] == 1
    with pytest.raises(ValueError, match=r"no mask reaches 128, .* --label-kind binary"):
        evaluate(Evaluate(two_cells(tmp_path / "ones", soft // 255), tmp_path / "none", model=workdir))
    numbered = np.zeros((TILE, TILE), np.uint16)
    numbered[2:6, 2:9], numbered[2:6, 9:13] = 3, 4  # they touch, and are two all the same
    workdir = save_run(tmp_path / "objects", bright_variables(SMALL), card(SMALL) | told(OBJECTS))
    evaluate(Evaluate(two_cells(tmp_path / "cells", numbered), tmp_path / "two", model=workdir))
    found = results(tmp_path / "two")
    assert (found["about"]["label_kind"], found["objects"]["objects"]) == ("instances", 2)
