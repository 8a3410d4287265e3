import itertools
import os
import signal
import time
from unittest import mock

import jax.numpy as jnp
import optax
import pytest

from unet_jax import training
from unet_jax.logs import duration
from unet_jax.loop import Budget, Callbacks, NonFiniteLoss, Position, StopRequest, fit


class Run:
    """A run whose step takes no time: what `fit` did, and in which order."""

    def __init__(self, scores=(), losses=None, norms=None, stop_at=None):
        self.scores, self.losses, self.norms, self.stop_at = list(scores), losses or {}, norms or {}, stop_at
        self.events, self.rows, self.said = [], [], []

    def step(self, state, batch):
        if self.stop_at == batch:
            os.kill(os.getpid(), signal.SIGTERM)
        return state.replace(step=state.step + 1), {
            "loss": self.losses.get(batch, 1.0 + batch),
            "grad_norm": self.norms.get(batch, 1.0),
        }

    def evaluate(self, state):
        score = self.scores.pop(0) if self.scores else 0.5
        return {"val_loss": score if score != score else 0.1, "val_iou": score, "val_dice": score}

    def save(self, state, position, score):
        self.events.append((int(state.step), position.step, position.epoch, score))

    def fit(self, position=None, *, epochs=2, steps=5, patience=None, max_minutes=None, skip=0):
        self.position = position or Position()
        optimizer = training.scheduled(1.0, epochs * steps)
        state = training.State(jnp.asarray(self.position.step), {}, {}, optimizer.init({}), jnp.zeros(2, jnp.uint32))
        start = self.position.step
        with StopRequest() as stop:
            return fit(
                state,
                self.position,
                step=self.step,
                batches=((i, [f"image{i}"]) for i in itertools.count(start)),
                steps_per_epoch=steps,
                budget=Budget(epochs, max_minutes, patience, skip),
                callbacks=Callbacks(self.evaluate, self.rows.append, self.save, self.said.append),
                stop=stop,
            )


def test_epochs_and_rows():
    run = Run([0.3, 0.6])
    state = run.fit()
    assert int(state.step) == 10
    assert run.events == [(5, 5, 1, 0.3), (10, 10, 2, 0.6)]
    # losses are 1 + step index: mean of 1..5, of 6..10
    assert [row["train_loss"] for row in run.rows] == [3.0, 8.0]
    assert (run.position.best_epoch, run.position.best_score) == (2, 0.6)


def test_patience_counts_from_the_best_epoch():
    run = Run([0.5, 0.7, 0.6, 0.6, 0.9])
    run.fit(epochs=9, patience=2)
    assert run.position.epoch == 4


def test_resume_in_mid_epoch_keeps_the_mean_loss():
    run = Run([0.5, 0.5], stop_at=7)
    run.fit()
    # The signal comes while step index 7 runs: that step is finished and counted, then the state is saved.
    assert run.events[-1] == (8, 8, 1, None)
    later = Run([0.5])
    later.fit(run.position)
    assert later.events == [(10, 10, 2, 0.5)]
    assert later.rows[0]["train_loss"] == 8.0


def test_a_stop_at_the_last_step_of_an_epoch_keeps_its_score():
    run = Run([0.8], stop_at=4)
    run.fit()
    assert run.events == [(5, 5, 1, 0.8)]
    assert (run.position.best_epoch, run.position.loss_sum) == (1, 0.0)


def test_gradient_or_validation_that_is_not_finite_saves_nothing_more():
    run = Run(norms={9: float("inf")})  # of the last step of epoch 2: its loss was still finite
    with pytest.raises(NonFiniteLoss, match=r"gradient inf at step 10.*'image9'"):
        run.fit()
    assert run.events == [(5, 5, 1, 0.5)]
    run = Run([0.5, float("nan")])
    with pytest.raises(NonFiniteLoss, match=r"validation loss is nan after step 10.*--learning-rate"):
        run.fit()
    assert run.events == [(5, 5, 1, 0.5)]


def test_loss_that_is_not_finite_names_step_and_images_and_saves_nothing_more():
    run = Run(losses={6: float("nan")})
    with pytest.raises(NonFiniteLoss, match=r"nan .*at step 7.*'image6'.*--learning-rate"):
        run.fit()
    assert run.events == [(5, 5, 1, 0.5)]


def test_steps_that_are_not_finite_are_skipped_and_counted_up_to_a_number():
    nan = float("nan")
    run = Run(losses={1: nan, 6: nan}, norms={8: float("inf")})
    with pytest.raises(NonFiniteLoss, match=r"at step 9.*'image8' \(2 steps were skipped before\): look at"):
        run.fit(skip=2)
    assert run.rows[0]["train_loss"] == 3.25  # the mean of 1, 3, 4 and 5: step index 1 does not count
    assert run.rows[0]["skipped_steps"] == 1
    assert "skipped (1 of at most 2): the loss is nan and its gradient 1.0 at step 2" in run.said[0]
    run = Run(losses={1: nan, 6: nan}, norms={8: float("inf")}, stop_at=6)
    run.fit(skip=3)
    later = Run(norms={8: float("inf")})
    later.fit(run.position, skip=3)
    assert (later.position.skipped, later.rows[0]["train_loss"]) == (3, 8.0)  # the mean of 6, 8 and 10


def test_estimate_and_plan_of_a_run_in_minutes():
    run = Run()
    state = run.fit(epochs=3, steps=20)
    assert "as asked" in run.said[0]
    few = Run()
    few.fit(epochs=3, steps=4)  # too few steps for that: the estimate comes after the first epoch
    assert len(few.said) == 1
    assert "the whole run less than" in few.said[0]
    assert int(optax.tree_utils.tree_get(state.opt_state, "planned_steps")) == 60
    short = Run()
    state = short.fit(epochs=10**6, steps=20, max_minutes=0.02)
    assert 1 <= short.position.epoch < 10**5
    assert int(optax.tree_utils.tree_get(state.opt_state, "planned_steps")) == short.position.step


def test_a_finished_run_in_minutes_stays_finished_unless_it_gets_more():
    run = Run()
    run.fit(epochs=10**6, steps=20, max_minutes=0.02)
    done = run.position.epoch
    again = Run()
    again.fit(run.position, epochs=10**6, steps=20, max_minutes=0.02)
    assert (again.position.epoch, again.events) == (done, [])
    again.fit(run.position, epochs=10**6, steps=20, max_minutes=0.04)
    assert again.position.epoch > done


def test_the_slow_first_steps_of_a_resumed_run_do_not_end_it():
    """Stopped two steps before an epoch's end; resumed, these two hold the compilation of a second."""
    run = Run(stop_at=217)
    run.fit(epochs=10**6, steps=20, max_minutes=0.05)
    assert run.position.step == 218
    planned = run.position.planned_epochs
    later, fast = Run(), Run.step

    def slow(self, state, batch):
        time.sleep(0.4 if batch < 220 else 0)
        return fast(self, state, batch)

    with mock.patch.object(Run, "step", slow):
        later.fit(run.position, epochs=10**6, steps=20, max_minutes=0.05)
    assert later.events[0][1] == 220
    assert later.position.epoch > 12, f"planned: {planned}"
    assert later.said == []


def test_a_second_signal_is_not_swallowed():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    try:
        _interrupt_twice()
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt_twice():
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_durations():
    assert [duration(s) for s in (48.2, 450, 11520)] == ["48 s", "7.5 min", "3.2 h"]
