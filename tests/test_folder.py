"""Folders as people have them: what belongs together, and what is wrong."""

import shutil
import threading

import numpy as np
import pytest

from tests.folders import make, save, squares
from unet_jax.data import FolderSource, Source, Subset, count_kinds, folder, split


def test_pairs_by_name_whatever_the_extension_and_suffix(tmp_path):
    mask = squares([255])
    for name in ("a.JPG", "b.tiff", "c_mask.png", "d.v2.png"):
        save(tmp_path / "images" / name, np.zeros((24, 24, 3), np.uint8))
    for name in ("a_mask.png", "b_SEG.png".lower(), "c_mask.tif", "d.v2_label.PNG"):
        save(tmp_path / "masks" / name, mask)
    (tmp_path / "images" / ".DS_Store").touch()
    source = FolderSource(tmp_path).preload()
    assert source.ids == ("a", "b", "c_mask", "d.v2")
    assert (source.channels, len(source), source[-1]["id"]) == (3, 4, "d.v2")
    assert isinstance(source, Source)


def test_two_spellings_of_an_accent_are_one_name(tmp_path):
    save(tmp_path / "images" / "caf\u00e9.png", squares([]))
    save(tmp_path / "labels" / "cafe\u0301.png", squares([1]))
    assert FolderSource(tmp_path).ids == ("caf\u00e9",)


def test_samples_are_shared_and_protected(tmp_path):
    source = FolderSource(make(tmp_path, [squares([1]), squares([1])])).preload()
    first = source[0]
    assert first is not source[0]
    assert first["image"] is source[0]["image"]
    for name in ("image", "label", "mask"):
        with pytest.raises(ValueError, match="read-only"):
            first[name][0, 0] = 1
    assert first["mask"].all()
    with pytest.raises(IndexError):
        source[2]


def counted(monkeypatch):
    calls = []
    lock = threading.Lock()

    def read(path, real=folder.read_label):
        with lock:
            calls.append(path.stem)
        return real(path)

    monkeypatch.setattr(folder, "read_label", read)
    return calls


def test_every_mask_is_decoded_once(tmp_path, monkeypatch):
    calls = counted(monkeypatch)
    source = FolderSource(make(tmp_path, [squares([1])] * 5))
    assert (source.label_kind, source.channels) == ("binary", 1)
    source.preload()
    _ = [sample["label"] for sample in source]
    assert sorted(calls) == [f"n{i}" for i in range(5)]


def test_beyond_the_memory_limit_files_are_decoded_again(tmp_path, monkeypatch):
    # A sample of 24 x 24 takes 576 (image) + 5 x 576 (label, mask) = 3456 bytes: two fit into 7000.
    calls = counted(monkeypatch)
    source = FolderSource(make(tmp_path, [squares([1])] * 5), cache_bytes=7000).preload()
    calls.clear()
    assert [int(sample["image"][0, 0, 0]) for sample in source] == [0, 1, 2, 3, 4]
    assert len(calls) == 3


