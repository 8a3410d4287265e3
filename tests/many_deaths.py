"""Started by test_deaths.py: a training that is killed again and again, beside one that is not.

    python -m tests.many_deaths FOLDER KILLS SEED

Every start is a fork of this process, which has imported everything and started nothing, so that a start costs little.
Prints JSON: the checksums in the last checkpoint of both runs, and how many kills fell into a save.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from experiments import train_cells

EPOCHS = 5


def make_images(folder):
    rng = np.random.default_rng(0)
    for room in ("images", "masks"):
        (folder / room).mkdir(parents=True)
    for i in range(24):
        mask = np.zeros((24, 20), np.uint8)
        mask[4:14, 3:12] = 255
        image = (np.where(mask > 0, 170, 60) + rng.integers(0, 50, mask.shape)).astype(np.uint8)
        Image.fromarray(image).save(folder / "images" / f"c{i}.png")
        Image.fromarray(mask).save(folder / "masks" / f"c{i}.png")


def start(data, workdir, *, resume):
    """Fork a training; its process number."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        os.dup2(2, 1)
        train_cells.finish = lambda *_: None  # the scores of the test split cost more than this whole training
        config = train_cells.Config(
            data=str(data), workdir=workdir, resume=resume, epochs=EPOCHS, batch=4, patch=24, widths=(4, 8),
            norm="batch", dropout=0.2, augment=False, learning_rate=0.02,
            target="foreground",
        )  # fmt: skip
        code = train_cells.main(config)
    finally:
        os._exit(code)


def saving(workdir):
    """Whether a checkpoint is being written."""
    return any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


def die(pid, workdir, rng, seconds):
    """Kill at a random moment of `seconds`, or inside a save to come; whether it was inside one."""
    until = time.monotonic() + rng.uniform(0, seconds)
    in_save, saves, before = rng.random() < 0.5, rng.integers(0, 2), True
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        now = saving(workdir)
        if in_save and now and not before:
            saves -= 1
        before = now
        if saves < 0 or (not in_save and time.monotonic() > until):
            time.sleep(rng.uniform(0, 0.02) if in_save else 0)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return saving(workdir)
        time.sleep(0.0005)
    return None  # it was quicker


def checksums(workdir):
    last = max((p for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    return json.loads((last / "card" / "metadata").read_text())["checksums"] | {"step": last.name, "card": ""}


def main(folder, kills, seed):
    rng, data = np.random.default_rng(seed), folder / "data"
    make_images(data)
    assert os.waitpid(start(data, folder / "whole", resume=False), 0)[1] == 0  # compiles
    began = time.monotonic()
    assert os.waitpid(start(data, folder / "again", resume=False), 0)[1] == 0
    seconds, workdir, died = time.monotonic() - began, folder / "killed", []
    while len(died) < kills:
        resume = (workdir / "config.json").exists()
        inside = die(start(data, workdir, resume=resume), workdir, rng, seconds)
        if inside is None:  # a finished run is no place to die in: the next one starts anew
            assert checksums(workdir) == checksums(folder / "whole")
            workdir = folder / f"killed{len(died)}-{time.monotonic_ns()}"
        else:
            died.append(inside)
    resume = (workdir / "config.json").exists()
    assert os.waitpid(start(data, workdir, resume=resume), 0)[1] == 0
    result = {"whole": checksums(folder / "whole"), "killed": checksums(workdir), "kills": len(died)}
    print(json.dumps({**result, "in_save": sum(died)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
