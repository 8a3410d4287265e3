"""A trace of some training steps, for TensorBoard or Perfetto."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax


class Profile:
    """Context in which `watch(step)` is traced for `steps` calls, after `warm_up` calls without.

    The trace holds the devices, and the host between the steps: what reads, transfers and waits. It lies in
    `folder`/plugins/profile/DATE: `tensorboard --logdir` of the folder above shows it (with the plug-in of
    `pip install xprof`), and https://ui.perfetto.dev opens its `.trace.json.gz`. A run that is shorter leaves the steps
    there were; one that ends while warming up leaves nothing, and says so. With `steps` = 0 nothing happens at all.
    """

    def __init__(self, folder: str | Path, *, say: Callable[[str], None], warm_up: int = 5, steps: int = 10):
        """Nothing is written before the first traced call."""
        self.folder, self.say = Path(folder), say
        self._first, self._last = warm_up, warm_up + steps
        self._calls, self._tracing, self._result = 0, False, None

    def watch(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """The same step, whose calls are counted and traced."""
        if self._first == self._last:
            return step

        def run(*arguments: Any) -> Any:
            if self._calls == self._first:
                jax.block_until_ready(self._result)
                jax.profiler.start_trace(str(self.folder))
                self._tracing = True
            elif self._calls == self._last:
                self._stop()
            with jax.profiler.StepTraceAnnotation("train", step_num=self._calls):
                self._result = step(*arguments)
            self._calls += 1
            return self._result

        return run

    def _stop(self, *, wait: bool = True) -> None:
        if wait:
            jax.block_until_ready(self._result)
        jax.profiler.stop_trace()
        self._tracing = False
        self.say(f"profile of {min(self._calls, self._last) - self._first} steps: {self.folder}")

    def __enter__(self) -> "Profile":
        """Give the profile itself."""
        return self

    def __exit__(self, kind: type | None, *exc: object) -> None:
        """End the trace of a run that ends before its last traced step."""
        if self._tracing:
            self._stop(wait=kind is None)
        elif kind is None and self._calls <= self._first < self._last:
            self.say(f"no profile: the run ended before step {self._first + 1}")
