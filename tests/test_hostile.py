"""Files of strangers: an error names the file, little memory is taken, and nothing is written outside the results."""

import dataclasses
import json
import os
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import hostile
from tests.bounded import Bounded, told
from tests.hostile import IMAGES, NOISE
from tests.trained import SMALL, card, random_variables
from unet_jax import claims, cli
from unet_jax.commands.evaluate import Evaluate, evaluate
from unet_jax.data import FolderSource
from unet_jax.data.images import read_image, read_label
from unet_jax.data.pairs import find_pairs
from unet_jax.data.rows import TiffRows
from unet_jax.data.volume_folders import find_cases
from unet_jax.datasets.stage1 import read_stage1
from unet_jax.doctor import check_folder, draw
from unet_jax.inputs import find_inputs
from unet_jax.model_folder import write_model
from unet_jax.outputs import write_label

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return hostile.write(tmp_path_factory.mktemp("hostile") / "images")


@pytest.mark.parametrize("name", IMAGES)
def test_one_file_names_itself_and_takes_little_memory(images, name):
    path, words = images / name, IMAGES[name][1]
    for read in (read_image, read_label):
        with Bounded():
            said = told(read, path)
        assert any(word in said for word in words.split("|")), said
        assert said.startswith(f"{path}: ") or not words
    if name.endswith(".tif"):
        with Bounded():
            said = told(lambda: TiffRows(path)[:9])
        assert said.startswith(f"{path}: ") or not words or name == "imagej.tif", said


def test_a_png_that_holds_more_than_it_says_is_read_as_it_says(tmp_path):
    (tmp_path / "a.png").write_bytes(hostile.BOMB)
    assert len(hostile.BOMB) < 2**17
    with Bounded(16):
        assert read_image(tmp_path / "a.png").shape == (24, 24, 1)


def test_a_tiff_that_holds_more_than_it_says_is_refused(tmp_path):
    (tmp_path / "a.tif").write_bytes(hostile.tiff([(259, 3, 1, 8)], hostile.ZEROS))
    with Bounded(16):
        said = told(read_image, tmp_path / "a.tif")
    assert not said or said.startswith(f"{tmp_path / 'a.tif'}: ")


def names_of_one_stem(paths):
    """One file of every name."""
    return list({path.stem: path for path in paths}.values())


def test_as_training_data(images, tmp_path):
    for room in ("images", "labels"):
        (tmp_path / room).mkdir()
    others = ("folder.png", "pipe.png", "device.png")
    chosen = [p.name for p in names_of_one_stem(images / n for n in IMAGES if IMAGES[n][1] and n not in others)]
    for name in chosen:
        os.symlink(images / name if name != "loop.png" else name, tmp_path / "images" / name)
        Image.fromarray(NOISE % 2).save(tmp_path / "labels" / f"{Path(name).stem}.png")
    with (
        Bounded(96),
        pytest.raises(ValueError, match=rf"{len(chosen)} of {len(chosen)} images or masks cannot be used"),
    ):
        FolderSource(tmp_path).preload()
    masks = tmp_path / "masks"
    (tmp_path / "labels").rename(tmp_path / "images2")
    (tmp_path / "images").rename(masks)
    (tmp_path / "images2").rename(tmp_path / "images")
    with Bounded(96), pytest.raises(ValueError, match="cannot be used"):
        FolderSource(tmp_path).preload()
    with Bounded(96):
        report = check_folder(tmp_path)
    assert {case.files for f in report.findings if f.code in ("unreadable", "lossy-mask") for case in f.cases} == {
        (f"masks/{name}",) for name in chosen
    }


def test_pipes_devices_and_folders_are_not_taken_for_images(tmp_path):
    for room in ("images", "labels"):
        (tmp_path / room).mkdir()
        Image.fromarray(NOISE % 2).save(tmp_path / room / "fine.png")
    hostile.write(tmp_path / "images", {name: IMAGES[name] for name in ("folder.png", "pipe.png", "device.png")})
    with pytest.warns(UserWarning, match=r"3 entries .*device.png, .*folder.png, .*pipe.png.* ignored"):
        assert [pair.id for pair in find_pairs(tmp_path)] == ["fine"]
    os.mkfifo(tmp_path / "index.csv")  # for which one would wait for ever
    ignored = next(finding for finding in check_folder(tmp_path).findings if finding.code == "ignored-file")
    assert {case.files for case in ignored.cases} == {(f"images/{n}.png",) for n in ("device", "folder", "pipe")}


@pytest.mark.parametrize("name", hostile.ILL_NAMES)
def test_names_that_other_systems_do_not_take(tmp_path, name):
    for room in ("images", "labels"):
        (tmp_path / room).mkdir()
        Image.fromarray(NOISE % 2).save(tmp_path / room / name)
    for what in (lambda: find_pairs(tmp_path), lambda: find_inputs([str(tmp_path / "images")])):
        assert "its name has" in told(what)
    report = check_folder(tmp_path, patch=24)
    report.write(tmp_path / "check.json")
    assert '"bad-name"' in (tmp_path / "check.json").read_text()
    assert "bad-name" in report.text().encode().decode()


