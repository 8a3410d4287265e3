"""NIfTI in and out, and every fault that a file may have."""

import gzip
import itertools

import nibabel
import numpy as np
import pytest

from tests.volumes import save
from unet_jax.data.nifti import Grid, from_ras, read_grid, read_nifti, to_ras, write_label

VALUES = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)


def turned_affine(permutation, signs, spacing=(1.0, 2.0, 3.0)):
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, list(permutation)] * np.array(signs) * np.array(spacing)
    affine[:3, 3] = (5, -7, 11)
    return affine


@pytest.mark.parametrize("permutation", list(itertools.permutations(range(3))))
def test_to_ras_and_back_in_all_48_orientations(permutation):
    for signs in itertools.product((1, -1), repeat=3):
        grid = Grid(VALUES.shape, turned_affine(permutation, signs))
        ras, there = to_ras(VALUES, grid)
        assert there.axes == "RAS"
        assert there.spacing == pytest.approx([grid.spacing[permutation.index(a)] for a in range(3)])
        # the same voxel at the same place in the patient
        for index in ((0, 0, 0), (1, 2, 3)):
            place = grid.affine @ [*index, 1]
            at = np.rint(np.linalg.inv(there.affine) @ place)[:3].astype(int)
            assert ras[tuple(at)] == VALUES[index]
        np.testing.assert_array_equal(from_ras(ras, grid), VALUES)


def test_an_oblique_scan_is_turned_by_its_nearest_axes():
    angle = np.deg2rad(20)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    grid = Grid(VALUES.shape, affine @ np.diag([-1, 1, 1, 1.0]))
    np.testing.assert_array_equal(to_ras(VALUES, grid)[0], VALUES[::-1])


def test_labels_are_written_where_the_image_lies(tmp_path):
    affine = turned_affine((1, 0, 2), (-1, 1, -1))
    image = save(tmp_path / "image.nii.gz", VALUES, affine)
    _, grid = read_nifti(image)
    write_label(tmp_path / "out" / "label.nii.gz", (VALUES % 4).astype(np.int32), grid)
    values, where = read_nifti(tmp_path / "out" / "label.nii.gz")
    np.testing.assert_array_equal(values[..., 0], VALUES % 4)
    np.testing.assert_allclose(where.affine, affine)
    assert values.dtype == np.uint8
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["label.nii.gz"]


def test_grid_of_a_file_by_hand(tmp_path):
    grid, channels = read_grid(
        save(tmp_path / "a.nii", np.zeros((2, 3, 4, 5), np.int16), turned_affine((0, 1, 2), (-1, 1, 1)))
    )
    assert (grid.shape, channels, grid.axes, grid.spacing) == ((2, 3, 4), 5, "LAS", (1.0, 2.0, 3.0))
    assert grid.millilitres == pytest.approx(0.006)  # 1 × 2 × 3 mm³


def test_scaled_and_float_voxels_come_out_as_float32(tmp_path):
    image = nibabel.Nifti1Image(VALUES, np.eye(4))
    image.header.set_slope_inter(0.5, 10)
    nibabel.save(image, tmp_path / "a.nii")
    values, _ = read_nifti(tmp_path / "a.nii")
    assert values.dtype == np.float32
    np.testing.assert_allclose(values[..., 0], VALUES * 0.5 + 10)


