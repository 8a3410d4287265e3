"""Whether a checkpoint is what was saved: checksums of its arrays and its card, and sizes checked before reading.

The card lists under "checksums" the SHA-256 of each part of the state (names, shapes, types and bytes of its arrays),
of their layout without the bytes, and of the card itself. Nothing is unpickled: cards are JSON, arrays tensorstore's.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from unet_jax import remote
from unet_jax.claims import memory

CARD_BYTES = 2**24  # a card is some kB
MOST_COMPRESSED = 200  # zstd packs trained parameters 1.1 times; small ones and zeros more
SLACK = 2**24


class Damaged(ValueError):
    """A checkpoint that cannot be what was saved; the message names the folder and says why."""


def sealed(card: Mapping[str, Any], state: Any) -> dict[str, Any]:
    """The card with the checksums of the state's parts, their layout, and the card as JSON gives it back."""
    parts = {name: _digest(getattr(state, name)) for name in state.__dataclass_fields__}
    return resealed(json.loads(json.dumps({**card, "checksums": {**parts, "layout": _layout(state)}})))


def resealed(card: Mapping[str, Any]) -> dict[str, Any]:
    """The card of a checkpoint after a change of its words: with the checksum that it has now."""
    if "checksums" not in card:  # format 1
        return dict(card)
    return {**card, "checksums": {**card["checksums"], "card": _card_digest(card)}}


def cards(folder: PurePath) -> tuple[dict[int, dict[str, Any]], dict[int, Damaged]]:
    """By step, the cards of the checkpoints in a folder that are as they were written, and what is wrong with others.

    FileNotFoundError when a checkpoint was copied without its card.
    """
    good, bad = {}, {}
    found = [path for path in folder.iterdir() if path.name.isdecimal()] if folder.is_dir() else []
    # in a bucket, where nothing can be renamed, a save that was cut off has the final name
    steps = (int(path.name) for path in found if isinstance(path, Path) or ocp.utils.is_checkpoint_finalized(path))
    for step in sorted(steps):
        try:
            good[step] = _card(folder / str(step))
        except Damaged as error:
            bad[step] = error
    return good, bad


def in_order(folder: PurePath, which: str) -> list[tuple[int, dict[str, Any]]]:
    """Step and card of the checkpoints whose card is sound, the "latest" or the "best" first."""
    if which not in ("best", "latest"):
        raise ValueError(f'no checkpoint {which!r}: choose "best" or "latest"')
    good = cards(folder)[0].items()
    if which == "best":
        return sorted(good, key=lambda item: (item[1]["score"], item[0]))[::-1]
    return sorted(good)[::-1]


def check_layout(here: PurePath, card: Mapping[str, Any], template: Any) -> None:
    """ValueError when the checkpoint was made of other arrays than `template`, by name, shape and type."""
    if "checksums" in card and card["checksums"].get("layout") != _layout(template):
        raise ValueError(f"{here} holds another network or optimiser than this run's: give the options of that run")


def restored(here: PurePath, card: Mapping[str, Any], template: Any) -> Any:
    """The state in a checkpoint, laid out on the devices as `template` is; Damaged when it is not what was saved."""
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), template)
    args = ocp.args.PyTreeRestore(abstract, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract))
    try:
        _check_sizes(here)
        state = ocp.PyTreeCheckpointHandler().restore(here / "state", args=args)
    except Exception as error:  # orbax and tensorstore each raise their own
        raise Damaged(f"{here} is damaged or truncated ({reason(error)})") from error
    _compare(here, card, {name: getattr(state, name) for name in state.__dataclass_fields__})
    return state


