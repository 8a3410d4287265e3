"""Volumes of several modalities: read and checked, brought to one orientation and spacing, and back again."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Shaped, UInt8
from scipy import ndimage

from unet_jax.claims import take
from unet_jax.data.nifti import Grid, from_ras, read_grid, read_nifti, to_ras
from unet_jax.data.normalisation import ZScore
from unet_jax.data.volume_folders import Case, Layout
from unet_jax.shapes import bounding_box

BRAIN = ZScore()  # how grey levels become 8 bits unless told otherwise
IGNORED = 255  # in the labels kept here: a voxel that does not count
Spacing = tuple[float, ...]


def check_case(case: Case, channels: Sequence[str]) -> Grid:
    """Grid of a case from the headers of its files alone.

    Raises ValueError when images and label do not lie in the same place, or channels are missing.
    """
    grids = {path: read_grid(path) for path in (*case.images, *([case.label] if case.label else []))}
    grid = grids[case.images[0]][0]
    for path, (other, count) in grids.items():
        want = len(channels) if path == case.images[0] and len(case.images) == 1 else 1
        if count != want:
            mend = "a label is one" if path == case.label else f"give {', '.join(channels)}, in this order"
            raise ValueError(f"{path} holds {count} volumes instead of {want}: {mend}")
        if not grid.agrees(other):
            raise ValueError(
                f"{path} does not lie where {case.images[0].name} lies: {_place(other)} against {_place(grid)}. "
                "Resample one to the other (nibabel.processing.resample_from_to), or take the files of one export"
            )
    return grid


def _place(grid: Grid) -> str:
    spacing = "×".join(f"{n:g}" for n in grid.spacing)
    origin = ", ".join(f"{n:g}" for n in grid.affine[:3, 3])
    return f"{'×'.join(map(str, grid.shape))} voxels of {spacing} mm, {grid.axes}, the first at ({origin})"


def read_image(case: Case, channels: Sequence[str]) -> tuple[Shaped[np.ndarray, "x y z c"], Grid]:
    """All modalities of a case, as they lie in the files, and their grid; ValueError for what cannot be right."""
    grid = check_case(case, channels)
    parts = [read_nifti(path)[0] for path in case.images]
    image = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
    for channel, name in enumerate(channels):
        part = image[..., channel]
        if (value := part.min()) == part.max():
            path = case.images[channel if len(case.images) > 1 else 0]
            raise ValueError(f"{path}: {name} is empty, every voxel is {value}: export it again, or take the case out")
    return image, grid


def read_label(case: Case, layout: Layout) -> UInt8[np.ndarray, "x y z"]:
    """Class of every voxel as it lies in the file, `IGNORED` where nothing was annotated.

    Raises ValueError for values that the layout does not know.
    """
    values, _ = read_nifti(case.label)
    whole = np.rint(values[..., 0]).astype(np.int64)
    known = {**layout.values, **dict.fromkeys(layout.ignore, IGNORED)}
    found = [int(v) for v in np.unique(whole)]
    if values.dtype.kind == "f" and not np.array_equal(values[..., 0], whole):
        raise ValueError(
            f"{case.label} holds values between whole numbers: a label was interpolated; export it with nearest "
            "neighbours"
        )
    if odd := [v for v in found if v not in known]:
        raise ValueError(f"{case.label} {_mend_of(odd, layout)}")
    table = np.zeros(max(found) - min(found) + 1, np.uint8)
    for value in found:
        table[value - min(found)] = known[value]
    return table[whole - min(found)]


def _mend_of(odd: list[int], layout: Layout) -> str:
    known = ", ".join(f"{value} = {layout.classes[number]}" for value, number in layout.values.items())
    text = f"holds the value{'s' if odd[1:] else ''} {', '.join(map(str, odd))}, but the labels known are {known}"
    if 4 in odd and 4 not in layout.values and 3 in layout.values:
        return (
            f"{text}. 4 is enhancing tumour in BraTS's own numbering (1 non-enhancing, 2 oedema, 4 enhancing; no 3): "
            "name the files as BraTS does (CASE_flair, _t1, _t1ce, _t2, _seg) in a folder a case, or rewrite the labels"
        )
    if 3 in odd and 4 in layout.values:
        return f"{text}. 3 is enhancing tumour since BraTS 2023: name the files as there (-t2f, -t1n, -t1c, -t2w, -seg)"
    return f"{text}: add them to dataset.json, or name one that was not annotated with --ignore"


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """The way from a file's voxels to those the network sees, and back: orientation, spacing, the box around the brain.

    `ras` is the grid in right-front-up order, `size` its shape at the wanted spacing, `box` (3, 2) the part of that
    which is kept.
    """

    file: Grid
    ras: Grid
    size: tuple[int, ...]
    box: tuple[tuple[int, int], ...]

    def forth(self, values: Shaped[np.ndarray, "x y z *c"], *, order: Literal[0, 1]) -> Shaped[np.ndarray, "i j k *c"]:
        """Voxels of the file as the network's; labels with order 0."""
        return resample(to_ras(values, self.file)[0], self.size, order=order)[self._slices]

    def back(self, values: Shaped[np.ndarray, "i j k *n"]) -> Shaped[np.ndarray, "x y z *n"]:
        """Values of the network's voxels as the file's, 0 around; interpolated where the frame `resamples`."""
        whole = np.zeros((*self.size, *values.shape[3:]), values.dtype)
        whole[self._slices] = values
        return from_ras(resample(whole, self.ras.shape, order=1), self.file)

    @property
    def resamples(self) -> bool:
        """Whether the network's voxels are not the file's."""
        return self.size != self.ras.shape

    @property
    def _slices(self) -> tuple[slice, ...]:
        return tuple(slice(a, b) for a, b in self.box)


