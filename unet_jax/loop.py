"""The loop around the training step: epochs, a budget, a progress bar, signals, and nothing that learns."""

import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from unet_jax import processes
from unet_jax.pace import Budget, Pace, Position
from unet_jax.training import State, learning_rate, replan

_MEND = "a lower --learning-rate may help, with --resume from the last checkpoint if an epoch was finished"


class NonFiniteLoss(ArithmeticError):
    """The loss was NaN or infinite; the message names the step and the images."""


class StopRequest:
    """Context in which the first SIGINT or SIGTERM only sets `signal`; a second one acts as usual.

    Of several processes any may get it, and all are to stop at the same step: there `noted` is what this one got, and
    `signal` what all know, from the metrics of a step that carries it (`parallel.with_flag`) or by `settle`.
    """

    def __init__(self) -> None:
        """Nothing is asked for yet."""
        self.signal: int | None = None
        self.noted: int | None = None
        self._alone = processes.alone()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: object) -> None:
        self.noted = number
        if self._alone:
            self.signal = number
        self._restore()

    def hear(self, metrics: dict[str, Any]) -> None:
        """Take what a step says that all processes have noted, if it says it."""
        if "flag" in metrics:
            self.signal = self.signal or int(np.asarray(metrics["flag"])) or None

    def settle(self) -> None:
        """Agree with the other processes, between two steps."""
        self.signal = self.signal or processes.highest(self.noted or 0) or None

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __exit__(self, *exc: object) -> None:
        self._restore()


@dataclasses.dataclass
class Callbacks:
    """What `fit` calls: each is a plain function of the experiment."""

    evaluate: Callable[[State], dict[str, float]]  # "val_loss", and "val_iou", which decides which is best
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
    parts: int = 1,
) -> State:
    """Train until the budget is spent or `stop` is asked for; `position` is moved along.

    `batches` yields (device batch, ids) and stands at `position.step`; where several processes read a batch in `parts`,
    each knows the ids of its own. With `max_minutes` the end of the learning-rate schedule is moved after the first
    steps and after every epoch to where the time will run out.
    """
    began = time.perf_counter() - position.seconds
    if budget.max_minutes is None or position.planned_minutes != budget.max_minutes:
        position.planned_epochs, position.planned_minutes = budget.epochs, budget.max_minutes
    position.planned_epochs = min(position.planned_epochs, budget.epochs)
    if budget.max_minutes is None:
        state = replan(state, budget.epochs * steps_per_epoch)
    pace = Pace(began, steps_per_epoch, budget)
    while not _spent(position, budget):
        started, first = time.perf_counter(), position.step
        state, row = _epoch(state, position, step, batches, steps_per_epoch, pace, callbacks.say, stop, parts)
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
        stop.settle()
        if stop.signal is not None:
            return state
    if stop.signal is not None:
        callbacks.save(state, position, None)
    return state


def _spent(position: Position, budget: Budget) -> bool:
    waited = budget.patience is not None and position.epoch - position.best_epoch >= budget.patience
    return position.epoch >= position.planned_epochs or waited


def _epoch(
    state: State, position: Position, step: Callable, batches: Iterator, steps: int, pace: "Pace",
    say: Callable[[str], None], stop: StopRequest, parts: int,
) -> tuple[State, dict[str, Any]]:  # fmt: skip
    """The rest of the epoch in which `position` stands. One step is always under way while the host works."""
    from tqdm import tqdm

    began, waited, images, pending = time.perf_counter(), 0.0, 0, None
    first = position.step - position.epoch * steps
    with tqdm(
        total=steps, initial=first, desc=f"epoch {position.epoch + 1}", leave=False, dynamic_ncols=True,
        disable=None if processes.first() else True,
    ) as bar:  # fmt: skip
        for _ in range(first, steps):
            before = time.perf_counter()
            batch, ids = next(batches)
            waited += time.perf_counter() - before
            state, metrics = step(state, batch)
            if pending is not None:
                loss = _finish(pending, position, pace.budget, say)
                stop.hear(pending[0])
                state = pace.after_step(state, position, say)
                share = waited / (time.perf_counter() - began)
                bar.set_postfix_str(
                    f"loss {loss:.4f}, {images / (time.perf_counter() - began):.1f} images/s, data {share:.0%}"
                )
                bar.update()
            pending = (metrics, ids)
            images += len(ids) * parts
            if stop.signal is not None:
                break
        if pending is not None:
            _finish(pending, position, pace.budget, say)
            stop.hear(pending[0])
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
