"""Which image files a user means."""

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from unet_jax.data.pairs import EXTENSIONS


class Input(NamedTuple):
    """An image file and the name of its results: its path below the folder that was asked for, without the ending."""

    name: str
    path: Path


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
            raise FileNotFoundError(f"{pattern}: no image there (of {' '.join(EXTENSIONS)}){hint}")
        for file in sorted(files):
            name = name_of(file, root)
            if found.setdefault(name, file).absolute() != file.absolute():
                raise ValueError(f"{found[name]} and {file} would both give {name}: rename one, or use two --output")
    return [Input(name, path) for name, path in found.items()]


def name_of(file: Path, root: Path) -> str:
    """Path below `root` without the ending, with slashes."""
    return file.relative_to(root).with_suffix("").as_posix()


def is_image(path: Path) -> bool:
    """Whether it is a file, not hidden, that ends as images do."""
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file()


def _files(pattern: str) -> tuple[Path, list[Path]]:
    path = Path(pattern)
    if path.is_file():
        return path.parent, [path]
    if path.is_dir():
        return path, [file for file in path.iterdir() if is_image(file)]
    fixed = next((i for i, part in enumerate(path.parts) if glob.has_magic(part)), len(path.parts))
    found = (Path(name) for name in glob.glob(pattern, recursive=True))
    return Path(*path.parts[:fixed]), [file for file in found if is_image(file)]
