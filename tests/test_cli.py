import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.trained import SMALL, TILE, bright_variables, card, random_variables, save_run
from unet_jax import cli
from unet_jax.data.images import read_label
from unet_jax.inputs import find_inputs
from unet_jax.models import MODELS, UNet
from unet_jax.prediction import Predictor

SIZES = {"a": (20, 31), "b": (TILE, TILE), "c": (7, 5)}


def bright(shape):
    """Two bright squares, or as much of them as fits: 3 × 4 and 2 × 2 pixels."""
    image = np.full(shape, 10, np.uint8)
    image[1:4, 1:5] = image[5:7, 2:4] = 250
    return image


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("run"), bright_variables(SMALL), card(SMALL))


@pytest.fixture
def folder(tmp_path):
    """Three images, of three sizes and formats."""
    (tmp_path / "in").mkdir()
    Image.fromarray(bright(SIZES["a"])).save(tmp_path / "in" / "a.png")
    tifffile.imwrite(tmp_path / "in" / "b.tiff", bright(SIZES["b"]).astype(np.uint16) * 200)
    Image.fromarray(np.repeat(bright(SIZES["c"])[..., None], 3, axis=-1)).save(tmp_path / "in" / "c.png")
    return tmp_path / "in"


def config(run, folder, **changes):
    given = {"model": (run,), "input": (str(folder),), "output": folder.parent / "out", "batch": 4} | changes
    return cli.Predict(**given)


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_of_images(run, folder, capsys):
    assert cli.predict(config(run, folder, overlay=True, probabilities=True, tta=True)) == 0
    out = folder.parent / "out"
    endings = {"labels": "tif", "objects": "csv", "polygons": "geojson", "overlays": "png", "probabilities": "tif"}
    files = {f"{room}/{name}.{ending}" for room, ending in (endings | {"spread": "tif"}).items() for name in SIZES}
    found = {path.relative_to(out).as_posix() for path in out.rglob("*.*")}
    assert found == files | {"objects.csv", "summary.csv", "predict.json"}
    for name, shape in SIZES.items():
        label = read_label(out / "labels" / f"{name}.tif")
        assert label.dtype == np.uint16
        np.testing.assert_array_equal(label > 0, bright(shape) > 100)
        assert len(json.loads((out / "polygons" / f"{name}.geojson").read_text())["features"]) == 2
        assert tifffile.imread(out / "probabilities" / f"{name}.tif").shape == (2, *shape)
        np.testing.assert_allclose(tifffile.imread(out / "spread" / f"{name}.tif"), 0, atol=1e-5)
        with Image.open(out / "overlays" / f"{name}.png") as picture:
            assert picture.size == shape[::-1]
    objects = rows(out / "objects.csv")
    assert [(row["image"], row["id"], row["area"]) for row in objects] == [
        (name, number, area) for name in SIZES for number, area in (("1", "12"), ("2", "4"))
    ]
    assert [row["mean_intensity"] for row in objects] == ["250", "250", "50000", "50000", "250", "250"]
    summary = rows(out / "summary.csv")
    assert [(row["image"], row["height"], row["width"], row["objects"], row["covered_pixels"]) for row in summary] == [
        (name, str(h), str(w), "2", "16") for name, (h, w) in SIZES.items()
    ]
    assert "3 images done, 6 objects" in capsys.readouterr().out


def test_a_model_of_several_classes_gives_classes(folder, tmp_path, capsys):
    model = UNet((4, 8), classes=3)
    names = {"classes": ["ground", "road", "house"]}
    run = save_run(tmp_path / "classes", random_variables(model), card(model) | names)
    assert cli.predict(config(run, folder)) == 0
    out = folder.parent / "out"
    assert {path.name for path in out.iterdir()} == {"labels", "summary.csv", "predict.json"}
    assert set(np.unique(read_label(out / "labels" / "a.tif"))) <= {0, 1, 2}
    assert "labels: 0 ground, 1 road, 2 house" in capsys.readouterr().out


def test_classes_instead_of_objects_as_png(run, folder):
    assert cli.predict(config(run, folder, instances=False, format="png")) == 0
    out = folder.parent / "out"
    assert {path.name for path in out.iterdir()} == {"labels", "summary.csv", "predict.json"}
    np.testing.assert_array_equal(read_label(out / "labels" / "a.png"), bright(SIZES["a"]) > 100)
    assert [row["objects"] for row in rows(out / "summary.csv")] == ["", "", ""]
    assert cli.predict(config(run, folder, instances=False, format="tif")) == 0
    assert {path.name for path in (out / "labels").iterdir()} == {f"{name}.tif" for name in SIZES}


