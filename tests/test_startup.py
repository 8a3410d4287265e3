import dataclasses
import os
import subprocess
import sys
import warnings

import pytest

from unet_jax import startup


def in_new_process(code, **environment):
    """Run `code` in a fresh interpreter without this process's XLA_FLAGS and caches."""
    clean = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "UNET_JAX_CACHE")}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_prepare_makes_one_device_a_core_and_keeps_compiled_programs(tmp_path):
    code = (
        "import os; from unet_jax import startup; startup.prepare(); import jax;"
        "print(jax.device_count(), startup.host_devices(), jax.config.jax_compilation_cache_dir);"
        "print(os.environ['XLA_FLAGS'])"
    )
    done = in_new_process(code, UNET_JAX_CACHE=str(tmp_path))
    count, expected, cache, *flags = done.stdout.split()
    assert count == expected
    assert cache == str(tmp_path / "xla")
    assert "--xla_cpu_enable_concurrency_optimized_scheduler=false" in flags
    assert in_new_process(code, XLA_FLAGS="--xla_force_host_platform_device_count=3").stdout.split()[0] == "3"


def test_import_of_the_library_changes_no_setting():
    code = "import os; before = dict(os.environ); import unet_jax; assert dict(os.environ) == before; print('same')"
    assert in_new_process(code).stdout == "same\n"


def test_prepare_after_jax_is_refused():
    with pytest.raises(RuntimeError, match="before jax is imported"):
        startup.prepare()


def test_freed_memory_is_kept_unless_the_environment_says_otherwise(monkeypatch):
    calls = {}

    class Libc:
        @staticmethod
        def mallopt(parameter, value):
            calls[parameter] = value

    monkeypatch.setattr(startup.ctypes, "CDLL", lambda name: Libc)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    startup.keep_freed_memory()
    assert calls == {-4: 0, -1: -1, -2: 2**28}  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
    monkeypatch.setattr(startup.ctypes, "CDLL", lambda name: object())  # a C library without it
    startup.keep_freed_memory()


@pytest.mark.parametrize(("cores", "devices"), [(1, 1), (2, 2), (3, 2), (12, 8), (64, 8)])
def test_host_devices(monkeypatch, cores, devices):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    assert startup.host_devices() == devices


def test_an_accelerator_that_jax_does_not_see_is_said(monkeypatch):
    monkeypatch.setattr(startup.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(startup.importlib.util, "find_spec", lambda name: None)
    assert 'pip install -c requirements.lock -e ".[cuda12]"' in startup.unseen_accelerator("cpu")
    monkeypatch.setattr(startup.importlib.util, "find_spec", lambda name: object())
    assert "driver's version" in startup.unseen_accelerator("cpu")
    assert startup.unseen_accelerator("gpu") is None


def test_no_warning_without_an_accelerator(monkeypatch):
    monkeypatch.setattr(startup.shutil, "which", lambda name: None)
    monkeypatch.setattr(startup.Path, "exists", lambda path: False)
    assert startup.unseen_accelerator("cpu") is None
    monkeypatch.setattr(startup.Path, "exists", lambda path: str(path) == "/dev/accel0")
    assert "-r requirements-tpu.txt" in startup.unseen_accelerator("cpu")


@dataclasses.dataclass(frozen=True)
class Config:
    count: int = 1


@pytest.mark.parametrize("error", [ValueError, FileNotFoundError, ArithmeticError])
def test_what_the_user_can_mend_ends_in_one_message(monkeypatch, capsys, error):
    monkeypatch.setattr(sys, "argv", ["program", "--count", "3"])

    def main(config):
        raise error(f"count {config.count}: choose 2")

    with pytest.raises(SystemExit) as left:
        startup.run(main, Config, description="a program")
    assert left.value.code == 1
    assert capsys.readouterr().err == "error: count 3: choose 2\n"
    monkeypatch.setenv("UNET_JAX_TRACEBACK", "1")
    with pytest.raises(error):
        startup.run(main, Config, description="a program")


def test_a_thread_that_waits_after_a_failed_save_holds_nothing_up():
    code = """if True:
        import errno, threading
        from unet_jax import startup
        def main(config):
            threading.Thread(target=threading.Event().wait).start()
            raise OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl")
        import dataclasses
        startup.run(main, dataclasses.make_dataclass("Config", []), description="")
    """
    done = in_new_process(code)
    assert done.returncode == 1
    assert "'metrics.jsonl': free some space; a training then goes on with --resume" in done.stderr


def test_values_below_the_least_name_the_flag():
    startup.check_least(Config(count=2), count=2)
    with pytest.raises(ValueError, match=r"--count 1: give 2 or more"):
        startup.check_least(Config(count=1), count=2)


def test_interrupt_outside_the_training_loop(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["program"])

    def main(config):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as left:
        startup.run(main, Config, description="a program")
    assert (left.value.code, capsys.readouterr().err) == (130, "interrupted\n")


def test_warnings_of_our_own_are_lines_and_said_once(monkeypatch, capsys):
    def main(_):
        for text in ("masks hold greys", "masks hold greys", "another"):
            warnings.warn(text, stacklevel=1)
        warnings.warn("soon gone", DeprecationWarning, stacklevel=1)
        return 0

    others = []
    monkeypatch.setattr(sys, "argv", ["program"])
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_: others.append(str(message))
        with pytest.raises(SystemExit):
            startup.run(main, Config, description="a program")
    assert capsys.readouterr().err == "note: masks hold greys\nnote: another\n"
    assert others == ["soon gone"]


def test_exit_code_is_that_of_main(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program"])
    with pytest.raises(SystemExit) as left:
        startup.run(lambda config: 143, Config, description="a program")
    assert left.value.code == 143
