"""How to train on a folder of images and class masks: a plan out of the folder's own statistics, with its reasons.

Statistics come in, a plan goes out, and nothing else is looked at, so that a plan can be tabulated, tested and argued
with. Every choice can be given instead; what follows from it then follows from what was given.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

SMALLEST = 8  # pixels along an axis at the bottom of the network
LEAST_DEPTH = 3  # down-samplings that a named patch must allow, where it is large enough: fewer see too little around
CPU_STEPS, ACCELERATOR_STEPS = 2_500, 12_000  # a first good model: about 40 minutes on two cores, 20 on one GPU
FEWEST_STEPS = 25  # an epoch, so that a small set is not validated all the time
RARE, VERY_RARE = 0.05, 0.01  # share of the pixels


@dataclasses.dataclass(frozen=True)
class Statistics:
    """What the training images are like; shares are of the pixels that count, class 0 first."""

    images: int
    height: tuple[int, float, int]  # least, median, most, in pixels
    width: tuple[int, float, int]
    channels: int
    dtype: str  # of the numbers in the files
    ranges: tuple[tuple[float, float], ...]  # percentiles 1 and 99.8 of each channel, median over the images
    classes: tuple[str, ...]
    pixel_share: tuple[float, ...]  # of each class
    image_share: tuple[float, ...]  # of the images that hold a pixel of each class
    background: int | None = 0  # the class that is none; None where class 0 is one like any other


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to train, and why; `reasons` holds a sentence for every other field."""

    patch: int  # side of the crops in pixels
    widths: tuple[int, ...]  # filters of each level of the network
    batch: int  # crops a step
    normalisation: str  # "percentile" or "channel-percentile"
    loss: str  # "dice+ce" or "tversky+focal"
    centred: float  # share of the crops that lie around a pixel of a class chosen at random
    balance: float  # images with a class that fewer than this share of the images hold are visited more often
    crops: int  # an epoch
    epochs: int
    reasons: Mapping[str, str] = dataclasses.field(default_factory=dict)


def make_plan(found: Statistics, *, accelerator: bool = False, **given: Any) -> Plan:
    """Plan a training on images like these.

    Args:
        found: statistics of the training images.
        accelerator: whether there is a GPU or a TPU; a CPU gets a narrower network and fewer steps.
        **given: fields of the plan that the user has chosen; None is not chosen.

    Returns:
        The plan; the reason for a field that was given is "given".

    Raises:
        ValueError: for a field that a plan does not have, a patch that the given widths do not divide, and a given
            patch that could be halved more often were it a little larger or smaller.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if unknown := set(given) - {field.name for field in dataclasses.fields(Plan)} | ({"reasons"} & set(given)):
        raise ValueError(f"a plan has no field {', '.join(sorted(unknown))}")
    chosen: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for name, choose in _CHOICES.items():
        if name in given:
            chosen[name], reasons[name] = given[name], "given"
        else:
            chosen[name], reasons[name] = choose(found, accelerator, chosen, given)
    halvings = 2 ** (len(chosen["widths"]) - 1)
    if chosen["patch"] % halvings:
        raise ValueError(
            f"patch {chosen['patch']} with {len(chosen['widths'])} widths: give a multiple of {halvings}, or fewer "
            "widths"
        )
    return Plan(**chosen, reasons=reasons)


def describe(plan: Plan) -> list[str]:
    """A line a choice: what, and why."""
    values = {f.name: getattr(plan, f.name) for f in dataclasses.fields(plan) if f.name != "reasons"}
    return [f"{name:>13}: {_text(value)}; {plan.reasons[name]}" for name, value in values.items()]


def _text(value: Any) -> str:
    return (
        " ".join(map(str, value))
        if isinstance(value, tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _patch(found: Statistics, accelerator: bool, chosen: dict, given: dict) -> tuple[int, str]:
    """The side of a usual image, between 32 and the most that is quick: a larger crop has no more to show."""
    most = 512 if accelerator else 256
    side = math.sqrt(found.height[1] * found.width[1])
    step = 2 ** (len(given["widths"]) - 1) if "widths" in given else 16
    patch = max(min(math.ceil(side / step) * step, most // step * step), step, 32 // step * step)
    size = f"the median image has {found.height[1]:.0f}×{found.width[1]:.0f} pixels"
    if side > most:
        where = "an accelerator" if accelerator else "a CPU"
        return patch, f"{size}, cut into crops of the most that trains well on {where}"
    small = ", smaller ones are mirrored around" if min(found.height[0], found.width[0]) < patch else ""
    fits = "holds one whole" if max(found.height[1], found.width[1]) <= patch else "is about as large"
    return patch, f"{size}: a crop {fits}{small}"


def _widths(found: Statistics, accelerator: bool, chosen: dict, given: dict) -> tuple[tuple[int, ...], str]:
    patch = chosen["patch"]
    fits = max(d for d in range(5) if d == 0 or patch // 2**d >= SMALLEST)
    depth = max(d for d in range(fits + 1) if patch % 2**d == 0)
    if "patch" in given and depth < min(fits, LEAST_DEPTH):
        step = 16 if patch < 256 else 32
        less = patch // step * step
        raise ValueError(
            f"patch {patch} can be halved {depth} times, which makes a shallow network: give "
            f"{f'{less} or ' if less else ''}{less + step}, or the widths too"
        )
    first = 64 if accelerator else 16
    where = "an accelerator" if accelerator else "a CPU"
    bottom = patch // 2**depth
    return tuple(first * 2**level for level in range(depth + 1)), (
        f"{depth} down-samplings leave {bottom}×{bottom} pixels at the bottom; {first} filters suit {where}"
    )


def _batch(found: Statistics, accelerator: bool, chosen: dict, given: dict) -> tuple[int, str]:
    budget = (32 if accelerator else 8) * 256**2
    fits = budget // chosen["patch"] ** 2
    batch = 2 ** int(math.log2(min(max(fits, 2), 32)))
    return batch, f"about {budget / 1e6:.1f} million pixels a step, at least 2 and at most 32 crops"


def _normalisation(found: Statistics, accelerator: bool, chosen: dict, given: dict) -> tuple[str, str]:
    """Colours keep their proportions; bands of different instruments would drown in one another's range."""
    spans = [high - low for low, high in found.ranges]
    if found.channels == 1:
        return "percentile", f"one channel ({found.dtype}): percentiles 1 to 99.8 of each image become 0 to 255"
    if found.channels == 3 and found.dtype == "uint8":
        return "percentile", "colours: all channels of an image are stretched alike, so that colours stay"
    if max(spans) > 4 * max(min(spans), 1e-12) or found.channels > 3:
        return "channel-percentile", (
            f"{found.channels} bands with spans from {min(spans):.4g} to {max(spans):.4g}: each is stretched by itself"
        )
    return "percentile", f"{found.channels} bands of one range: all are stretched alike"


