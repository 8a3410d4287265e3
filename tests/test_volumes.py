"""Folders of volumes: the layouts, the way to the network's voxels and back, and what is refused."""

import json

import numpy as np
import pytest

from tests.volumes import SHAPE, brats, decathlon, one_file_a_modality, save
from unet_jax.data.nifti import Grid, read_nifti
from unet_jax.data.phantom import phantom
from unet_jax.data.volume_folders import TUMOUR_REGIONS, find_cases, find_images
from unet_jax.data.volume_source import VolumeSource, share_cases
from unet_jax.data.volumes import (
    IGNORED,
    check_case,
    common_spacing,
    prepare,
    read_image,
    read_label,
    resample,
    size_at,
)


@pytest.mark.parametrize("make", [decathlon, one_file_a_modality, brats])
def test_every_layout_gives_the_same_case(tmp_path, make):
    layout = find_cases(make(tmp_path / "data"))
    image, label = phantom(0, SHAPE)
    assert layout.regions == TUMOUR_REGIONS
    assert layout.channels == ("FLAIR", "T1w", "T1gd", "T2w")
    assert len(layout.cases) == 1
    np.testing.assert_array_equal(read_image(layout.cases[0], layout.channels)[0], image)
    np.testing.assert_array_equal(read_label(layout.cases[0], layout), label)


def test_brats_since_2023(tmp_path):
    layout = find_cases(brats(tmp_path, values=(0, 2, 1, 3), names=("t2f", "t1n", "t1c", "t2w"), join="-"))
    np.testing.assert_array_equal(read_label(layout.cases[0], layout), phantom(0, SHAPE)[1])


def test_nnunets_regions_and_ignore(tmp_path):
    one_file_a_modality(tmp_path)
    facts = json.loads((tmp_path / "dataset.json").read_text())
    facts["labels"] = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    layout = find_cases(tmp_path)
    assert layout.regions == {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}
    assert (layout.ignore, len(layout.classes)) == ((4,), 4)


def test_the_real_cases(real_data):
    layout = find_cases(real_data / "msd_brain_tumour")
    assert (layout.regions, layout.ignore) == (TUMOUR_REGIONS, (255,))
    assert [check_case(case, layout.channels).shape for case in layout.cases] == [(230, 239, 55), (228, 220, 33)]
    label = read_label(layout.cases[1], layout)
    # as counted in the file itself
    np.testing.assert_array_equal(np.bincount(label.ravel())[[0, 1, 2, 3, 255]], [1316602, 64972, 17516, 5979, 250211])


def rewrite_label(root, change):
    path = next((root / "labelsTr").iterdir())
    values, grid = read_nifti(path)
    return save(path, change(values[..., 0]), grid.affine)


def test_labels_outside_the_map_are_explained(tmp_path):
    root = decathlon(tmp_path / "msd")
    rewrite_label(root, lambda label: np.where(label == 3, 4, label).astype(np.uint8))
    layout = find_cases(root)
    with pytest.raises(ValueError, match=r"phantom_000.* value 4, .*4 is enhancing tumour in BraTS's own numbering"):
        read_label(layout.cases[0], layout)
    rewrite_label(root, lambda label: label * 0 + 9)
    with pytest.raises(ValueError, match=r"value 9, .*add them to dataset\.json.*--ignore"):
        read_label(layout.cases[0], layout)
    np.testing.assert_array_equal(read_label(layout.cases[0], find_cases(root, ignore=9)), IGNORED)
    rewrite_label(root, lambda label: label.astype(np.float32) * 0.5)
    with pytest.raises(ValueError, match="between whole numbers: a label was interpolated"):
        read_label(layout.cases[0], layout)
    old = find_cases(brats(tmp_path / "brats", values=(0, 2, 1, 3)))
    with pytest.raises(ValueError, match="3 is enhancing tumour since BraTS 2023"):
        read_label(old.cases[0], old)


