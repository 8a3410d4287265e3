"""A disk that really is full, and one that really cannot be written to."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.folders import save
from tests.trained import SMALL, bright_variables, card, save_run


def on_a_small_disk(folder, size, module, *arguments):
    """What `python -m module FOLDER ARGUMENTS` prints, by the word before the colon, on a disk of so many bytes."""
    mount = f'mount -t tmpfs -o size={size} none "$1"'
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount, "sh", folder], capture_output=True, check=False).returncode:
        pytest.skip("no user namespace in which to mount a small disk")
    script = ["sh", "-c", f'{mount} && p=$1 m=$2 && shift 2 && exec "{sys.executable}" -W ignore -m $m "$p" "$@"']
    done = subprocess.run(
        ["unshare", "-rm", *script, "sh", folder, module, *arguments],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line), done.stdout


def test_full_and_read_only_disks_say_so_and_leave_what_was_whole(tmp_path):
    said, text = on_a_small_disk(tmp_path, "1m", "tests.full_disk")
    assert "could not be written" in said["full"]
    assert "the checkpoint of step 1 is whole. See whether the disk is full" in said["full"]
    assert "a.json" in said["json_on_full_disk"]
    assert "metrics.jsonl" in said["row_on_full_disk"]
    assert "lock" in said["read_only_lock"]
    assert "b.json" in said["read_only_json"]
    assert str(tmp_path / "checkpoints") in said["read_only_save"]
    assert text.endswith("all is well\n")


def test_predict_on_a_full_disk_leaves_whole_files_and_goes_on_when_there_is_room(tmp_path):
    run = save_run(tmp_path / "run", bright_variables(SMALL), card(SMALL))
    for number in range(20):
        image = np.full((16, 16), 10, np.uint8)
        image[2:8, 3 : 5 + number % 8] = 250
        save(tmp_path / "images" / f"i{number:02d}.png", image)
    (tmp_path / "disk").mkdir()
    said, _ = on_a_small_disk(tmp_path / "disk", "128k", "tests.full_predict", run, tmp_path / "images")
    assert "No space left on device" in said["said"]
    assert str(tmp_path / "disk" / "out") in said["said"]
    assert 0 < int(said["before"].split()[0]) < 20
    assert (said["code"], said["after"]) == ("0", "20 of 20")