def prepare(
    image: Shaped[np.ndarray, "x y z c"], grid: Grid, *, spacing: Spacing | None = None, normalise: ZScore = BRAIN
) -> tuple[UInt8[np.ndarray, "i j k c"], Frame]:
    """An image as the network sees it: right-front-up, at one spacing, in 8 bits, cut to the voxels that hold anything.

    Args:
        image: as it lies in the file.
        grid: of the file.
        spacing: millimetres along right, front and up; None leaves it as it is.
        normalise: to 8 bits.
    """
    turned, ras = to_ras(image, grid)
    size = ras.shape if spacing is None else size_at(ras, spacing)
    take(math.prod(size) * image.shape[-1] * 4)
    seen = normalise(resample(turned.astype(np.float32), size, order=1))
    box = bounding_box(seen.any(axis=-1))
    frame = Frame(grid, ras, size, box)
    return np.ascontiguousarray(seen[frame._slices]), frame


def size_at(grid: Grid, spacing: Spacing) -> tuple[int, ...]:
    """Voxels along each axis that fill the same space at another spacing, at least one."""
    pairs = zip(grid.shape, grid.spacing, spacing, strict=True)
    return tuple(max(1, round(n * have / want)) if abs(have / want - 1) > 0.01 else n for n, have, want in pairs)


def spacing_of(grid: Grid) -> Spacing:
    """Millimetres from voxel to voxel to the right, front and up."""
    return to_ras(np.empty(grid.shape, bool), grid)[1].spacing


def common_spacing(grids: Sequence[Grid]) -> Spacing | None:
    """None when all volumes have one spacing (to a hundredth); else the median along right, front and up."""
    spacings = np.array([spacing_of(grid) for grid in grids])
    if np.allclose(spacings, spacings[0], rtol=0.01):
        return None
    return tuple(float(n) for n in np.median(spacings, axis=0))


def resample(
    values: Shaped[np.ndarray, "x y z *c"], size: Sequence[int], *, order: Literal[0, 1]
) -> Shaped[np.ndarray, "i j k *c"]:
    """The same space in `size` voxels: linear (order 1) or nearest (0), voxels standing for cubes, not for points."""
    if tuple(size) == values.shape[:3]:
        return values
    factors = [n / m for n, m in zip(size, values.shape[:3], strict=True)]
    planes = values[..., None] if values.ndim == 3 else values
    out = [
        ndimage.zoom(planes[..., c], factors, order=order, mode="nearest", grid_mode=True)
        for c in range(planes.shape[-1])
    ]
    return out[0] if values.ndim == 3 else np.stack(out, axis=-1)
