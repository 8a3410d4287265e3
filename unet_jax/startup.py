"""What an entry point does before jax is imported. `import unet_jax` never does it by itself."""

import ctypes
import errno
import importlib.util
import os
import shutil
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from unet_jax import processes


def prepare() -> None:
    """Set the environment that jax reads at its import: call this first, before anything imports jax.

    * One XLA device a core on a CPU: much of XLA:CPU runs on one thread, so a batch spread over the cores trains
      about twice as fast. What XLA_FLAGS already asks for is kept.
    * XLA:CPU schedules a program for little memory, not for operations side by side: the cores are busy with the batch
      anyway. A training step of the network of 2015 takes two fifths less scratch and a fifth less time.
    * Compiled programs are kept on disk, so that a second start skips the compilation. JAX_COMPILATION_CACHE_DIR names
      another place.
    * Freed memory is kept for the next step rather than given back (`keep_freed_memory`).
    """
    if "jax" in sys.modules:
        raise RuntimeError("unet_jax.startup.prepare() must run before jax is imported: call it at the top of the file")
    flags = os.environ.get("XLA_FLAGS", "")
    wanted = {
        "xla_force_host_platform_device_count": host_devices(),
        "xla_cpu_enable_concurrency_optimized_scheduler": "false",
    }
    more = (f"--{name}={value}" for name, value in wanted.items() if name not in flags)
    os.environ["XLA_FLAGS"] = " ".join([flags, *more]).strip()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_dir() / "xla"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's remarks about its own tuning
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Let glibc keep what is freed, in one heap that grows by large pieces; nothing happens without glibc.

    XLA:CPU asks for hundreds of MB of scratch in every step and frees them after it. By default they come from the
    kernel as new pages each time, whose first touch costs more than a quarter of a training step and nearly half of
    an inference. Values of the environment (MALLOC_ARENA_MAX ...) are kept.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    options = {  # parameter numbers of <malloc.h>
        "MALLOC_ARENA_MAX": (-8, 1),
        "MALLOC_MMAP_MAX_": (-4, 0),
        "MALLOC_TRIM_THRESHOLD_": (-1, -1),  # never: above a bound, 2 GiB at most, the heap's end would go back
        "MALLOC_TOP_PAD_": (-2, 2**28),
    }
    for name, (parameter, value) in options.items():
        if mallopt is not None and name not in os.environ:
            mallopt(parameter, value)


def host_devices() -> int:
    """The largest power of two that is at most the number of usable cores, and at most eight (a usual batch)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 << min(cores.bit_length() - 1, 3)


def cache_dir() -> Path:
    """Folder for what can be made again: UNET_JAX_CACHE, else XDG_CACHE_HOME/unet_jax, else ~/.cache/unet_jax."""
    if own := os.environ.get("UNET_JAX_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "unet_jax"


def unseen_accelerator(backend: str) -> str | None:
    """A loud message when this machine has an accelerator that jax (running on `backend`) does not see, else None."""
    if backend != "cpu":
        return None
    if Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi"):
        name, plugin, install = "an NVIDIA GPU", "jax_cuda12_plugin", '-c requirements.lock -e ".[cuda12]"'
    elif Path("/dev/accel0").exists() or Path("/dev/vfio/0").exists():
        name, plugin, install = "a TPU", "libtpu", "-r requirements-tpu.txt"
    else:
        return None
    missing = importlib.util.find_spec(plugin) is None
    mend = f"pip install {install}" if missing else "see the driver's version (nvidia-smi) and JAX_PLATFORMS"
    return f"WARNING: this machine has {name} that jax does not see; the CPU is many times slower. To mend: {mend}"


def say(line: str) -> None:
    """Print a line at once, also into a pipe."""
    print(line, flush=True)


def say_device(device: str, backend: str, **facts: object) -> None:
    """Print on which device a run is, with `facts`, and warn loudly of an accelerator that jax does not see."""
    say("; ".join([f"device: {device}", *(f"{name}: {fact}" for name, fact in facts.items())]))
    if warning := unseen_accelerator(backend):
        print(warning, file=sys.stderr)


_MENDS = {
    errno.ENOSPC: ": free some space; a training then goes on with --resume, a prediction by the same command",
    errno.EDQUOT: ": free some of your quota; a training then goes on with --resume, a prediction by the same command",
    errno.EROFS: ": name a folder that may be written to",
    errno.EACCES: ": name a folder or file that you may use, or have its rights changed",
}


def check_least(config: Any, **least: float) -> None:
    """ValueError with the flag's name for a field of `config` that is below its least value; None is none."""
    for name, low in least.items():
        value = getattr(config, name)
        if value is not None and not value >= low:
            raise ValueError(f"--{name.replace('_', '-')} {value}: give {low:g} or more")


