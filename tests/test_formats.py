"""Images that are more than one file of two axes: stacks, zarr and OME-Zarr, float and BigTIFF; and volumes."""

import csv

import jax
import nibabel
import numpy as np
import pytest
import tifffile
import zarr

from tests.trained import SMALL, bright_variables, card, random_variables
from unet_jax import predict_files as files
from unet_jax.data.images import read_label
from unet_jax.inputs import Input, Reader, find_inputs
from unet_jax.models import UNet
from unet_jax.prediction import Predictor
from unet_jax.results import Wanted


def noise(*shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 200, shape).astype(dtype)


def parts(path, rank=2):
    """Every image of a file by the name of its results, and what kind of rows a few of them are."""
    with Reader(rank) as reader:
        found = {item.name: reader.read(item) for item in reader.images(Input("x", path))}
        for item in reader.images(Input("x", path)):
            if reader.pixels(item):
                with reader.rows(item) as rows:
                    assert rows.shape == found[item.name].shape
                    for start, stop in ((0, 3), (2, 9), (5, rows.shape[0])):
                        np.testing.assert_array_equal(rows[start:stop], found[item.name][start:stop])
    return found


def same(found, want):
    assert list(found) == list(want)
    for name, image in want.items():
        np.testing.assert_array_equal(found[name], image)
        assert found[name].dtype in (np.uint8, np.uint16, np.float32)


def test_pages_of_a_tiff_are_images(tmp_path):
    stack = noise(3, 20, 24)
    tifffile.imwrite(tmp_path / "x.tif", stack, photometric="minisblack", bigtiff=True)
    same(parts(tmp_path / "x.tif"), {f"x_p00{i + 1}": stack[i, ..., None] for i in range(3)})
    with tifffile.TiffWriter(tmp_path / "y.tif") as tiff:  # pages of two sizes
        tiff.write(stack[0])
        tiff.write(stack[1, :7].astype(np.float64))
    same(parts(tmp_path / "y.tif"), {"x_p001": stack[0, ..., None], "x_p002": stack[1, :7, :, None]})


def test_pages_of_colours_in_tiles(tmp_path):
    stack = noise(2, 40, 36, 3)
    tifffile.imwrite(tmp_path / "x.tif", stack, photometric="rgb", tile=(16, 16), compression="zlib")
    same(parts(tmp_path / "x.tif"), {"x_p001": stack[0], "x_p002": stack[1]})


def test_channels_times_and_depths_of_imagej_and_ome(tmp_path):
    stack = noise(2, 3, 2, 20, 24, dtype=np.uint16)  # t z c y x
    want = {f"x_t00{t + 1}_z00{z + 1}": np.moveaxis(stack[t, z], 0, -1) for t in range(2) for z in range(3)}
    tifffile.imwrite(tmp_path / "x.tif", stack, imagej=True, metadata={"axes": "TZCYX"})
    same(parts(tmp_path / "x.tif"), want)
    tifffile.imwrite(tmp_path / "x.ome.tif", stack, photometric="minisblack", metadata={"axes": "TZCYX"})
    same(parts(tmp_path / "x.ome.tif"), want)
    volumes = parts(tmp_path / "x.tif", rank=3)
    same(volumes, {f"x_t00{t + 1}": np.moveaxis(stack[t], 1, -1) for t in range(2)})


def test_a_stack_is_a_volume_for_a_model_of_volumes(tmp_path):
    stack = noise(5, 20, 24).astype(np.int16)
    tifffile.imwrite(tmp_path / "x.tif", stack, photometric="minisblack")
    same(parts(tmp_path / "x.tif", rank=3), {"x": stack[..., None].astype(np.float32)})
    tifffile.imwrite(tmp_path / "y.tif", stack[0])
    with pytest.raises(ValueError, match=r"y.tif: has the axes yx, .*without z: this model takes volumes"):
        parts(tmp_path / "y.tif", rank=3)


