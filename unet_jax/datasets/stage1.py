"""Read BBBC038's stage1_train, one folder an image with `ID/images/ID.png` and `ID/masks/*.png` (one nucleus each).

A zip is read in place: nothing is unpacked to the disk, so no member's name can lead outside a folder.
"""

import hashlib
import io
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int32, UInt8
from PIL import Image

URL = "https://data.broadinstitute.org/bbbc/BBBC038/stage1_train.zip"
MAX_MEMBER, MAX_TOTAL, MAX_PIXELS = 2**26, 2**32, 2**26  # bytes, bytes, pixels: far above the real set's
_LAYOUT = "expected ID/images/ID.png and ID/masks/*.png, as in BBBC038's stage1_train"
_NAME = re.compile(r"(?:^|/)([\w-]+)/(images|masks)/(?!\._)[^/]+\.png$")
_SURE = re.compile(r"(?:^|/)([\w-]+)/images/\1\.png$")  # no other layout has the image's name twice
_BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


def is_stage1_train(path: str | Path) -> bool:
    """Whether `path` is a zip or an unpacked folder in the layout of BBBC038's stage1_train.

    A `.zip` too damaged to be listed counts, so that reading it names the damage; a folder with `images/` and `masks/`
    directly inside does not.
    """
    path = Path(os.path.expanduser(path))
    if path.is_file():
        if not zipfile.is_zipfile(path):
            return path.suffix.lower() == ".zip"
        with zipfile.ZipFile(path) as archive:
            return any(map(_SURE.search, archive.namelist()))
    return path.is_dir() and any(map(_SURE.search, _files(path)))


def read_stage1(
    path: str | Path,
) -> Iterator[tuple[str, UInt8[np.ndarray, "h w 3"], Int32[np.ndarray, "h w"]]]:
    """Yield (id, image RGB, label 0 = background and 1..n nuclei), sorted by id; alpha is dropped.

    Where masks overlap, the one whose file name sorts first keeps the pixel; a mask left without one gets no number.

    Raises:
        FileNotFoundError: nothing at `path`, or nothing in the layout.
        ValueError: a damaged zip or PNG, an image without masks or masks without an image, another size of mask.
    """
    path = Path(os.path.expanduser(path))
    with _opened(path) as (names, read):
        for name, (image_file, mask_files) in _members(path, names).items():
            image = np.asarray(_png(path, image_file, read).convert("RGB"))
            label = np.zeros(image.shape[:2], np.int32)
            for file in mask_files:
                mask = np.asarray(_png(path, file, read).convert("L")) > 0
                if mask.shape != label.shape:
                    raise ValueError(
                        f"{path / file}: the mask is {mask.shape[1]} x {mask.shape[0]} pixels and its image "
                        f"{label.shape[1]} x {label.shape[0]}; fetch both again from {URL}, or take {name} out"
                    )
                _add(label, mask)
            yield name, image, label


def fingerprint(path: str | Path) -> str:
    """Twelve hexadecimal digits that change with the set: names, sizes, and checksums (zip) or times (folder)."""
    path = Path(os.path.expanduser(path))
    if not path.is_dir():
        with _zip(path) as archive:
            lines = [f"{info.filename} {info.file_size} {info.CRC}" for info in archive.infolist()]
    else:
        stats = [(name, (path / name).stat()) for name in _files(path) if _NAME.search(name)]
        lines = [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:12]


def _files(path: Path) -> Iterator[str]:
    for pattern in ("*/images/*.png", "*/masks/*.png", "*/*/images/*.png", "*/*/masks/*.png"):  # */: stage1_train/
        for file in path.glob(pattern):
            yield file.relative_to(path).as_posix()


def _add(label: Int32[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"]) -> None:
    free = mask & (label == 0)
    if free.any():
        label[free] = label.max() + 1


def _members(path: Path, names: Sequence[str]) -> dict[str, tuple[str, list[str]]]:
    """For every id the image's file and its masks' files."""
    found: dict[str, dict[str, list[str]]] = {}
    for name in sorted(set(names)):
        if match := _NAME.search(name):
            found.setdefault(match[1], {"images": [], "masks": []})[match[2]].append(name)
    if not found:
        raise FileNotFoundError(f"{path}: no image found; {_LAYOUT}. It can be fetched from {URL}")
    for name, files in found.items():
        if len(files["images"]) != 1 or not files["masks"]:
            counts = f"{len(files['images'])} image(s) and {len(files['masks'])} mask(s)"
            raise ValueError(f"{path}: {name} has {counts}; {_LAYOUT}. Add what is missing, or take {name} out")
    return {name: (files["images"][0], files["masks"]) for name, files in found.items()}


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Sequence[str], Callable[[str], bytes]]]:
    """The names of all files below a folder or in a zip, and a function that reads one."""
    if path.is_dir():
        yield list(_files(path)), lambda name: (path / name).read_bytes()
    else:
        with _zip(path) as archive:
            yield archive.namelist(), lambda name: _read_member(path, archive, name)


def _zip(path: Path) -> zipfile.ZipFile:
    if not path.exists():
        raise FileNotFoundError(f"{path}: not found; name the zip or the unpacked folder of {URL}")
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: not a whole zip file ({error}); delete it and fetch {URL} again") from error
    sizes = [info.file_size for info in archive.infolist()]
    if sum(sizes) > MAX_TOTAL or max(sizes, default=0) > MAX_MEMBER:
        archive.close()
        raise ValueError(f"{path}: would unpack to {sum(sizes)} bytes, far more than stage1_train; fetch {URL}")
    return archive


def _read_member(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except _BROKEN_ZIP as error:
        raise ValueError(f"{path}: {name} is damaged ({error}); delete the zip and fetch {URL} again") from error


def _png(path: Path, name: str, read: Callable[[str], bytes]) -> Image.Image:
    data = read(name)
    try:
        image = Image.open(io.BytesIO(data), formats=["PNG"])
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels, more than any image of the set")
        image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path / name}: cannot be read as PNG ({error}); fetch it again from {URL}") from error
    return image
