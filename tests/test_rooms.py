"""Folders named as people name them: which hold images and masks, and which file belongs to which."""

import numpy as np
import pytest
from PIL import Image

from tests.folders import save, squares
from unet_jax.data.images import read_image, read_label
from unet_jax.data.pairs import find_pairs
from unet_jax.data.rooms import bare_stem

GREY = np.zeros((24, 24), np.uint8)


def fill(room, names, array=GREY):
    for name in names:
        save(room / name, array)


def found(folder):
    return {pair.image.name: pair.label.name for pair in find_pairs(folder)}


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images", "labels"), ("images", "masks"), ("images", "gt"), ("images", "annotations"), ("Images", "GT"),
        ("imgs", "mask"), ("image", "ground_truth"), ("images", "groundtruth"), ("IMG", "Label"),
    ],
)  # fmt: skip
def test_rooms_by_the_names_people_give_them(tmp_path, images, labels):
    fill(tmp_path / images, ["a.png", "b.png"])
    fill(tmp_path / labels, ["a.png", "b.png"])
    assert found(tmp_path) == {"a.png": "a.png", "b.png": "b.png"}


@pytest.mark.parametrize(
    "suffix", ["_mask", "_gt", "_label", "-GT", "_Mask", "_labels", "_ground_truth", "_annotation"]
)
def test_suffixes_of_masks(tmp_path, suffix):
    fill(tmp_path / "images", ["road_1.png", "road_2.png"])
    fill(tmp_path / "gt", [f"road_{i}{suffix}.png" for i in (1, 2)])
    assert found(tmp_path) == {f"road_{i}.png": f"road_{i}{suffix}.png" for i in (1, 2)}
    assert bare_stem("mask") == "mask"


def test_retinal_vessels_as_they_are_handed_out(tmp_path):
    """Images 21_training.tif, vessels 1st_manual/21_manual1.gif, and a field of view in mask/."""
    fill(tmp_path / "images", [f"{n}_training.tif" for n in (21, 22, 30)], np.zeros((24, 24, 3), np.uint8))
    fill(tmp_path / "1st_manual", [f"{n}_manual1.gif" for n in (21, 22, 30)], squares([255]))
    fill(tmp_path / "mask", [f"{n}_training_mask.gif" for n in (21, 22, 30)])
    with pytest.warns(UserWarning, match=r"21_manual1.gif is taken for the mask of 21_training.tif, .* 2 like"):
        assert found(tmp_path) == {f"{n}_training.tif": f"{n}_manual1.gif" for n in (21, 22, 30)}
    np.testing.assert_array_equal(read_label(tmp_path / "1st_manual" / "22_manual1.gif"), squares([255]))


def test_numbered_names_with_two_beginnings(tmp_path):
    fill(tmp_path / "images", ["t000.tif", "t001.tif", "t010.tif"])
    fill(tmp_path / "labels", ["man_seg000.tif", "man_seg001.tif", "man_seg010.tif"])
    with pytest.warns(UserWarning, match="man_seg000.tif is taken for the mask of t000.tif"):
        assert found(tmp_path)["t010.tif"] == "man_seg010.tif"
    (tmp_path / "labels" / "man_seg010.tif").rename(tmp_path / "labels" / "man_seg011.tif")
    with pytest.raises(ValueError, match=r"3 images .* without a mask"):
        find_pairs(tmp_path)


def test_images_and_masks_in_one_folder(tmp_path):
    fill(tmp_path / "a", ["exp1.jpg", "exp2.jpg", "exp1.png", "exp2.png"])
    assert found(tmp_path / "a") == {"exp1.jpg": "exp1.png", "exp2.jpg": "exp2.png"}
    fill(tmp_path / "b", ["c1.tif", "c2.tif", "c1_mask.tif", "c2_mask.png"])
    assert found(tmp_path / "b") == {"c1.tif": "c1_mask.tif", "c2.tif": "c2_mask.png"}
    save(tmp_path / "b" / "c3.tif", GREY)
    with pytest.raises(ValueError, match=r"1 image \(.*c3.tif\) without a mask"):
        find_pairs(tmp_path / "b")


def test_two_rooms_of_masks(tmp_path):
    fill(tmp_path / "images", ["a.png"])
    fill(tmp_path / "masks", ["a.png"])
    (tmp_path / "annotations").mkdir()  # of polygons, perhaps
    (tmp_path / "annotations" / "a.json").touch()
    assert found(tmp_path) == {"a.png": "a.png"}
    fill(tmp_path / "gt", ["a.png"])
    with pytest.raises(ValueError, match="both masks and gt in it: rename the one"):
        find_pairs(tmp_path)


def test_a_folder_above_is_told_where_to_look(tmp_path):
    fill(tmp_path / "plate" / "images", ["a.png"])
    fill(tmp_path / "plate" / "groundtruth", ["a.png"])
    with pytest.raises(ValueError, match=rf"no folder images in it.*did you mean {tmp_path}/plate\?"):
        find_pairs(tmp_path)


@pytest.mark.parametrize("ending", ["gif", "bmp"])
def test_gif_and_bmp(tmp_path, ending):
    grey = np.random.default_rng(0).integers(0, 255, (9, 7), np.uint8)
    Image.fromarray(grey).save(tmp_path / f"a.{ending}")
    np.testing.assert_array_equal(read_image(tmp_path / f"a.{ending}")[..., 0], grey)
    Image.fromarray(squares([1]) > 0).save(tmp_path / f"b.{ending}")
    np.testing.assert_array_equal(read_label(tmp_path / f"b.{ending}") > 0, squares([1]) > 0)
    indexed = Image.fromarray(squares([1, 2]))
    indexed.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    indexed.save(tmp_path / f"c.{ending}")
    assert set(np.unique(read_image(tmp_path / f"c.{ending}").reshape(-1, 3), axis=0).ravel()) == {0, 255}


def test_a_moving_gif_is_refused(tmp_path):
    frames = [Image.fromarray(squares([k])) for k in (100, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=r"a.gif: is an animation of 2 frames"):
        read_image(tmp_path / "a.gif")
