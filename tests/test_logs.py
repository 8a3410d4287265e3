import csv
import dataclasses
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from unet_jax.logs import MetricsLog, plain, read_rows, replacing, write_json, write_per_image


def row(epoch: int, **more: object) -> dict[str, object]:
    return {"epoch": epoch, "step": 10 * epoch, "train_loss": 1.0 / epoch, "val_iou": 0.1 * epoch, **more}


def test_rows_come_back_as_written(tmp_path):
    with MetricsLog(tmp_path / "run", tensorboard=False) as log:
        log.append(row(1))
        log.append(row(2, val_loss=np.float32(0.5)))
        assert read_rows(tmp_path / "run" / "metrics.jsonl") == [row(1), row(2, val_loss=0.5)]  # while it is open
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_column_of_the_images_named_like_a_score_keeps_its_cells(tmp_path):
    texts, scores = {"kind": ["pale"], "iou": ["mine"]}, {"iou": np.array([0.5])}
    write_per_image(tmp_path / "t.csv", ["a"], texts=texts, scores=scores)
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == [{"id": "a", "kind": "pale", "given_iou": "mine", "iou": "0.5000"}]


def test_non_finite_numbers_are_null_and_the_file_is_strict_json(tmp_path):
    log = MetricsLog(tmp_path, tensorboard=False)
    log.append(row(1, val_loss=float("nan"), train_loss=np.float32("inf")))
    text = log.path.read_text()
    parsed = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert parsed["val_loss"] is None
    assert parsed["train_loss"] is None


def test_torn_last_line_is_left_out_and_does_not_swallow_the_next_row(tmp_path):
    log = MetricsLog(tmp_path, tensorboard=False)
    log.append(row(1))
    with open(log.path, "a") as file:
        file.write('{"epoch": 2, "st')  # killed in mid-write
    assert read_rows(log.path) == [row(1)]
    again = MetricsLog(tmp_path, tensorboard=False)
    again.append(row(2))
    assert read_rows(log.path) == [row(1), row(2)]


@pytest.mark.parametrize(("step", "kept"), [(0, 0), (19, 1), (20, 2), (99, 3)])
def test_truncate_after_keeps_the_rows_up_to_the_restored_step(tmp_path, step, kept):
    log = MetricsLog(tmp_path, tensorboard=False)
    for epoch in (1, 2, 3):
        log.append(row(epoch))
    resumed = MetricsLog(tmp_path, tensorboard=False)
    resumed.truncate_after(step)
    assert [r["epoch"] for r in read_rows(log.path)] == [1, 2, 3][:kept]
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_truncate_without_a_file_is_the_empty_log(tmp_path):
    log = MetricsLog(tmp_path, tensorboard=False)
    log.truncate_after(0)
    log.append(row(1))
    assert read_rows(log.path) == [row(1)]


@pytest.mark.parametrize("line", [b"not json", b"[1, 2]", b"\xff\xfe"])
def test_a_damaged_line_in_the_middle_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: .*delete that line"):
        read_rows(path)


def test_tensorboard_events_read_back_and_a_resume_hides_what_it_dropped(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    with MetricsLog(tmp_path) as log:
        log.append(row(1, val_loss=float("nan")))
        log.append(row(2))
        with pytest.raises(ValueError, match="before the first append"):
            log.truncate_after(10)
    log = MetricsLog(tmp_path)
    log.truncate_after(10)
    log.append(row(2))
    log.close()
    log.close()

    def events(path: Path) -> list[Event]:
        # TFRecord: length (8 bytes), its crc (4), that many bytes, their crc (4)
        data, found = path.read_bytes(), []
        while data:
            size = int.from_bytes(data[:8], "little")
            found.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
        return found

    (first,), (second,) = (map(events, tmp_path.glob(f"tensorboard/*tfevents*.{step}")) for step in (0, 11))
    scalars = {(e.step, v.tag): v.simple_value for e in first for v in e.summary.value}
    assert scalars == {
        (10, "train/loss"): 1.0,
        (10, "val/iou"): pytest.approx(0.1),
        (20, "train/loss"): 0.5,
        (20, "val/iou"): pytest.approx(0.2),
    }  # the nan is left out; epoch and step are the axis, no curves
    assert [e.step for e in second if e.session_log.status == e.session_log.START] == [11]


def test_without_tensorboardx_one_warning_and_the_rows_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    log = MetricsLog(tmp_path)
    with pytest.warns(UserWarning, match="install tensorboardX"):
        log.append(row(1))
    log.append(row(2))  # a second warning would be an error here
    assert len(read_rows(log.path)) == 2


def test_write_json_turns_numpy_into_json(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Config:
        widths: tuple[int, ...] = (16, 32)
        data: Path = Path("cells")

    write_json(
        tmp_path / "deep" / "results.json",
        {
            "test": {"images": np.int64(3), "iou": np.float32(0.5), "nan": np.float64("nan"), "ok": np.bool_(True)},
            "matrix": np.array([[1, 2], [3, 4]]),
            "config": Config(),
            "seen": {"b", "a"},
            7: "Zellen, größer",
        },
    )
    assert json.loads((tmp_path / "deep" / "results.json").read_text(encoding="utf-8")) == {
        "test": {"images": 3, "iou": 0.5, "nan": None, "ok": True},
        "matrix": [[1, 2], [3, 4]],
        "config": {"widths": [16, 32], "data": "cells"},
        "seen": ["a", "b"],
        "7": "Zellen, größer",
    }


def test_plain_takes_jax_arrays_of_half_precision():
    import jax.numpy as jnp

    assert plain({"loss": jnp.asarray(0.5, jnp.bfloat16), "w": jnp.ones(2)}) == {"loss": 0.5, "w": [1.0, 1.0]}


def test_what_json_cannot_say_is_refused_and_the_old_file_stays(tmp_path):
    path = tmp_path / "config.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError, match="complex"):
        write_json(path, {"a": 1j})
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["config.json"]


def test_an_exception_while_writing_leaves_neither_half_nor_scratch(tmp_path):
    def write_half() -> None:
        with replacing(tmp_path / "curves.png") as scratch:
            scratch.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert os.listdir(tmp_path) == []
