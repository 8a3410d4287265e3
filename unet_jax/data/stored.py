"""Arrays of more axes than an image has: TIFF stacks, NIfTI volumes, zarr arrays and OME-Zarr; read a part at a time.

Axes are letters: z y x of space, c of channels, t of time, any other an axis of pages. A model of two spatial axes sees
each z, t and page as an image of its own; one of three takes z (or the only axis of pages) as depth.
"""

import itertools
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unet_jax.claims import Refused, check_pages, take
from unet_jax.data.decode import check_plain, check_tiff, has_alpha, is_complete
from unet_jax.data.tiff_claims import check_chain, check_ome, check_own_sizes
from unet_jax.data.zarr_claims import check_array

NIFTI, ZARR = (".nii", ".nii.gz"), (".zarr",)
_MOST_CHANNELS = 4096
_ZARR_FILES = ("zarr.json", ".zarray", ".zgroup")


class Stored(NamedTuple):
    """An array that gives its parts by index, a letter for each of its axes, and the channels that count.

    `grid` says where the voxels of a NIfTI volume lie (`nifti.Grid`).
    """

    array: Any
    axes: str
    channels: int
    close: Callable[[], None] = lambda: None
    grid: Any = None

    def size(self, axis: str) -> int:
        """Length of an axis; 1 when there is none of that letter."""
        return int(self.array.shape[self.axes.index(axis)]) if axis in self.axes else 1


class Page(NamedTuple):
    """One image of a file: which of its series, the place along each axis that is not the image's, and its name."""

    series: int = 0
    place: tuple[int, ...] = ()
    suffix: str = ""


def is_nifti(path: Path) -> bool:
    """Whether the name ends as those of NIfTI do."""
    return path.name.lower().endswith(NIFTI)


def is_zarr(path: Path) -> bool:
    """Whether it is a folder that holds a zarr array or group."""
    return path.is_dir() and any((path / name).is_file() for name in _ZARR_FILES)


def open_stored(path: Path, rank: int) -> list[Stored]:
    """The arrays of a file; none for a file that holds one image of two axes, which `read_image` reads.

    Raises Refused, or whatever the decoder raises.
    """
    if is_nifti(path):
        return [_arranged(_open_nifti(path, rank), rank)]
    if is_zarr(path):
        return [_arranged(_open_zarr(path, rank), rank)]
    check_plain(path)
    with path.open("rb") as file:
        is_tiff = file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    return _open_tiff(path, rank) if is_tiff else []


def pages(arrays: list[Stored], rank: int) -> list[Page]:
    """The images of a file, in order; a suffix such as _p001, _t02_z005 tells them apart when there are several."""
    found = []
    for series, stored in enumerate(arrays):
        axes = page_axes(stored.axes, rank)
        for place in itertools.product(*(range(stored.size(axis)) for axis in axes)):
            words = [
                f"_{axis if axis in 'tz' else 'p'}{number + 1:0{max(3, len(str(stored.size(axis))))}d}"
                for axis, number in zip(axes, place, strict=True)
                if stored.size(axis) > 1
            ]
            words = [f"_p{series + 1:03d}", *words] if len(arrays) > 1 else words
            found.append(Page(series, place, "".join(words)))
    return found


def page_axes(axes: str, rank: int) -> str:
    """The axes that are neither the image's nor its channels."""
    return "".join(axis for axis in axes if axis not in space(rank) + "c")


def space(rank: int) -> str:
    """Letters of the axes of an image."""
    return "zyx"[-rank:]


def _arranged(stored: Stored, rank: int) -> Stored:
    """With every axis of space there; Refused when there are too few."""
    axes, array = stored.axes, stored.array
    others = [axis for axis in axes if axis not in "tczyx"]
    if rank == 3 and "z" not in axes and len(others) == 1:
        axes = axes.replace(others[0], "z")
    if missing := [axis for axis in space(rank) if axis not in axes]:
        raise Refused(
            f"has the axes {axes}, shape {tuple(array.shape)}, without {' and '.join(missing)}: this model takes "
            f"{'volumes' if rank == 3 else 'images'} of {rank} axes"
        )
    if np.dtype(array.dtype).kind not in "buif":
        raise Refused(f"holds numbers of type {array.dtype}: save it as 8-bit, 16-bit or float32")
    if 0 in array.shape:
        raise Refused(f"has no pixels, shape {tuple(array.shape)}: save it again")
    stored = stored._replace(axes=axes)
    if stored.size("c") > _MOST_CHANNELS:
        raise Refused(f"has {stored.size('c')} channels, more than {_MOST_CHANNELS}: name its axes again, or split it")
    check_pages(math.prod(stored.size(axis) for axis in page_axes(axes, rank)))
    if rank == 3:  # a volume is read whole
        take(math.prod(stored.size(axis) for axis in "zyxc") * np.dtype(array.dtype).itemsize)
    return stored


def _stored(array: Any, axes: str, close: Callable[[], None] = lambda: None, alpha: bool = False) -> Stored:
    """Axes of unknown letters become p, q, r ...; the last channel is left out when it is `alpha`."""
    unknown = iter("pqruvw")
    axes = "".join(axis if axis in "tczyx" else next(unknown) for axis in axes)
    channels = int(array.shape[axes.index("c")]) if "c" in axes else 1
    return Stored(array, axes, channels - alpha, close)