def check_shares(config: Any, *names: str) -> None:
    """ValueError with the flag's name for a field of `config` outside [0, 1); None is none."""
    for name in names:
        if not 0 <= (getattr(config, name) or 0) < 1:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} {getattr(config, name)}: give a share from 0 to below 1, such as 0.3")


def flags(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """The words of a command line that give the options `values`, but for those that have their default or None."""
    words = []
    for name, value in values.items():
        value, flag = list(value) if isinstance(value, tuple) else value, name.replace("_", "-")
        default = list(defaults[name]) if isinstance(defaults.get(name), tuple) else defaults.get(name)
        if value is None or value == default:
            continue
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return words


def run(main: Callable[[Any], int], config: type | dict[str, type], *, description: str) -> NoReturn:
    """Make `config`, or that of the subcommand by its name, from the command line; exit with `main(config)`'s code.

    What the user can mend (bad input, a full disk or memory, a loss that is not finite) ends in one message and exit
    code 1; UNET_JAX_TRACEBACK=1 shows where it came from. A config of its own may run in several processes
    (`processes.start`), of which the first alone prints.
    """
    import tyro

    for stream in (sys.stdout, sys.stderr):  # a file's name may hold what the terminal has no letter for
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _noted()
    cli = tyro.extras.subcommand_cli_from_dict if isinstance(config, dict) else tyro.cli
    chosen = cli(config, description=description)
    if not isinstance(config, dict) and os.environ.get(processes.VARIABLE):
        code = _together(main, chosen)
    else:
        code = _alone(main, chosen)
    if code and any(not t.daemon for t in threading.enumerate() if t is not threading.main_thread()):
        # After a save that failed, orbax's threads wait minutes for each other, and the interpreter for them.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _noted() -> Callable[..., None]:
    """What shows a warning: our own, which tell of the user's data, as a line without a place in the code, once."""
    plain, seen = warnings.showwarning, set[str]()

    def show(message: Warning | str, category: type[Warning], filename: str, *rest: Any, **more: Any) -> None:
        if category is not UserWarning or "-packages" in filename:
            plain(message, category, filename, *rest, **more)
        elif str(message) not in seen:
            seen.add(str(message))
            print(f"note: {message}", file=sys.stderr)

    return show


def _alone(main: Callable[[Any], int], chosen: Any) -> int:
    try:
        return main(chosen)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, ArithmeticError, MemoryError) as error:
        if os.environ.get("UNET_JAX_TRACEBACK"):
            raise
        print(f"error: {_words(error)}", file=sys.stderr)
        return 1


def _together(main: Callable[[Any], int], chosen: Any) -> int:
    """The same as one of several processes: what ends this one is told to the others."""
    try:
        processes.start()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if processes.alone():
        return _alone(main, chosen)
    if not processes.first():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the end
    try:
        code = main(chosen)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            processes.fail("interrupted", None, 130)
        expected = isinstance(error, ValueError | OSError | ArithmeticError | MemoryError)
        if not expected or os.environ.get("UNET_JAX_TRACEBACK"):
            traceback.print_exc()
        processes.fail(_words(error) if expected else f"{type(error).__name__}: {error}", error, 1)
    processes.end()
    return code


def _words(error: BaseException) -> str:
    return f"{error}{_MENDS.get(error.errno, '') if isinstance(error, OSError) else ''}"
