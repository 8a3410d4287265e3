"""The folder of one run: config.json, metrics.jsonl, tensorboard/, checkpoints/, results.json, report/."""

import dataclasses
import json
import os
import time
from collections.abc import Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from unet_jax import lock, processes, remote
from unet_jax.logs import plain, write_json

CONFIG = "config.json"
SHARED = 60.0  # seconds that a network file system may take to show a new file to another host


def new_workdir(name: str, root: str | Path = "runs") -> Path:
    """A folder that does not exist yet, named after the experiment and the time: runs/cells-20260131-142501."""
    return Path(root) / processes.from_first(f"{name}-{datetime.now():%Y%m%d-%H%M%S}")


def remembered(config: Any, *, budget: Collection[str]) -> Any:
    """The config dataclass with every option that was not given taken from the run in `config.workdir`, on --resume.

    A workdir in a bucket becomes its folder on this host. Not given means that it has its default. Of the fields in
    `budget`, which say how long to train, the run's are kept only when none of them is given.
    """
    if config.workdir is not None:
        config = dataclasses.replace(config, workdir=remote.nearby(config.workdir))
    before = config_of(config.workdir) if config.resume and config.workdir else None
    if before is None:
        return config
    default = type(config)()
    missing = {f.name for f in dataclasses.fields(config) if getattr(config, f.name) == getattr(default, f.name)}
    if not missing.issuperset(budget):
        missing -= set(budget)
    old = {name: before[name] for name in missing - {"workdir", "resume", "profile"} if name in before}
    return dataclasses.replace(config, **{k: tuple(v) if isinstance(v, list) else v for k, v in old.items()})


def with_preset(config: Any, preset: Mapping[str, Any]) -> Any:
    """The config dataclass with every field that is None, and that the preset has, taken from there.

    Who asks for epochs wants them all, and who asks for minutes wants them filled: then the preset's other limit
    does not hold.
    """
    chosen = {name: value for name, value in preset.items() if getattr(config, name) is None}
    if config.epochs is not None:
        chosen.pop("max_minutes", None)
    elif config.max_minutes is not None:
        chosen["epochs"] = 1000
    return dataclasses.replace(config, **chosen)


def check_workdir(workdir: Path, config: Mapping[str, Any], *, resume: bool, may_change: Collection[str]) -> None:
    """Refuse a folder that holds another run, or that is not the one to resume; nothing is written.

    The first of several processes looks, for all.

    Fields in `may_change` (how long to train, where) may differ from the run in the folder. Errors: FileExistsError
    for a folder that holds another run or is in use, FileNotFoundError when there is nothing to resume, ValueError for
    a config that disagrees.
    """
    processes.first_does(lambda: _check(workdir, plain(config), resume=resume, may_change=may_change))


def _check(workdir: Path, config: Mapping[str, Any], *, resume: bool, may_change: Collection[str]) -> None:
    if workdir.exists() and not workdir.is_dir():
        raise FileExistsError(f"{workdir} is a file: name a folder with --workdir")
    lock.check_unlocked(workdir)
    before = config_of(workdir)
    if resume:
        if before is None:
            raise FileNotFoundError(f"{workdir} holds no run to resume: leave out --resume, or name its --workdir")
        differs = [k for k in config if k not in may_change and not _agree(before.get(k), config[k])]
        if differs:
            words = "; ".join(f"{k} was {before.get(k)!r}, now {config[k]!r}" for k in differs)
            raise ValueError(f"{workdir} holds another run ({words}): give the same options, or a new --workdir")
    elif before is not None or remote.checkpoints_of(workdir).exists():
        raise FileExistsError(f"{workdir} holds another run: add --resume to go on with it, or name a new --workdir")


def _agree(before: Any, now: Any) -> bool:
    """Whether an option is what it was: equal, or one folder whose path is written in two ways."""
    if before == now:
        return True
    paths = [before, now]
    return all(isinstance(path, str) and os.path.exists(path) for path in paths) and os.path.samefile(*paths)


def open_workdir(workdir: Path, config: Mapping[str, Any]) -> None:
    """Make the folder and write its config.json."""
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / CONFIG, config)


def check_shared(workdir: Path) -> None:
    """ValueError, in every process, when one of them does not see the lock that the first holds in the folder.

    A folder that belongs to a bucket is each host's own.
    """
    if (workdir / remote.NOTE).exists():
        return
    held = processes.from_first(_lock_in(workdir) if processes.first() else None)
    until = time.monotonic() + SHARED
    while _lock_in(workdir) != held and time.monotonic() < until:
        time.sleep(0.5)
    if processes.highest(int(_lock_in(workdir) != held)):
        raise ValueError(
            f"{workdir} is not the same folder on all hosts: name one that they share with --workdir, such as one on "
            "NFS or gs://BUCKET/RUN"
        )


def _lock_in(workdir: Path) -> str | None:
    return (workdir / lock.NAME).read_text(encoding="utf-8") if (workdir / lock.NAME).exists() else None


def config_of(workdir: Path) -> dict[str, Any] | None:
    """The options of the run in a folder, None when it holds none; ValueError for a damaged config.json."""
    path = workdir / CONFIG
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): name a new --workdir") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged (it holds no options): name a new --workdir")
    return found
