import json
from pathlib import Path

import pytest

from unet_jax.workdir import new_workdir, open_workdir

CONFIG = {"widths": (4, 8), "data": Path("cells"), "epochs": 5}


def test_new_run(tmp_path):
    open_workdir(tmp_path / "a" / "b", CONFIG, resume=False, may_change={"epochs"})
    written = json.loads((tmp_path / "a" / "b" / "config.json").read_text())
    assert written == {"widths": [4, 8], "data": "cells", "epochs": 5}


def test_a_folder_with_a_run_is_refused(tmp_path):
    open_workdir(tmp_path, CONFIG, resume=False, may_change=())
    with pytest.raises(FileExistsError, match="add --resume to go on with it, or name a new --workdir"):
        open_workdir(tmp_path, CONFIG, resume=False, may_change=())


def test_resume_needs_a_run_and_the_same_config(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run to resume"):
        open_workdir(tmp_path / "none", CONFIG, resume=True, may_change=())
    assert not (tmp_path / "none").exists()
    open_workdir(tmp_path, CONFIG, resume=False, may_change=())
    with pytest.raises(ValueError, match=r"widths was \[4, 8\], now \[4, 16\]"):
        open_workdir(tmp_path, {**CONFIG, "widths": (4, 16)}, resume=True, may_change={"epochs"})
    open_workdir(tmp_path, {**CONFIG, "epochs": 9}, resume=True, may_change={"epochs"})
    assert json.loads((tmp_path / "config.json").read_text())["epochs"] == 9


def test_names_tell_the_experiment_and_the_time():
    assert new_workdir("cells").parent == Path("runs")
    assert new_workdir("cells").name.startswith("cells-20")
