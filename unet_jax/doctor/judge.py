"""From what was seen of every pair to findings about the set."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from unet_jax.data.labels import anti_aliased, decide_kind, fault_of
from unet_jax.doctor.duplicates import duplicates
from unet_jax.doctor.findings import Case
from unet_jax.doctor.look import Look

Found = Iterator[tuple[str, Case]]
SATURATED = 0.05  # share of the pixels at the brightest value
FAINT = 25.0  # times less contrast than the median image
FOREIGN, USUAL = 0.7, 0.85  # separability of a foreign mask, and the set's median from which it is one
LITTLE = 0.005  # share of all pixels that is foreground


def kind_of(looks: Sequence[Look], asked: str | None) -> tuple[str | None, tuple[str, str] | None]:
    """The label kind, or None and (rule, detail) where the masks do not tell."""
    usable = [seen.values for seen in looks if seen.values.values and not anti_aliased(seen.values, asked)]
    if asked or not usable:
        return asked, None
    try:
        return decide_kind(usable), None
    except ValueError as error:
        found = {value for values in usable for value in values.values if value}
        if found in ({1, 255}, {1, 128, 255}):
            return "binary", ("mixed-foreground", f"{_listed(found)} in different masks")
        return None, ("kind-open", str(error))


def judge(
    looks: Sequence[Look], kind: str | None, parts: Mapping[str, str], name: Callable[[Path], str], *, depth: int,
    patch: int, classes: int | None,
) -> Found:  # fmt: skip
    """All findings that the looks give rise to; `kind` as decided, None where it is open; `parts` by id."""
    for seen in looks:
        if seen.fault:
            code, detail, which = seen.fault
            files = {"image": (seen.pair.image,), "label": (seen.pair.label,)}.get(which, seen.pair[1:])
            yield code, Case(tuple(name(Path(file)) for file in files), detail)
    whole = [seen for seen in looks if seen.fault is None]
    found = list(_images(whole, name, depth=depth, patch=patch))
    yield from found
    dull = {case.files for code, case in found if code in ("flat-image", "low-contrast")}
    bad = set()
    for seen in whole:
        if anti_aliased(seen.values, kind):
            bad.add(seen.pair.id)
            grey = len(seen.values.values)
            yield "anti-aliased", Case((name(seen.pair.label),), f"{grey} values: {_listed(seen.values.values)}")
        elif fault := fault_of(seen.values, kind, classes=classes):
            bad.add(seen.pair.id)
            yield "label-range", Case((name(seen.pair.label),), fault)
    good = [seen for seen in whole if seen.pair.id not in bad]
    yield from _masks(good, kind, name, dull)
    if kind == "classes":
        yield from _rare(good, parts)
    yield from duplicates(whole, [name(seen.pair.image) for seen in whole], parts)


def _images(looks: Sequence[Look], name: Callable[[Path], str], *, depth: int, patch: int) -> Found:
    if not looks:
        return
    channels = Counter(seen.channels for seen in looks).most_common(1)[0][0]
    dtype = Counter(seen.dtype for seen in looks).most_common(1)[0][0]
    contrast = np.median([seen.high - seen.low for seen in looks if seen.finite] or [0.0])
    for seen in looks:
        image = (name(seen.pair.image),)
        if seen.alpha:
            yield "alpha", Case(image)
        if seen.channels != channels:
            yield "channels-differ", Case(image, f"{seen.channels}, most have {channels}")
        if seen.dtype != dtype:
            yield "dtypes-differ", Case(image, f"{seen.dtype}, most are {dtype}")
        if not seen.finite:
            yield "not-finite", Case(image)
            continue
        if seen.high <= seen.low:
            yield "flat-image", Case(image, f"{seen.low:g} nearly everywhere")
        elif seen.dtype == dtype and (seen.high - seen.low) * FAINT < contrast:
            yield "low-contrast", Case(image, f"{seen.low:g} to {seen.high:g}; the median image spans {contrast:g}")
        elif seen.at_top >= SATURATED:
            yield "saturated", Case(image, f"{seen.at_top:.0%} of the pixels")
        size = "×".join(map(str, seen.shape))
        if any(n % 2**depth for n in seen.shape):
            yield "odd-size", Case(image, f"{size}, {depth} levels divide by {2**depth}")
        if len(seen.shape) == 2 and min(seen.shape) < patch:
            yield "small-image", Case(image, f"{size}, the crop is {patch}×{patch}")


def _masks(looks: Sequence[Look], kind: str | None, name: Callable[[Path], str], dull: set[tuple[str, ...]]) -> Found:
    known = [seen.separability for seen in looks if np.isfinite(seen.separability)]
    usual = float(np.median(known)) if known else 0.0
    mixed = len({seen.values.values[-1] for seen in looks if any(seen.values.values)}) > 1
    for seen in looks:
        label = (name(seen.pair.label),)
        if not any(seen.values.values):
            yield "empty-mask", Case(label)
            continue
        if kind == "binary" and not mixed and (white := seen.values.values[-1]) != 1:
            yield "foreground-number", Case(label, f"0 and {white}")
        if 0 not in seen.values.values:
            yield "full-mask", Case(label, f"{_listed(seen.values.values)} everywhere")
        if kind == "instances" and seen.split:
            yield "split-object", Case(label, f"number {_listed(seen.split)}")
        if kind in ("instances", "binary") and seen.specks:
            what = f"number {_listed(seen.specks)}" if kind == "instances" else f"{len(seen.specks)} of them"
            yield "specks", Case(label, what)
        if seen.separability < FOREIGN and usual >= USUAL and (image := name(seen.pair.image),) not in dull:
            detail = f"separability {seen.separability:.2f}; the median image has {usual:.2f}"
            yield "foreign-mask", Case((*label, image), detail)
    total = sum(sum(seen.values.counts) for seen in looks)
    share = sum(seen.foreground * sum(seen.values.counts) for seen in looks) / max(total, 1)
    if 0 < share < LITTLE:
        yield "little-foreground", Case((), f"{share:.2%}")


def _rare(looks: Sequence[Look], parts: Mapping[str, str]) -> Found:
    held: dict[str, set[int]] = {"train": set(), "val": set(), "test": set()}
    for seen in looks:
        held[parts[seen.pair.id]].update(seen.values.values)
    if not all(held.values()):
        return  # too few images, or volumes that are split by hand
    for value in sorted(set().union(*held.values())):
        missing = [part for part, values in held.items() if value not in values]
        if missing:
            files = tuple(seen.pair.id for seen in looks if value in seen.values.values)
            yield (
                "rare-class",
                Case(files, f"class {value} is in {len(files)} images, none of them in {_words(missing)}"),
            )


def _words(parts: Sequence[str]) -> str:
    return " or ".join(parts)


def _listed(values: Sequence[int] | set[int]) -> str:
    order = sorted(values)
    return ", ".join(map(str, order[:8])) + (f", ... {order[-1]}" if len(order) > 8 else "")
