"""The loop around the training step: epochs, a budget, a progress bar, signals, and nothing that learns."""

import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from unet_jax.logs import duration
from unet_jax.training import State, learning_rate, replan


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


_MEND = "a lower --learning-rate may help, with --resume from the last checkpoint if an epoch was finished"


class NonFiniteLoss(ArithmeticError):
    """The loss was NaN or infinite; the message names the step and the images."""


class StopRequest:
    """Context in which the first SIGINT or SIGTERM only sets `signal`; a second one acts as usual."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: object) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __exit__(self, *exc: object) -> None:
        self._restore()


@dataclasses.dataclass
class Callbacks:
    """What `fit` calls: each is a plain function of the experiment."""

    evaluate: Callable[[State], dict[str, float]]  # scores of an epoch; "val_iou" decides which is best
    epoch_done: Callable[[dict[str, Any]], None]  # gets the row of the metrics log
    save: Callable[[State, Position, float | None], None]  # score is None in mid-epoch
    say: Callable[[str], None]


def fit(
    state: State,
    position: Position,
    *,
    step: Callable[[State, Any], tuple[State, dict[str, Any]]],
    batches: Iterator[tuple[Any, list[str]]],
    steps_per_epoch: int,
    budget: Budget,
    callbacks: Callbacks,
    stop: StopRequest,
) -> State:
    """Train until the budget is spent or `stop` is asked for; `position` is moved along.

    `batches` yields (device batch, ids) and stands at `position.step`. With `max_minutes` the end of the learning-rate
    schedule is moved after the first steps and after every epoch to where the time will run out.
    """
    began = time.perf_counter() - position.seconds
    if budget.max_minutes is None or position.planned_minutes != budget.max_minutes:
        position.planned_epochs, position.planned_minutes = budget.epochs, budget.max_minutes
    position.planned_epochs = min(position.planned_epochs, budget.epochs)
    if budget.max_minutes is None:
        state = replan(state, budget.epochs * steps_per_epoch)
    pace = _Pace(began, steps_per_epoch, budget)
    while not _spent(position, budget):
        started, first = time.perf_counter(), position.step
        state, row = _epoch(state, position, step, batches, steps_per_epoch, pace, callbacks.say, stop)
        position.seconds = time.perf_counter() - began
        if position.step < (position.epoch + 1) * steps_per_epoch:
            break  # asked to stop; an epoch whose last step is done is scored and saved as such
        in_steps, steps = time.perf_counter() - started, position.step - first
        row |= callbacks.evaluate(state)
        if not math.isfinite(row["val_loss"]):
            raise NonFiniteLoss(f"the validation loss is {row['val_loss']} after step {position.step}: {_MEND}")
        position.epoch += 1
        if row["val_iou"] > position.best_score:
            position.best_score, position.best_epoch = row["val_iou"], position.epoch
        position.seconds = time.perf_counter() - began
        state = pace.after_epoch(state, position, steps, in_steps, time.perf_counter() - started, callbacks.say)
        row = {"epoch": position.epoch, "step": position.step, **row, "seconds": position.seconds}
        callbacks.epoch_done(row)
        callbacks.save(state, position, row["val_iou"])
        if stop.signal is not None:
            return state
    if stop.signal is not None:
        callbacks.save(state, position, None)
    return state


def _spent(position: Position, budget: Budget) -> bool:
    waited = budget.patience is not None and position.epoch - position.best_epoch >= budget.patience
    return position.epoch >= position.planned_epochs or waited


def _epoch(
    state: State, position: Position, step: Callable, batches: Iterator, steps: int, pace: "_Pace",
    say: Callable[[str], None], stop: StopRequest,
) -> tuple[State, dict[str, Any]]:  # fmt: skip
    """The rest of the epoch in which `position` stands. One step is always under way while the host works."""
    from tqdm import tqdm

    began, waited, images, pending = time.perf_counter(), 0.0, 0, None
    first = position.step - position.epoch * steps
    with tqdm(
        total=steps, initial=first, desc=f"epoch {position.epoch + 1}", leave=False, dynamic_ncols=True, disable=None
    ) as bar:
        for _ in range(first, steps):
            before = time.perf_counter()
            batch, ids = next(batches)
            waited += time.perf_counter() - before
            state, metrics = step(state, batch)
            if pending is not None:
                loss = _finish(pending, position, pace.budget, say)
                state = pace.after_step(state, position, say)
                share = waited / (time.perf_counter() - began)
                bar.set_postfix_str(
                    f"loss {loss:.4f}, {images / (time.perf_counter() - began):.1f} images/s, data {share:.0%}"
                )
                bar.update()
            pending = (metrics, ids)
            images += len(ids)
            if stop.signal is not None:
                break
        if pending is not None:
            _finish(pending, position, pace.budget, say)
            bar.update()
    seconds = time.perf_counter() - began
    row = {
        "train_loss": position.loss_sum / max(position.step - position.epoch * steps - position.skipped_in_epoch, 1),
        "learning_rate": learning_rate(state),
        "images_per_second": images / seconds,
        "wait_share": waited / seconds,
    }
    if position.step == (position.epoch + 1) * steps:
        position.loss_sum, position.skipped_in_epoch = 0.0, 0
    if pace.budget.skip_nonfinite:
        row["skipped_steps"] = position.skipped
    return state, row


def _finish(
    pending: tuple[dict[str, Any], list[str]], position: Position, budget: Budget, say: Callable[[str], None]
) -> float:
    """Wait for a step's loss and count the step; one that is not finite is skipped, or ends the run unsaved."""
    metrics, ids = pending
    loss, norm = (float(np.asarray(metrics[name])) for name in ("loss", "grad_norm"))
    if not (math.isfinite(loss) and math.isfinite(norm)):
        what = (
            f"the loss is {loss} and its gradient {norm} at step {position.step + 1}, in the batch of the images "
            f"{', '.join(map(repr, ids))}"
        )
        if position.skipped >= budget.skip_nonfinite:
            allowed = f" ({position.skipped} steps were skipped before)" if budget.skip_nonfinite else ""
            raise NonFiniteLoss(f"{what}{allowed}: look at these images; {_MEND}")
        position.skipped += 1
        position.skipped_in_epoch += 1
        say(f"skipped ({position.skipped} of at most {budget.skip_nonfinite}): {what}")
    else:
        position.loss_sum += loss
    position.step += 1
    return loss


