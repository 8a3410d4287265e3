import csv
import io
import pickle
import zipfile
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import requests
from PIL import Image

from unet_jax.data.source import Source
from unet_jax.data.tfds import TfdsSource
from unet_jax.datasets import dsb2018, stage1
from unet_jax.datasets.dsb2018 import build_dsb2018, guess_kind
from unet_jax.datasets.stage1 import is_stage1_train, read_stage1

SIZES = {"a1": (21, 33), "b-2": (40, 17), "c_3": (31, 32)}


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def files():
    """The files of three images with alpha and three masks each; masks 0 and 1 share row 6, mask 2 hides in mask 0."""
    rng, found = np.random.default_rng(0), {}
    for name, (h, w) in SIZES.items():
        found[f"{name}/images/{name}.png"] = png(rng.integers(0, 256, (h, w, 4), np.uint8))
        for number, rows in enumerate([slice(2, 7), slice(6, 12), slice(3, 5)]):
            mask = np.zeros((h, w), np.uint8)
            mask[rows, 4:9] = 255
            found[f"{name}/masks/{number}.png"] = png(mask)
    return found


def unpack(files, folder):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def pack(files, file, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file


def expected(files, name):
    image = np.asarray(Image.open(io.BytesIO(files[f"{name}/images/{name}.png"])))[..., :3]
    label = np.zeros(image.shape[:2], np.int32)
    label[2:7, 4:9] = 1
    label[7:12, 4:9] = 2  # row 6 stays with the mask that came first; the mask inside it gets no number
    return image, label


@pytest.mark.parametrize("form", ["tree", "wrapped tree", "zip", "wrapped zip"])
def test_round_trip(files, tmp_path, form):
    wrapped = {f"stage1_train/{name}": data for name, data in files.items()}
    wrapped["__MACOSX/stage1_train/a1/images/._a1.png"] = b"not an image"
    chosen = wrapped if "wrapped" in form else files
    source = unpack(chosen, tmp_path / "set") if "tree" in form else pack(chosen, tmp_path / "set.zip")
    assert is_stage1_train(source)
    cells = build_dsb2018(tmp_path / "tfds", source)
    assert isinstance(cells, Source)
    assert cells.ids == tuple(SIZES)
    assert (cells.channels, cells.label_kind, set(cells.columns)) == (3, "instances", {"kind"})
    for sample in (cells[i] for i in range(len(cells))):
        image, label = expected(files, sample["id"])
        np.testing.assert_array_equal(sample["image"], image)
        np.testing.assert_array_equal(sample["label"], label)
        assert sample["image"].dtype == np.uint8
        assert sample["label"].dtype == np.int32
        assert sample["mask"].all()
        assert sample["mask"].shape == label.shape


def test_prepared_once_and_again_when_a_file_changes(files, tmp_path, monkeypatch):
    tree = unpack(files, tmp_path / "set")
    build_dsb2018(tmp_path / "tfds", tree)
    with monkeypatch.context() as patch:
        patch.setattr(dsb2018, "read_stage1", None)
        assert len(build_dsb2018(tmp_path / "tfds", tree)) == 3
    (tree / "a1/masks/1.png").unlink()
    assert build_dsb2018(tmp_path / "tfds", tree)[0]["label"].max() == 1


def test_the_source_can_be_pickled_and_read_by_threads(files, tmp_path):
    cells = build_dsb2018(tmp_path / "tfds", pack(files, tmp_path / "set.zip"))
    again = pickle.loads(pickle.dumps(cells))
    with ThreadPoolExecutor(4) as pool:
        for i, sample in zip([0, 1, 2] * 8, pool.map(again.__getitem__, [0, 1, 2] * 8), strict=True):
            np.testing.assert_array_equal(sample["label"], expected(files, again.ids[i])[1])
    with pytest.raises(IndexError):
        cells[3]


def test_any_prepared_data_set_serves_and_a_wrong_feature_is_named(files, tmp_path):
    build_dsb2018(tmp_path, pack(files, tmp_path / "set.zip"))
    (folder,) = (tmp_path / "dsb2018").glob("local-*/1.0.0")
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(folder)
    numbered = TfdsSource(builder, split="train[1:]", name=None)
    assert numbered.ids == ("dsb2018-train[1:]-00000", "dsb2018-train[1:]-00001")
    assert numbered[0]["image"].shape == (*SIZES["b-2"], 3)
    with pytest.raises(KeyError, match=r"no feature \['segmentation'\]; it has \['id', 'image'"):
        TfdsSource(builder, label="segmentation")


def test_a_label_with_a_channel_axis_loses_it():
    example = {"picture": np.zeros((4, 5, 2), np.uint8), "classes": np.full((4, 5, 1), 3, np.uint8)}

    class Builder:
        name, info = "pets", SimpleNamespace(features=example)

        def as_data_source(self, split, decoders=None):
            return [example]

    source = TfdsSource(Builder(), image="picture", label="classes", name=None, label_kind="classes")
    assert (source.channels, source.label_kind, source.columns) == (2, "classes", {})
    assert source[0]["id"] == "pets-train-00000"
    np.testing.assert_array_equal(source[0]["label"], np.full((4, 5), 3, np.int32))


def test_download(files, tmp_path, monkeypatch):
    asked = []

    def download(self, url):
        asked.append(url)
        return pack(files, tmp_path / "downloaded.zip")

    monkeypatch.setattr(requests, "head", lambda url, timeout: None)
    monkeypatch.setattr(dsb2018.tfds.download.DownloadManager, "download", download)
    for _ in range(2):  # the second finds it prepared
        assert build_dsb2018(tmp_path / "tfds").ids == tuple(SIZES)
    assert asked == ["https://data.broadinstitute.org/bbbc/BBBC038/stage1_train.zip"]


def test_without_network_the_error_says_how_to_bring_the_zip_and_the_zip_then_serves(files, tmp_path, monkeypatch):
    def unreachable(url, timeout):
        raise requests.ConnectionError("name not resolved")

    monkeypatch.setattr(requests, "head", unreachable)
    with pytest.raises(OSError, match=r"name not resolved.*--data /path/to/stage1_train.zip"):
        build_dsb2018(tmp_path)
    assert not list((tmp_path / "dsb2018" / "stage1_train").iterdir())  # nothing half-written
    (tmp_path / "downloads" / "manual").mkdir()
    pack(files, tmp_path / "downloads" / "manual" / "stage1_train.zip")
    assert len(build_dsb2018(tmp_path)) == 3


def changed(files, **changes):
    """`files` without those given None, with the others replaced; a double underscore stands for a slash."""
    files = files | {f"{name.replace('__', '/')}.png": data for name, data in changes.items()}
    return {name: data for name, data in files.items() if data is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a1__masks__0": None, "a1__masks__1": None, "a1__masks__2": None}, r"a1 has 1 image\(s\) and 0 mask\(s\)"),
        ({"a1__images__a1": None}, r"a1 has 0 image\(s\) and 3 mask\(s\); expected ID/images/ID.png"),
        ({"a1__masks__0": png(np.zeros((33, 21), np.uint8))}, r"0.png: the mask is 21 x 33 .* image 33 x 21"),
        ({"a1__masks__0": b"not a png"}, r"a1/masks/0.png: cannot be read as PNG"),
        ({"a1__images__a1": png(np.zeros((64, 64, 3), np.uint8))[:60]}, r"a1/images/a1.png: cannot be read as PNG"),
    ],
)
@pytest.mark.parametrize("form", ["tree", "zip"])
def test_a_bad_file_is_named_and_nothing_half_written(files, tmp_path, form, changes, message):
    chosen = changed(files, **changes)
    source = unpack(chosen, tmp_path / "set") if form == "tree" else pack(chosen, tmp_path / "set.zip")
    with pytest.raises(ValueError, match=message):
        build_dsb2018(tmp_path / "tfds", source)
    assert not [file for file in (tmp_path / "tfds").rglob("*") if "array_record" in file.name]


