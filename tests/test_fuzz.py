"""Whatever is in a file, a card or a command line: an answer, or an error of ours that says where the fault lies."""

import io
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from imagecodecs import png_encode
from PIL import Image

from experiments import train_cells
from tests.hostile import NOISE, jpeg, nifti_header
from tests.trained import card, random_variables
from unet_jax import cli, startup
from unet_jax.data.images import read_image, read_label
from unet_jax.data.nifti import read_nifti
from unet_jax.data.rows import TiffRows
from unet_jax.inputs import Input, Reader, is_image
from unet_jax.model_folder import write_model
from unet_jax.models import UNet
from unet_jax.prediction import Predictor

pytestmark = pytest.mark.filterwarnings("ignore")  # of decoders, about what they then refuse
NIGHTLY = pytest.mark.nightly
TINY = UNet((2, 2))


def fuzz(cases, test, *strategies):
    """Run `test` on so many cases: the same ones every day, and new ones at night."""
    options = settings(
        max_examples=cases,
        deadline=None,
        database=None,
        derandomize=cases < 500,
        suppress_health_check=list(HealthCheck),
    )
    options(given(*strategies)(test))()


def encoded(kind, pixels, **options):
    file = io.BytesIO()
    if kind == "TIFF":
        tifffile.imwrite(file, pixels, **options)
    else:
        Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


COLOURS = np.stack([NOISE] * 3, axis=-1)
FILES = [
    encoded("PNG", NOISE), encoded("PNG", COLOURS), encoded("GIF", NOISE), encoded("BMP", COLOURS),
    png_encode(NOISE.astype(np.uint16) * 257), jpeg(),
    encoded("TIFF", NOISE), encoded("TIFF", COLOURS, photometric="rgb", compression="zlib", predictor=True),
    encoded("TIFF", NOISE.astype(np.float32), tile=(16, 16), compression="lzw"),
    encoded("TIFF", COLOURS, photometric="rgb", compression="jpeg", tile=(16, 16)),
    encoded("TIFF", np.stack([NOISE] * 3), photometric="minisblack", bigtiff=True),
    encoded("TIFF", np.stack([NOISE] * 3), imagej=True), encoded("TIFF", np.stack([NOISE] * 3), ome=True),
    nifti_header((4, 4, 4)) + bytes(128),
]  # fmt: skip
# Most of what decides how a file is read stands in its first or last bytes.
PLACES = st.one_of(st.integers(0, 160), st.integers(-200, -1), st.integers(0, 4000))
BYTES = st.one_of(st.sampled_from([0, 1, 2, 4, 127, 128, 255]), st.integers(0, 255))
CHANGES = st.lists(st.tuples(PLACES, BYTES), max_size=8)
CUTS = st.one_of(st.none(), st.integers(0, 3000))


@st.composite
def broken_files(draw):
    data = bytearray(draw(st.one_of(st.sampled_from(FILES), st.binary(max_size=200))))
    for place, byte in draw(CHANGES):
        if data:
            data[place % len(data)] = byte
    return bytes(data[: draw(CUTS)]), draw(st.sampled_from([".png", ".tif", ".jpg", ".bmp", ".nii", ".nii.gz"]))


def every_page(rank, path):
    with Reader(rank) as reader:
        for item in reader.images(Input("x", path))[:5]:
            reader.pixels(item)
            reader.read(item)


@pytest.mark.parametrize("cases", [90, pytest.param(1200, marks=NIGHTLY)])
def test_readers(tmp_path, cases):
    def check(broken):
        path = tmp_path / f"a{broken[1]}"
        path.write_bytes(broken[0])
        assert is_image(path)
        readers = [
            read_image,
            read_label,
            lambda p: every_page(2, p),
            lambda p: every_page(3, p),
            lambda p: TiffRows(p)[:9],
        ]
        for read in [read_nifti, *readers[2:4]] if ".nii" in path.name else readers:
            try:
                read(path)
            except ValueError as error:
                assert str(path) in str(error)  # noqa: PT017 - most cases raise nothing

    fuzz(cases, check, broken_files())


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.sampled_from([0, 1, -1, 3, 10**6, 2**70, 1e300, "", "float32", "UNet", "NaN"]),
        st.integers(), st.floats(), st.text(max_size=8),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(["name", "widths", "low", "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)  # fmt: skip
GOOD = {**card(TINY, tile=4), "head": "foreground", "separation": {"threshold": 0.5}}
KEYS = [(key,) for key in GOOD] + [("model", key) for key in GOOD["model"]] + [("normalisation", "low")]
CARDS = st.one_of(
    st.lists(st.tuples(st.sampled_from(KEYS), JSON), min_size=1, max_size=2),
    st.lists(st.tuples(PLACES, BYTES), min_size=1, max_size=6),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_model(random_variables(TINY, tile=4), GOOD, folder)
    return folder


@pytest.mark.parametrize("cases", [60, pytest.param(500, marks=NIGHTLY)])
def test_cards(model, cases):
    def check(changes, place):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(shutil.copytree(model, Path(name) / "m"))
            if isinstance(changes[0][0], tuple):
                words = json.loads((folder / "card.json").read_text())
                for (*outer, key), value in changes:
                    inner = words[outer[0]] if outer else words
                    if isinstance(inner, dict):
                        inner[key] = value
                (folder / "card.json").write_text(json.dumps(words))
            else:
                file = folder / ("card.json" if place else "params.npz")
                data = bytearray(file.read_bytes())
                for at, byte in changes:
                    data[at % len(data)] = byte
                file.write_bytes(data)
            try:
                Predictor.load(folder)
            except ValueError as error:
                assert str(folder) in str(error)  # noqa: PT017

    fuzz(cases, check, CARDS, st.booleans())


FLAGS = "model input output data predictions depth patch threshold ignore label-kind quick tile batch overlap help seed"
FLAGS += " no-tta epochs widths workdir resume size fix-to split"
VALUES = (
    "absent file empty empty/*.png ** [ dsb2018.zip 0 -1 1e999 nan 16 ../.. classes a\0b \udcff None True ß ~nobody/x"
)
WORDS = st.one_of(
    st.sampled_from([f"--{flag}" for flag in FLAGS.split()]),
    st.sampled_from(["", *VALUES.split()]),
    st.text(max_size=6),
)
COMMANDS = ["predict", "predict-volumes", "evaluate", "check", "train", "prodict"]


@pytest.mark.parametrize("cases", [50, pytest.param(300, marks=NIGHTLY)])
def test_command_lines(tmp_path, monkeypatch, capsys, cases):
    (tmp_path / "file").write_text("no image")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(startup, "prepare", lambda: None)
    monkeypatch.setattr(cli.COMMANDS["check"][0], "output", tmp_path / "out")
    before = sorted(tmp_path.rglob("*"))

    def train():
        startup.run(train_cells.main, train_cells.Config, description="")

    def check(command, words):
        line = [*words, "--data", "absent"] if command == "train" else [command, *words]  # or it would really train
        monkeypatch.setattr(sys, "argv", ["unet-jax", *line])
        with pytest.raises(SystemExit) as stopped:
            train() if command == "train" else cli.main()
        said = capsys.readouterr()
        assert stopped.value.code in (0, 1, 2, None)
        assert stopped.value.code != 1 or "error: " in said.err
        assert "Traceback" not in said.err

    fuzz(cases, check, st.sampled_from(COMMANDS), st.lists(WORDS, max_size=7))
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in before] == []
