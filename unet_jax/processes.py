"""Several processes of one training, joined by `jax.distributed`: what they agree on, and what happens when one dies.

What must be the same in all of them outside of the compiled steps (a time, a name, a verdict) goes through the store of
jax's coordination service, in the order of the calls: every process calls the same functions, in the same order. The
same store tells who is alive, so that the death of one ends the others with its name. One process alone agrees with
itself at once.
"""

import itertools
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

VARIABLE = "UNET_JAX_PROCESSES"
START = 300  # seconds in which all processes must have come
SILENCE = float(os.environ.get("UNET_JAX_SILENCE", 25))  # seconds without a sign of life: a process counts as dead
PULSE = SILENCE / 5  # seconds between two signs of life of a process
WAIT = 24 * 3600 * 1000  # milliseconds: the first process may download and prepare for hours

_turns = itertools.count()
_over = threading.Event()


def start() -> None:
    """Join the processes that the environment variable UNET_JAX_PROCESSES speaks of; without it, nothing is done.

    "auto" lets jax find out who takes part (Slurm, TPU pods, Open MPI, Kubernetes); "I/N@HOST:PORT" says that this is
    process I of 0 to N - 1, of which process 0 listens at HOST:PORT. It must come before any device is used.

    Raises ValueError for other words, and when not all processes come within `START` seconds.
    """
    words = os.environ.get(VARIABLE, "")
    if not words:
        return
    import jax

    options: dict[str, Any] = {}
    if words != "auto":
        found = re.fullmatch(r"(\d+)/(\d+)@(\S+:\d+)", words)
        if found is None or int(found[1]) >= int(found[2]):
            raise ValueError(
                f"{VARIABLE}={words}: give auto (Slurm, a TPU pod), or I/N@HOST:PORT, such as 0/2@10.0.0.1:8476 and "
                "1/2@10.0.0.1:8476 for two processes of which the first runs on 10.0.0.1"
            )
        options = {"process_id": int(found[1]), "num_processes": int(found[2]), "coordinator_address": found[3]}
        options["cluster_detection_method"] = "deactivate"
    # jax's own answer to SIGTERM would swallow it; the training stops all processes at one step (`stopping`)
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(**options, initialization_timeout=START, shutdown_timeout_seconds=WAIT // 1000)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"{VARIABLE}={words}: the processes did not find each other ({_line(error)}): start all of them within "
            f"{START} s, with one HOST:PORT that every host reaches; auto is for Slurm, TPU pods, Open MPI, Kubernetes"
        ) from error
    if not alone():
        mine = f"process {_me()}, pid {os.getpid()} on {socket.gethostname()}"
        _store().key_value_set(f"unet_jax/who/{_me()}", mine)
        leader = _store().blocking_key_value_get("unet_jax/who/0", WAIT)
        # when it dies, jax ends the others at once, and calls it the leader task
        print(f"{mine}, of {count()}; the leader task is {leader}", file=sys.stderr, flush=True)
        threading.Thread(target=_watch, name="other processes", daemon=True).start()


def alone() -> bool:
    """Whether this is the only process."""
    return count() == 1


def count() -> int:
    """Number of processes."""
    import jax

    return jax.process_count()


def first() -> bool:
    """Whether this is the process that writes and talks: number 0, or the only one."""
    import jax

    return jax.process_index() == 0


def from_first(value: T) -> T:
    """The first process's `value`, made of text, numbers and None, in all processes."""
    if alone():
        return value
    key = f"unet_jax/said/{next(_turns)}"
    if first():
        _store().key_value_set(key, json.dumps(value))
    return json.loads(_store().blocking_key_value_get(key, WAIT))


def highest(value: int) -> int:
    """The largest `value` of all processes, once all have said theirs."""
    if alone():
        return value
    room = f"unet_jax/all/{next(_turns)}"
    _store().key_value_set(f"{room}/{_me()}", str(value))
    _store().wait_at_barrier(room, WAIT)
    return max(int(said) for _, said in _store().key_value_dir_get(room))