def test_bad_images_among_good_ones(run, folder, capsys):
    data = (folder / "a.png").read_bytes()
    (folder / "cut.png").write_bytes(data[: len(data) // 2])
    (folder / "text.tif").write_text("no image")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 9, 3), np.uint8)).save(folder / "colour.png")
    tifffile.imwrite(folder / "nan.tif", np.full((9, 9), np.nan, np.float32))
    assert cli.predict(config(run, folder)) == 1
    out = folder.parent / "out"
    assert {row["image"] for row in rows(out / "summary.csv")} == set(SIZES)
    assert {path.name for path in (out / "labels").iterdir()} == {f"{name}.tif" for name in SIZES}
    told = capsys.readouterr().err
    assert "4 of 7 images failed:" in told
    for name, mend in {"cut.png": "copy it again", "text.tif": "convert it", "colour.png": "convert it to grey",
                       "nan.tif": "nan_to_num"}.items():  # fmt: skip
        [line] = [line for line in told.splitlines() if str(folder / name) in line]
        assert mend in line


def test_what_one_image_may_do_to_a_run(run, folder, monkeypatch, capsys):
    """A stack whose pages are called as another file is, and an image for which the memory does not suffice."""
    tifffile.imwrite(folder / "z.tif", np.stack([bright(SIZES["b"])] * 2), photometric="minisblack")
    Image.fromarray(bright(SIZES["b"])).save(folder / "z_p002.png")
    separate = Predictor.separate

    def costly(self, values, **options):
        if values.shape[:2] == SIZES["c"]:
            raise MemoryError("no room for 5 bytes")
        return separate(self, values, **options)

    monkeypatch.setattr(Predictor, "separate", costly)
    assert cli.predict(config(run, folder)) == 1
    told = capsys.readouterr().err
    assert "c.png: no room for 5 bytes" in told
    assert "its results would be those of" in told
    assert {row["image"] for row in rows(folder.parent / "out" / "summary.csv")} == {"a", "b", "z_p001", "z_p002"}


def test_what_is_there_is_kept(run, folder, capsys):
    assert cli.predict(config(run, folder)) == 0
    out = folder.parent / "out"
    for path in (out / "labels").iterdir():
        os.utime(path, (1, 1))
    (out / "objects" / "b.csv").unlink()
    shutil.move(folder / "c.png", folder.parent / "c.png")  # results of an image that is no longer asked for
    first = (out / "objects.csv").read_bytes(), (out / "summary.csv").read_bytes()
    assert cli.predict(config(run, folder)) == 0
    assert "1 images done, 2 objects; 1 were there already and kept" in capsys.readouterr().out
    assert {path.stat().st_mtime for path in (out / "labels").iterdir()} == {1}
    assert ((out / "objects.csv").read_bytes(), (out / "summary.csv").read_bytes()) == first
    with pytest.raises(ValueError, match=r"in another way \(threshold was 0.5, now 0.3\): .*--overwrite"):
        cli.predict(config(run, folder, threshold=0.3))
    assert cli.predict(config(run, folder, threshold=0.3, overwrite=True)) == 0
    assert sorted(path.stat().st_mtime == 1 for path in (out / "labels").iterdir()) == [False, False, True]


def test_nothing_of_an_earlier_run_contradicts_what_is_written_over_it(run, folder):
    out = folder.parent / "out"
    assert cli.predict(config(run, folder, overlay=True)) == 0
    assert (out / "objects.csv").exists()
    assert len(list((out / "overlays").iterdir())) > 1
    assert cli.predict(config(run, folder, instances=False, overwrite=True)) == 0
    left = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert left == {f"labels/{path.name}" for path in (out / "labels").iterdir()} | {"predict.json", "summary.csv"}


def test_a_run_that_was_cut_off_before_its_summary(run, folder):
    out = folder.parent / "out"
    assert cli.predict(config(run, folder)) == 0
    summary = (out / "summary.csv").read_bytes()
    (out / "summary.csv").unlink()
    assert cli.predict(config(run, folder)) == 0
    assert (out / "summary.csv").read_bytes() == summary


def test_a_full_disk_ends_the_run_and_leaves_no_half_file(run, folder, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tifffile, "imwrite", full)
    with pytest.raises(OSError, match="No space left"):
        cli.predict(config(run, folder))
    out = folder.parent / "out"
    assert not [path for path in out.rglob("*") if path.name.endswith(".tmp") or "labels/" in path.as_posix()]


