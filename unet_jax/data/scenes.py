"""Scenes beyond the memory: decoded once, kept on the disk and mapped, so that a crop reads its own pixels alone."""

import atexit
import errno
import functools
import mmap
import os
import shutil
import tempfile
import threading
import time
import warnings
import weakref
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from unet_jax import lock, startup

SCENE = 2**20  # pixels from which decoding an image for each crop costs more than keeping it
_SPARE = 0.1  # share of the disk that stays free
_YOUNG = 3600  # seconds in which another process may be about to lock a folder it has just made
_LOCK = threading.Lock()
_refused: set[Path] = set()


class Kept:
    """An array in a file of its own, which goes with this object.

    It is mapped no longer than a crop of it lives: a map holds a file descriptor, and a process has a few hundred.
    """

    def __init__(self, array: np.ndarray, folder: Path):
        """Write the file; of one that cannot be written whole nothing stays."""
        self._dtype, self._shape, self._mapped = array.dtype, array.shape, lambda: None
        handle, self._path = tempfile.mkstemp(suffix=".raw", dir=folder)
        remove = weakref.finalize(self, _remove, self._path, os.getpid())
        remove.atexit = False  # the whole folder goes then
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(np.ascontiguousarray(array).data)  # np.save does not tell when the last bytes find no room
        except BaseException:
            remove()
            raise

    def map(self) -> np.ndarray:
        """The array, read-only; FileNotFoundError when somebody has emptied the cache."""
        if (mapped := self._mapped()) is None:
            with open(self._path, "rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._mapped = weakref.ref(mapped)
        return np.ndarray(self._shape, self._dtype, buffer=mapped)


def on_disk(*arrays: np.ndarray | Kept) -> tuple[np.ndarray | Kept, ...] | None:
    """The arrays, kept in `startup.cache_dir()` while this process lives; None, with one warning, without room there.

    After that nothing more is tried in that folder. What is there already, or one number everywhere, stays as it is.
    """
    root = startup.cache_dir() / "scenes"
    if root in _refused:
        return None
    whole = [array for array in arrays if isinstance(array, np.ndarray) and any(array.strides)]
    try:
        with _LOCK:
            folder = _own_folder(root, os.getpid())
        disk = shutil.disk_usage(folder)
        if disk.free - sum(array.nbytes for array in whole) < _SPARE * disk.total:
            raise OSError(errno.ENOSPC, f"to keep large images would leave less than {_SPARE:.0%} of the disk free")
        kept = {id(array): Kept(array, folder) for array in whole}
        return tuple(kept.get(id(array), array) for array in arrays)
    except OSError as error:
        with _LOCK:
            first = root not in _refused
            _refused.add(root)
        if first:
            what = "large images are decoded again for every crop; name a folder with more room in UNET_JAX_CACHE"
            warnings.warn(f"{root}: {error.strerror or error}: {what}", stacklevel=2)
        return None


def opened(sample: Mapping[str, Any]) -> dict[str, Any]:
    """The same, with arrays in place of what is kept on the disk; FileNotFoundError as `Kept.map`."""
    return {name: value.map() if isinstance(value, Kept) else value for name, value in sample.items()}


@functools.cache
def _own_folder(root: Path, pid: int) -> Path:
    """A folder that goes when this process ends in order; those of processes that were killed go now."""
    root.mkdir(parents=True, exist_ok=True)
    for old in root.iterdir():
        with suppress(OSError):  # FileExistsError: its process lives
            if time.time() - old.stat().st_mtime > _YOUNG or (old / lock.NAME).stat().st_size:
                lock.check_unlocked(old)
                shutil.rmtree(old)
    folder, stack = Path(tempfile.mkdtemp(dir=root)), ExitStack()
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    stack.enter_context(lock.locked(folder))
    atexit.register(lambda: stack.close() if os.getpid() == pid else None)  # a fork leaves its parent's files alone
    return folder


def _remove(path: str, pid: int) -> None:
    with suppress(OSError):  # Windows keeps a file that is mapped
        if os.getpid() == pid:
            os.unlink(path)
