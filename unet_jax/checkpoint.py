"""Checkpoints: the state's arrays by orbax, and beside them a card that says what they are.

A folder `checkpoints/STEP/` holds `state` (arrays) and `card` (JSON): the model's spec, input channels, normalisation,
class names, patch size, resolved config, library version, git commit, scores, and the position of the run. Prediction
needs nothing else. The two latest and the best checkpoints are kept. A save that is cut off leaves no checkpoint under
a final name. The card holds checksums of the arrays and of itself (`sound`).
"""

import contextlib
import json
import logging
import math
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

import unet_jax
from unet_jax import processes, remote, sound
from unet_jax.logs import plain, replacing
from unet_jax.training import State

CARD_FORMAT = 2  # 1 had no checksums
NO_SCORE = -1.0  # below every score: orbax would take a NaN for the best


class Checkpoints:
    """The checkpoints of one run; the best one is that of the highest `score`.

    What is found damaged is said in a logged warning, set aside as damaged-STEP, and used for nothing. All of several
    processes save and restore together; the first writes what all hold alike, and sets aside.
    """

    def __init__(self, folder: str | PurePath):
        def score(metrics: Mapping[str, float]) -> float:
            return metrics["score"]

        keep = policies.AnyPreservationPolicy([policies.LatestN(2), policies.BestN(get_metric_fn=score, n=1)])
        self._options = ocp.CheckpointManagerOptions(preservation_policy=keep, best_fn=score, best_mode="max")
        self.folder = remote.absolute(folder)
        processes.first_does(self._sort_out)
        self._manager = ocp.CheckpointManager(self.folder, options=self._options)

    def save(self, state: State, card: Mapping[str, Any], *, score: float | None = None) -> None:
        """Save in the background under the state's step; does nothing when that step is saved already.

        Raises OSError when this save, or the one before it, could not be written: earlier checkpoints stay as they are.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        score = float(score) if score is not None and math.isfinite(score) else NO_SCORE
        card = sound.sealed({"format": CARD_FORMAT, **card, "score": score}, state)
        items = ocp.args.Composite(state=ocp.args.PyTreeSave(state), card=ocp.args.JsonSave(card))
        with self._saying_what_is_left():
            self._manager.save(step, args=items, metrics={"score": score}, force=True)

    def restore(self, template: State, *, which: str = "latest") -> tuple[State, dict[str, Any]]:
        """State and card of the "latest" or the "best" checkpoint, laid out on the devices as `template` is.

        A damaged one is set aside, and the next best or the one before it taken. Raises FileNotFoundError when there is
        none, ValueError when none is whole or when the checkpoint is that of another network.
        """
        self.wait()
        damaged = []
        for step, card in processes.from_first(sound.in_order(self.folder, which) if processes.first() else []):
            sound.check_layout(self.folder / str(step), card, template)
            state = self._restored(step, card, template)
            if not isinstance(state, sound.Damaged):
                return state, card
            damaged.append(str(state))
        if damaged:
            raise ValueError(f"{self.folder} holds no whole checkpoint any more ({'; '.join(damaged)}): train anew")
        raise FileNotFoundError(f"{self.folder} holds no checkpoint: train one first, or leave out --resume")

    def _restored(self, step: int, card: Mapping[str, Any], template: State) -> State | sound.Damaged:
        """The state, or, once the checkpoint is set aside, what one of the processes has found wrong with it."""
        found: State | sound.Damaged
        try:
            found = sound.restored(self.folder / str(step), card, template)
        except sound.Damaged as error:
            found = error
        wrong = isinstance(found, sound.Damaged)
        if not processes.highest(int(wrong)):
            return found
        error = found if wrong else sound.Damaged(f"{self.folder / str(step)} is damaged, as another process found")
        processes.first_does(lambda: self._set_aside(step, error))
        self._manager.close()
        self._manager = ocp.CheckpointManager(self.folder, options=self._options)
        return error

    def amend(self, changes: Mapping[str, Any], *, which: str = "best") -> None:
        """Add `changes` to the card of a checkpoint: what was found out after it was saved."""
        self.wait()
        step, card = sound.in_order(self.folder, which)[0]
        path = self.folder / str(step) / "card" / "metadata"
        text = json.dumps(sound.resealed({**card, **plain(changes)}))
        if not isinstance(path, Path):  # in a bucket, a file is there whole or not at all
            path.write_text(text)
            return
        with replacing(path) as scratch:
            scratch.write_text(text, encoding="utf-8")

    def latest_step(self) -> int | None:
        """Step of the newest whole checkpoint, or None."""
        return processes.from_first(self._manager.latest_step())

    def wait(self) -> None:
        """Return when every save has reached the disk; OSError when one could not."""
        with self._saying_what_is_left():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _saying_what_is_left(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # orbax and tensorstore each raise their own
            steps = sorted(sound.cards(self.folder)[0])
            left = f"the checkpoint of step {steps[-1]} is whole" if steps else "there is none before it"
            raise OSError(
                f"{self.folder}: a checkpoint could not be written ({sound.reason(error)}); {left}. See whether the "
                "disk is full (df) or may not be written to, then go on with --resume"
            ) from error

    def _sort_out(self) -> None:
        for step, error in sound.cards(self.folder)[1].items():
            self._set_aside(step, error)

    def _set_aside(self, step: int, error: Exception) -> None:
        logging.getLogger("unet_jax").warning("%s; it is set aside, and the one before it used, if there is one", error)
        aside = self.folder / f"damaged-{step}"
        remote.remove(aside)
        (self.folder / str(step)).rename(aside)

    def __enter__(self) -> "Checkpoints":
        """The checkpoints themselves."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Finish the saves under way and let go of the folder."""
        with self._saying_what_is_left():
            self._manager.close()


def load(folder: str | PurePath, *, which: str = "best") -> tuple[dict[str, Any], dict[str, Any]]:
    """Variables (params and model state, numpy) and card of the "best" or "latest" checkpoint, for prediction.

    Neither the optimiser nor the experiment need be known, nothing in the folder is changed, and a training that
    writes to it is not disturbed. In place of a damaged checkpoint the next one is taken, with a logged warning.

    Raises FileNotFoundError when there is no checkpoint or no card in it, ValueError when none is whole or for another
    `which`.
    """
    folder = remote.absolute(folder)
    good = dict(sound.in_order(folder, which))
    damaged = list(sound.cards(folder)[1].values())
    for step, card in good.items():
        try:
            variables = sound.variables(folder / str(step), card)
        except sound.Damaged as error:
            damaged.append(error)
            continue
        for error in damaged:
            logging.getLogger("unet_jax").warning("%s; the checkpoint of step %d is used", error, step)
        return variables, card
    if damaged:
        raise ValueError(f"{damaged[-1]}: copy the folder again, whole")
    raise FileNotFoundError(f"{folder} holds no checkpoint: name the folder of a training that has saved one")


def provenance() -> dict[str, str]:
    """Library version, and the git commit (with "+changes") when the library runs from a checkout."""
    here = Path(unet_jax.__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        changed = "+changes" if commit and git("status", "--porcelain", "--untracked-files=no") else ""
    except FileNotFoundError:  # no git on this machine
        commit, changed = "", ""
    return {"version": unet_jax.__version__, "commit": commit + changed}
