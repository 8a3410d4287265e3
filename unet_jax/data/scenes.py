"""Scenes beyond the memory: decoded once, kept on the disk and mapped, so that a crop reads its own pixels alone."""

import mmap
import os
import shutil
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np

from unet_jax import startup

SCENE = 2**20  # pixels from which decoding an image for each crop costs more than keeping it
_SPARE = 0.1  # share of the disk that stays free


def on_disk(*arrays: np.ndarray) -> tuple[np.ndarray, ...] | None:
    """The same arrays, read-only, mapped from files in `startup.cache_dir()`; None, with a warning, without room there.

    The files lose their names at once: they are gone when the arrays are, however the process ends.
    """
    folder = startup.cache_dir() / "scenes"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        disk = shutil.disk_usage(folder)
        if disk.free - sum(array.nbytes for array in arrays) < _SPARE * disk.total:
            raise OSError(f"only {disk.free / 2**30:.1f} of {disk.total / 2**30:.1f} GiB are free")
        return tuple(_mapped(array, folder) for array in arrays)
    except OSError as error:
        mend = "name a folder with more room in UNET_JAX_CACHE"
        warnings.warn(f"{folder}: {error}: large images are decoded again for every crop; {mend}", stacklevel=2)
        return None


def _mapped(array: np.ndarray, folder: Path) -> np.ndarray:
    if isinstance(array.base, mmap.mmap) or not any(array.strides):  # there already, or one number everywhere
        return array
    handle, name = tempfile.mkstemp(suffix=".npy", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            np.save(file, array)
        return np.load(name, mmap_mode="r", allow_pickle=False)
    finally:
        with suppress(OSError):  # Windows keeps a file that is mapped
            os.unlink(name)
