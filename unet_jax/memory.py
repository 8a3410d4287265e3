"""What a compiled step needs of the memory, what there is, and what to do when it does not fit."""

import dataclasses
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Need:
    """Bytes on each device: what is there before a step (state, batch), and what a step takes on top of it."""

    held: int
    scratch: int

    @classmethod
    def of(cls, compiled: Any) -> "Need | None":
        """What the compiler counted for a compiled step; None where its platform does not say."""
        counts = compiled.memory_analysis()
        if counts is None:
            return None
        outputs = counts.output_size_in_bytes - counts.alias_size_in_bytes  # a donated state is overwritten in place
        return cls(
            counts.argument_size_in_bytes,
            counts.temp_size_in_bytes + max(outputs, 0) + counts.generated_code_size_in_bytes,
        )


def free_bytes(devices: Sequence[Any]) -> int | None:
    """Bytes that each of `devices` can still take, the least of them; None where nobody says.

    The devices of a CPU share the machine's memory, so each is given its part of what Linux calls available.
    """
    if devices[0].platform == "cpu":
        try:
            lines = Path("/proc/meminfo").read_text().splitlines()
        except OSError:
            return None
        found = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
        return 1024 * found[0] // len(devices) if found else None
    stats = [device.memory_stats() or {} for device in devices]
    if any(not {"bytes_limit", "bytes_in_use"} <= s.keys() for s in stats):
        return None
    return min(s["bytes_limit"] - s["bytes_in_use"] for s in stats)


def peak_bytes() -> int | None:
    """The most memory that this process has had so far, that of a GPU not counted; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def describe(need: Need, free: int | None, devices: int, mends: str) -> str:
    """One line, or two when `need` is more than is free: "memory a device: ... free"."""
    each = "memory" if devices == 1 else f"memory on each of {devices} devices"
    line = f"{each}: state and batch {size(need.held)}, a training step {size(need.scratch)} more"
    if free is None:
        return line
    line += f"; {size(free)} free"
    return line if need.scratch <= free else f"{line}\nWARNING: this may not fit. To mend: {mends}"


def size(count: int) -> str:
    """Bytes as people say them: "0.12 GiB", "13.5 MiB"."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**26 else f"{count / 2**20:.1f} MiB"


def measured(step: Any, devices: Sequence[Any], *, mends: str, say: Callable[[str], None]) -> Callable[..., Any]:
    """The jitted `step`, compiled once at its first call, which first says what memory it needs.

    The program that is measured is the one that runs, so the arguments must keep their shapes and shardings.
    """
    compiled = None

    def run(*arguments: Any) -> Any:
        nonlocal compiled
        if compiled is None:
            compiled = step.lower(*arguments).compile()
            if (need := Need.of(compiled)) is not None:
                say(describe(need, free_bytes(devices), len(devices), mends))
        return compiled(*arguments)

    return run


@contextmanager
def mended(mends: str) -> Iterator[None]:
    """Turn the errors that run out of memory within the block into a MemoryError that names `mends`."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        text = str(error)
        if not isinstance(error, MemoryError) and not re.search("RESOURCE_EXHAUSTED|out of memory", text, re.I):
            raise
        first = text.splitlines()[0] if text else type(error).__name__
        raise MemoryError(f"the memory is used up ({first}). To mend: {mends}") from error
