"""A training that is killed (SIGKILL) at random moments, some inside a save, ends bit for bit as one that is not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("kills", "seed"), [(2, 3), pytest.param(20, 1, marks=pytest.mark.slow)])
def test_killed_again_and_again(tmp_path, kills, seed):
    flags = {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.many_deaths", str(tmp_path), str(kills), str(seed)],
        cwd=Path(__file__).parents[1], env={**os.environ, **flags}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["killed"] == found["whole"]
    assert found["kills"] == kills
    assert found["in_save"] >= kills // 5
