import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import fine_tuning
from tests import folders
from tests.trained import SMALL, bright_variables, card, save_run


def test_images_are_dealt_anew():
    """Names of one part fall into three; every choice of the training part is of that size, and nothing is in two."""
    names = [f"image{i}" for i in range(60)]
    own, held = fine_tuning.deal(names, 20, 5)
    parts = [fine_tuning.split_of(fine_tuning.NAME + name) for name in own]
    assert [parts.count(part) for part in ("train", "val", "test")] == [20, 5, 1]
    assert sorted(own + held) == sorted(names)
    with pytest.raises(ValueError, match=r"too few for .*'train': 60"):
        fine_tuning.deal(names, 60, 5)


def test_from_a_folder_to_table_and_picture(tmp_path, monkeypatch, capsys):
    data, trained = folders.cells(tmp_path / "cells"), []
    model = save_run(tmp_path / "model", bright_variables(SMALL), card(SMALL))

    def train(config):
        trained.append((config.train_images, config.init))
        save_run(config.workdir, bright_variables(SMALL), card(SMALL))
        (config.workdir / "results.json").write_text("{}")
        linked = sorted(path.name for path in (tmp_path / "out" / "own" / "images").iterdir())
        assert [path.name for path in sorted((tmp_path / "out" / "own" / "labels").iterdir())] == linked
        return 0

    monkeypatch.setattr(fine_tuning.train_cells, "main", train)
    monkeypatch.setattr(fine_tuning, "split", lambda source: {"test": source})
    config = fine_tuning.Config(str(data), tmp_path / "out", str(model), (2, 8), validation=1)
    assert fine_tuning.main(config) == 0
    assert trained == [(2, str(model)), (2, None), (8, str(model)), (8, None)]
    found = json.loads((tmp_path / "out" / "fine_tuning.json").read_text())
    assert [row["images"] for row in found["rows"]] == [0, 2, 2, 8, 8]
    assert all(row["ap50"] == row["iou"] == 1 for row in found["rows"])  # two bright squares each, on dark ground
    assert found["scored_on"] == 24 - 8 - 1 - 1
    assert "| 8 | nothing | 1.000 | 1.000 | – | 1.000 |" in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "fine_tuning.png") as picture:
        assert np.asarray(picture).std() > 5
    assert fine_tuning.main(config) == 0
    assert len(trained) == 4
