"""One training between its first or last checkpoint and the end of its budget, the same for every experiment."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from unet_jax import memory, parallel, processes, remote
from unet_jax.checkpoint import Checkpoints
from unet_jax.lock import locked
from unet_jax.logs import MetricsLog, epoch_line, plain
from unet_jax.loop import Budget, Callbacks, Position, StopRequest, fit
from unet_jax.profiling import Profile
from unet_jax.training import State
from unet_jax.workdir import check_shared, open_workdir

Step = Callable[[State, Any], tuple[State, dict[str, Any]]]


class Run(NamedTuple):
    """The open folder of a run; the first of several processes alone has the log."""

    workdir: Path
    checkpoints: Checkpoints
    log: MetricsLog | None


@contextmanager
def opened(config: Any) -> Iterator[Run]:
    """The folder `config.workdir`, made, locked against other runs, with the config dataclass written into it.

    Of several processes the first does so for all; ValueError when another does not see the same folder.
    """
    folder, stack = config.workdir, ExitStack()

    def take() -> MetricsLog:
        stack.enter_context(locked(folder))
        open_workdir(folder, dataclasses.asdict(config))
        return stack.enter_context(MetricsLog(folder))

    with stack:
        log = processes.first_does(take)
        check_shared(folder)
        try:
            yield Run(folder, stack.enter_context(Checkpoints(remote.checkpoints_of(folder))), log)
        except BaseException:
            try:
                remote.send(folder)
            except OSError as error:  # of a bucket out of reach; why the run ended is what counts
                logging.getLogger("unet_jax").warning("%s: not everything could be copied: %s", folder, error)
            raise
        remote.send(folder)


def check_meaning(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """ValueError when the classes of a run's card are not those that the masks are read as now, or the images others.

    The arrays fit all the same, and a class would be learnt on as another, or an image be tested that was learnt. What
    only one of the cards says (an older version's has fewer fields), and what it only notes, does not count.
    """
    for name, words in (("train_images", "training"), ("test_images", "test")):
        if before.get(name) is not None and now.get(name) not in (None, before[name]):
            raise ValueError(
                f"the {words} images are not those that this run began with: put back what was taken away and take "
                "away what was added, or begin anew in another --workdir (with --init and this folder, from its model)"
            )
    for name in ("classes", "label_map"):
        old, new = plain(before.get(name)), plain(now.get(name))
        if isinstance(old, dict) and isinstance(new, dict):
            both = old.keys() & new.keys() - {"notes"}
            old, new = ({key: part[key] for key in both} for part in (old, new))
        if old is not None and old != new:
            raise ValueError(
                f"this run learnt the {name} {old}, and the masks are read as {new} now: give masks and options as "
                "they were, or begin anew in another --workdir"
            )


def run_training(
    run: Run,
    state: State,
    *,
    step: Step,
    batches: Callable[..., Iterator[Mapping[str, Any]]],
    batch: int,
    steps_per_epoch: int,
    validate: Callable[[State], dict[str, float]],
    budget: Budget,
    card: Mapping[str, Any],
    mesh: Mesh,
    resume: bool,
    say: Callable[[str], None],
    compiled: Callable[[Step], Step] | None = None,
    mends: str = "a smaller --batch, or fewer --widths",
    profile: Path | None = None,
) -> tuple[State, Position, int | None]:
    """Train from `state`, or from the last checkpoint to resume, saving after every epoch.

    Args:
        run: the open folder, which takes checkpoints and log.
        state: fresh; it also says how a restored one is laid out.
        step: the training step, not compiled yet.
        batches: (start_step, rows) -> host batches of these rows (a slice) from a step on, endless.
        batch: rows of the whole batch.
        steps_per_epoch: training steps between two validations.
        validate: scores of an epoch, "val_loss" and "val_iou" (which decides the best checkpoint) among them.
        budget: when to stop.
        card: what every checkpoint says of the model; the position is added.
        mesh: the batch is split over its devices.
        resume: go on where the last checkpoint stands.
        say: takes each line for the user.
        compiled: makes the step a program; jit over the mesh, which says what memory it needs, when None.
        mends: what helps when the memory runs out.
        profile: folder for a trace of ten steps.

    Returns:
        The last state, where the run stands, and the signal that stopped it, or None at its end.
    """
    position, rows, several = Position(), parallel.rows_here(mesh, batch), not processes.alone()
    state = parallel.replicate(state, mesh)
    workdir, checkpoints, log = run
    if resume:
        if checkpoints.latest_step() is not None:
            state, saved = checkpoints.restore(state)
            check_meaning(saved, card)
            position = Position(**saved["position"])
        if log is not None:
            log.truncate_after(position.step)
        say(f"resumed after {position.epoch} epochs, at step {position.step}")

    def epoch_done(row: dict[str, Any]) -> None:
        if log is not None:
            log.append(row)
            remote.send(workdir)
        say(epoch_line(row))

    def save(state: State, position: Position, score: float | None) -> None:
        checkpoints.save(state, {**card, "position": dataclasses.asdict(position)}, score=score)

    if compiled is None:
        step = parallel.with_flag(step) if several else step
        jitted = jax.jit(step, donate_argnums=0, out_shardings=parallel.replicated(mesh))
        step = memory.measured(jitted, list(mesh.local_devices), mends=mends, say=say)
    else:
        step = compiled(step)
    traced = Profile(profile or checkpoints.folder, say=say, steps=10 if profile and processes.first() else 0)
    with StopRequest() as stop, memory.mended(mends), traced:

        def shards(host: Mapping[str, Any]) -> dict[str, Any]:
            placed = parallel.shard(host, mesh, size=batch)
            return {**placed, "flag": parallel.flag(stop.noted or 0, mesh)} if several else placed

        placed = ((shards(b), [str(i) for i in b["id"]]) for b in batches(start_step=position.step, rows=rows))
        state = fit(
            state,
            position,
            step=traced.watch(step),
            batches=placed,
            steps_per_epoch=steps_per_epoch,
            budget=budget,
            callbacks=Callbacks(validate, epoch_done, save, say),
            stop=stop,
            parts=batch // (rows.stop - rows.start),
        )
    if stop.signal is not None:
        say(f"stopped at step {position.step}; to go on: --workdir {workdir} --resume")
    return state, position, stop.signal