def test_names_with_spaces_and_letters_of_all_kinds(tmp_path):
    for name in hostile.GOOD_NAMES:
        for room in ("images", "labels"):
            (tmp_path / room).mkdir(exist_ok=True)
            Image.fromarray(NOISE % 2).save(tmp_path / room / name)
    found = find_inputs([str(tmp_path / "images")])
    assert {item.path.name for item in found} == set(hostile.GOOD_NAMES)
    assert {pair.image.name for pair in find_pairs(tmp_path)} == set(hostile.GOOD_NAMES)
    for item in found:
        write_label(tmp_path / "out" / f"{item.name}.tif", NOISE.astype(np.int32))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{item.name}.tif" for item in found}
    draw(check_folder(tmp_path, patch=24), tmp_path / "check.png")


def test_links_that_lead_in_circles_end(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("here", "there", "deep/up"):
        os.symlink(tmp_path / "in", tmp_path / "in" / name)
    Image.fromarray(NOISE).save(tmp_path / "in" / "deep" / "a.png")
    began = time.process_time()
    assert [item.name for item in find_inputs([str(tmp_path / "in" / "**" / "*.png")])] == ["deep/a"]
    assert time.process_time() - began < 5
    assert "no folder" in told(find_pairs, tmp_path / "in")
    os.symlink(tmp_path / "loop", tmp_path / "loop")
    assert "no such folder" in told(find_pairs, tmp_path / "loop")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_model(random_variables(SMALL), card(SMALL), folder)
    return folder


def tree(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_through_predict(images, model, tmp_path, capsys):
    files = sorted({images / name for name in IMAGES if IMAGES[name][1]} - {images / "nowhere.png"})
    named = sorted(path for path in files if path.is_file())  # others are no image files
    before = tree(images.parent), tree(tmp_path)
    with Bounded(128):
        config = cli.Predict(model=(model,), input=tuple(map(str, named)), output=tmp_path / "out")
        with pytest.raises(ValueError, match="would both give "):
            cli.predict(config)
        config = dataclasses.replace(config, input=tuple(map(str, names_of_one_stem(named))))
        assert cli.predict(config) == 1
    said = capsys.readouterr().err
    assert all(path in said for path in config.input)
    assert f"{len(config.input)} of {len(config.input)} images failed" in said
    assert tree(images.parent) == before[0]
    assert tree(tmp_path) - before[1] == {"out", "out/labels", "out/predict.json"}  # the room of those in bands


def test_through_evaluate_and_train(images, tmp_path):
    from experiments import train_cells

    data = tmp_path / "data"
    for room in ("images", "labels"):
        (data / room).mkdir(parents=True)
    for path in names_of_one_stem(sorted(path for path in images.iterdir() if path.is_file())):
        os.symlink(path, data / "images" / path.name)
        Image.fromarray(NOISE % 2).save(data / "labels" / f"{path.stem}.png")
    before = tree(tmp_path)
    with Bounded(128):
        with pytest.raises(ValueError, match=r"17 of 18 images or masks cannot be used:\n .*channels.tif: cannot be"):
            evaluate(Evaluate(str(data), tmp_path / "out", predictions=images))
        with pytest.raises(ValueError, match=r"(?s)cannot be trained on:.*unreadable.*empty.png.*unet-jax check"):
            train_cells.main(train_cells.Config(data=str(data), workdir=tmp_path / "run"))
    assert tree(tmp_path) == before


def test_names_in_archives_and_tables_lead_nowhere(tmp_path):
    with zipfile.ZipFile(tmp_path / "stage1_train.zip", "w") as archive:
        for name in ("../../evil/images/evil.png", "../../evil/masks/1.png", "/images/../images/x.png"):
            archive.writestr(name, hostile.good_png())
    before = tree(tmp_path.parent)
    assert [id for id, _, _ in read_stage1(tmp_path / "stage1_train.zip")] == ["evil"]
    assert tree(tmp_path.parent) == before
    nifti = hostile.nifti_header((4, 4, 4)) + bytes(128)
    for room in ("set/imagesTr", "set/labelsTr", "imagesTr"):
        (tmp_path / room).mkdir(parents=True)
        (tmp_path / room / "x.nii").write_bytes(nifti)
    rows = [{"image": "../imagesTr/x.nii", "label": "labelsTr/../labelsTr/x.nii"}]
    facts = {"modality": {"0": "T1"}, "labels": {"0": "background", "1": "it"}, "training": rows}
    (tmp_path / "set" / "dataset.json").write_text(json.dumps(facts))
    assert [case.id for case in find_cases(tmp_path / "set").cases] == ["x"]


def test_what_a_machine_can_hold(monkeypatch):
    claims.take(2**20)
    monkeypatch.setattr(claims, "memory", lambda: 2**20)
    with pytest.raises(claims.Refused, match=r"claims 0.0 GiB of pixels, too much for this machine's 0.0 GiB"):
        claims.take(2**20)


def test_large_files_are_decoded_one_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "LARGE", 0)
    for i in range(6):
        Image.fromarray(np.full((24, 24), i, np.uint8)).save(tmp_path / f"{i}.png")
    at_work, most = [], []

    def work(i):
        with claims.one_large_at_a_time():
            read_image(tmp_path / f"{i}.png")
            at_work.append(i)
            most.append(len(at_work))
            time.sleep(0.01)
            at_work.remove(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert most == [1] * 6
