"""A disk that really is full, and one that really cannot be written to."""

import subprocess
import sys
from pathlib import Path

import pytest


def test_full_and_read_only_disks_say_so_and_leave_what_was_whole(tmp_path):
    mount = 'mount -t tmpfs -o size=1m none "$1"'
    if subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount, "sh", tmp_path], capture_output=True, check=False
    ).returncode:
        pytest.skip("no user namespace in which to mount a small disk")
    script = ["sh", "-c", f'{mount} && exec "$2" -W ignore -m tests.full_disk "$1"', "sh", tmp_path, sys.executable]
    done = subprocess.run(
        ["unshare", "-rm", *script], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1]
    )
    assert done.returncode == 0, done.stderr
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    assert "could not be written" in said["full"]
    assert "the checkpoint of step 1 is whole. See whether the disk is full" in said["full"]
    assert "a.json" in said["json_on_full_disk"]
    assert "metrics.jsonl" in said["row_on_full_disk"]
    assert "lock" in said["read_only_lock"]
    assert "b.json" in said["read_only_json"]
    assert str(tmp_path / "checkpoints") in said["read_only_save"]
    assert done.stdout.endswith("all is well\n")