@pytest.mark.parametrize("version", [2, 3])
def test_zarr_arrays(tmp_path, version):
    image = noise(40, 36, 3)
    options = {"chunks": (16, 16, 3), "zarr_format": version}
    zarr.create_array(tmp_path / "x.zarr", data=image, **options)
    same(parts(tmp_path / "x.zarr"), {"x": image})
    zarr.create_array(tmp_path / "flags.zarr", data=image[..., 0] > 99, chunks=(16, 16), zarr_format=version)
    same(parts(tmp_path / "flags.zarr"), {"x": 255 * (image[..., :1] > 99).astype(np.uint8)})
    zarr.create_array(tmp_path / "stack.zarr", data=noise(2, 20, 24), chunks=(1, 16, 16), zarr_format=version)
    assert list(parts(tmp_path / "stack.zarr")) == ["x_z001", "x_z002"]


@pytest.mark.parametrize("version", ["0.3", "0.4", "0.5"])
def test_ome_zarr(tmp_path, version):
    image = noise(2, 3, 20, 24, dtype=np.uint16)  # c z y x
    group = zarr.open_group(tmp_path / "x.ome.zarr", mode="w", zarr_format=3 if version == "0.5" else 2)
    group.create_array("full", data=image, chunks=(1, 1, 8, 8))
    group.create_array("half", data=image[..., ::2, ::2], chunks=(1, 1, 8, 8))
    axes = list("czyx") if version == "0.3" else [{"name": axis} for axis in "czyx"]
    scales = [{"version": version, "axes": axes, "datasets": [{"path": "full"}, {"path": "half"}]}]
    group.attrs.update({"ome": {"multiscales": scales}} if version == "0.5" else {"multiscales": scales})
    same(parts(tmp_path / "x.ome.zarr"), {f"x_z00{z + 1}": np.moveaxis(image[:, z], 0, -1) for z in range(3)})
    same(parts(tmp_path / "x.ome.zarr", rank=3), {"x": np.moveaxis(image, 0, -1)})
    assert [item.name for item in find_inputs([str(tmp_path)])] == ["x"]
    assert [item.name for item in find_inputs([str(tmp_path / "x.ome.zarr"), str(tmp_path / "*.zarr")])] == ["x"]


def test_files_that_cannot_be_used_are_named(tmp_path):
    stack = noise(3, 20, 24)
    cases = {}
    for name, options in {"ij.tif": {"imagej": True}, "pages.tif": {"photometric": "minisblack"}}.items():
        tifffile.imwrite(tmp_path / name, stack, **options)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[:-300])
        cases[name] = "again"
    group = zarr.open_group(tmp_path / "plate.zarr", mode="w")
    group.create_array("a", data=stack[0])
    group.create_array("b", data=stack[0])
    cases["plate.zarr"] = r"a group without an image of its own \(it holds a, b\)"
    zarr.create_array(tmp_path / "words.zarr", data=stack[0].astype("c8"))
    cases["words.zarr"] = "numbers of type complex64"
    zarr.create_array(tmp_path / "cut.zarr", data=stack[0], chunks=(8, 8))
    chunk = next(path for path in (tmp_path / "cut.zarr" / "c").rglob("*") if path.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-5])
    cases["cut.zarr"] = "cannot be read"
    for name, words in cases.items():
        with pytest.raises(ValueError, match=f"{name}: .*{words}"):
            parts(tmp_path / name)


def test_chunks_that_are_too_large_to_be_read_by_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("unet_jax.data.rows._SEGMENT_BYTES", 1000)
    zarr.create_array(tmp_path / "x.zarr", data=noise(40, 36), chunks=(40, 36))
    with pytest.raises(ValueError, match=r"x.zarr: is large, and its chunks are 40 rows high: save it in chunks"):
        parts(tmp_path / "x.zarr")


@pytest.fixture(scope="module")
def predictor():
    return Predictor(bright_variables(SMALL), card(SMALL), batch=4)


def squares(*shape):
    image = np.full(shape, 10, np.uint8)
    image[..., 2:8, 3:9] = image[..., 12:15, 4:7] = 240
    return image