def _loss(found: Statistics, accelerator: bool, chosen: dict, given: dict) -> tuple[str, str]:
    name, share = _rarest(found)
    what = f"{name}, the rarest class, is {_percent(share)} of the pixels"
    if share < VERY_RARE:
        return "tversky+focal", f"{what}: what is missed costs more than what is false, and easy pixels count little"
    return "dice+ce", f"{what}: overlap and cross-entropy together learn quickly"


def _centred(found: Statistics, accelerator: bool, chosen: dict, given: dict) -> tuple[float, str]:
    name, share = _rarest(found)
    seen = chosen["patch"] ** 2 / max(found.height[1] * found.width[1], chosen["patch"] ** 2)
    what = f"{name} is {_percent(share)} of the pixels"
    if share >= 0.2 and len(found.classes) == 2:
        return 0.0, f"{what}: every crop holds some"
    if share < VERY_RARE or seen < 0.1:
        return 0.67, f"{what} and a crop shows {_percent(seen)} of an image: two crops of three lie around a class"
    return 0.33, f"{what}: a crop of three lies around a class, each class equally often"


def _balance(found: Statistics, accelerator: bool, chosen: dict, given: dict) -> tuple[float, str]:
    name, rarest = _least(found, found.image_share)
    if rarest >= 0.2:
        return 0.0, f"the rarest class is in {_percent(rarest)} of the images: all are visited equally often"
    return 0.2, f"{name} is in {_percent(rarest)} of the images: those with rare classes are visited more often"


def _crops(found: Statistics, accelerator: bool, chosen: dict, given: dict) -> tuple[int, str]:
    area = found.height[1] * found.width[1]
    each = max(1, round(math.sqrt(area) / chosen["patch"]))
    least = FEWEST_STEPS * chosen["batch"]
    if found.images * each >= least:
        return found.images * each, f"{found.images} images, {each} of each"
    return least, f"{FEWEST_STEPS} steps between two validations: {found.images} images alone would give fewer"


def _epochs(found: Statistics, accelerator: bool, chosen: dict, given: dict) -> tuple[int, str]:
    steps = ACCELERATOR_STEPS if accelerator else CPU_STEPS
    each = max(1, round(chosen["crops"] / chosen["batch"]))
    return max(10, round(steps / each)), f"about {steps:,} steps of {chosen['batch']} crops in all, at least 10 epochs"


_CHOICES = {
    "patch": _patch,
    "widths": _widths,
    "batch": _batch,
    "normalisation": _normalisation,
    "loss": _loss,
    "centred": _centred,
    "balance": _balance,
    "crops": _crops,
    "epochs": _epochs,
}


def _rarest(found: Statistics) -> tuple[str, float]:
    """The foreground class with the fewest pixels, among those there are, and its share of them."""
    return _least(found, found.pixel_share)


def _least(found: Statistics, shares: Sequence[float]) -> tuple[str, float]:
    """The class with the least share that is not 0, background left out."""
    there = [(share, k) for k, share in enumerate(shares) if share > 0 and k != found.background]
    share, k = min(there, default=(1.0, None))
    return "every class" if k is None else found.classes[k], share


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else "all"
