"""train_folder on folders like those that people bring, without a flag: what is read, said and planned."""

import json

import numpy as np
import pytest

from experiments import train_folder
from tests import stand_ins


def prepare(make, tmp_path, capsys, **changes):
    """Plan, legend, parts and what was printed."""
    folder = tmp_path / make.__name__
    make(folder, **changes)
    plan, legend, parts, _ = train_folder.prepare(train_folder.Config(data=str(folder), workdir=tmp_path / "run"))
    sample = parts["train"][0]
    assert sample["image"].dtype == np.uint8
    assert sample["image"].std() > 2  # stretched, not drowned
    assert set(np.unique(sample["label"])) <= set(range(len(legend.names)))
    assert set(plan.reasons) == {f for f in vars(plan) if f != "reasons"}
    return plan, legend, parts, capsys.readouterr().out


def test_aerial_roads(tmp_path, capsys):
    plan, legend, parts, said = prepare(stand_ins.roads, tmp_path, capsys)
    assert legend.threshold == 128
    assert "greys between 0 and 255 (soft edges; " in said
    assert "a pixel of 128 or more is foreground" in said
    assert "400×400 pixels, cut into crops" in plan.reasons["patch"]
    assert (plan.patch, plan.loss, parts["val"].channels) == (256, "dice+ce", 3)


def test_defects_of_a_few_pixels_in_small_grey_images_of_all_sizes(tmp_path, capsys):
    plan, legend, parts, said = prepare(stand_ins.defects, tmp_path, capsys)
    assert (legend.names, legend.notes) == (("background", "foreground"), ())
    assert (plan.loss, plan.centred) == ("tversky+focal", 0.67)
    assert "what is missed costs more than what is false" in said
    assert "smaller ones are mirrored around" in plan.reasons["patch"]
    held = [bool(parts["train"][i]["label"].any()) for i in range(len(parts["train"]))]
    assert 0 < np.mean(held) < 1  # images without a defect are seen too


def test_defects_of_several_kinds_in_folders_of_their_own(tmp_path, capsys):
    for kind in ("MT_Crack", "MT_Free"):
        stand_ins.defects(tmp_path / "tiles" / kind / "Imgs", 20)
    config = train_folder.Config(data=str(tmp_path / "tiles"), workdir=tmp_path / "run")
    with pytest.warns(UserWarning, match=r"2 folders are read together \(MT_Crack, MT_Free\)"):
        plan, legend, parts, _ = train_folder.prepare(config)
    ids = sorted({id for part in parts.values() for id in part.ids})
    assert (len(ids), ids[0], ids[-1]) == (40, "MT_Crack_exp0_num", "MT_Free_exp9_num")
    assert (legend.names, plan.loss) == (("background", "foreground"), "tversky+focal")


def test_retinal_vessels(tmp_path, capsys):
    with pytest.warns(UserWarning, match=r"21_manual1.gif is taken for the mask of 21_training.tif"):
        plan, _, parts, said = prepare(stand_ins.vessels, tmp_path, capsys, count=4)
    assert "4 images are few" in said
    assert (plan.patch, plan.normalisation, plan.loss) == (256, "percentile", "dice+ce")
    assert 0.03 < parts["train"][0]["label"].mean() < 0.25  # vessels, not the field of view


def test_cracks_with_jpeg_masks(tmp_path, capsys):
    plan, legend, _, said = prepare(stand_ins.cracks, tmp_path, capsys, count=9)
    assert legend.threshold == 128
    assert "9 masks are JPEG" in said
    assert plan.centred > 0


@pytest.mark.parametrize("dark", [False, True], ids=["phase contrast", "DIC"])
def test_cells_with_16_bits_and_ids(tmp_path, capsys, dark):
    with pytest.warns(UserWarning, match=r"man_seg000.tif is taken for the mask of t000.tif"):
        plan, legend, _, said = prepare(stand_ins.cells, tmp_path, capsys, count=4, dark=dark)
    assert legend.objects
    assert (
        "one an object: all objects are learnt as one class (to tell them apart: python -m experiments.train_cells"
        in (said)
    )
    assert "one channel (uint16)" in plan.reasons["normalisation"]


def test_five_bands(tmp_path, capsys):
    plan, legend, parts, said = prepare(stand_ins.bands, tmp_path, capsys)
    assert plan.normalisation == "channel-percentile"
    assert legend.names == ("background", "class 1", "class 2", "class 3")
    assert parts["train"][0]["image"].std(axis=(0, 1)).min() > 20
    assert "4 values in the masks, a class each" in said


def test_colours_with_a_palette_file(tmp_path, capsys):
    plan, legend, parts, _ = prepare(stand_ins.colours, tmp_path, capsys)
    assert "a crop is about as large" in plan.reasons["patch"]
    assert set(legend.names) == {"Sky", "Road", "Pole", "Void"}
    assert legend.names[0] == "Void"  # black
    found = {name: (parts["train"][0]["label"] == k).mean() for k, name in enumerate(legend.names)}
    assert found["Sky"] > 0.3 > found["Pole"] > 0


def test_many_classes_some_of_them_rare(tmp_path, capsys):
    plan, legend, parts, said = prepare(stand_ins.many_classes, tmp_path, capsys)
    assert len(legend.names) > 25
    assert plan.balance == 0.2
    assert "those with rare classes are visited more often" in said
    visits = np.bincount(parts["train"].indices)
    assert visits.max() > visits[visits > 0].min()


def test_a_run_keeps_its_plan_and_warns_of_classes_that_are_predicted_nowhere(tmp_path, capsys):
    stand_ins.colours(tmp_path / "data", 6, shape=(40, 48))
    tiny = {"widths": (4, 8), "patch": 32, "batch": 2, "crops": 2, "epochs": 1, "augment": False, "norm": "none"}
    config = train_folder.Config(data=str(tmp_path / "data"), workdir=tmp_path / "run", **tiny)
    assert train_folder.main(config) == 0
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["classes"]
    lost = [name for name, row in rows.items() if row["pixels"] and not row["predicted"]]
    warned = capsys.readouterr().err
    assert [name for name in rows if f"WARNING: {name} is predicted nowhere" in warned] == lost
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["reasons"]["widths"] == "given"
    assert "colours" in plan["reasons"]["normalisation"]
    assert set(rows) == set(stand_ins.PALETTE)
