"""Which image files a user means, and the images in them."""

import glob
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

from unet_jax.claims import foreign_character
from unet_jax.data.decode import pixels_of
from unet_jax.data.images import named, read_image
from unet_jax.data.rooms import EXTENSIONS
from unet_jax.data.rows import ArrayRows, HeldRows, ImageRows, TiffRows, tiff_pixels
from unet_jax.data.stored import NIFTI, ZARR, Page, Stored, is_zarr, open_stored, pages

ENDINGS = (*EXTENSIONS, *NIFTI, *ZARR)


class Input(NamedTuple):
    """One image and the name of its results: its file's path below the folder that was asked for, without the ending.

    An image of a stack has the number of its page behind its name: NAME_p001, or _t001_z001 where the file says so.
    """

    name: str
    path: Path
    page: Page = Page()


def find_inputs(patterns: Sequence[str]) -> list[Input]:
    """The image files that files, folders and glob patterns name, in order; each once.

    Raises FileNotFoundError when one names nothing, ValueError when two images would have results of one name.
    """
    found: dict[str, Path] = {}
    for pattern in patterns:
        root, files = _files(pattern)
        if not files:
            inner = Path(pattern) / "images"
            hint = f"; it has {inner}, name that" if inner.is_dir() else ""
            raise FileNotFoundError(f"{pattern}: no image there (of {' '.join(ENDINGS)}){hint}")
        for file in sorted(files):
            if foreign := foreign_character(file.name):
                raise ValueError(f"{file}: its name has {foreign}: rename it")
            name = name_of(file, root)
            if found.setdefault(name, file).absolute() != file.absolute():
                raise ValueError(f"{found[name]} and {file} would both give {name}: rename one, or use two --output")
    return [Input(name, path) for name, path in found.items()]


def name_of(file: Path, root: Path) -> str:
    """Path below `root` without the ending (.nii.gz and .ome.zarr are one), with slashes."""
    path = file.relative_to(root)
    whole = next((end for end in (".nii.gz", ".ome.zarr") if path.name.lower().endswith(end)), path.suffix)
    return path.with_name(path.name[: len(path.name) - len(whole)]).as_posix()


def is_image(path: Path) -> bool:
    """Whether it ends as images do, and is a file, not hidden, or a zarr store."""
    ending = path.name.lower().endswith(ENDINGS) and not path.name.startswith(".")
    return ending and (is_zarr(path) if path.suffix.lower() in ZARR else path.is_file())


class Reader:
    """Opens the files of a run for a model of `rank` axes; the last one stays open, since pages of a stack follow.

    Use it in a `with` statement, and in one thread at a time. Every failure is a ValueError or OSError with the file's
    name.
    """

    def __init__(self, rank: int):
        """Nothing is opened yet."""
        self._rank = rank
        self._path: Path | None = None
        self._arrays: list[Stored] = []
        self._whole: ImageRows | None = None

    def images(self, item: Input) -> list[Input]:
        """The images of a file: itself, or the pages of a stack."""
        with named(item.path):
            arrays = self._open(item.path)
        return [item._replace(name=item.name + page.suffix, page=page) for page in pages(arrays, self._rank)] or [item]

    def pixels(self, item: Input) -> int:
        """Pixels of an image of two axes; 0 for a volume, and for a file that cannot be read."""
        if self._rank != 2:
            return 0
        with named(item.path):
            arrays = self._open(item.path)
        if not arrays:
            return pixels_of(item.path) or tiff_pixels(item.path)
        return arrays[item.page.series].size("y") * arrays[item.page.series].size("x")

    def read(self, item: Input) -> Shaped[np.ndarray, "..."]:
        """The image (*S, C), uint8, uint16 or float32."""
        with named(item.path):
            arrays = self._open(item.path)
        if not arrays:
            return read_image(item.path)
        return ArrayRows(item.path, arrays[item.page.series], item.page, self._rank)[:]

    def rows(self, item: Input) -> HeldRows:
        """The image, to be used a few rows at a time; a PNG or JPEG is kept decoded until the next one."""
        with named(item.path):
            arrays = self._open(item.path)
            if arrays:
                return ArrayRows(item.path, arrays[item.page.series], item.page, self._rank).check_height()
        if not pixels_of(item.path):
            return TiffRows(item.path)
        if self._whole is None or self._whole.path != item.path:  # no format to be read in parts
            self._whole = ImageRows(item.path, read_image(item.path))
        return self._whole

    def grid(self, item: Input) -> Any:
        """Where the voxels of a NIfTI volume lie (`nifti.Grid`), for a model of volumes; None for any other file."""
        with named(item.path):
            arrays = self._open(item.path)
        return arrays[item.page.series].grid if arrays else None

    def _open(self, path: Path) -> list[Stored]:
        if self._path != path:
            self.close()
            self._arrays = open_stored(path, self._rank)
            self._path = path
        return self._arrays

    def close(self) -> None:
        """Close the file that is open."""
        for stored in self._arrays:
            stored.close()
        self._path, self._arrays, self._whole = None, [], None

    def __enter__(self) -> "Reader":
        """The reader itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the file that is open."""
        self.close()


def _files(pattern: str) -> tuple[Path, list[Path]]:
    path = Path(pattern)
    if path.is_file() or is_zarr(path):
        return path.parent, [path]
    if path.is_dir():
        return path, [file for file in path.iterdir() if is_image(file)]
    fixed = next((i for i, part in enumerate(path.parts) if glob.has_magic(part)), len(path.parts))
    root, inner = Path(*path.parts[:fixed]), path.parts[fixed:]
    if "**" not in inner:
        found = [Path(name) for name in glob.glob(pattern)]
    else:  # pathlib's ** follows no links to folders, which may lead in circles
        inner = tuple(part if part == "**" else re.sub(r"\*\*+", "*", part) for part in inner)
        found = [file for file in root.glob("/".join(inner)) if not _is_hidden(file.relative_to(root))]
    return root, [file for file in found if is_image(file)]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") and part != ".." for part in path.parts)