def first_does(work: Callable[[], T]) -> T | None:
    """The result of `work()`, which the first process alone does; None in the others, which wait, and fail as it does.

    Its exception, in the others, is a ValueError with the same words.
    """
    if alone():
        return work()
    result, failure = None, None
    if first():
        try:
            result = work()
        except Exception as error:
            from_first(str(error) or type(error).__name__)
            raise
    if failure := from_first(failure):
        raise ValueError(f"process 0 says: {failure}")
    return result


def in_turn(work: Callable[[], T]) -> T:
    """The result of `work()` of the first process, then of the others.

    What it prepares on a disk that all share is prepared once; where each has its own, each prepares it.
    """
    result = first_does(work)
    return result if first() else work()  # type: ignore[return-value]


def end() -> None:
    """Part from the others, once all are here: then the death of one of them is no matter any more."""
    if _joined() and not alone():
        import jax

        _over.set()
        _store().key_value_set(f"unet_jax/end/{_me()}", "")
        jax.distributed.shutdown()


def fail(words: str, error: BaseException | None, code: int) -> NoReturn:
    """Leave with a message that the others are told, too; they end within seconds.

    Where `error` comes out of a step or a save that all do together, it may be that another process has died: its name
    is waited for, and takes the place of the message.
    """
    if _of_all(error):
        print(
            f"what all processes do together has failed ({words}): has one of them died?", file=sys.stderr, flush=True
        )
        time.sleep(SILENCE + 3 * PULSE)  # the watch knows by then, and ends this process
    _over.set()
    try:
        _store().key_value_set(f"unet_jax/end/{_me()}", words)
        if first():
            time.sleep(3 * PULSE)  # the store ends with this process: the others must have read it
    finally:
        _leave(f"process {_me()}: {words}", code)


def _watch() -> None:
    """Give a sign of life, and look for those of the others, until the end; a dead one ends this process."""
    seen: dict[str, tuple[str | None, float]] = {}
    before = time.monotonic()
    for beat in itertools.count():
        try:
            _store().key_value_set(f"unet_jax/pulse/{_me()}", str(beat), allow_overwrite=True)
            pulses, ends, who = (_read(room) for room in ("pulse", "end", "who"))
        except Exception as error:  # jaxlib's own kinds
            if not _over.is_set():
                _follow("process 0, where all meet", f"died, or is not reached any more ({_line(error)})")
            return
        now = time.monotonic()
        awake, before = now - before < 2 * PULSE, now  # else the others may have been as slow, or asleep
        for other in map(str, range(count())):
            pulse = pulses.get(other)
            if not awake or other not in seen or seen[other][0] != pulse:
                seen[other] = pulse, now
            silence = now - seen[other][1]
            if _over.is_set():
                return
            if ends.get(other):
                _follow(who[other], f"ended: {ends[other]}")
            if other not in ends and silence > SILENCE:
                _follow(who.get(other, f"process {other}"), f"died: no sign of life for {silence:.0f} s")
        _over.wait(PULSE)


def _read(room: str) -> dict[str, str]:
    """What every process has written there, by its number."""
    return {key.rpartition("/")[2]: said for key, said in _store().key_value_dir_get(f"unet_jax/{room}")}


def _follow(other: str, how: str) -> NoReturn:
    """End this process because of another one."""
    _leave(f"{other}, has {how}. The others stop: start all of them again with --resume", 1)


def _leave(words: str, code: int) -> NoReturn:
    """Say it, and end this process at once: other threads may wait for the dead for ever."""
    print(f"error: {words}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)


def _of_all(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, is of what several processes do together."""
    while error is not None:
        if re.search(
            "gloo|nccl|coordination service|barrier|heartbeat|UNAVAILABLE|DEADLINE_EXCEEDED", str(error), re.I
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _joined() -> bool:
    return os.environ.get(VARIABLE, "") != "" and _state().client is not None


def _me() -> int:
    return _state().process_id


def _store() -> Any:
    return _state().client


def _state() -> Any:
    from jax._src import distributed  # orbax, too, reaches the store here: jax has no public name for it

    return distributed.global_state
