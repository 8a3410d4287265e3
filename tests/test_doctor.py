"""The data doctor: every planted fault is found with its files, and nothing else is said."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests import sick
from tests.folders import save
from unet_jax.commands.check import Check, check
from unet_jax.data import FolderSource
from unet_jax.data.images import read_label
from unet_jax.doctor import RULES, announce, check_folder, quick, write_mended


def said(report):
    """{rule: {files of a case}}."""
    return {finding.code: {case.files for case in finding.cases} for finding in report.findings}


@pytest.fixture(scope="module")
def sickened(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sick")
    planted = sick.sick_objects(folder)
    return folder, planted, check_folder(folder, patch=sick.SIDE)


def test_a_clean_folder_has_no_findings(tmp_path):
    report = check_folder(sick.clean(tmp_path), patch=sick.SIDE)
    assert said(report) == {}
    assert report.ok
    assert report.text().endswith("0 errors, 0 warnings, 0 notes: a training can begin")
    facts = report.facts()
    assert (facts["objects"], facts["label_kind"], facts["splits"]["val"]) == (132, "instances", 10)


def test_all_planted_faults_are_found_and_nothing_else(sickened):
    _, planted, report = sickened
    assert said(report) == planted
    assert len(planted) == 36
    assert not report.ok
    text = report.text()
    for code in planted:
        assert f"{code} (" in text
        assert RULES[code].mend in text
    assert "mend the errors before a training" in text


OTHERS = [
    (sick.sick_foreground, {}),
    (sick.sick_classes, {"label_kind": "classes"}),
    (sick.sick_few, {"label_kind": None}),
    (sick.sick_pair, {}),
    (sick.sick_volumes, {}),
]


@pytest.mark.parametrize(("plant", "options"), OTHERS, ids=lambda value: getattr(value, "__name__", ""))
def test_faults_of_other_kinds_of_masks(tmp_path, plant, options):
    planted = plant(tmp_path)
    assert said(check_folder(tmp_path, patch=sick.SIDE, **options)) == planted


def test_every_rule_is_planted_somewhere(sickened, tmp_path):
    planted = set(sickened[1]) | {"foreground-number"}
    for plant, _ in OTHERS:
        planted |= set(plant(tmp_path / plant.__name__))
    assert planted == set(RULES)


def test_a_clean_folder_of_volumes(tmp_path):
    report = check_folder(sick.volumes(tmp_path))
    assert said(report) == {}
    # 6^3 and 3*3*5 of 16^3 - 256 voxels: the plane of 255 does not count
    assert report.facts()["classes"] == pytest.approx({"0": 3579 / 3840, "1": 216 / 3840, "2": 45 / 3840})


def test_masks_of_0_and_255_are_noted_and_mended(tmp_path):
    report = check_folder(sick.clean(tmp_path / "in", turn=sick.black_and_white), patch=sick.SIDE)
    assert said(report) == {"foreground-number": {(f"labels/n{i:02}.png",) for i in range(44)}}
    assert report.ok
    mended = write_mended(report, tmp_path / "out")
    assert (mended.pairs, len(mended.changed), mended.left) == (44, 44, [])
    assert set(np.unique(read_label(tmp_path / "out" / "labels" / "n07.png"))) == {0, 1}
    assert said(check_folder(tmp_path / "out", patch=sick.SIDE)) == {}


def test_a_mended_copy(sickened, tmp_path):
    _, planted, report = sickened
    mended = write_mended(report, tmp_path / "out", threshold=128)
    again = check_folder(tmp_path / "out", patch=sick.SIDE)
    assert again.ok
    gone = {code for code in planted if RULES[code].level == "error"} | {"ignored-file", "alpha"}
    assert set(said(again)) & gone == set()
    assert set(planted) - gone - set(said(again)) == {"dtypes-differ"}  # the image with NaN, which is left out
    left = {file for file, _ in mended.left}
    assert left == {"images/n00.png", "labels/n01.png", "images/n03.tif", "images/a\\b.png", "images/n07.png",
                    "labels/n08.png", "images/n09.png", "labels/n09.png", "images/n11.tif", "labels/n19.png",
                    "labels/n20.png", "labels/n21.tif", "labels/n23.tif", "index.csv"}  # fmt: skip
    changed = dict(mended.changed)
    assert changed["images/n10.png"] == "equal channels made one"
    assert changed["images/n12.png"] == "alpha dropped"
    assert changed["labels/Mask_N02.png"] == "named as images/n02.png"
    assert {file for file, note in changed.items() if note == "1 from 128 upwards"} == {
        "labels/n18.jpg", "labels/n22.png"}  # fmt: skip
    assert dict(mended.left)["labels/n21.tif"].startswith("holds 0.7 at most, and --threshold is 128")
    assert len(FolderSource(tmp_path / "out").preload()) == mended.pairs == len(report.looks) - 8


def test_the_table_beside_the_images_of_a_part_is_found_as_in_a_training(tmp_path):
    part, table = sick.clean(tmp_path / "set" / "training"), tmp_path / "set" / "training" / "index.csv"
    table.write_text("id,stain\nn00,blue\n")
    report = quick(tmp_path / "set")
    assert said(report) == {"index": {("training/index.csv",)}}
    table.write_text("id,stain\n" + "".join(f"{path.stem},blue\n" for path in (part / "images").iterdir()))
    assert said(quick(tmp_path / "set")) == {}
    write_mended(check_folder(tmp_path / "set", patch=sick.SIDE), tmp_path / "out")
    assert (tmp_path / "out" / "index.csv").read_text() == table.read_text()


def test_without_a_threshold_greys_are_left_out(sickened, tmp_path):
    mended = write_mended(sickened[2], tmp_path / "out")
    assert {"labels/n18.jpg", "labels/n21.tif", "labels/n22.png"} <= {file for file, _ in mended.left}


def test_a_copy_is_never_written_over_something(sickened, tmp_path):
    folder, _, report = sickened
    for place in (folder, folder / "new", folder.parent):
        with pytest.raises(ValueError, match="overlaps"):
            write_mended(report, place)
    (tmp_path / "note").touch()
    with pytest.raises(FileExistsError, match="holds something"):
        write_mended(report, tmp_path)


def test_the_quick_part_reads_no_pixels(sickened, monkeypatch):
    from unet_jax.data import decode

    monkeypatch.setattr(decode, "_decode_png", None)
    folder, planted, _ = sickened
    names = {"no-mask", "no-image", "almost-paired", "two-files", "bad-name", "ignored-file", "case-clash", "index"}
    found = said(quick(folder))
    expected = {code: planted[code] for code in names}
    expected["unreadable"] = {("labels/n08.png",)}  # a truncated file begins as it should
    expected["lossy-mask"] = {("labels/n18.jpg",)}
    assert found == expected | {code: planted[code] for code in ("duplicate", "duplicate-across-splits")}


def test_the_command(sickened, tmp_path, capsys):
    folder, planted, _ = sickened
    assert check(Check(folder, output=tmp_path / "c", patch=sick.SIDE, fix_to=tmp_path / "out")) == 1
    saved = json.loads((tmp_path / "c" / "check.json").read_text())
    assert {finding["code"] for finding in saved["findings"]} == set(planted)
    assert saved["ok"] is False
    [row] = [row for row in saved["images"] if row["id"] == "n06"]
    label = sick.cells(106)[1]
    assert row["label_histogram"] == {str(i): int((label == i).sum()) for i in range(4)}
    with Image.open(tmp_path / "c" / "check.png") as picture:
        assert picture.width > 1500
    told = capsys.readouterr().out
    assert f"mended copy: 32 pairs in {tmp_path / 'out'}" in told
    assert "left out: images/n07.png: cannot be read" in told
    good = sick.clean(tmp_path / "good")
    assert check(Check(good, output=tmp_path / "g", patch=sick.SIDE)) == 0
    assert check(Check(good, output=tmp_path / "q", quick=True)) == 0
    assert not (tmp_path / "q" / "check.png").exists()


def test_all_masks_unreadable(tmp_path):
    for i in range(2):
        save(tmp_path / "images" / f"n{i}.png", np.zeros((8, 8), np.uint8))
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / "labels" / f"n{i}.png").write_bytes(b"no image")
    report = check_folder(tmp_path)
    assert set(said(report)) == {"unreadable", "empty-split"}
    assert check(Check(tmp_path, output=tmp_path / "out")) == 1


def test_what_a_training_says_before_it_begins(sickened, tmp_path):
    folder, _, _ = sickened
    with pytest.raises(ValueError, match=r"(?s)no-mask \(1\).*images/n00.png.*lossy-mask.*unet-jax check --data"):
        announce(folder)
    said = []
    good = sick.clean(tmp_path)
    announce(good, said.append)
    assert said == []
    shutil.copy(good / "images" / "n34.png", good / "images" / "n33.png")
    announce(good, said.append)
    [text] = said
    assert "images/n33.png + images/n34.png: val and train" in text
