"""NIfTI files: voxels, and where they lie in the patient (millimetres to the right, front and up, as nibabel has it).

Everything that could be silently wrong (a file cut short, no orientation, missing numbers) is refused with a mend.
"""

import dataclasses
import gzip
import math
import struct
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Integer, Shaped

from unet_jax.claims import Refused, take
from unet_jax.logs import replacing

_MOST_PACKED = 1032  # no byte of gzip unpacks to more
_HEADER_BYTES = 2**24  # with all its extensions
_PIECE = 2**20  # bytes at a time of what is read and not kept
_BEGINNING = (("i", 0), ("f", 108), ("q", 168))  # size of the header; where the voxels begin, in versions 1 and 2


@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
    """Where voxels lie: `shape` (X, Y, Z) and the `affine` (4, 4) from their indices to millimetres in the patient."""

    shape: tuple[int, ...]
    affine: Float64[np.ndarray, "4 4"]

    @property
    def spacing(self) -> tuple[float, ...]:
        """Millimetres from voxel to voxel along each axis."""
        return tuple(float(n) for n in np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def millilitres(self) -> float:
        """Volume of a voxel."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000

    @property
    def axes(self) -> str:
        """Which way each axis runs, such as "RAS" or "LPS"."""
        import nibabel

        return "".join(nibabel.aff2axcodes(self.affine))

    def agrees(self, other: "Grid") -> bool:
        """Whether the voxels of both lie in the same places, to a tenth of a voxel at the corners."""
        if self.shape != other.shape:
            return False
        corners = np.array(np.meshgrid(*([0, n - 1] for n in self.shape), [1], indexing="ij")).reshape(4, -1)
        moved = np.linalg.norm(((self.affine - other.affine) @ corners)[:3], axis=0)
        return bool(moved.max() <= 0.1 * min(self.spacing))


def read_grid(path: str | Path) -> tuple[Grid, int]:
    """Grid and number of channels (the fourth axis, 1 without it) of a file; only its header is read.

    Raises FileNotFoundError, and ValueError for what is no NIfTI, has not three or four axes, or says nothing usable of
    its orientation.
    """
    return _grid_of(_open(Path(path)), Path(path))


def read_nifti(path: str | Path) -> tuple[Shaped[np.ndarray, "x y z c"], Grid]:
    """Voxels (X, Y, Z, C), scaled as the header says, as they lie in the file, and their grid.

    Integers keep their type, all else becomes float32.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as `read_grid`; and for a file cut short or damaged, infinite or missing numbers.
    """
    path = Path(path)
    file = _open(path)
    grid, channels = _grid_of(file, path)
    try:
        values = _voxels(file)
    except MemoryError:
        raise MemoryError(f"{path}: not enough memory for its voxels") from None
    except Exception as error:  # of the system, gzip, zlib, numpy
        raise ValueError(
            f"{path} is cut short or damaged ({' '.join(str(error).split())}): copy or download it again"
        ) from error
    values = values.reshape(*grid.shape, channels)
    if values.dtype.kind not in "iu":
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is told of
            values = values.astype(np.float32)
        if bad := int((~np.isfinite(values)).sum()):
            raise Refused(
                f"{path}: {bad} voxels are infinite or not a number (NaN): replace them, for example with "
                "numpy.nan_to_num, and save the file again",
                fault="not-finite",
            )
    return values, grid


def write_label(path: str | Path, label: Integer[np.ndarray, "x y z"], grid: Grid) -> None:
    """Write classes or ids, with the 8, 16 or 32 bits they need, in the given grid; see `write_values`."""
    kind = next(kind for kind in (np.uint8, np.uint16, np.uint32) if label.max(initial=0) <= np.iinfo(kind).max)
    write_values(path, label.astype(kind), grid)


def write_values(path: str | Path, values: Shaped[np.ndarray, "x y z *c"], grid: Grid) -> None:
    """Write numbers as they are as a NIfTI in the given grid; the file appears whole or not at all."""
    import nibabel

    path = Path(path)
    image = nibabel.Nifti1Image(values, grid.affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(grid.affine, code=1)
    image.set_sform(grid.affine, code=1)
    ending = ".nii.gz" if path.name.endswith(".gz") else ".nii"
    with replacing(path) as scratch:  # nibabel goes by the ending
        aside = scratch.with_name(scratch.name + ending)
        try:
            nibabel.save(image, aside)
            aside.replace(scratch)
        finally:
            aside.unlink(missing_ok=True)


def to_ras(values: Shaped[np.ndarray, "x y z *c"], grid: Grid) -> tuple[Shaped[np.ndarray, "i j k *c"], Grid]:
    """The same voxels with axes that run right, front, up (the nearest, where the scan lay obliquely)."""
    import nibabel.orientations as turn

    order = turn.io_orientation(grid.affine)
    values = turn.apply_orientation(values, order)
    return values, Grid(values.shape[:3], grid.affine @ turn.inv_ornt_aff(order, grid.shape))


def from_ras(values: Shaped[np.ndarray, "i j k *c"], grid: Grid) -> Shaped[np.ndarray, "x y z *c"]:
    """Voxels that `to_ras` turned, as they lie in `grid`."""
    import nibabel.orientations as turn

    ras = np.array([[0, 1], [1, 1], [2, 1]])
    return turn.apply_orientation(values, turn.ornt_transform(ras, turn.io_orientation(grid.affine)))


def _open(path: Path):
    import nibabel

    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: name a NIfTI file (.nii or .nii.gz)")
    try:
        _check_header(path)
        file = nibabel.load(path)
        if not isinstance(file, nibabel.Nifti1Pair):
            raise ValueError(f"it holds {type(file).__name__}")
        kind = file.get_data_dtype()
    except Exception as error:  # of the system, gzip, zlib, nibabel
        raise ValueError(
            f"{path} cannot be read as NIfTI ({' '.join(str(error).split())}): copy it again if it is cut short, or "
            "convert it (DICOM with dcm2niix)"
        ) from error
    _check_voxels(path, file.shape, kind)
    return file


def _packed(path: Path) -> bool:
    """Whether a file is a gzip, whatever it is called."""
    with path.open("rb") as plain:
        return plain.read(2) == b"\x1f\x8b"


def _voxels(file) -> np.ndarray:
    """Numbers of a file that nibabel opened; an error of gzip or zlib unless its checksum and length are right.

    nibabel stops at the last voxel, and the checksum stands behind it: the rest is read too, in pieces, and not kept.
    """
    lazy, path = file.dataobj, Path(file.file_map["image"].filename)
    if not _packed(path):
        return np.asanyarray(lazy)
    with gzip.open(path) as stream:
        spec = lazy.shape, lazy.dtype, lazy.offset, lazy.slope, lazy.inter
        values = np.asanyarray(type(lazy)(stream, spec))
        while stream.read(_PIECE):
            pass
    return values


def _check_header(path: Path) -> None:
    """ValueError when the voxels begin so far behind the header that reading up to them would fill the memory."""
    with gzip.open(path) if _packed(path) else path.open("rb") as file:
        head = file.read(176)
    for order in "<>":
        size, first, second = (struct.unpack_from(order + kind, head.ljust(176, b"\0"), at) for kind, at in _BEGINNING)
        begin = {348: first[0], 540: second[0]}.get(size[0], 0)
        if not begin < _HEADER_BYTES:  # nor NaN
            raise ValueError(f"its header is {begin:g} bytes long")


def _check_voxels(path: Path, shape: tuple[int, ...], kind: np.dtype) -> None:
    """ValueError when the header claims more voxels than the file's bytes, or this machine's memory, can hold."""
    if kind.kind not in "iuf":
        raise ValueError(f"{path} holds numbers of type {kind}: export it with integers or floating point")
    count = math.prod(int(n) for n in shape)
    stored, size = count * kind.itemsize, path.stat().st_size
    most = size * _MOST_PACKED if _packed(path) else size - 348  # of the header
    if stored > most:
        raise ValueError(
            f"{path} is cut short or damaged (its header tells of {shape} voxels, {stored} bytes, which a file of "
            f"{size} cannot hold): copy or download it again"
        )
    try:
        take(count * max(kind.itemsize, 4))
    except Refused as error:
        raise Refused(f"{path} {error}") from None


def _grid_of(file, path: Path) -> tuple[Grid, int]:
    import nibabel

    shape, affine = tuple(file.shape), np.asarray(file.affine, np.float64)
    while len(shape) > 4 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise ValueError(f"{path} has the axes {file.shape}: give it three of space, and at most one of channels")
    header = file.header
    if not (int(header.get("sform_code", 1)) or int(header.get("qform_code", 1))):
        raise ValueError(
            f"{path} does not say how it lies in the patient (its sform and qform codes are 0): take the original from "
            "the scanner, or, if you know the affine, store it with nibabel's set_sform(affine, code=1)"
        )
    flat = not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9
    if flat or np.isnan(nibabel.io_orientation(affine)).any():
        raise ValueError(
            f"{path}: its affine {affine[:3, :3].tolist()} lays two axes on one, so it has no orientation: store the "
            "right one with nibabel's set_sform(affine, code=1)"
        )
    return Grid(shape[:3], affine), shape[3] if len(shape) == 4 else 1
