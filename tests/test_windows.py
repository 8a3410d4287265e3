"""Scenes cut into windows, visits by size and by rare class, and the statistics a plan is made of."""

import dataclasses
import tracemalloc
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from tests.folders import save
from unet_jax.data import FolderSource, Normalised, Subset, folder
from unet_jax.data.source import split_few
from unet_jax.data.statistics import measure
from unet_jax.data.textures import TexturedPatches
from unet_jax.data.windows import Windows, scheduled_visits


@dataclasses.dataclass
class Images:
    labels: list
    channels: int = 1
    label_kind: str = "classes"

    @property
    def ids(self):
        return tuple(f"i{i}" for i in range(len(self.labels)))

    @property
    def columns(self):
        return {"kind": tuple("ab"[i % 2] for i in range(len(self.labels)))}

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        label = np.asarray(self.labels[i], np.int32)
        place = np.arange(label.size, dtype=np.uint16).reshape(*label.shape, 1)
        return {"image": place, "label": label, "mask": label >= 0, "id": self.ids[i]}


def test_windows_share_no_pixel_and_miss_none():
    source = Images([np.zeros((100, 70)), np.zeros((30, 39))])
    windows = Windows(source, 20)
    seen = [windows[i] for i in range(len(windows))]
    # 100 // 20 = 5 and 70 // 20 = 3 parts; 30 stays whole and 39 too, each less than twice 20
    assert len(windows) == 5 * 3 + 1
    pixels = np.concatenate([s["image"].ravel() for s in seen[:15]])
    np.testing.assert_array_equal(np.sort(pixels), np.arange(7000))
    assert {s["label"].shape for s in seen} == {(20, 23), (20, 24), (30, 39)}
    assert windows.ids[0] == "i0@0,0"
    assert windows.ids[-1] == "i1"
    assert len(set(windows.ids)) == 16
    assert windows.columns["kind"] == ("a",) * 15 + ("b",)
    assert not windows.normalised
    assert Windows(Subset(Normalised(source), [0]), 20).normalised


def test_a_window_is_a_view_of_its_image():
    label = np.zeros((60, 60), np.int32)
    source = Images([label])
    source.labels[0].setflags(write=True)
    windows = Windows(source, 20)
    label[0, 0] = 1
    assert windows[0]["label"][0, 0] == 1


def test_images_with_rare_classes_are_visited_more_often():
    labels = [np.zeros((8, 8), int) for _ in range(16)]
    labels[3][0, 0] = 1  # in one of 16: sqrt(0.25 / (1/16)) = 2
    even = scheduled_visits(Images(labels), patch=(8, 8), crops=32, balance=0.0)
    assert np.bincount(even.indices).tolist() == [2] * 16
    rare = scheduled_visits(Images(labels), patch=(8, 8), crops=34, balance=0.25)
    assert np.bincount(rare.indices).tolist() == [2, 2, 2, 4] + [2] * 12


def test_large_images_are_visited_more_often_and_each_at_least_once():
    labels = [np.zeros((32, 32)), np.zeros((8, 8)), np.zeros((4, 4))]
    visits = scheduled_visits(Images(labels), patch=(8, 8), crops=12, balance=0.0)
    assert np.bincount(visits.indices).tolist() == [8, 2, 2]  # roots of 16, 1 and 1
    assert set(scheduled_visits(Images(labels), patch=(8, 8), crops=1, balance=0.0).indices) == {0, 1, 2}


def test_statistics_by_hand():
    labels = [[[0, 0, 1, 1]], [[0, 0], [0, -1]], [[0, 0, 2, 2], [2, 2, 2, 2]]]
    found = measure(Images(labels), ("background", "a", "b"))
    assert (found.images, found.height, found.width) == (3, (1, 2.0, 2), (2, 4.0, 4))
    assert found.pixel_share == (7 / 15, 2 / 15, 6 / 15)  # the pixel of -1 does not count
    assert found.image_share == (1, 1 / 3, 1 / 3)
    assert (found.channels, found.dtype) == (1, "uint16")
    # the pixels are 0..n-1: percentile 1 of 0..3 is 0.03, that of 0..7 is 0.07
    assert found.ranges[0][0] == pytest.approx(0.03)