@pytest.mark.parametrize("keep", [200, 0.6])
def test_a_gzip_cut_short(tmp_path, keep):
    noise = np.random.default_rng(0).integers(0, 999, (16, 16, 16)).astype(np.int16)
    path = save(tmp_path / "a.nii.gz", noise)
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if keep > 1 else int(len(whole) * keep)])
    with pytest.raises(ValueError, match=r"a\.nii\.gz .*cut short.*|.*copy it again") as caught:
        read_nifti(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("lost", [1, 4, 8, 9])
def test_a_gzip_without_its_checksum(tmp_path, lost):
    """A gzip ends with four bytes of checksum and four of length; every voxel stands before them."""
    path = save(tmp_path / "a.nii.gz", np.zeros((64, 64, 64), np.uint8))  # more than is unpacked to see the header
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(ValueError, match=r"a\.nii\.gz is cut short or damaged .*copy or download it again"):
        read_nifti(path)


def test_no_flipped_bit_changes_a_voxel(tmp_path):
    """In what is packed, and in the checksum and length behind it; the first ten bytes tell of a name and a date."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 999, (8, 8, 8)).astype(np.int16)
    path = tmp_path / "a.nii.gz"
    plain = save(tmp_path / "a.nii", noise).read_bytes()
    whole = gzip.compress(plain)
    flips = {*rng.integers(10 * 8, len(whole) * 8, 60).tolist(), *range((len(whole) - 8) * 8, len(whole) * 8, 7)}
    for bit in flips:
        torn = bytearray(whole)
        torn[bit // 8] ^= 1 << bit % 8
        path.write_bytes(torn)
        with pytest.raises(ValueError, match=r"a\.nii\.gz"):
            read_nifti(path)
    path.write_bytes(whole)
    np.testing.assert_array_equal(read_nifti(path)[0][..., 0], noise)


def test_what_lies_behind_the_voxels_is_checked_and_not_kept(tmp_path):
    """More in a file than its header tells of is no fault; a second gzip joined on is read to its checksum too."""
    path = save(tmp_path / "a.nii", VALUES)
    more = gzip.compress(path.read_bytes()) + gzip.compress(bytes(3 * 2**20))
    packed = tmp_path / "b.nii.gz"
    packed.write_bytes(more)
    np.testing.assert_array_equal(read_nifti(packed)[0][..., 0], VALUES)
    packed.write_bytes(more[:-8] + bytes(8))
    with pytest.raises(ValueError, match=r"b\.nii\.gz is cut short or damaged \(CRC check failed"):
        read_nifti(packed)


def test_a_plain_file_cut_short_and_one_that_is_no_nifti(tmp_path):
    path = save(tmp_path / "a.nii", VALUES)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"a\.nii is cut short or damaged .*copy or download it again"):
        read_nifti(path)
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(b"not a volume"))
    with pytest.raises(ValueError, match=r"b\.nii\.gz cannot be read as NIfTI"):
        read_nifti(tmp_path / "b.nii.gz")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_nifti(tmp_path / "c.nii")


def test_voxels_that_are_not_a_number(tmp_path):
    values = VALUES.astype(np.float32)
    values[1, 1, 1:3] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"a\.nii: 2 voxels are infinite or not a number .*nan_to_num"):
        read_nifti(save(tmp_path / "a.nii", values))


def test_an_orientation_that_cannot_be_mapped(tmp_path):
    flat = np.eye(4)
    flat[:3, 2] = flat[:3, 1]
    image = nibabel.Nifti1Image(VALUES, np.eye(4))
    image.header.set_sform(flat, code=1)
    image.header.set_qform(None, code=0)
    image.to_filename(tmp_path / "a.nii")
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[280:328] = flat[:3].astype("<f4").tobytes()  # srow_x, srow_y, srow_z
    (tmp_path / "a.nii").write_bytes(raw)
    with pytest.raises(ValueError, match=r"a\.nii: its affine .* has no orientation: .*set_sform"):
        read_grid(tmp_path / "a.nii")
    unknown = nibabel.Nifti1Image(VALUES, None)
    nibabel.save(unknown, tmp_path / "b.nii")
    with pytest.raises(ValueError, match=r"b\.nii does not say how it lies in the patient"):
        read_grid(tmp_path / "b.nii")


def test_axes_that_are_no_volume(tmp_path):
    with pytest.raises(ValueError, match=r"has the axes \(2, 3\): give it three of space"):
        read_grid(save(tmp_path / "a.nii", np.zeros((2, 3), np.int16)))
