"""Patch and strides of a 3-D network, from the size and the spacing of the volumes, with the reasons."""

import dataclasses
from collections.abc import Mapping, Sequence

SMALLEST = 4  # voxels along an axis at the bottom of the network
COARSE = 2.0  # an axis whose voxels are so many times as long as the shortest is not halved


@dataclasses.dataclass(frozen=True)
class VolumePlan:
    """How volumes are cut for the network, and how it halves them; `reasons` holds a sentence for both."""

    patch: tuple[int, ...]  # voxels along each axis
    strides: tuple[tuple[int, ...], ...]  # of every down-sampling, one number an axis
    reasons: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def lines(self) -> list[str]:
        """A line a choice: what, and why."""
        return [
            f"  patch: {_times(self.patch)} voxels; {self.reasons['patch']}",
            f"strides: {', '.join(map(_times, self.strides))}; {self.reasons['strides']}",
        ]


def plan_volumes(
    size: Sequence[float],
    spacing: Sequence[float],
    *,
    depth: int,
    most: Sequence[int],
    patch: Sequence[int] | None = None,
) -> VolumePlan:
    """Plan for volumes like these.

    A down-sampling halves every axis of at least 2 `SMALLEST` voxels, unless its voxels are `COARSE` times as long as
    the shortest of them, or more: thick slices are halved when their plane has caught up, thin volumes not at all at
    last.

    Args:
        size: voxels of the median volume along each axis.
        spacing: millimetres of a voxel along each axis.
        depth: down-samplings of the network.
        most: the largest patch.
        patch: chosen by the user, in place of the largest that the volumes fill.

    Raises:
        ValueError: for a patch that the strides do not divide, naming one that they do, and for a network that is
            too deep for it.

    Source: Isensee et al. 2021, nnU-Net, supplement: adaptation of the network's topology.
    """
    room = [int(n) for n in patch or map(min, size, most)]
    strides = plan_strides(room, spacing, depth)
    if idle := sum(max(s) == 1 for s in strides):
        raise ValueError(
            f"a patch of {_times(room)} voxels is too small for {depth} down-samplings, of which {idle} could halve "
            f"nothing: use {idle} of the --widths less"
        )
    steps = [2 ** sum(s[axis] == 2 for s in strides) for axis in range(len(room))]
    whole = tuple(n // step * step for n, step in zip(room, steps, strict=True))
    if patch is not None and list(whole) != room:
        up = _times([-(-n // step) * step for n, step in zip(room, steps, strict=True)])
        raise ValueError(f"--patch {_times(room)} cannot be halved as often as planned: give {_times(whole)} or {up}")
    bottom = [n // step for n, step in zip(whole, steps, strict=True)]
    seen = "less" if any(n < m for n, m in zip(room, most, strict=True)) else "not less"
    why = f"the median volume has {_times([round(n) for n in size])} voxels, {seen} than the preset's {_times(most)}"
    reasons = {
        "patch": "given" if patch else why,
        "strides": f"voxels of {_times(spacing)} mm; {_times(bottom)} at the bottom, at least {SMALLEST} along an axis",
    }
    return VolumePlan(whole, strides, reasons)


def plan_strides(size: Sequence[int], spacing: Sequence[float], depth: int) -> tuple[tuple[int, ...], ...]:
    """Strides of every down-sampling, 2 where an axis is halved and 1 where not: see `plan_volumes`."""
    size, spacing, strides = list(size), list(spacing), []
    for _ in range(depth):
        long = [axis for axis, n in enumerate(size) if n >= 2 * SMALLEST]
        finest = min((spacing[axis] for axis in long), default=0.0)
        halved = [axis for axis in long if spacing[axis] < COARSE * finest]
        strides.append(tuple(2 if axis in halved else 1 for axis in range(len(size))))
        for axis in halved:
            size[axis], spacing[axis] = size[axis] // 2, spacing[axis] * 2
    return tuple(strides)


def _times(numbers: Sequence[float]) -> str:
    return "×".join(f"{n:g}" for n in numbers)
