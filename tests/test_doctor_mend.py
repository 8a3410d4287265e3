"""Small folders, many classes, and masks with greys: what the doctor and a training make of them."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests import sick
from unet_jax.commands.check import Check, check
from unet_jax.data import split_of
from unet_jax.data.images import read_label
from unet_jax.data.named import open_named
from unet_jax.data.source import parts_of, split_any
from unet_jax.doctor import check_folder, write_mended


def test_a_small_folder_is_checked_and_opened_as_a_training_splits_it(tmp_path):
    sick.clean(tmp_path, count=6)
    names = [f"n{i:02}" for i in range(6)]
    assert len({split_of(name) for name in names}) < 3, "the hash leaves a part empty"
    report = check_folder(tmp_path, patch=sick.SIDE)
    assert report.ok
    assert report.facts()["splits"] == {"train": 4, "val": 1, "test": 1}
    heard = []
    source = open_named(str(tmp_path), say=heard.append)
    assert not heard
    assert {name: part for part, images in split_any(source).items() for name in images.ids} == parts_of(names)


def test_a_folder_without_pairs_cannot_be_trained_on(tmp_path):
    """PNG beside imagesTr and labelsTr, where volumes are looked for."""
    for room in ("imagesTr", "labelsTr"):
        (tmp_path / room).mkdir()
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / room / "a.png")
    report = check_folder(tmp_path)
    assert not report.ok
    assert "there is nothing to train on" in report.text()
    assert check(Check(tmp_path, output=tmp_path / "out")) == 1


def test_sixty_classes_are_classes_and_a_void_of_255_is_not_one(tmp_path):
    sick.clean(tmp_path, count=40)
    for i, path in enumerate(sorted((tmp_path / "labels").iterdir())):
        Image.fromarray(((np.arange(32 * 32).reshape(32, 32) // 17 + i) % 60).astype(np.uint8)).save(path)
    options = {"label_kind": "classes", "patch": sick.SIDE}
    assert "label-range" not in {finding.code for finding in check_folder(tmp_path, **options).findings}
    Image.fromarray(np.full((32, 32), 255, np.uint8)).save(path)
    assert "label-range" in {finding.code for finding in check_folder(tmp_path, **options).findings}


@pytest.fixture
def greys(tmp_path):
    """Six images whose masks have soft edges: a disc of 255 with a rim of 100, and what 128 makes of them."""
    sick.clean(tmp_path / "in", count=6)
    y, x = np.mgrid[:32, :32]
    far = np.hypot(y - 15, x - 15)
    return tmp_path / "in", np.select([far < 8, far < 10], [255, 100], 0).astype(np.uint8)


def test_a_threshold_is_of_the_greys_that_a_palette_gives(greys, tmp_path):
    folder, mask = greys
    for path in sorted((folder / "labels").iterdir()):
        picture = Image.fromarray(np.searchsorted([0, 100, 255], mask).astype(np.uint8)).convert("P")
        picture.putpalette([v for grey in (0, 100, 255) for v in (grey,) * 3])
        path.unlink()
        picture.save(path.with_suffix(".gif"))
    mended = write_mended(check_folder(folder, patch=sick.SIDE), tmp_path / "out", threshold=128)
    assert (mended.pairs, mended.left) == (6, [])
    np.testing.assert_array_equal(read_label(tmp_path / "out" / "labels" / "n03.png"), mask == 255)


def test_probabilities_become_masks_at_one_half_and_none_is_emptied(greys, tmp_path):
    folder, mask = greys
    for path in sorted((folder / "labels").iterdir()):
        path.unlink()
        tifffile.imwrite(path.with_suffix(".tif"), mask / np.float32(255))
    report = check_folder(folder, patch=sick.SIDE)
    assert write_mended(report, tmp_path / "half", threshold=0.5).pairs == 6
    np.testing.assert_array_equal(read_label(tmp_path / "half" / "labels" / "n03.png"), mask == 255)
    mended = write_mended(report, tmp_path / "far", threshold=128)
    assert mended.pairs == 0
    assert all("holds 1 at most" in why for _, why in mended.left)


def test_a_copy_of_a_folder_without_a_readable_image_says_why(tmp_path):
    sick.clean(tmp_path / "in", count=3)
    for path in (tmp_path / "in" / "images").iterdir():
        path.write_bytes(b"RIFF....WEBPVP8 ")
    mended = write_mended(check_folder(tmp_path / "in", patch=sick.SIDE), tmp_path / "out")
    assert mended.pairs == 0
    assert {file for file, _ in mended.left} == {f"images/n{i:02}.png" for i in range(3)}