def test_a_grey_image_for_a_model_of_colours_and_the_threshold_of_the_card(tmp_path, folder):
    own = card(SMALL, channels=3) | {"separation": {"threshold": 0.25}}
    run = save_run(tmp_path / "rgb", bright_variables(SMALL, 3), own)
    assert cli.predict(config(run, folder)) == 0
    assert json.loads((tmp_path / "out" / "predict.json").read_text())["threshold"] == 0.25
    np.testing.assert_array_equal(read_label(tmp_path / "out/labels/a.tif") > 0, bright(SIZES["a"]) > 100)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"threshold": 1.5}, "probability"),
        ({"tile": 15}, "15×15: .*pad it to 16×16"),
        ({"overlap": 1.0}, "0 <= overlap < 1"),
        ({"input": ("absent/*.png",)}, "no image there"),
        ({"model": (Path("absent"),)}, "holds no model"),
    ],
)
def test_options_that_cannot_be(run, folder, changes, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        cli.predict(config(run, folder, **changes))


def test_damaged_checkpoints(run, tmp_path, folder, caplog):
    """Another checkpoint takes the place of one that is damaged; without any the folder is named, and the mend."""
    copy = shutil.copytree(run, tmp_path / "copy")
    metadata = copy / "checkpoints" / "1" / "state" / "_METADATA"
    metadata.write_bytes(metadata.read_bytes()[:100])
    assert cli.predict(config(copy, folder)) == 0
    assert "the checkpoint of step 2 is used" in caplog.text
    for step in "12":
        shutil.rmtree(copy / "checkpoints" / step / "card")
    with pytest.raises(ValueError, match=r"holds no card, .*copy the folder again"):
        cli.predict(config(copy, folder))


def test_inputs(tmp_path):
    images = ("p/a.png", "p/b.TIF", "p/q/a.jpg", "p/x.y.png", "r/a.png", "d/images/a.png")
    for name in (*images, "p/.hidden.png", "p/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def names(*patterns):
        return [item.name for item in find_inputs([str(tmp_path / pattern) for pattern in patterns])]

    assert names("p") == ["a", "b", "x.y"]
    assert names("p/b.TIF") == ["b"]
    assert names("p/**/*.*") == ["a", "b", "q/a", "x.y"]
    assert names("*/a.png") == ["p/a", "r/a"]
    assert names("p/a.png", "p") == ["a", "b", "x.y"]
    with pytest.raises(ValueError, match=r"p/a.png and .*r/a.png would both give a: rename one"):
        names("p", "r")
    with pytest.raises(FileNotFoundError, match=r"it has .*d/images, name that"):
        names("d")
    with pytest.raises(FileNotFoundError, match="no image there"):
        names("p/notes.txt.png")


def test_the_command_itself(run, folder):
    """In a process of its own, which sets up jax before it is imported."""
    (folder / "bad.png").write_bytes(b"")
    images, out = [str(folder / name) for name in ("a.png", "bad.png")], folder.parent / "out"
    done = subprocess.run(
        [sys.executable, "-m", "unet_jax.cli", "predict", "--no-instances", "--model", str(run), "--output", str(out),
         "--input", *images], capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1
    assert "1 images done; results in" in done.stdout
    assert "bad.png: is empty" in done.stderr
    assert "Traceback" not in done.stderr
    assert (out / "labels" / "a.tif").exists()


def test_models_and_what_they_cost(capsys):
    """Widths 2, 4: 9·(1·2 + 2²) + 4, bottom 9·(8 + 16) + 8, up 4·4·2 + 2, block 9·(8 + 4) + 4, head 6, together 434."""
    assert cli.models(cli.Models(size=(8, 8), channels=1, widths=(2, 4))) == 0
    trained, architectures = capsys.readouterr().out.split("\n\n")
    assert [line.split()[0] for line in trained.splitlines()[1:]] == ["nuclei"]
    lines = {line.split()[0]: line for line in architectures.splitlines()[1:]}
    assert lines["UNet"].split()[1] == "434"
    assert "Ronneberger" in lines["UNet"]
    assert set(lines) == {model.__name__ for model in MODELS}
    with pytest.raises(ValueError, match="two or three sizes"):
        cli.models(cli.Models(size=(8,)))


def test_the_command_line_is_read_without_jax():
    light = "import sys, unet_jax.cli; sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", light]).returncode == 0
