"""The benchmark of a whole case, with a tiny network and head."""

import json

from benchmarks import volume_case


def test_a_case_is_timed_and_counted(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(volume_case.PRESETS, "small", {"widths": (4, 8), "patch": (16, 16, 16)})
    config = volume_case.Config(shape=(20, 24, 16), overlap=0.25, tflops=1.0, json=tmp_path / "case.json")
    assert volume_case.main(config) == 0
    found = json.loads((tmp_path / "case.json").read_text())
    # the head is 0.85, 0.9 and 0.95 of the volume: 16 or 17, 21 or 22 and 15 or 16 voxels
    assert found["tiles"] in (2, 4)
    assert found["estimate_seconds"] == found["tflop"] > 0
    assert found["seconds"] > 0
    assert found["peak_bytes"] > 2**26
    assert "20×24×16, preset small, on " in capsys.readouterr().out
