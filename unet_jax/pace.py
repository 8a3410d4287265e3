"""How long a run lasts: its budget, where it stands, and the pace at which it goes."""

import dataclasses
import math
import time
from collections.abc import Callable

from unet_jax import processes
from unet_jax.logs import duration
from unet_jax.training import State, replan


@dataclasses.dataclass(frozen=True)
class Budget:
    """When to stop: after `epochs`, after `max_minutes`, or after `patience` epochs without a better score."""

    epochs: int
    max_minutes: float | None = None
    patience: int | None = None
    skip_nonfinite: int = 0  # steps of a loss or gradient that is not finite, in all; more end the run


@dataclasses.dataclass
class Position:
    """Where a run stands; saved in every checkpoint's card, so that a resumed run goes on from there."""

    epoch: int = 0  # epochs finished
    step: int = 0  # steps done, those of the unfinished epoch included
    seconds: float = 0.0  # spent in all starts of this run
    loss_sum: float = 0.0  # over the steps of the unfinished epoch
    best_score: float = -math.inf
    best_epoch: int = 0
    planned_epochs: int = 0
    planned_minutes: float | None = None  # the budget that this plan was made for
    skipped: int = 0  # steps that taught nothing, as their loss or gradient was not finite
    skipped_in_epoch: int = 0


class Pace:
    """Measures steps and epochs, tells the user how long it will take, and plans the end of a run given in minutes.

    Of several processes the first one's clock counts.
    """

    WARM_UP = 2  # the first steps hold the compilation
    MEASURED = 12  # steps timed for the first estimate

    def __init__(self, began: float, steps_per_epoch: int, budget: Budget):
        """Of the whole run, which `began` at that reading of the clock."""
        self.began, self.steps, self.budget = began, steps_per_epoch, budget
        self.times: list[float] = []  # when each of the first steps ended
        self.epochs = 0  # of this start
        self.step_seconds = math.nan
        self.outside = 0.15  # validation and saving, as a share of an epoch's steps: a guess until measured

    def after_step(self, state: State, position: Position, say: Callable[[str], None]) -> State:
        """Take the time; as soon as enough steps are measured, print the estimate and plan."""
        if len(self.times) > self.WARM_UP + self.MEASURED:
            return state
        self.times.append(time.perf_counter())
        if len(self.times) <= self.WARM_UP + self.MEASURED:
            return state
        self.step_seconds = (self.times[-1] - self.times[self.WARM_UP]) / self.MEASURED
        epochs = self._epochs_left(position)
        say(
            f"an epoch takes about {duration(self._epoch_seconds())}; {epochs:.1f} epochs to go"
            f"{'' if epochs < self.budget.epochs - position.epoch - 1 else ', as asked'}: "
            f"about {duration(epochs * self._epoch_seconds())}"
        )
        return replan(state, position.step + round(epochs * self.steps))

    def after_epoch(
        self, state: State, position: Position, steps: int, step_seconds: float, all_seconds: float,
        say: Callable[[str], None],
    ) -> State:  # fmt: skip
        """Measure the `steps` of an epoch; plan how many whole epochs fit, and let the learning rate end with them."""
        warm = len(self.times) > self.WARM_UP + self.MEASURED
        # the few steps that a resumed run had left are mostly compilation: the next epoch tells, the plan holds so far
        rest = steps < self.steps and not warm
        if self.epochs:  # the first epoch of a start holds the compilations
            self.step_seconds = step_seconds / steps
            self.outside = (all_seconds - step_seconds) / step_seconds
        elif not warm and not rest:  # a small set: no estimate yet
            self.step_seconds = step_seconds / steps
            say(f"an epoch takes less than {duration(all_seconds)}, the whole run less than "
                f"{duration(self._epochs_left(position) * all_seconds)}")  # fmt: skip
        self.epochs += 1
        self.times = self.times if warm else [math.nan] * (self.WARM_UP + self.MEASURED + 1)
        if rest:
            return state
        position.planned_epochs = position.epoch + math.floor(self._epochs_left(position) + 0.02)
        return replan(state, max(position.planned_epochs * self.steps, position.step))

    def _epoch_seconds(self) -> float:
        return self.step_seconds * self.steps * (1 + self.outside)

    def _epochs_left(self, position: Position) -> float:
        left = self.budget.epochs - position.step / self.steps
        if self.budget.max_minutes is None:
            return left
        seconds = 60 * self.budget.max_minutes - (time.perf_counter() - self.began)
        return processes.from_first(min(left, max(seconds, 0.0) / self._epoch_seconds()))