def test_index_csv_gives_columns_by_id_not_by_order(tmp_path):
    make(tmp_path, [squares([1])] * 2, names=["a", "b"])
    (tmp_path / "index.csv").write_text(
        '\ufeffid,kind,note\nb,dark,"x, y"\nelsewhere,z,\na.png,bright\n', encoding="utf-8"
    )
    source = FolderSource(tmp_path)
    assert source.columns == {"kind": ("bright", "dark"), "note": ("", "x, y")}
    assert count_kinds(Subset(source, [1])) == {"dark": 1}
    (tmp_path / "index.csv").write_text("id;kind\na;1,5\nb;2,5\n")
    assert FolderSource(tmp_path).columns == {"kind": ("1,5", "2,5")}  # as spreadsheets with a decimal comma write it


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,kind\na,x\n", r"no row for 1 image \(b\): add the rows"),
        ("name,kind\na,x\nb,y\n", r"columns are \['name', 'kind'\]: name the first one id"),
        ("id,kind\na,x\na,y\n", "line 3: id a a second time"),
        ("id,kind\na,x,y\nb,z\n", "line 2: more cells than columns"),
        ("", r"columns are \[\]"),
        (b"id,kind\na,caf\xe9\nb,y\n", "save it as CSV in UTF-8"),
    ],
)
def test_a_bad_index_csv_is_named(tmp_path, text, said):
    make(tmp_path, [squares([1])] * 2, names=["a", "b"])
    (tmp_path / "index.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=f"index.csv.*{said}"):
        FolderSource(tmp_path)


def test_missing_rooms_say_what_was_found(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder; expected are images/NAME.png"):
        FolderSource(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no folder images in it, found nothing; expected"):
        FolderSource(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "x.txt").touch()
    with pytest.raises(ValueError, match=r"no folder labels \(or masks\) in it, found images/, x.txt"):
        FolderSource(tmp_path)
    (tmp_path / "labels").mkdir()
    with pytest.raises(ValueError, match=r"images: no images in it, found nothing"):
        FolderSource(tmp_path)
    with pytest.raises(ValueError, match=rf"did you mean {tmp_path}\?"):
        FolderSource(tmp_path / "images")
    (tmp_path / "masks").mkdir()
    with pytest.raises(ValueError, match="both labels and masks in it: rename"):
        FolderSource(tmp_path)


def test_lonely_files_are_listed_up_to_five(tmp_path):
    make(tmp_path, [squares([1])] * 8)
    for i in range(7):
        (tmp_path / "labels" / f"n{i}.png").unlink()
    with pytest.raises(ValueError, match=r"7 images \(.*n0.png, .*n4.png, \.\.\.\) without a mask in .*labels: add"):
        FolderSource(tmp_path)
    make(tmp_path, [squares([1])] * 8)
    (tmp_path / "images" / "n3.png").unlink()
    with pytest.raises(ValueError, match=r"1 mask \(.*labels/n3.png\) without an image in .*images: add"):
        FolderSource(tmp_path)


def test_names_that_clash_or_mislead(tmp_path):
    make(tmp_path, [squares([1])])
    save(tmp_path / "labels" / "n0_mask.png", squares([1]))
    with pytest.raises(ValueError, match=r"n0.png and .*n0_mask.png are both for n0: rename"):
        FolderSource(tmp_path)
    (tmp_path / "labels" / "n0_mask.png").unlink()
    save(tmp_path / "images" / "n0.tif", squares([1]))
    with pytest.raises(ValueError, match=r"n0.png and .*n0.tif are both for n0"):
        FolderSource(tmp_path)
    (tmp_path / "images" / "n0.tif").rename(tmp_path / "images" / "a\\b.tif")
    with pytest.raises(ValueError, match="backslash"):
        FolderSource(tmp_path)


def test_files_of_other_kinds_are_not_ignored_in_silence(tmp_path):
    make(tmp_path, [squares([1])])
    (tmp_path / "images" / "more.webp").touch()
    with pytest.warns(UserWarning, match=r"1 entry \(.*more.webp\) ignored: only files ending in .png"):
        assert FolderSource(tmp_path).ids == ("n0",)


def test_all_faults_of_all_files_come_in_one_message(tmp_path):
    make(tmp_path, [squares([1])] * 15)
    (tmp_path / "images" / "n0.png").write_bytes(b"")
    save(tmp_path / "images" / "n1.png", np.zeros((20, 24), np.uint8))
    for i in range(2, 15):
        (tmp_path / "labels" / f"n{i}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ValueError, match="15 of 15 images or masks cannot be used") as caught:
        FolderSource(tmp_path).preload()
    lines = str(caught.value).splitlines()
    assert len(lines) == 12
    assert "n0.png: is empty" in lines[1]
    assert "n1.png: 20x24 pixels" in lines[2]
    assert "24x24" in lines[2]
    assert lines[-1].strip() == "... and 5 more"


@pytest.mark.parametrize("preload", [True, False])
def test_channel_counts_that_differ(tmp_path, preload):
    make(tmp_path, [squares([1])] * 4)
    save(tmp_path / "images" / "n2.png", np.zeros((24, 24, 3), np.uint8))
    source = FolderSource(tmp_path, label_kind="binary")
    with pytest.raises(ValueError, match=r"n2.png: 3 channels, .*1"):
        source.preload() if preload else source[2]


def test_a_fault_is_told_on_access_too(tmp_path):
    make(tmp_path, [squares([1])] * 3)
    (tmp_path / "images" / "n1.png").write_bytes(b"")
    source = FolderSource(tmp_path, label_kind="binary")
    assert source[0]["id"] == "n0"
    with pytest.raises(ValueError, match=r"n1.png: is empty"):
        source[1]


def test_real_cells(real_data, tmp_path):
    real = real_data / "dsb2018"
    source = FolderSource(real)  # nothing is decoded yet
    assert len(source) == 530
    assert sum(count_kinds(part)["fluorescence"] for part in split(source).values()) == 432
    for room in ("images", "labels"):  # every tenth image, under the whole table
        (tmp_path / room).mkdir()
        for id in source.ids[::10]:
            (tmp_path / room / f"{id}.png").symlink_to((real / room / f"{id}.png").resolve())
    shutil.copy(real / "index.csv", tmp_path)
    part = FolderSource(tmp_path).preload()
    assert (len(part), part.channels, part.label_kind) == (53, 3, "instances")
    for sample, height, width, nuclei in zip(
        part, *(part.columns[n] for n in ("height", "width", "nuclei")), strict=True
    ):
        assert sample["label"].shape == (int(height), int(width))
        assert len(np.unique(sample["label"])) - 1 == int(nuclei)


def test_real_membranes(real_data):
    source = FolderSource(real_data / "isbi2012").preload()
    assert (len(source), source.channels, source.label_kind, source.columns) == (30, 1, "binary", {})
    assert set(np.unique(source[0]["label"])) == {0, 1}
