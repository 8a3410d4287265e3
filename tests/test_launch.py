"""The commands that scripts/launch.sh gives, and the processes that it starts on this machine."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAUNCH = str(Path(__file__).parents[1] / "scripts" / "launch.sh")
COMMAND = ["--", "python", "-m", "experiments.train_cells", "--data", "my cells"]


def launch(*words):
    return subprocess.run([LAUNCH, *words], capture_output=True, text=True, check=False, timeout=60)


def printed(*words):
    done = launch(*words[:1], *words[1:], "--print", *COMMAND)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_one_machine():
    assert printed("local", "2", "--port", "9000") == [
        "env UNET_JAX_PROCESSES=0/2@127.0.0.1:9000 python -m experiments.train_cells --data 'my cells'",
        "env UNET_JAX_PROCESSES=1/2@127.0.0.1:9000 python -m experiments.train_cells --data 'my cells'",
    ]


def test_hosts_meet_at_the_first():
    first, second = printed("ssh", "me@one,two", "--dir", "code")
    assert first.startswith(
        "ssh me@one 'cd code && echo $$ > train.$(hostname).pid && exec env UNET_JAX_PROCESSES=0/2@one:8476 python"
    )
    assert second.startswith(
        "ssh two 'cd code && echo $$ > train.$(hostname).pid && exec env UNET_JAX_PROCESSES=1/2@one:8476 python"
    )
    assert r"""--data '\''my cells'\'''""" in first  # quoted once for this shell, once for the host's


def test_a_pod_is_set_up_started_on_all_workers_and_stopped_on_one():
    pod, where = ("tpu", "pod", "--zone", "us-west4-a", "--project", "p"), "--zone=us-west4-a --project=p"
    ssh = f"gcloud compute tpus tpu-vm ssh pod {where} --worker=all"
    *setup, install = launch(*pod, "--setup", "--print").stdout.splitlines()
    assert setup == [
        "git archive --format=tar.gz --prefix=unet_jax/ --output=/tmp/unet_jax.tar.gz HEAD",
        f"gcloud compute tpus tpu-vm scp /tmp/unet_jax.tar.gz pod: {where} --worker=all",
    ]
    assert install.startswith(f"{ssh} '--command=tar xzf unet_jax.tar.gz")
    assert "pip install -r requirements-tpu.txt" in install
    (run,) = printed(*pod)
    assert run.startswith(f"{ssh} '--command=cd unet_jax && ")
    assert "UNET_JAX_PROCESSES=auto nohup python -m experiments.train_cells" in run
    (stop,) = launch("tpu", "pod", "--zone", "z", "--stop", "--print").stdout.splitlines()
    assert stop.endswith("--worker=0 '--command=cd unet_jax && kill -TERM $(cat train.pid)'")


def test_a_job_that_goes_on_after_its_time():
    lines = printed("slurm", "--nodes", "4", "--tasks-per-node", "8", "--time", "1:00:00", "--sbatch=--gpus-per-node=8")
    assert lines[0] == "#!/usr/bin/env bash"
    assert "--nodes=4 --ntasks-per-node=8 --requeue" in lines[1]
    assert {"#SBATCH --signal=TERM@180", "#SBATCH --time=1:00:00", "#SBATCH --gpus-per-node=8"} <= set(lines)
    assert lines.index("export UNET_JAX_PROCESSES=auto") < lines.index(
        "srun python -m experiments.train_cells --data 'my cells' ${SLURM_RESTART_COUNT:+--resume}"
    )
    assert any("-ne 143 ] || scontrol requeue" in line for line in lines)


def test_a_job_script_asks_for_another_turn_only_when_it_was_stopped(tmp_path):
    """Run the script with an srun and an scontrol of our own."""
    script = tmp_path / "job.sh"
    script.write_text("\n".join(printed("slurm")))
    for name in ("srun", "scontrol"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/log\nexit ${{CODE:-0}}\n')
        (tmp_path / name).chmod(0o755)
    for code, count in ((143, ""), (1, "2")):
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "CODE": str(code)}
        environment |= {"SLURM_RESTART_COUNT": count} if count else {}
        assert subprocess.run(["bash", str(script)], env=environment, check=False).returncode == code
    first, requeue, second = (tmp_path / "log").read_text().splitlines()
    assert first == "srun python -m experiments.train_cells --data my cells"
    assert requeue == "scontrol requeue 7"
    assert second == first + " --resume"


def test_the_worst_exit_code_is_that_of_all():
    done = launch("local", "3", "--port", "9001", "--", "sh", "-c", "exit ${UNET_JAX_PROCESSES%%/*}")
    assert done.returncode == 2


def test_sigterm_reaches_all_processes(tmp_path):
    script = (
        "import os, pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "pathlib.Path(sys.argv[1], os.environ['UNET_JAX_PROCESSES'][0]).touch()\n"
        "time.sleep(60)"
    )
    running = subprocess.Popen([LAUNCH, "local", "2", "--", sys.executable, "-c", script, str(tmp_path)])
    until = time.monotonic() + 30
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=30) == 143


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ssh"], "ssh: name the number of processes, the hosts"),
        (["local", "x", *COMMAND], "local x: give the number of processes"),
        (["tpu", "pod", *COMMAND], "--zone is missing"),
        (["local", "2"], "the command is missing"),
        (["local", "2", "--ports", "1", *COMMAND], "--ports is unknown"),
        (["slurm", "--nodes"], "--nodes: its value is missing"),
        ([], "Start one training as several processes"),
    ],
)
def test_words_that_cannot_be(words, message):
    done = launch(*words)
    assert done.returncode == 2
    assert message in done.stderr
