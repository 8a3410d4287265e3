"""Which files are a case: names that meet twice, modalities that are missing or too many, files of other programs."""

import json

import numpy as np
import pytest

from tests.volumes import BRATS, one_file_a_modality, save
from unet_jax.data.volume_folders import MODALITIES, distinct, find_cases, find_images


def empty_brats(folder, case="case1"):
    """Files of a case by name; a layout is found without reading them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*BRATS, "seg"):
        (folder / f"{case}_{name}.nii.gz").touch()
    return folder


def facts(root, **changes):
    path = root / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_two_cases_of_one_name_are_refused(tmp_path):
    for site in "ab":
        empty_brats(tmp_path / site / "case1")
    for find in (find_cases, lambda path: find_images(path, MODALITIES)):
        with pytest.raises(ValueError, match=r"two cases are called case1 \(.*a/case1/.* and .*b/case1/.*rename"):
            find(tmp_path)
    for ending in (".nii", ".nii.gz"):
        save(tmp_path / "twice" / f"a{ending}", np.zeros((2, 2, 2, 4), np.int16))
    with pytest.raises(ValueError, match=r"two cases are called a \(.*a\.nii and .*a\.nii\.gz\)"):
        find_images(tmp_path / "twice", MODALITIES)
    root = one_file_a_modality(tmp_path / "labels")
    row = {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}
    facts(root, training=[row, row])
    assert len(find_cases(root).cases) == 1
    (root / "other").mkdir()
    (root / "other" / "a.nii.gz").touch()
    facts(root, training=[row, {**row, "label": "other/a.nii.gz"}])
    with pytest.raises(ValueError, match="two cases are called a"):  # of one image and two labels
        find_cases(root)


def test_the_files_of_a_case_named_one_by_one_are_one_case(tmp_path):
    """As a shell writes `folder/*`."""
    room = one_file_a_modality(tmp_path / "files") / "imagesTr"
    (whole,) = find_images(room, MODALITIES)
    assert distinct(case for file in room.iterdir() for case in find_images(file, MODALITIES)) == (whole,)
    room = empty_brats(tmp_path / "brats")
    (whole,) = find_images(room, MODALITIES)
    empty_brats(room, "case2")  # beside it, and not named
    files = room.glob("case1_*")
    assert distinct(case for file in files for case in find_images(file, MODALITIES)) == (whole,)


def test_hidden_files_are_no_volumes(tmp_path):
    room = empty_brats(tmp_path / "brats" / "case1")
    empty_brats(tmp_path / "brats" / ".trash" / "case2")
    (room / "._case1_flair.nii.gz").write_bytes(b"Mac OS X")
    assert [case.id for case in find_cases(tmp_path / "brats").cases] == ["case1"]
    assert [case.id for case in find_images(tmp_path / "brats", MODALITIES)] == ["case1"]
    assert [case.id for case in find_images(room, MODALITIES)] == ["case1"]
    root = one_file_a_modality(tmp_path / "files")
    for name in ("imagesTr/._a_0000.nii.gz", "labelsTr/._a.nii.gz"):
        (root / name).write_bytes(b"Mac OS X")
    assert [case.id for case in find_cases(root).cases] == ["a"]
    assert [case.id for case in find_images(root, MODALITIES)] == ["a"]


def test_more_modalities_than_were_declared(tmp_path):
    root = one_file_a_modality(tmp_path)
    facts(root, channel_names={"0": "FLAIR", "1": "T1w"})
    with pytest.raises(
        ValueError, match=r"case a: dataset\.json tells of 2 modalities, and there is .*a_0002\.nii\.gz"
    ):
        find_cases(root)
    with pytest.raises(ValueError, match=r"case a: the model takes 2 modalities, and there is .*a_0002\.nii\.gz"):
        find_images(root, MODALITIES[:2])


def test_the_first_modality_is_missing(tmp_path):
    room = one_file_a_modality(tmp_path) / "imagesTr"
    (room / "a_0000.nii.gz").unlink()
    for path in (room, room / "a_0002.nii.gz"):
        with pytest.raises(FileNotFoundError, match=r"case a: .*a_0000\.nii\.gz is missing, the model takes 4 modal"):
            find_images(path, MODALITIES)
    numbered = save(tmp_path / "whole" / "a_0001.nii.gz", np.zeros((2, 2, 2, 4), np.int16))  # all four: a case's number
    assert [(case.id, case.images) for case in find_images(numbered.parent, MODALITIES)] == [("a_0001", (numbered,))]


def test_a_torn_modality_still_belongs_to_its_case(tmp_path):
    room = one_file_a_modality(tmp_path) / "imagesTr"
    (room / "a_0000.nii.gz").write_bytes(b"torn")
    assert [(case.id, len(case.images)) for case in find_images(room, MODALITIES)] == [("a", 4)]


def test_a_dataset_json_that_would_lose_a_class_is_named(tmp_path):
    root = one_file_a_modality(tmp_path)
    facts(root, labels={"background": 0, "enhancing": 3, "core": [2, 3], "whole": [1, 2, 3]})
    assert list(find_cases(root).regions.values()) == [(1, 2, 3), (2, 3), (3,)]
    facts(root, labels={})
    with pytest.raises(ValueError, match=r'dataset\.json: "labels" is empty: .*it needs "modality"'):
        find_cases(root)


def test_a_missing_label_of_a_single_modality_is_named(tmp_path):
    root = one_file_a_modality(tmp_path)
    facts(root, channel_names={"0": "FLAIR"}, training=[{"image": "imagesTr/a.nii.gz", "label": "labelsTr/b.nii.gz"}])
    with pytest.raises(FileNotFoundError, match=r"case b: .*labelsTr/b\.nii\.gz is missing, dataset\.json tells of 1"):
        find_cases(root)