def test_a_stack_page_by_page_and_in_bands(tmp_path, predictor, monkeypatch):
    stack = squares(3, 40, 30)
    stack[1, 2:8] = 10
    tifffile.imwrite(tmp_path / "x.tif", stack, photometric="minisblack")
    zarr.create_array(tmp_path / "z.zarr", data=stack, chunks=(1, 16, 16))
    inputs, wanted = find_inputs([str(tmp_path)]), Wanted(overlay=True)
    whole = files.predict_files(predictor, inputs, tmp_path / "whole", wanted)
    names = [f"x_p00{i}" for i in (1, 2, 3)] + [f"z_z00{i}" for i in (1, 2, 3)]
    assert {row["image"]: row["objects"] for row in whole.done} == dict(zip(names, [2, 1, 2] * 2, strict=True))
    monkeypatch.setattr(files, "STREAM_PIXELS", 1000)
    bands = files.predict_files(predictor, inputs, tmp_path / "bands", wanted)
    assert bands.done == whole.done
    for name in names:
        found, want = (read_label(tmp_path / f / "labels" / f"{name}.tif") for f in ("bands", "whole"))
        np.testing.assert_array_equal(found, want)
        assert tifffile.imread(tmp_path / "bands" / "overlays" / f"{name}.tif").shape == (40, 30, 3)
    again = files.predict_files(predictor, inputs, tmp_path / "bands", wanted)
    assert again.kept == names
    assert not again.done


def test_classes_probabilities_and_spread_in_bands(tmp_path, monkeypatch):
    """What is written tile by tile is what is written at once."""
    tta = Predictor(bright_variables(SMALL), card(SMALL), tta=True)
    tifffile.imwrite(tmp_path / "x.tif", noise(40, 30).astype(np.float32))
    inputs, wanted = find_inputs([str(tmp_path / "x.tif")]), Wanted(instances=False, probabilities=True, spread=True)
    files.predict_files(tta, inputs, tmp_path / "whole", wanted)
    monkeypatch.setattr(files, "STREAM_PIXELS", 1000)
    files.predict_files(tta, inputs, tmp_path / "bands", wanted)
    for room in ("labels", "probabilities", "spread"):
        found, want = (tifffile.imread(tmp_path / f / room / "x.tif") for f in ("bands", "whole"))
        np.testing.assert_array_equal(found, want)
    assert not (tmp_path / "bands" / "objects").exists()


def test_a_full_disk_in_bands_ends_the_run_and_leaves_no_file(tmp_path, predictor, monkeypatch):
    tifffile.imwrite(tmp_path / "x.tif", squares(40, 30))
    monkeypatch.setattr(files, "STREAM_PIXELS", 1000)

    def full(path, data, **_):
        next(iter(data))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tifffile, "imwrite", full)
    inputs = find_inputs([str(tmp_path / "x.tif")])
    with pytest.raises(OSError, match="No space left"):
        files.predict_files(predictor, inputs, tmp_path / "out", Wanted(overlay=True, probabilities=True))
    assert not [path for path in (tmp_path / "out").rglob("*.*") if path.name not in ("predict.json",)]


def test_a_large_image_with_a_missing_number_is_named_with_its_row(tmp_path, predictor, monkeypatch):
    image = np.ones((600, 30), np.float32)
    image[300, 3] = np.nan
    tifffile.imwrite(tmp_path / "x.tif", image)
    monkeypatch.setattr(files, "STREAM_PIXELS", 1000)
    report = files.predict_files(predictor, find_inputs([str(tmp_path / "x.tif")]), tmp_path / "out", Wanted())
    [(path, reason)] = report.failed
    assert path.name == "x.tif"
    assert "values from row 256 on are infinite or not a number (NaN): replace them" in reason


@pytest.fixture(scope="module")
def volumes():
    """A model of volumes that answers how bright a voxel is: its logit is 40 x - 20, x in [0, 1]."""
    model = UNet((2,), classes=1)
    params = jax.tree_util.tree_map_with_path(passing, random_variables(model, tile=8, rank=3)["params"])
    params["logits"]["bias"][:] = -20
    params["logits"]["kernel"] *= 40
    return Predictor({"params": params}, card(model, tile=8, rank=3), batch=2)


