"""Checkpoints: the state's arrays by orbax, and beside them a card that says what they are.

A folder `checkpoints/STEP/` holds `state` (arrays) and `card` (JSON): the model's spec, input channels, normalisation,
class names, patch size, resolved config, library version, git commit, scores, and the position of the run. Prediction
needs nothing else. The two latest and the best checkpoints are kept. A save that is cut off leaves no checkpoint under
a final name.
"""

import json
import math
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

import unet_jax
from unet_jax.logs import write_json
from unet_jax.training import State

CARD_FORMAT = 1
NO_SCORE = -1.0  # below every score: orbax would take a NaN for the best


class Checkpoints:
    """The checkpoints of one run; the best one is that of the highest `score`."""

    def __init__(self, folder: str | Path):
        def score(metrics: Mapping[str, float]) -> float:
            return metrics["score"]

        keep = policies.AnyPreservationPolicy([policies.LatestN(2), policies.BestN(get_metric_fn=score, n=1)])
        options = ocp.CheckpointManagerOptions(preservation_policy=keep, best_fn=score, best_mode="max")
        self.folder = Path(folder).absolute()
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def save(self, state: State, card: Mapping[str, Any], *, score: float | None = None) -> None:
        """Save in the background under the state's step; does nothing when that step is saved already."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(state), card=ocp.args.JsonSave({"format": CARD_FORMAT, **card})
        )
        usable = score is not None and math.isfinite(score)
        self._manager.save(step, args=items, metrics={"score": float(score) if usable else NO_SCORE}, force=True)

    def restore(self, template: State, *, which: str = "latest") -> tuple[State, dict[str, Any]]:
        """State and card of the "latest" or the "best" checkpoint, laid out on the devices as `template` is."""
        self.wait()
        step = self._manager.latest_step() if which == "latest" else self._manager.best_step()
        if step is None:
            raise FileNotFoundError(f"{self.folder} holds no checkpoint: train one first, or leave out --resume")
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), template)
        items = ocp.args.Composite(
            state=ocp.args.PyTreeRestore(abstract, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract)),
            card=ocp.args.JsonRestore(),
        )
        restored = self._manager.restore(step, args=items)
        return restored.state, dict(restored.card)

    def amend(self, changes: Mapping[str, Any], *, which: str = "best") -> None:
        """Add `changes` to the card of a checkpoint: what was found out after it was saved."""
        self.wait()
        step = self._manager.latest_step() if which == "latest" else self._manager.best_step()
        path = self.folder / str(step) / "card" / "metadata"
        write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **changes})

    def latest_step(self) -> int | None:
        """Step of the newest whole checkpoint, or None."""
        return self._manager.latest_step()

    def wait(self) -> None:
        """Return when every save has reached the disk."""
        self._manager.wait_until_finished()

    def __enter__(self) -> "Checkpoints":
        """The checkpoints themselves."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Finish the saves under way and let go of the folder."""
        self._manager.close()


def load(folder: str | Path, *, which: str = "best") -> tuple[dict[str, Any], dict[str, Any]]:
    """Variables (params and model state, numpy) and card of the "best" or "latest" checkpoint, for prediction.

    Neither the optimiser nor the experiment need be known, nothing in the folder is changed, and a training that
    writes to it is not disturbed. Raises FileNotFoundError when there is no checkpoint or no card in it, ValueError for
    a damaged one or another `which`.
    """
    from unet_jax.data.tfds import quiet

    folder = Path(folder).absolute()
    if which not in ("best", "latest"):
        raise ValueError(f'no checkpoint {which!r}: choose "best" or "latest"')
    options = ocp.CheckpointManagerOptions(
        read_only=True, create=False, save_interval_steps=0, best_fn=lambda scores: scores["score"], best_mode="max"
    )
    with quiet(), ocp.CheckpointManager(folder, options=options) as manager:  # it would say that it only reads
        step = manager.best_step() if which == "best" else manager.latest_step()
        if step is None:
            raise FileNotFoundError(f"{folder} holds no checkpoint: name the folder of a training that has saved one")
        here = folder / str(step)
        if not (here / "card").is_dir():
            raise FileNotFoundError(f"{here} holds no card, which says what the model is: copy the folder again, whole")
        try:
            saved = ocp.PyTreeCheckpointHandler().metadata(here / "state").tree
            wanted = {name: saved[name] for name in ("params", "model_state") if name in saved}
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
            state = ocp.args.PyTreeRestore(wanted, restore_args=as_numpy, partial_restore=True)
            found = manager.restore(step, args=ocp.args.Composite(state=state, card=ocp.args.JsonRestore()))
            variables = {"params": found.state["params"], **found.state.get("model_state", {})}
        except Exception as error:  # orbax, tensorstore and json each raise their own
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
            raise ValueError(f"{here} is damaged or truncated ({reason[:200]}): copy the folder again") from error
    return variables, dict(found.card)


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
