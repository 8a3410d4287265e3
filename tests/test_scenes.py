"""Scenes kept on the disk: few descriptors, one warning, and nothing that stays behind."""

import errno
import io
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from tests.folders import make
from unet_jax.data import FolderSource, Normalised, folder, normalisation, scenes

RUN = """
import os, signal, sys
import numpy as np
from unet_jax.data import scenes
kept, = scenes.on_disk(np.arange(12).reshape(3, 4))
assert kept.map().sum() == 66
if sys.argv[1] == "fork" and os.fork() == 0:
    sys.exit()
if sys.argv[1] == "fork":
    os.wait()
    assert kept.map().sum() == 66
print("kept", flush=True)
if sys.argv[1] == "wait":
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An own cache, on a disk with room; every image is a scene."""
    monkeypatch.setenv("UNET_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(scenes, "_SPARE", 0.0)
    monkeypatch.setattr(folder, "SCENE", 1)
    monkeypatch.setattr(normalisation, "SCENE", 1)
    return tmp_path / "cache" / "scenes"


def files(root):
    return sorted(path.name for path in root.rglob("*") if path.is_file())


def process(*words, **options):
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", f"from unet_jax.data import scenes; scenes._SPARE = 0\n{RUN}", *words],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1], **options,
    )  # fmt: skip


def folder_of(root, count, *, ignored=False):
    mask = np.pad(np.full((1, 8), 255, np.uint8), [(0, 7), (0, 0)])
    mask[7, 7] = 7 * ignored
    return make(root / "data", [mask] * count)


def test_more_scenes_than_descriptors(tmp_path):
    resource = pytest.importorskip("resource")  # not on Windows
    data = folder_of(tmp_path, 150, ignored=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/dev/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(used + 64, soft), hard))
    try:
        source = FolderSource(data, label_kind="binary", ignore=7, cache_bytes=0).preload()
        ready = Normalised(source, cache_bytes=1).preload()
        seen = [int(ready[i]["label"].sum()) for i in range(150)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert seen == [8] * 150
    assert not source[0]["mask"][7, 7]
    assert all(isinstance(source._samples[149][name], scenes.Kept) for name in ("image", "label", "mask"))
    assert len(os.listdir("/dev/fd")) <= used + 2
    crops = [ready[0]["label"][i : i + 1] for i in range(8)]  # of one scene, as a batch may be
    assert len(os.listdir("/dev/fd")) <= used + 3
    assert [int(crop.sum()) for crop in crops] == [8] + [0] * 7


def test_files_go_with_their_source(cache, tmp_path):
    source = FolderSource(folder_of(tmp_path, 3), cache_bytes=0).preload()
    ready = Normalised(source, cache_bytes=1).preload()
    # image, label and normalised image of each; the mask is True everywhere, that of the file is no longer needed
    assert len([name for name in files(cache) if name != "lock"]) == 9
    crop = ready[2]["label"][:1]
    del source, ready
    assert files(cache) == ["lock"]
    assert crop.sum() == 8
    with pytest.raises(ValueError, match="read-only"):
        crop[0, 0] = 1


def test_an_emptied_cache_is_filled_again(cache, tmp_path):
    ready = Normalised(FolderSource(folder_of(tmp_path, 2), cache_bytes=0).preload(), cache_bytes=1).preload()
    for path in cache.rglob("*.raw"):
        path.unlink()
    for _ in range(2):
        assert [int(sample["label"].sum()) for sample in ready] == [8, 8]
    assert len(list(cache.rglob("*.raw"))) == 6


def test_a_full_disk_is_told_once_and_leaves_no_part_of_a_file(cache, tmp_path, monkeypatch):
    wanted = []

    class Full:
        """A file on a disk that takes the first array and half of the second."""

        def __init__(self, handle, mode):
            self.file = io.FileIO(handle, mode)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, data):
            wanted.append(data)
            self.file.write(bytes(data)[: None if len(wanted) == 1 else 8])
            if len(wanted) > 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fdopen", Full)
    source = FolderSource(folder_of(tmp_path, 4), label_kind="binary", cache_bytes=0)
    with pytest.warns(UserWarning, match="No space left on device") as said:
        source.preload()
    assert [str(w.message) for w in said] == [
        f"{cache}: No space left on device: large images are decoded again for every crop; name a folder with more "
        "room in UNET_JAX_CACHE"
    ]
    assert files(cache) == ["lock"]
    tries = len(wanted)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [int(sample["label"].sum()) for sample in Normalised(source, cache_bytes=1)] == [8] * 4
    assert len(wanted) == tries


@pytest.mark.parametrize("how", ["end", pytest.param("fork", marks=pytest.mark.skipif("sys.platform == 'win32'"))])
def test_nothing_stays_behind(cache, how):
    with process(how) as done:
        assert done.communicate()[0] == "kept\n"
    assert done.returncode == 0
    assert list(cache.iterdir()) == []


def test_what_a_killed_process_left_goes_at_the_next_start(cache):
    with process("wait") as alive, process("wait") as dead:
        assert (alive.stdout.readline(), dead.stdout.readline()) == ("kept\n", "kept\n")
        dead.kill()
        dead.wait()
        assert len(files(cache)) == 4  # an array and a lock of each
        young, old = cache / "young", cache / "old"
        for room in (young, old):
            room.mkdir()
        os.utime(old, (0, 0))
        (kept,) = scenes.on_disk(np.ones((2, 2)))
        assert kept.map().all()
        assert len(files(cache)) == 4  # of the living one, and of this one
        assert len(list(cache.iterdir())) == 3
        assert young.exists()
        alive.communicate("")
    assert alive.returncode == 0
    assert len(files(cache)) == 2
