"""One run at a time in a folder: a file `lock` that names the process at work, and that a dead process cannot hold."""

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAME = "lock"
BEAT = 15.0  # seconds between two signs of life of the holder
SILENCE = 120.0  # seconds without one after which a holder on another host counts as dead


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Hold the folder, made when absent, for this process; FileExistsError names the process that holds it.

    A lock is stale, and taken over with a logged warning, when its process no longer runs on this host, or on another
    host has given no sign of life for `SILENCE` seconds (it renews the file's time every `BEAT` seconds).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path, mine = folder / NAME, json.dumps(_this_process())
    with _alone(path) as file:
        if holder := _holder(path):
            logging.getLogger("unet_jax").warning("%s: taken over from a run that has ended (%s)", path, holder)
        file.truncate(0)
        file.write(mine)
    done = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, done), name="workdir lock", daemon=True)
    beat.start()
    try:
        yield
    finally:
        done.set()
        beat.join()
        with contextlib.suppress(OSError):  # the folder may be gone, or read-only by now
            if path.read_text(encoding="utf-8") == mine:
                path.unlink()


def check_unlocked(folder: Path) -> None:
    """FileExistsError when a living process holds the folder; nothing is written."""
    if (folder / NAME).exists():
        _holder(folder / NAME)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[Any]:
    """The open lock file, while no other process on a file system with flock judges or writes it."""
    while True:
        with path.open("a+", encoding="utf-8") as file:
            with contextlib.suppress(ImportError, OSError):  # not on Windows, nor on every network file system
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX)
            try:
                same = os.path.samestat(os.fstat(file.fileno()), path.stat())
            except FileNotFoundError:
                same = False
            if same:  # else its holder removed it while this process waited
                yield file
                return


def _holder(path: Path) -> str:
    """Words for the dead process whose lock this is, "" for none; FileExistsError when it lives."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if not text:
        return ""
    try:
        record = json.loads(text)
        pid, host, started = int(record["pid"]), str(record["host"]), record.get("started")
    except (ValueError, KeyError, TypeError, AttributeError):
        return "its lock is not readable"
    words = f"process {pid} on {host}"
    silence = max(time.time() - path.stat().st_mtime, 0.0)
    here = host == socket.gethostname()
    if _runs(pid, started) if here else silence < SILENCE:
        mend = (
            ""
            if here
            else f", last sign of life {silence:.0f} s ago; if it is dead, wait {SILENCE:.0f} s, or delete {path}"
        )
        raise FileExistsError(f"{path.parent} is in use by {words}{mend}: wait for it, or name another --workdir")
    return words


def _this_process() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "started": _started(os.getpid())}


def _runs(pid: int, started: str | None) -> bool:
    """Whether that very process runs on this host: a number given to another process since does not count."""
    if started is not None and (now := _started(pid)) is not None:
        return now == started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _started(pid: int) -> str | None:
    """Boot and time in it at which a process began; "" for one that has ended, None where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return "" if Path("/proc/self/stat").exists() else None
    except OSError:
        return None
    return "" if state in "ZX" else f"{boot}:{fields[18]}"


def _beat(path: Path, done: threading.Event) -> None:
    while not done.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(path)