def test_a_missing_modality(tmp_path):
    one_file_a_modality(tmp_path / "files")
    (tmp_path / "files" / "imagesTr" / "a_0002.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"case a: .*a_0002\.nii\.gz is missing, .*4 modalities"):
        find_cases(tmp_path / "files")
    brats(tmp_path / "brats")
    (tmp_path / "brats" / "case1" / "case1_t1ce.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"case1 in .*no file for T1gd beside flair, seg, t1, t2"):
        find_cases(tmp_path / "brats")
    root = decathlon(tmp_path / "msd")
    image, affine = phantom(0, SHAPE)[0], np.eye(4)
    save(root / "imagesTr" / "phantom_000.nii.gz", image[..., :3], affine)
    layout = find_cases(root)
    with pytest.raises(ValueError, match=r"phantom_000\.nii\.gz holds 3 volumes instead of 4: give FLAIR, T1w, T1gd"):
        check_case(layout.cases[0], layout.channels)


def test_images_without_labels_are_found_in_every_form(tmp_path):
    names = ("FLAIR", "T1w", "T1gd", "T2w")
    root = decathlon(tmp_path / "msd", 2)
    assert [case.id for case in find_images(root, names)] == ["phantom_000", "phantom_001"]
    one = root / "imagesTr" / "phantom_001.nii.gz"
    assert [case.images for case in find_images(one, names)] == [(one,)]
    root = one_file_a_modality(tmp_path / "files")
    (case,) = find_images(root, names)
    assert (case.id, len(case.images), case.label) == ("a", 4, None)
    (root / "imagesTr" / "a_0003.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"a_0003\.nii\.gz is missing"):
        find_images(root, names)
    root = brats(tmp_path / "brats")
    (root / "case1" / "case1_seg.nii.gz").unlink()
    (case,) = find_images(root, names)
    assert [path.name for path in case.images] == [f"case1_{name}.nii.gz" for name in ("flair", "t1", "t1ce", "t2")]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no NIfTI file"):
        find_images(tmp_path / "empty", names)


def test_missing_label_image_and_folder(tmp_path):
    root = decathlon(tmp_path / "a")
    next((root / "labelsTr").iterdir()).unlink()
    with pytest.raises(FileNotFoundError, match=r"labelsTr/phantom_000\.nii\.gz is missing"):
        find_cases(root)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        find_cases(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"known layout: give it dataset\.json"):
        find_cases(tmp_path / "empty")
    (root / "dataset.json").write_text("{}")
    with pytest.raises(ValueError, match=r"dataset\.json: .*it needs \"modality\""):
        find_cases(root)


def test_shapes_and_affines_that_disagree(tmp_path):
    root = decathlon(tmp_path)
    layout = find_cases(root)
    label = phantom(0, SHAPE)[1]
    path = root / "labelsTr" / "phantom_000.nii.gz"
    save(path, label[:, :, 1:])
    with pytest.raises(ValueError, match=r"labelsTr/phantom_000.* does not lie where .* lies: 20×24×15 voxels"):
        check_case(layout.cases[0], layout.channels)
    save(path, label, np.diag([-1, 1, 1, 1.0]))  # stored as if mirrored: nothing is turned silently
    with pytest.raises(ValueError, match=r"does not lie where .*LAS, .* against .*RAS.*resample_from_to"):
        check_case(layout.cases[0], layout.channels)
    nudged = np.eye(4)
    nudged[:3, 3] = 0.01  # rounding of another program
    save(path, label, nudged)
    check_case(layout.cases[0], layout.channels)


def test_an_empty_volume_and_one_without_annotation(tmp_path):
    root = decathlon(tmp_path / "a")
    image = phantom(0, SHAPE)[0]
    save(root / "imagesTr" / "phantom_000.nii.gz", image * (np.arange(4) != 2).astype(np.int16))
    layout = find_cases(root)
    with pytest.raises(ValueError, match=r"phantom_000\.nii\.gz: T1gd is empty, every voxel is 0"):
        read_image(layout.cases[0], layout.channels)
    layout = find_cases(one_file_a_modality(tmp_path / "c"))
    for value in (-1, 7):  # padding of other programs
        save(layout.cases[0].images[1], np.full(SHAPE, value, np.int16))
        with pytest.raises(
            ValueError, match=rf"a_0001\.nii\.gz: T1w is empty, every voxel is {value}: export it again"
        ):
            read_image(layout.cases[0], layout.channels)
    root = decathlon(tmp_path / "b")
    rewrite_label(root, lambda label: label * 0 + 7)
    with pytest.raises(ValueError, match=r"phantom_000\.nii\.gz: no voxel of the brain is annotated"):
        VolumeSource(find_cases(root, ignore=7), cache_dir=tmp_path / "cache").preload()


def test_forth_and_back_gives_the_label_of_a_turned_scan():
    """Through another orientation and the box around the brain, without a change of spacing: the same voxels."""
    image, label = phantom(3, SHAPE)
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    grid = Grid(SHAPE, affine)
    seen, frame = prepare(image, grid)
    assert seen.shape[0] < SHAPE[0]  # air is cut off
    assert seen.dtype == np.uint8
    truth = frame.forth(label, order=0)
    assert truth.shape == seen.shape[:3]
    np.testing.assert_array_equal(frame.back(truth), label)


def test_another_spacing_there_and_back():
    """A phantom at 1.5 mm seen at 1 mm: the regions come back all but the same."""
    image, label = phantom(1, (40, 44, 32))
    grid = Grid(label.shape, np.diag([1.5, 1.5, 1.5, 1.0]))
    _, frame = prepare(image, grid, spacing=(1.0, 1.0, 1.0))
    assert frame.size == (60, 66, 48)
    tumour = frame.forth((label > 0).astype(np.uint8), order=0).astype(np.float32)
    assert tumour.sum() == pytest.approx((label > 0).sum() * 1.5**3, rel=0.02)
    back = frame.back(tumour) > 0.5
    overlap = 2 * (back & (label > 0)).sum() / (back.sum() + (label > 0).sum())
    assert overlap > 0.97


def test_resampling_keeps_the_field_of_view():
    """Two voxels of 2 mm become four of 1 mm: centres at 0.5 … 3.5 mm of a line through (1, 0) and (3, 4)."""
    line = np.array([0.0, 4.0], np.float32).reshape(2, 1, 1)
    np.testing.assert_allclose(resample(line, (4, 1, 1), order=1).ravel(), [0, 1, 3, 4])
    np.testing.assert_array_equal(resample(line, (4, 1, 1), order=0).ravel(), [0, 0, 4, 4])
    assert size_at(Grid((2, 1, 1), np.diag([2, 1, 1, 1.0])), (1.0, 1.0, 1.0)) == (4, 1, 1)


def test_spacings_that_differ_have_a_median():
    def at(*spacing):
        return Grid((2, 2, 2), np.diag([*spacing, 1.0]))

    assert common_spacing([at(1, 1, 1), at(1.001, 1, 1)]) is None
    assert common_spacing([at(1, 1, 2), at(1, 1, 4), at(3, 1, 3)]) == (1, 1, 3)


def test_source_keeps_what_it_has_read_until_a_file_changes(tmp_path, monkeypatch):
    root = decathlon(tmp_path / "data", 2)
    source = VolumeSource(find_cases(root), cache_dir=tmp_path / "cache").preload()
    sample = source[1]
    assert (source.ids, source.channels, source.label_kind) == (("phantom_000", "phantom_001"), 4, "classes")
    assert sample["image"].shape == (*sample["label"].shape, 4)
    assert sample["mask"].all()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert len(kept) == 4
    again = VolumeSource(find_cases(root), cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(again[1]["image"], sample["image"])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == kept
    path = rewrite_label(root, lambda label: label * 0 + 1)
    changed = VolumeSource(find_cases(root), cache_dir=tmp_path / "cache")
    number = source.ids.index(path.name.removesuffix(".nii.gz"))
    assert (changed[number]["label"] == 1).all()


def test_phantoms_are_seeded_and_hold_every_region():
    for seed in range(2):
        image, label = phantom(seed)
        again, _ = phantom(seed)
        np.testing.assert_array_equal(image, again)
        assert (np.bincount(label.ravel(), minlength=4) > 100).all()
        assert not image[label.max() * 0 : 1, 0, 0].any()  # air
        assert (image[label > 0] > 0).all()
    assert not np.array_equal(phantom(0)[1], phantom(1)[1])


def test_cases_are_shared_out_and_no_patient_is_in_two(tmp_path):
    """Of ten cases two are for the test and two for validation; names decide otherwise."""
    source = VolumeSource(find_cases(decathlon(tmp_path, 10)), cache_dir=tmp_path / "cache")
    parts = {name: set(part.ids) for name, part in share_cases(source).items()}
    assert [len(parts[name]) for name in ("train", "val", "test")] == [6, 2, 2]
    assert set.union(*parts.values()) == set(source.ids)
    first, second = source.ids[:2]
    named = share_cases(source, test=[first], val=[second])
    assert (named["test"].ids, named["val"].ids, len(named["train"])) == ((first,), (second,), 8)
    for names, message in ((source.ids, "none is left to train on"), (["x"], "no case x: there are phantom_000")):
        with pytest.raises(ValueError, match=message):
            share_cases(source, test=names)


def test_of_two_cases_one_trains_and_validates(tmp_path):
    source = VolumeSource(find_cases(decathlon(tmp_path, 2)), cache_dir=tmp_path / "cache")
    assert {name: part.ids for name, part in share_cases(source).items()} == {
        "train": ("phantom_000",), "val": ("phantom_000",), "test": ("phantom_001",)
    }  # fmt: skip
    assert source.voxel == (1, 1, 1)
    assert source.spacing is None