def _open_nifti(path: Path, rank: int) -> Stored:
    """Volumes turned as models are trained, right, front, up; as images, slices of the file: rows are y, columns x."""
    from unet_jax.data.nifti import read_nifti, to_ras

    try:
        values, grid = read_nifti(path)
    except ValueError as error:  # which names the file already
        raise Refused(str(error).removeprefix(str(path)).lstrip(": ")) from error
    if rank == 3:
        return _stored(to_ras(values, grid)[0], "zyxc")._replace(grid=grid)
    return _stored(values, "xyzc")


def _open_tiff(path: Path, rank: int) -> list[Stored]:
    import tifffile

    with path.open("rb") as file:
        check_chain(file)
    tiff = tifffile.TiffFile(path)
    try:
        check_ome(tiff.ome_metadata)
        series = [part for part in tiff.series if not part.keyframe.is_reduced]
        if rank == 2 and len(series) == 1 and series[0].ndim - ("S" in series[0].axes) == 2:
            tiff.close()
            return []
        import zarr

        _check_last(tiff)
        found = []
        for part in series:
            _check_pages(part, tiff)
            if "S" in part.axes and "C" in part.axes:
                raise Refused(f"has channels of colours (axes {part.axes}, shape {part.shape}): save one or the other")
            array = zarr.open_array(part.aszarr(level=0), mode="r")
            stored = _stored(array, part.axes.lower().replace("s", "c"), tiff.close, has_alpha(part.keyframe))
            found.append(_arranged(stored, rank))
        return found
    except BaseException:
        tiff.close()
        raise


def _check_last(tiff: Any) -> None:
    """Refused when the last page names one after it, which then lies beyond the end of the file."""
    layout, file = tiff.tiff, tiff.filehandle
    file.seek(tiff.pages[-1].offset)
    (tags,) = struct.unpack(layout.tagnoformat, file.read(layout.tagnosize))
    file.seek(tags * layout.tagsize, 1)
    if any(file.read(layout.offsetsize)):
        raise Refused("is damaged or truncated, some of its pages are missing: copy it again")


def _check_pages(part: Any, tiff: Any) -> None:
    size, first = tiff.filehandle.size, part.keyframe
    check_tiff(first, tiff.filehandle)
    if int(first.photometric) not in (1, 2, 6):
        raise Refused(f"is a stack with the colours {first.photometric!s}: convert it to grey or RGB")
    together = len(part.pages) == 1 and part.size > first.size  # as ImageJ does: the pages follow the first
    if (together and first.dataoffsets[0] + part.nbytes > size) or not all(
        page is None or is_complete(page, size)
        for page in part.pages  # an OME-TIFF may leave out pages, which are zero
    ):
        raise Refused("is damaged or truncated, some of its pages are missing: copy it again")
    for page in part.pages:
        if page is not None and page is not first:
            check_own_sizes(page, first, tiff.filehandle)


def _open_zarr(path: Path, rank: int) -> Stored:
    import zarr

    node = zarr.open(path, mode="r")
    if isinstance(node, zarr.Array):
        names = getattr(node.metadata, "dimension_names", None) or node.attrs.get("_ARRAY_DIMENSIONS")
        axes = _named_axes(names, node.ndim) or _guessed_axes(node.shape, rank)
        array = node
    else:
        array, axes = _open_group(node, rank)
    check_array(array)
    return _stored(array, axes)


def _open_group(group: Any, rank: int) -> tuple[Any, str]:
    """The full resolution of an OME-Zarr image (versions 0.1 to 0.5), or the only array of another group."""
    ome = group.attrs.get("ome", group.attrs)
    if scales := ome.get("multiscales"):
        array = group[scales[0]["datasets"][0]["path"]]
        words = scales[0].get("axes", list("tczyx"))
        names = [word if isinstance(word, str) else word["name"] for word in words]
        axes = _named_axes(names, array.ndim)
        if axes is None:
            raise Refused(f"has axes {names} for an array of shape {array.shape}: write its metadata again")
        return array, axes
    arrays = sorted(name for name, _ in group.arrays())
    if len(arrays) != 1:
        inner = ", ".join(sorted(name for name, _ in group.members())[:8]) or "nothing"
        raise Refused(f"is a group without an image of its own (it holds {inner}): name the image in it")
    array = group[arrays[0]]
    return array, _guessed_axes(array.shape, rank)


def _named_axes(names: Any, ndim: int) -> str | None:
    """A letter each; None when there are no names."""
    if not names or None in names or len(names) != ndim:
        return None
    short = {"channel": "c", "channels": "c", "time": "t"}
    letters = [short.get(str(name).lower(), str(name).lower()[:1]) for name in names]
    return "".join(letters) if len(set(letters) & set("tczyx")) == len([a for a in letters if a in "tczyx"]) else None


def _guessed_axes(shape: tuple[int, ...], rank: int) -> str:
    """Of an array that says nothing about them: up to four at the end are channels."""
    channels = len(shape) > rank and shape[-1] <= 4
    if len(shape) - channels > 4:
        raise Refused(f"has the shape {tuple(shape)} and no names for its axes: write dimension_names into it")
    return "pzyx"[-(len(shape) - channels) :] + "c" * channels