def test_a_damaged_zip_is_named(files, tmp_path):
    whole = pack(files, tmp_path / "whole.zip", zipfile.ZIP_STORED).read_bytes()
    cut, flipped = tmp_path / "cut.zip", tmp_path / "flipped.zip"
    cut.write_bytes(whole[: len(whole) // 2])
    place = whole.index(b"IDAT") + 20
    flipped.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
    assert is_stage1_train(cut)  # so that the message below is seen
    with pytest.raises(ValueError, match=r"cut.zip: not a whole zip file .* fetch https"):
        build_dsb2018(tmp_path, cut)
    with pytest.raises(ValueError, match=r"flipped.zip: a1/images/a1.png is damaged .* fetch https"):
        list(read_stage1(flipped))


@pytest.mark.parametrize("limit", ["MAX_TOTAL", "MAX_MEMBER"])
def test_a_zip_that_would_grow_too_large_is_refused(files, tmp_path, monkeypatch, limit):
    file = pack(changed(files, a1__masks__9=bytes(10**6)), tmp_path / "bomb.zip")
    monkeypatch.setattr(stage1, limit, 10**6 - 1)
    with pytest.raises(ValueError, match="far more than stage1_train"):
        build_dsb2018(tmp_path, file)


def test_an_image_with_too_many_pixels_is_refused(files, tmp_path, monkeypatch):
    monkeypatch.setattr(stage1, "MAX_PIXELS", 21 * 33 - 1)
    with pytest.raises(ValueError, match=r"a1.png: .*33 x 21 pixels, more than any"):
        list(read_stage1(pack(files, tmp_path / "set.zip")))


def test_what_is_not_the_set(files, tmp_path):
    pairs = {"images/a1.png": b"", "masks/a1.png": b""}
    nested = {f"train/{name}": data for name, data in pairs.items()}
    for number, other in enumerate((pairs, nested, {"readme.png": b""})):
        assert not is_stage1_train(unpack(other, tmp_path / str(number)))
        assert not is_stage1_train(pack(other, tmp_path / f"{number}.zip"))
    assert not is_stage1_train(tmp_path / "absent.zip")
    (tmp_path / "text").write_text("no zip")
    assert not is_stage1_train(tmp_path / "text")
    with pytest.raises(FileNotFoundError, match=r"absent.zip: not found; name the zip"):
        build_dsb2018(tmp_path, tmp_path / "absent.zip")
    with pytest.raises(FileNotFoundError, match="no image found; expected ID/images"):
        build_dsb2018(tmp_path, tmp_path / "2")


def test_guess_kind_on_plain_colours():
    def plain(*colour):
        return np.full((8, 8, 3), colour, np.uint8)

    assert guess_kind(plain(12, 12, 12)) == "fluorescence"
    assert guess_kind(plain(228, 228, 228)) == "brightfield_gray"
    assert guess_kind(plain(205, 200, 215)) == "pink_purple"
    assert guess_kind(plain(175, 155, 205)) == "purple"


def test_guess_kind_agrees_with_the_kinds_given_by_hand(real_data):
    with (real_data / "dsb2018" / "index.csv").open() as file:
        rows = list(csv.DictReader(file))[::6]
    agree = 0
    for row in rows:
        with Image.open(real_data / "dsb2018" / "images" / f"{row['id']}.png") as image:
            agree += guess_kind(np.asarray(image.convert("RGB"))) == row["kind"]
    assert agree / len(rows) > 0.97  # 526 of all 530