def test_a_few_images_are_split_all_the_same():
    parts = split_few(Images([np.zeros((2, 2))] * 4))
    assert sorted(len(part) for part in parts.values()) == [1, 1, 2]
    assert sorted(i for part in parts.values() for i in part.indices) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="2 images cannot be split"):
        split_few(Images([np.zeros((2, 2))] * 2))


def test_textures_are_the_same_for_ever_and_some_kinds_are_rare():
    source = TexturedPatches(count=150, size=48)
    np.testing.assert_array_equal(source[3]["image"], TexturedPatches(count=9, size=48)[3]["image"])
    assert (source[0]["image"] != TexturedPatches(count=1, size=48, seed=1)[0]["image"]).any()
    found = measure(source, source.names)
    assert len(source.names) == 33
    assert len(set(source.names)) == 33
    assert min(found.image_share) > 0
    assert np.mean(found.image_share[1:5]) > 5 * np.mean(found.image_share[-4:])
    with pytest.raises(ValueError, match="kinds 40: choose"):
        TexturedPatches(kinds=40)


def scenes(root, count=3, side=1024):
    """RGB scenes with a road of their own number of rows."""
    for i in range(count):
        image = np.random.default_rng(i).integers(0, 255, (side, side, 3), np.uint8)
        save(root / "images" / f"s{i}.png", image)
        save(root / "masks" / f"s{i}.png", np.where(np.arange(side)[:, None] < 8 * (i + 1), 255, 0 * image[..., 0]))
    return root


def test_scenes_beyond_the_memory_are_decoded_once_and_their_crops_read_from_the_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("UNET_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=2**40, free=2**40))
    decoded = Counter()

    def counted(real):
        return lambda path: decoded.update([str(path)]) or real(path)

    monkeypatch.setattr(folder, "read_image", counted(folder.read_image))
    monkeypatch.setattr(folder, "read_label", counted(folder.read_label))
    source = FolderSource(scenes(tmp_path), label_kind="binary", cache_bytes=0).preload()
    ready = Normalised(source, cache_bytes=1).preload()
    windows = Windows(Subset(ready, [2, 0]), 256)
    tracemalloc.start()
    visits = scheduled_visits(windows, patch=(64, 64), crops=100, balance=0.0)
    crops = [visits[i]["image"][:64, :64].copy() for i in range(0, len(visits), 9)]
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert set(decoded.values()) == {1}
    assert len(decoded) == 6
    assert most < 3 * 2**20  # bytes: not even one scene's pixels
    assert len(crops) > 10
    np.testing.assert_array_equal(windows[0]["label"], np.arange(256)[:, None] < 24 + np.zeros(256))  # 8 rows * 3
    np.testing.assert_array_equal(windows[5]["image"], ready[2]["image"][256:512, 256:512])
    assert windows[0]["image"].base is not None


def test_without_room_on_the_disk_scenes_are_decoded_again(tmp_path, monkeypatch):
    monkeypatch.setenv("UNET_JAX_CACHE", str(tmp_path / "cache"))
    disk = SimpleNamespace(total=2**40, free=2**36)  # a sixteenth of a TiB is free
    monkeypatch.setattr("shutil.disk_usage", lambda _: disk)
    source = FolderSource(scenes(tmp_path, 1), label_kind="binary", cache_bytes=0)
    with pytest.warns(UserWarning, match=r"less than 10% of the disk free: .* name a folder with more room") as said:
        first = source[0]
    assert len(said) == 1
    again = source[0]
    assert again["image"] is not first["image"]
    np.testing.assert_array_equal(again["label"], first["label"])


def test_all_windows_in_turn_are_those_by_index():
    windows = Windows(Images([np.arange(3600).reshape(60, 60), np.zeros((20, 20))]), 20)
    seen = list(windows.in_turn())
    assert [sample["id"] for sample in seen] == list(windows.ids)
    for i, sample in enumerate(seen):
        np.testing.assert_array_equal(sample["label"], windows[i]["label"])