class _Pace:
    """Measures steps and epochs, tells the user how long it will take, and plans the end of a run given in minutes."""

    WARM_UP = 2  # the first steps hold the compilation
    MEASURED = 12  # steps timed for the first estimate

    def __init__(self, began: float, steps_per_epoch: int, budget: Budget):
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
        if self.epochs:  # the first epoch of a start holds the compilations
            self.step_seconds = step_seconds / steps
            self.outside = (all_seconds - step_seconds) / step_seconds
        elif not warm:  # a small set: no estimate yet
            self.step_seconds = step_seconds / steps
            say(f"an epoch takes less than {duration(all_seconds)}, the whole run less than "
                f"{duration(self._epochs_left(position) * all_seconds)}")  # fmt: skip
        self.epochs += 1
        self.times = self.times if warm else [math.nan] * (self.WARM_UP + self.MEASURED + 1)
        position.planned_epochs = position.epoch + math.floor(self._epochs_left(position) + 0.02)
        return replan(state, max(position.planned_epochs * self.steps, position.step))

    def _epoch_seconds(self) -> float:
        return self.step_seconds * self.steps * (1 + self.outside)

    def _epochs_left(self, position: Position) -> float:
        left = self.budget.epochs - position.step / self.steps
        if self.budget.max_minutes is None:
            return left
        seconds = 60 * self.budget.max_minutes - (time.perf_counter() - self.began)
        return min(left, max(seconds, 0.0) / self._epoch_seconds())
