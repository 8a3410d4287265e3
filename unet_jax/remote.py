"""Runs and data in a bucket (gs://, s3://): what is large goes there at once, what is small by way of this host.

A run whose --workdir is in a bucket has a folder on each host, where the log, the tables and the pictures are made; the
first process copies it to the bucket after every epoch and at the end. Checkpoints are written to the bucket and read
from it, by all processes. Data sets are copied to each host once. A bucket has no lock: two runs in one of its folders
are not told apart, unless they are started on one host.

etils' paths reach gs:// with `pip install gcsfs`, s3:// with `pip install s3fs`.
"""

import logging
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import Any

from unet_jax import lock, processes, startup
from unet_jax.logs import replacing

NOTE = ".remote"  # in the folder on this host: where it belongs
SENT = ".sent"  # its time says until when everything has been copied
STARTS_WITH = ("config.json", "plan.json", "metrics.jsonl")  # what a run that goes on needs here
_URL = re.compile(r"^(gs|s3):/+")


def is_remote(path: str | PurePath) -> bool:
    """Whether a path is in a bucket; pathlib turns gs:// into gs:/, which is understood."""
    return _URL.match(str(path)) is not None


def bucket(path: str | PurePath) -> Any:
    """The etils path of a path in a bucket; ValueError with the mend where what reaches it is not installed."""
    url = _URL.sub(r"\1://", str(path))
    package = {"gs": "gcsfs", "s3": "s3fs"}[url[:2]]
    try:
        from etils import epath

        found = epath.Path(url)
        found.exists()
    except ImportError as error:
        raise ValueError(f"{url}: to reach it, pip install {package}") from error
    return found


def nearby(workdir: Path) -> Path:
    """The folder on this host of a run in a bucket, with the small files that lie there; other folders as they are."""
    if not is_remote(workdir):
        return workdir
    there, here = bucket(workdir), _here(workdir, "runs")

    def fetch() -> None:
        here.mkdir(parents=True, exist_ok=True)
        for name in STARTS_WITH:
            if (there / name).exists():
                with replacing(here / name) as scratch:
                    scratch.write_bytes((there / name).read_bytes())
            else:
                (here / name).unlink(missing_ok=True)
        (here / NOTE).write_text(str(workdir), encoding="utf-8")

    processes.in_turn(fetch)
    processes.highest(0)  # all have it: the first may change it
    if processes.first():
        logging.getLogger("unet_jax").warning(
            "%s: a bucket cannot be locked; see that no other host trains into it. On this host: %s", there, here
        )
    return here


def checkpoints_of(workdir: Path) -> Any:
    """Where the checkpoints of a run are: in its folder, or in the bucket that it belongs to, or lies in."""
    there = _belongs(workdir)
    return (workdir if there is None else there) / "checkpoints"


def send(workdir: Path) -> None:
    """Copy what is new in the folder of a run to the bucket that it belongs to, if it belongs to one."""
    there = _belongs(workdir)
    if there is None or not processes.first():
        return
    mark, scratch = workdir / SENT, workdir / f"{SENT}.new"
    scratch.touch()
    until = mark.stat().st_mtime_ns if mark.exists() else 0
    for file in sorted(files(workdir)):
        name = file.relative_to(workdir)
        if file.name.startswith(".") or file.name == lock.NAME:
            continue
        if file.stat().st_mtime_ns >= until:
            (there / name).parent.mkdir(parents=True, exist_ok=True)
            (there / name).write_bytes(file.read_bytes())
    os.replace(scratch, mark)


def fetched(data: str | Path) -> Path:
    """The folder (or file) that `data` names, copied to this host first where it is in a bucket; others as they are.

    What is here already, with the size that it has there, is not copied again; what is gone from there is deleted here.
    Raises FileNotFoundError.
    """
    if not is_remote(data):
        return Path(data)
    there, here = bucket(data), _here(data, "data")

    def fetch() -> Path:
        if not there.exists():
            raise FileNotFoundError(f"{there}: there is nothing; see `gcloud storage ls` of the folder above")
        found = list(files(there)) if there.is_dir() else [there]
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda file: _copy(file, here / _name(file, there)), found))
        if there.is_dir():
            kept = {here / _name(file, there) for file in found}
            for file in [file for file in files(here) if file not in kept]:
                file.unlink()  # it is gone from the bucket
        return here

    return processes.in_turn(fetch)


def absolute(folder: str | PurePath) -> Any:
    """A folder as orbax wants it: an absolute path of this host, or etils' of a bucket."""
    if is_remote(folder):
        return bucket(folder)
    return Path(folder).absolute() if isinstance(folder, str | Path) else folder


def files(folder: Any) -> Iterator[Any]:
    """All files below a folder here or in a bucket; links to folders are not followed."""
    if isinstance(folder, Path):
        yield from (file for file in folder.rglob("*") if file.is_file())
        return
    for entry in folder.iterdir():
        yield from files(entry) if entry.is_dir() else (entry,)


def size(file: Any) -> int:
    """Bytes of a file here or in a bucket."""
    found = file.stat()
    return found.st_size if isinstance(found, os.stat_result) else found.length


def remove(folder: Any) -> None:
    """Remove a folder and what is in it, here or in a bucket; nothing happens when there is none."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        folder.rmtree(missing_ok=True)


def _copy(file: Any, here: Path) -> None:
    if here.exists() and here.stat().st_size == size(file):
        return
    with replacing(here) as scratch, file.open("rb") as source, scratch.open("wb") as target:
        shutil.copyfileobj(source, target, 2**20)


def _name(file: Any, folder: Any) -> str:
    """The file's place below the folder, which cannot be above it."""
    parts = PurePath(str(file)).parts[len(PurePath(str(folder)).parts) :]
    if ".." in parts:
        raise ValueError(f"{file}: a name with .. in it: rename it")
    return str(PurePath(*parts))


def _here(path: str | PurePath, room: str) -> Path:
    """Runs and data have rooms of their own: what is gone from a data set is deleted here."""
    return startup.cache_dir() / "remote" / room / _URL.sub(r"\1/", str(path))


def _belongs(workdir: Path) -> Any:
    if is_remote(workdir):
        return bucket(workdir)
    note = workdir / NOTE
    return bucket(note.read_text(encoding="utf-8")) if note.exists() else None
