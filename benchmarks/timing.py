"""Turn about: warm up, alternate, and say what came out with its spread. Needs the standard library only."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

Run = Callable[[int], float]  # does so many steps, returns the seconds they took


@dataclasses.dataclass(frozen=True)
class Spread:
    """What several measurements of one thing say."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Median, lowest and highest of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def text(self) -> str:
        """Median and range: "1.02 (0.98 to 1.1)"."""
        return f"{number(self.median)} ({number(self.low)} to {number(self.high)})"


def number(value: float) -> str:
    """Three significant digits, all of the digits before the point: "0.0123", "1.5", "12,345"."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def turn_steps(step_seconds: float, *, seconds: float, least: int) -> int:
    """Steps of a turn that lasts `seconds` or more, and `least` steps or more."""
    return max(least, math.ceil(seconds / max(step_seconds, 1e-6)))


def alternate(
    runs: Sequence[Run], *, pairs: int, seconds: float, least: int = 3, pause: float = 0.25
) -> list[tuple[float, ...]]:
    """Seconds a step of every side in every round: first, second, ..., first, second, ...

    Each side must have been started before. Two more steps warm it up and give the length of its turns, which stays the
    same in all rounds. Before a turn everybody is quiet for `pause` seconds, so that no thread of the side before still
    spins.
    """
    if pairs < 1 or not runs:
        raise ValueError(f"{pairs} pairs of {len(runs)} sides: nothing to time")
    steps = [turn_steps(run(2) / 2, seconds=seconds, least=least) for run in runs]
    rounds = []
    for _ in range(pairs):
        turns = []
        for run, count in zip(runs, steps, strict=True):
            time.sleep(pause)
            turns.append(run(count) / count)
        rounds.append(tuple(turns))
    return rounds


def rates(rounds: Sequence[tuple[float, ...]], *, images: int) -> list[Spread]:
    """Images a second of every side, for steps of `images` images."""
    return [Spread.of([images / turn for turn in side]) for side in zip(*rounds, strict=True)]


def ratio(rounds: Sequence[tuple[float, ...]], fast: int = 0, slow: int = 1) -> Spread:
    """How many times as fast side `fast` is as side `slow`; one ratio a round, so that drift cancels."""
    return Spread.of([turns[slow] / turns[fast] for turns in rounds])


def ceiling(product: Callable[[int], float], *, seconds: float = 0.05, largest: int = 16384) -> float:
    """Operations a second of large square matrix products; `product(n)` gives the seconds that one of n × n takes.

    n doubles until one product lasts `seconds`; the best of five is what the machine can do.
    """
    n = 256
    while product(n) < seconds and n < largest:
        n *= 2
    return 2 * n**3 / min(product(n) for _ in range(5))


def busy_share(seconds: float = 0.5) -> float | None:
    """Share of all cores' time that other programs use while this one sleeps; None where there is no /proc."""

    def times() -> list[int]:
        return [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]

    try:
        before = times()
        time.sleep(seconds)
        spent = [b - a for a, b in zip(before, times(), strict=True)]
    except OSError:
        return None
    return 1 - (spent[3] + spent[4]) / max(sum(spent), 1)  # idle, and waiting for a disk


def memory(process: int | str = "self") -> tuple[int, int] | None:
    """Resident bytes of a process now, and their peak since it started; None where there is no /proc."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return None
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("VmRSS:", "VmHWM:"))}
    return (1024 * kilobytes["VmRSS"], 1024 * kilobytes["VmHWM"]) if len(kilobytes) == 2 else None
