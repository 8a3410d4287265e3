"""The lock on a run's folder, with processes that really hold it, end, and die."""

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import time

import pytest

from unet_jax import lock
from unet_jax.lock import check_unlocked, locked
from unet_jax.workdir import check_workdir

HOLD = """
import sys
from unet_jax.lock import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def another_process(folder):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        try:
            assert holder.stdout.readline() == "held\n"
            yield holder
        finally:
            holder.kill()


def test_a_second_process_is_refused_until_the_first_has_ended(tmp_path, caplog):
    folder = tmp_path / "run"
    with another_process(folder) as holder:
        for refused in (lambda: locked(folder).__enter__(), lambda: check_unlocked(folder)):
            with pytest.raises(FileExistsError, match=f"in use by process {holder.pid} on {socket.gethostname()}"):
                refused()
        with pytest.raises(FileExistsError, match="in use"):
            check_workdir(folder, {}, resume=True, may_change=())
        holder.communicate("")  # it ends in order
    assert not (folder / "lock").exists()
    with locked(folder):
        with pytest.raises(FileExistsError, match="name another --workdir"), locked(folder):
            pass
        assert (folder / "lock").exists()
    assert not (folder / "lock").exists()
    assert caplog.records == []


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path, caplog):
    with another_process(tmp_path) as holder:
        holder.kill()
        while holder.poll() is None:
            time.sleep(0.01)
    assert (tmp_path / "lock").exists()
    check_unlocked(tmp_path)
    with caplog.at_level(logging.WARNING), locked(tmp_path):
        assert f"taken over from a run that has ended (process {holder.pid} on" in caplog.text
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_a_number_given_to_another_process_is_no_holder(tmp_path):
    """This process runs, but began at another time than the one that left the lock."""
    record = {"pid": os.getpid(), "host": socket.gethostname(), "started": "another-boot:17"}
    (tmp_path / "lock").write_text(json.dumps(record))
    with locked(tmp_path):
        pass


def test_a_holder_on_another_host_lives_while_it_gives_signs(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    path.write_text(json.dumps({"pid": 1, "host": "elsewhere", "started": None}))
    with pytest.raises(FileExistsError, match=r"process 1 on elsewhere, last sign of life \d s ago.*or delete"):
        check_unlocked(tmp_path)
    os.utime(path, (0, time.time() - lock.SILENCE - 1))
    monkeypatch.setattr(lock, "BEAT", 0.01)
    with locked(tmp_path):
        os.utime(path, (0, 0))
        while path.stat().st_mtime == 0:  # a sign of life comes
            time.sleep(0.01)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 3}', '{"pid": null, "host": 3}'])
def test_a_lock_that_says_nothing_is_stale(tmp_path, text):
    (tmp_path / "lock").write_text(text)
    with locked(tmp_path):
        pass
    assert not (tmp_path / "lock").exists()
