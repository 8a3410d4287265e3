"""Started by test_processes.py: one training as two processes and as one, in turn, which die and are stopped.

    python -m tests.several FOLDER short|long

Every start is a fork of this process, which has imported everything and started nothing, so that a start costs little.
Prints JSON: what happened, and the checksums in the last checkpoints.
"""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import jax
import numpy as np

from experiments import train_cells
from tests.many_deaths import checksums, make_images
from unet_jax import parallel, processes, startup, workdir
from unet_jax.logs import read_rows

EPOCHS = 6
workdir.SHARED = 1.0
OPTIONS = (
    f"--epochs {EPOCHS} --batch 4 --patch 24 --widths 4 8 --norm batch --dropout 0.2 --learning-rate 0.02 --no-augment "
    "--mesh data=2 --target foreground --label-kind binary"
).split()


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def start(folder, name, *, count, resume=False, work=None):
    """Fork a training, or `work`, in `count` processes; their numbers. What they say is in FOLDER/NAME-I.txt."""
    address, pids = f"127.0.0.1:{free_port()}", []
    for i in range(count):
        pids.append(os.fork())
        if pids[-1]:
            continue
        code = 1
        try:
            said = os.open(folder / f"{name}-{i}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(said, 1)
            os.dup2(said, 2)
            os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={2 // count}"
            if count > 1:
                os.environ["UNET_JAX_PROCESSES"] = f"{i}/{count}@{address}"
            if work is not None:
                raise SystemExit(startup._together(work, folder / f"{name}-{i}.json"))
            sys.argv = ["train_cells", "--data", str(folder / "data"), "--workdir", str(folder / name), *OPTIONS]
            sys.argv += ["--resume"] * resume
            startup.run(train_cells.main, train_cells.Config, description="")
        except SystemExit as left:
            code = left.code
        finally:
            os._exit(code)
    return pids


def codes(pids, seconds=1200.0):
    """How they ended: exit codes, -n for signal n; those that still run after `seconds` are killed, and said so."""
    until, ended = time.monotonic() + seconds, {}
    while len(ended) < len(pids) and time.monotonic() < until:
        for pid in set(pids) - ended.keys():
            if (found := os.waitpid(pid, os.WNOHANG))[0]:
                ended[pid] = os.waitstatus_to_exitcode(found[1])
        time.sleep(0.05)
    for pid in set(pids) - ended.keys():
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return [ended.get(pid, "hangs") for pid in pids]


def epochs_logged(folder, name):
    file = folder / name / "metrics.jsonl"
    return len(read_rows(file)) if file.exists() else 0


def after_epoch(folder, name, epoch, pids):
    """Wait until that epoch is in the log."""
    while epochs_logged(folder, name) < epoch:
        if any(os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) for pid in pids):
            raise SystemExit(f"{name} ended before epoch {epoch}: {said(folder, name)}")
        time.sleep(0.02)


def said(folder, name, i=0):
    return (folder / f"{name}-{i}.txt").read_text()


def kill_one(folder, name, pids, number):
    """Kill one of two in mid-training: how the other ended, what it said, after how many seconds."""
    os.kill(pids[number], signal.SIGKILL)
    began = time.monotonic()
    ended = codes(pids, 60.0)
    return {"codes": ended, "seconds": time.monotonic() - began, "said": said(folder, name, 1 - number)}


def meet(file):
    """What two processes agree on, and how they share batches, without a network."""
    mine = jax.process_index()
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 6, 1), dtype=np.uint8)
    found = {"first": processes.from_first(f"word of {mine}"), "highest": processes.highest(mine)}
    found["made"] = processes.first_does(lambda: "made")
    found["in_turn"] = processes.in_turn(lambda: mine)
    for words in ("data=2", "data=1,space=2"):
        mesh = parallel.make_mesh(words, 4, 8)
        rows = parallel.rows_here(mesh, 4)
        for name, array in (
            ("own", parallel.shard({"image": images[rows]}, mesh, size=4)["image"]),
            ("whole", parallel.shard({"image": images}, mesh)["image"]),
        ):
            found[f"{words} {name}"] = [
                [rows.start, rows.stop], list(array.addressable_shards[0].data.shape),
                bool((parallel.on_host(array) == images).all()),
            ]  # fmt: skip
        step = jax.jit(parallel.with_flag(lambda state, batch: (state, {})))
        found[f"{words} flag"] = int(step(0, {"flag": parallel.flag(15 * mine, mesh)})[1]["flag"])
    found["shared"] = parallel.shared_mesh(4).size
    for name, call in {
        "one": lambda: parallel.make_mesh("data=1", 4, 8),
        "odd": lambda: parallel.shared_mesh(3),
        "other folder": lambda: workdir.check_shared(file.parent / str(mine)),
        "failure": lambda: processes.first_does(lambda: int("x")),
    }.items():
        try:
            found[name] = str(call())
        except ValueError as error:
            found[name] = str(error)
    file.write_text(json.dumps(found))
    return 0


def linger(file):
    """The same, and then steps without end, which all take together."""
    meet(file)
    mesh = parallel.make_mesh("data=2", 2, 1)
    total = jax.jit(lambda x: x.sum(), out_shardings=parallel.replicated(mesh))
    while True:
        np.asarray(total(parallel.flag(1, mesh)))
        time.sleep(0.02)


def main(folder, kind):
    make_images(folder / "data")
    for i in range(2):  # what both hold as their workdir, with a lock that is not the same
        (folder / str(i)).mkdir()
        (folder / str(i) / "lock").write_text(str(i))
    found = {}
    if kind == "short":
        pids, files = start(folder, "met", count=2, work=linger), [folder / f"met-{i}.json" for i in range(2)]
        until = time.monotonic() + 600
        while not all(file.exists() for file in files) and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(1)
        found["other"] = kill_one(folder, "met", pids, 1) | {"pid": pids[1]}
        found["met"] = [json.loads(file.read_text()) for file in files]
    else:
        found["met_codes"] = codes(start(folder, "met", count=2, work=meet))
        pids = start(folder, "run", count=2)
        after_epoch(folder, "run", 2, pids)
        found["other"] = kill_one(folder, "run", pids, 1) | {"pid": pids[1]}
        whole = start(folder, "whole", count=2)
        found["whole_codes"] = codes(whole)
        pids = start(folder, "run", count=2, resume=True)
        after_epoch(folder, "run", 3, pids)
        os.kill(pids[1], signal.SIGTERM)
        found["stopped"] = codes(pids)
        found["stop_said"] = said(folder, "run")
        pids = start(folder, "run", count=1, resume=True)
        after_epoch(folder, "run", 4, pids)
        os.kill(pids[0], signal.SIGTERM)
        found["one_stopped"] = codes(pids)
        found["last"] = codes(start(folder, "run", count=2, resume=True))
        pids = start(folder, "led", count=2)
        after_epoch(folder, "led", 1, pids)
        found["leader"] = kill_one(folder, "led", pids, 0) | {"pid": pids[0]}
        found["one_codes"] = codes(start(folder, "one", count=1))
        found |= {f"{name}_sums": checksums(folder / name) for name in ("run", "whole", "one")}
        results = {name: json.loads((folder / name / "results.json").read_text()) for name in ("run", "whole", "one")}
        found["results"] = {name: row["test"] for name, row in results.items()}
        found["rows"] = {name: read_rows(folder / name / "metrics.jsonl") for name in ("run", "whole", "one")}
        found["silent"] = said(folder, "whole", 1)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