def variables(here: PurePath, card: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters and model state of a checkpoint as numpy arrays; Damaged when they are not what was saved."""
    try:
        saved = _check_sizes(here)
        wanted = {name: saved[name] for name in ("params", "model_state") if name in saved}
        _check_stored(here, wanted)
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        args = ocp.args.PyTreeRestore(wanted, restore_args=as_numpy, partial_restore=True)
        found = ocp.PyTreeCheckpointHandler().restore(here / "state", args=args)
        parts = {"params": found["params"], "model_state": found.get("model_state", {})}
    except Exception as error:
        raise Damaged(f"{here} is damaged or truncated ({reason(error)})") from error
    _compare(here, card, parts)
    return {"params": parts["params"], **parts["model_state"]}


def reason(error: BaseException) -> str:
    """The first line of an error, short enough for a message."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no reason given'}"[:300]


def _card(here: PurePath) -> dict[str, Any]:
    path = here / "card" / "metadata"
    if not path.parent.is_dir():
        raise Damaged(f"{here} holds no card, which says what the model is")
    try:
        if not path.is_file():
            raise ValueError("the card is no file")
        if remote.size(path) > CARD_BYTES:
            raise ValueError(f"a card of {remote.size(path)} bytes")
        card = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(card, dict):
            raise ValueError("the card is no JSON object")
        sums = card.get("checksums")
        if sums is None and card.get("format") != 1:
            raise ValueError("the card has no checksums")
        if sums is not None and sums["card"] != _card_digest(card):
            raise ValueError("the card's checksum is wrong")
        score = float(json.loads((here / "metrics" / "metrics").read_text(encoding="utf-8"))["score"])
        if card.setdefault("score", score) != score:  # orbax keeps the best by it
            raise ValueError("card and metrics disagree about the score")
    except (ValueError, OSError, TypeError, KeyError, RecursionError) as error:
        raise Damaged(f"{here} is damaged or truncated ({reason(error)})") from error
    return card


def _check_sizes(here: PurePath) -> dict[str, Any]:
    """The tree of what a checkpoint says it holds, which with its chunks must fit into this machine's memory."""
    saved = ocp.PyTreeCheckpointHandler().metadata(here / "state").tree
    room = memory()
    for leaf in jax.tree.leaves(saved):
        chunk = leaf.storage.chunk_shape if leaf.storage is not None else ()
        size = max(math.prod(leaf.shape), math.prod(chunk or ())) * np.dtype(leaf.dtype).itemsize
        room -= size
        if min(leaf.shape, default=0) < 0 or room < 0:
            raise ValueError(f"{leaf.name} says it has the shape {leaf.shape}, more than this machine's memory holds")
    return saved


def _check_stored(here: PurePath, wanted: Any) -> None:
    """Parameters hardly compress: few bytes on the disk cannot be many in memory."""
    claimed = sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(wanted))
    stored = sum(remote.size(file) for file in remote.files(here / "state"))
    if claimed > MOST_COMPRESSED * stored + SLACK:
        raise ValueError(f"it says it holds {claimed} bytes of parameters, in files of {stored}")


def _compare(here: PurePath, card: Mapping[str, Any], parts: Mapping[str, Any]) -> None:
    wrong = [
        name for name, tree in parts.items() if "checksums" in card and card["checksums"].get(name) != _digest(tree)
    ]
    if wrong:
        raise Damaged(f"{here} is damaged: the checksum of {', '.join(wrong)} is wrong")


def _digest(tree: Any) -> str:
    total = hashlib.sha256()
    for name, leaf in _named(tree):
        array = np.ascontiguousarray(leaf)
        total.update(f"{name} {array.dtype.str} {np.shape(leaf)}\n".encode())
        total.update(array.reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def _layout(tree: Any) -> str:
    lines = [f"{name} {np.dtype(leaf.dtype).str} {tuple(leaf.shape)}\n" for name, leaf in _named(tree)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _named(tree: Any) -> list[tuple[str, Any]]:
    leaves = [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
    return sorted(leaves, key=lambda named: named[0])


def _card_digest(card: Mapping[str, Any]) -> str:
    rest = {**card, "checksums": {name: value for name, value in card["checksums"].items() if name != "card"}}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
