"""Runs and data in a bucket, with a folder of etils' paths in the bucket's place."""

import dataclasses
import json
import logging
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from tests import trained
from unet_jax import model_folder, remote
from unet_jax.session import opened
from unet_jax.training import State
from unet_jax.workdir import check_workdir, remembered

RUN = Path("gs://bucket/runs/one")  # as the command line gives it


@dataclasses.dataclass(frozen=True)
class Config:
    workdir: Path | None = RUN
    resume: bool = False
    epochs: int = 3
    widths: tuple[int, ...] = (4, 8)


@pytest.fixture
def there(tmp_path, monkeypatch):
    """The folder that stands for gs://."""
    monkeypatch.setenv("UNET_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "bucket", lambda path: epath.Path(re.sub("^gs:/+", f"{tmp_path}/gs/", str(path))))
    return tmp_path / "gs" / "bucket"


def state(step):
    params = jax.tree.map(jnp.asarray, trained.bright_variables(trained.SMALL)["params"])
    return State(jnp.asarray(step, jnp.int32), params, {}, {"m": jnp.arange(3.0)}, jnp.zeros(2, jnp.uint32))


def train(config, step):
    """What a training does with its folder: one epoch more."""
    config = remembered(config, budget=())
    check_workdir(config.workdir, dataclasses.asdict(config), resume=config.resume, may_change={"workdir", "resume"})
    with opened(config) as run:
        saved = run.checkpoints.restore(state(0))[0] if config.resume else None
        run.log.append({"epoch": step, "step": step})
        run.checkpoints.save(state(step), trained.card(trained.SMALL), score=0.1 * step)
        run.checkpoints.wait()
        run.checkpoints.amend({"separation": {"threshold": 0.25}})
        (config.workdir / "report").mkdir(exist_ok=True)
        (config.workdir / "report" / "curves.png").write_bytes(b"picture")
    return config, saved


def test_a_run_in_a_bucket_is_trained_resumed_and_read(there, caplog):
    with caplog.at_level(logging.WARNING, "unet_jax"):
        config, _ = train(Config(), 1)
    assert "a bucket cannot be locked" in caplog.text
    run = there / "runs" / "one"
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoints",
        "config.json",
        "metrics.jsonl",
        "report",
        "tensorboard",
    ]
    assert (run / "report" / "curves.png").read_bytes() == b"picture"
    assert (run / "checkpoints" / "1" / "card" / "metadata").exists()
    assert not (config.workdir / "checkpoints").exists()
    with pytest.raises(FileExistsError, match="holds another run"):
        train(Config(), 1)
    for file in config.workdir.rglob("*"):  # another host goes on
        if file.is_file():
            file.unlink()
    config, saved = train(Config(resume=True), 2)
    assert int(saved.step) == 1
    assert config.widths == (4, 8)
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    variables, card = model_folder.read_model(str(RUN))
    assert card["separation"] == {"threshold": 0.25}
    np.testing.assert_array_equal(
        variables["params"]["logits"]["bias"], trained.bright_variables(trained.SMALL)["params"]["logits"]["bias"]
    )


def test_a_damaged_checkpoint_in_a_bucket_is_set_aside(there, caplog):
    train(Config(), 1)
    train(Config(resume=True), 2)
    card = there / "runs" / "one" / "checkpoints" / "2" / "card" / "metadata"
    card.write_text(card.read_text().replace("cell", "crab"))
    with caplog.at_level(logging.WARNING, "unet_jax"):
        _, saved = train(Config(resume=True), 3)
    assert int(saved.step) == 1
    assert "checksum is wrong" in caplog.text
    assert (there / "runs" / "one" / "checkpoints" / "damaged-2").is_dir()


def test_data_is_copied_once(there):
    for name in ("images/a.png", "masks/a.png"):
        (there / "cells" / name).parent.mkdir(parents=True)
        (there / "cells" / name).write_bytes(b"0123")
    folder = remote.fetched("gs://bucket/cells")
    assert {str(file.relative_to(folder)) for file in folder.rglob("*.png")} == {"images/a.png", "masks/a.png"}
    before = (folder / "images" / "a.png").stat().st_mtime_ns
    (there / "cells" / "masks" / "a.png").write_bytes(b"longer")
    assert remote.fetched(Path("gs://bucket/cells")) == folder  # as pathlib writes it
    assert (folder / "images" / "a.png").stat().st_mtime_ns == before
    assert (folder / "masks" / "a.png").read_bytes() == b"longer"
    with pytest.raises(FileNotFoundError, match="there is nothing"):
        remote.fetched("gs://bucket/sells")


def test_data_that_is_gone_from_the_bucket_goes_here_too_and_a_run_in_its_folder_stays(there):
    for name in ("images/a.png", "images/b.png"):
        (there / "cells" / name).parent.mkdir(parents=True, exist_ok=True)
        (there / "cells" / name).write_bytes(b"0123")
    folder = remote.fetched("gs://bucket/cells")
    config, _ = train(Config(workdir=Path("gs://bucket/cells/run")), 1)
    (there / "cells" / "images" / "b.png").unlink()
    assert remote.fetched("gs://bucket/cells") == folder
    assert [file.name for file in folder.rglob("*.png") if file.name != "curves.png"] == ["a.png"]
    assert (config.workdir / "report" / "curves.png").exists()
    assert (config.workdir / remote.NOTE).exists()


def test_folders_of_this_host_stay_as_they_are(tmp_path):
    assert remote.nearby(tmp_path) == tmp_path
    assert remote.fetched(str(tmp_path)) == tmp_path
    assert remote.checkpoints_of(tmp_path) == tmp_path / "checkpoints"
    remote.send(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert remote.is_remote(Path("gs://bucket/x"))
    assert not remote.is_remote("gs_folder/x")


def test_what_reaches_a_bucket_is_named_when_it_is_missing(monkeypatch):
    def missing(self):
        raise ImportError("no gcsfs")

    monkeypatch.setattr(type(epath.Path("gs://bucket/x")), "exists", missing)
    with pytest.raises(ValueError, match="gs://bucket/x: to reach it, pip install gcsfs"):
        remote.bucket(Path("gs://bucket/x"))
