"""The folder of one run: config.json, metrics.jsonl, tensorboard/, checkpoints/, results.json, report/."""

import json
from collections.abc import Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from unet_jax.logs import plain, write_json


def new_workdir(name: str, root: str | Path = "runs") -> Path:
    """A folder that does not exist yet, named after the experiment and the time: runs/cells-20260131-142501."""
    return Path(root) / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def open_workdir(workdir: Path, config: Mapping[str, Any], *, resume: bool, may_change: Collection[str]) -> None:
    """Make the folder and write config.json, or check that the run in it is the one to resume.

    Fields in `may_change` (how long to train, where) may differ from the run in the folder. Errors: FileExistsError
    for a folder that holds another run, FileNotFoundError when there is nothing to resume, ValueError for a config
    that disagrees; nothing is written in these cases.
    """
    path = workdir / "config.json"
    config = plain(config)  # as JSON gives it back
    if resume:
        if not path.exists():
            raise FileNotFoundError(f"{workdir} holds no run to resume: leave out --resume, or name its --workdir")
        before = json.loads(path.read_text())
        differs = [k for k in config if k not in may_change and before.get(k) != config[k]]
        if differs:
            words = "; ".join(f"{k} was {before.get(k)!r}, now {config[k]!r}" for k in differs)
            raise ValueError(f"{workdir} holds another run ({words}): give the same options, or a new --workdir")
    elif path.exists() or (workdir / "checkpoints").exists():
        raise FileExistsError(f"{workdir} holds another run: add --resume to go on with it, or name a new --workdir")
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(path, config)
