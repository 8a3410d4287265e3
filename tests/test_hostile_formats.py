"""Volumes, zarr stores and stacks of strangers: sizes are checked before memory is taken, and nothing is unpickled."""

import pickle

import numpy as np
import pytest
import tifffile

from tests import hostile
from tests.bounded import Bounded, told
from tests.hostile import NOISE, VOLUMES
from unet_jax.data.images import read_image
from unet_jax.data.nifti import read_grid, read_nifti
from unet_jax.inputs import Input, Reader


@pytest.mark.parametrize("name", VOLUMES)
def test_volumes(tmp_path, name):
    (content, words), path = VOLUMES[name], tmp_path / name
    path.write_bytes(content)
    for read in (read_nifti, read_grid):
        with Bounded(16):
            said = told(read, path)
        assert str(path) in said
        assert any(word in said for word in words.split("|")), said
    with Reader(3) as reader, Bounded(16):
        assert str(path) in told(reader.images, Input("x", path))


ZARRS = {
    "pages": ({"shape": [10**9, 24, 24], "chunks": [1, 24, 24]}, "1,000,000,000 pages"),
    "chunks": ({"shape": [2**20, 2**20], "chunks": [2**20, 2**20]}, "has chunks of"),
    "depth": ({"shape": [2**14, 2**14, 2**14], "chunks": [1, 64, 64]}, "GiB of pixels"),
    "wide": ({"shape": [4, 4, 2**30], "chunks": [4, 4, 1], "dimension_separator": "."}, "pages|GiB of pixels|chunks"),
    "negative": ({"shape": [-4, 4]}, "cannot be read|has no pixels|has chunks"),
    "words": ({"dtype": "<U9"}, "numbers of type|cannot be read"),
    "pickle": ({"compressor": {"id": "pickle"}}, "packed with pickle|object_codec_id"),
    "filter": ({"filters": [{"id": "pickle"}]}, "packed with pickle|cannot be read"),
    "unknown": ({"compressor": {"id": "os.system"}}, "cannot be read"),
}


@pytest.mark.parametrize("name", ZARRS)
def test_zarr_arrays(tmp_path, name):
    changes, words = ZARRS[name]
    path = hostile.zarr_folder(tmp_path / f"{name}.zarr", **changes)
    (path / "0.0").write_bytes(pickle.dumps(hostile.Trap(tmp_path / "sprung")))

    def look(rank):
        with Reader(rank) as reader:
            for item in reader.images(Input("x", path)):
                reader.read(item)

    rank = 3 if name in ("depth", "wide") else 2
    with Bounded():
        said = told(look, rank)
    assert said.startswith(f"{path}: ")
    assert any(word in said for word in words.split("|")), said
    assert not (tmp_path / "sprung").exists()


def test_an_ome_zarr_does_not_lead_out_of_itself(tmp_path):
    hostile.zarr_folder(tmp_path / "secret")
    path = tmp_path / "x.zarr"
    path.mkdir()
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    scales = '{"multiscales": [{"axes": ["y", "x"], "datasets": [{"path": "../secret"}]}]}'
    (path / ".zattrs").write_text(scales)
    with Reader(2) as reader:
        assert told(reader.images, Input("x", path)).startswith(f"{path}: ")


def test_stacks_that_claim_pages(tmp_path):
    for name, (content, words) in hostile.STACKS.items():
        (tmp_path / name).write_bytes(content)
        with Reader(2) as reader, Bounded():
            said = told(reader.images, Input("x", tmp_path / name))
        assert said.startswith(f"{tmp_path / name}: ")
        assert words in said, said


def test_jpeg_tiffs_as_slides_have_them_are_read(tmp_path):
    pixels = np.repeat(np.repeat(NOISE[:8, :8], 8, 0), 8, 1)
    for name, options in {"a": {"tile": (32, 32)}, "b": {"rowsperstrip": 16}}.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels, compression="jpeg", **options)
        assert read_image(tmp_path / f"{name}.tif").shape == (64, 64, 1)
    tifffile.imwrite(tmp_path / "c.tif", pixels, compression="jpeg2000", tile=(32, 32))
    np.testing.assert_array_equal(read_image(tmp_path / "c.tif")[..., 0], pixels)