def passing(_path, leaf):
    """A kernel that passes the first channel at its middle; no bias."""
    array = np.zeros(leaf.shape, np.float32)
    if leaf.ndim > 1:
        array[(*(n // 2 for n in leaf.shape[:-2]), 0, 0)] = 1
    return array


def test_volumes_of_pages(tmp_path, volumes):
    stack = np.full((9, 20, 12), 5, np.uint8)
    stack[2:5, 3:9, 4:6] = stack[6:8, 12:15, 1:3] = 250
    tifffile.imwrite(tmp_path / "x.tif", stack, photometric="minisblack")
    inputs = find_inputs([str(tmp_path / "x.tif")])
    report = files.predict_files(volumes, inputs, tmp_path / "out", Wanted(overlay=True))
    assert not report.failed
    label = tifffile.imread(tmp_path / "out/labels/x.tif")
    np.testing.assert_array_equal(label > 0, stack > 100)
    with (tmp_path / "out/objects.csv").open() as file:
        first, second = csv.DictReader(file)
    assert (first["volume"], first["centroid_z"], first["centroid_y"], first["centroid_x"]) == ("36", "3", "5.5", "4.5")
    assert (second["volume"], second["min_z"], second["max_y"]) == ("12", "6", "15")
    with (tmp_path / "out/summary.csv").open() as file:
        [row] = csv.DictReader(file)
    assert (row["depth"], row["height"], row["width"], row["objects"]) == ("9", "20", "12", "2")
    (tmp_path / "out" / "summary.csv").unlink()  # as if the run had been cut off
    files.predict_files(volumes, inputs, tmp_path / "out", Wanted())
    with (tmp_path / "out/summary.csv").open() as file:
        assert list(csv.DictReader(file)) == [row]


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_nifti_volume_gives_a_nifti_label_on_its_grid(tmp_path, volumes, ending):
    """Axes that run left, down and front, with voxels of three lengths; the tables count in the axes of the file."""
    affine = np.array([[-2.0, 0, 0, 30], [0, 0, 1.5, -20], [0, -3, 0, 50], [0, 0, 0, 1]])
    scan = np.full((20, 9, 12), -100, np.int16)
    scan[3:9, 2:5, 4:6] = 900
    image = nibabel.Nifti1Image(scan, affine)
    nibabel.save(image, tmp_path / f"a.b{ending}")
    inputs, out = find_inputs([str(tmp_path)]), tmp_path / "out"
    assert [item.name for item in inputs] == ["a.b"]
    report = files.predict_files(volumes, inputs, out, Wanted(probabilities=True))
    assert not report.failed
    label = nibabel.load(out / "labels" / "a.b.nii.gz")
    np.testing.assert_allclose(label.affine, affine)
    np.testing.assert_array_equal(np.asarray(label.dataobj) > 0, scan > 0)
    probabilities = nibabel.load(out / "probabilities" / "a.b.nii.gz")
    np.testing.assert_array_equal(np.asarray(probabilities.dataobj)[..., 0] > 0.5, scan > 0)
    with (out / "objects.csv").open() as file:
        [row] = csv.DictReader(file)
    assert [row[name] for name in ("volume", "min_x", "max_x", "min_y", "max_z")] == ["36", "3", "9", "2", "6"]
    (out / "summary.csv").unlink()
    assert files.predict_files(volumes, inputs, out, Wanted(probabilities=True)).kept == ["a.b"]
    with (out / "summary.csv").open() as file:
        assert next(csv.DictReader(file)) == {key: str(value) for key, value in report.done[0].items()}


def test_slices_of_nifti_are_images_for_a_model_of_images(tmp_path):
    scan = noise(20, 12, 3)
    nibabel.save(nibabel.Nifti1Image(scan, np.eye(4)), tmp_path / "x.nii.gz")
    same(parts(tmp_path / "x.nii.gz"), {f"x_z00{z + 1}": scan[:, :, z].T[..., None] for z in range(3)})
    data = (tmp_path / "x.nii.gz").read_bytes()
    (tmp_path / "x.nii.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"x.nii.gz: .*again"):
        parts(tmp_path / "x.nii.gz")


def test_a_model_of_scans_with_modalities_has_a_command_of_its_own(tmp_path, volumes):
    scans = Predictor(volumes.variables, {**volumes.card, "modalities": ["T1w"]})
    with pytest.raises(ValueError, match="use unet-jax predict-volumes"):
        files.predict_files(scans, [], tmp_path / "out", Wanted())
    assert not (tmp_path / "out").exists()
