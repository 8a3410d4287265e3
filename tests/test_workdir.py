import dataclasses
import json
from pathlib import Path

import pytest

from unet_jax.workdir import check_workdir, new_workdir, open_workdir, remembered, with_preset

CONFIG = {"widths": (4, 8), "data": Path("cells"), "epochs": 5}


@dataclasses.dataclass(frozen=True)
class Options:
    workdir: Path | None = None
    resume: bool = False
    data: str = "synthetic"
    widths: tuple[int, ...] | None = None
    epochs: int | None = None
    max_minutes: float | None = None


def test_new_run(tmp_path):
    check_workdir(tmp_path / "a" / "b", CONFIG, resume=False, may_change={"epochs"})
    assert not (tmp_path / "a").exists()
    open_workdir(tmp_path / "a" / "b", CONFIG)
    written = json.loads((tmp_path / "a" / "b" / "config.json").read_text())
    assert written == {"widths": [4, 8], "data": "cells", "epochs": 5}


def test_a_folder_with_a_run_is_refused(tmp_path):
    open_workdir(tmp_path, CONFIG)
    with pytest.raises(FileExistsError, match="add --resume to go on with it, or name a new --workdir"):
        check_workdir(tmp_path, CONFIG, resume=False, may_change=())
    with pytest.raises(FileExistsError, match="is a file"):
        check_workdir(tmp_path / "config.json", CONFIG, resume=False, may_change=())


def test_resume_needs_a_run_and_the_same_config(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run to resume"):
        check_workdir(tmp_path / "none", CONFIG, resume=True, may_change=())
    open_workdir(tmp_path, CONFIG)
    with pytest.raises(ValueError, match=r"widths was \[4, 8\], now \[4, 16\]"):
        check_workdir(tmp_path, {**CONFIG, "widths": (4, 16)}, resume=True, may_change={"epochs"})
    check_workdir(tmp_path, {**CONFIG, "epochs": 9}, resume=True, may_change={"epochs"})
    (tmp_path / "config.json").write_text('{"widths": [4')
    with pytest.raises(ValueError, match=r"config.json is damaged .*name a new --workdir"):
        check_workdir(tmp_path, CONFIG, resume=True, may_change=())


def test_one_folder_may_be_written_in_two_ways(tmp_path, monkeypatch):
    for name in ("cells", "others"):
        (tmp_path / name).mkdir()
    open_workdir(tmp_path / "run", {"data": tmp_path / "cells"})
    monkeypatch.chdir(tmp_path)
    check_workdir(tmp_path / "run", {"data": Path("cells")}, resume=True, may_change=())
    for other in ("others", "not there"):
        with pytest.raises(ValueError, match=f"data was .*cells', now '{other}'"):
            check_workdir(tmp_path / "run", {"data": Path(other)}, resume=True, may_change=())


def test_options_not_given_are_those_of_the_run(tmp_path):
    open_workdir(tmp_path, dataclasses.asdict(Options(tmp_path, False, "cells", (4, 8), 200, None)))
    plain = Options(tmp_path, resume=True)
    assert remembered(plain, budget=("epochs", "max_minutes")) == Options(tmp_path, True, "cells", (4, 8), 200)
    longer = remembered(dataclasses.replace(plain, max_minutes=5.0), budget=("epochs", "max_minutes"))
    assert longer == Options(tmp_path, True, "cells", (4, 8), None, 5.0)
    new = Options(tmp_path)
    assert remembered(new, budget=()) == new


def test_a_preset_fills_what_is_not_given():
    preset = {"epochs": 60, "max_minutes": 9.0, "widths": (16, 32)}
    assert with_preset(Options(), preset) == Options(widths=(16, 32), epochs=60, max_minutes=9.0)
    assert with_preset(Options(widths=(4,), epochs=3), preset) == Options(widths=(4,), epochs=3)
    assert with_preset(Options(max_minutes=45.0), preset) == Options(widths=(16, 32), epochs=1000, max_minutes=45.0)
    both = Options(epochs=3, max_minutes=5.0)
    assert with_preset(both, preset) == dataclasses.replace(both, widths=(16, 32))


def test_names_tell_the_experiment_and_the_time():
    assert new_workdir("cells").parent == Path("runs")
    assert new_workdir("cells").name.startswith("cells-20")
