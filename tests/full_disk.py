"""Run in a mount namespace of its own by test_disk.py: a folder on a disk of 1 MiB that fills up, then is read-only."""

import errno
import logging
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from unet_jax.checkpoint import Checkpoints
from unet_jax.lock import locked
from unet_jax.logs import MetricsLog, write_json
from unet_jax.training import State

logging.getLogger("absl").setLevel(logging.CRITICAL)


def state(step, size):
    params = {"w": jax.random.normal(jax.random.PRNGKey(step), (size,))}
    return State(jnp.asarray(step, jnp.int32), params, {}, {}, jax.random.PRNGKey(1))


def saved_is_whole(folder):
    with Checkpoints(folder) as checkpoints:
        found, _ = checkpoints.restore(state(0, 1000))
    assert int(found.step) == 1
    np.testing.assert_array_equal(found.params["w"], state(1, 1000).params["w"])
    assert sorted(p.name for p in folder.iterdir() if p.name.isdigit()) == ["1"]


def fails(what, *numbers):
    try:
        what()
    except OSError as error:
        if numbers and error.errno not in numbers:
            raise
        print(f"{what.__name__}: {error}")
        return
    raise AssertionError(f"{what.__name__} did not fail")


def save(folder):
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(state(1, 1000), {}, score=0.5)
        checkpoints.save(state(2, 10**6), {}, score=0.6)


disk = Path(sys.argv[1])
checkpoints = disk / "checkpoints"


def full():
    save(checkpoints)


fails(full)
saved_is_whole(checkpoints)

write_json(disk / "a.json", {"old": 1})
log = MetricsLog(disk, tensorboard=False)
log.append({"step": 1})
with (disk / "fill").open("wb", buffering=0) as file:
    for size in (4096, 1):
        try:
            while True:
                file.write(b"x" * size)
        except OSError:
            pass


def json_on_full_disk():
    write_json(disk / "a.json", {"new": "y" * 9000})


def row_on_full_disk():
    for step in range(2, 2000):
        log.append({"step": step, "word": "z" * 100})


fails(json_on_full_disk, errno.ENOSPC)
fails(row_on_full_disk, errno.ENOSPC)
assert (disk / "a.json").read_text() == '{\n  "old": 1\n}\n'
assert not list(disk.glob(".a.json*"))
(disk / "fill").unlink()
rows = MetricsLog(disk, tensorboard=False).path.read_text().splitlines()  # opened again, its torn last row is gone
assert rows[0] == '{"step": 1}'
assert all(row.endswith("}") for row in rows)

subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)


def read_only_lock():
    with locked(disk):
        pass


def read_only_json():
    write_json(disk / "b.json", {})


def read_only_save():
    with Checkpoints(checkpoints) as again:
        again.save(state(3, 10), {}, score=0.5)


for what in (read_only_lock, read_only_json):
    fails(what, errno.EROFS)
fails(read_only_save)
subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
saved_is_whole(checkpoints)
print("all is well", flush=True)
os._exit(0)  # orbax's threads would wait for a save that failed
