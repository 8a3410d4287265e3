"""The paper's experiment on a stack of tiny slices: two steps, its files, and its refusals."""

import json

import numpy as np
import pytest
from PIL import Image

from experiments import train_isbi2012
from tests.folders import save
from unet_jax.data import FolderSource
from unet_jax.membranes import Framed
from unet_jax.models.unet import check_size


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """Six slices of 30×30: four cells each, with a membrane cross between them."""
    folder = tmp_path_factory.mktemp("stack")
    rng = np.random.default_rng(0)
    for i in range(6):
        mask = np.full((30, 30), 255, np.uint8)
        mask[13 + i % 3 : 16 + i % 3] = mask[:, 14:17] = 0
        image = np.where(mask > 0, 180, 60) + rng.integers(0, 40, mask.shape)
        save(folder / "images" / f"{i:02d}.png", image.astype(np.uint8))
        save(folder / "labels" / f"{i:02d}.png", mask)
    return folder


def config(stack, workdir, **changes):
    options = {"epochs": 2, "crops": 1, "batch": 2, "tile": 36, "widths": (4, 8), "train_slices": 4, "held_back": 2}
    return train_isbi2012.Config(data=stack, workdir=workdir, **options, **changes)


def test_two_steps_and_everything_a_run_leaves(stack, tmp_path, capsys):
    run = tmp_path / "run"
    assert train_isbi2012.main(config(stack, run)) == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    results = json.loads((run / "results.json").read_text())
    assert results["test"]["slices"] == 2
    assert 0 < results["test"]["v_rand"] <= results["challenge_rule"]["v_rand"] <= 1
    assert len(results["by_threshold"]) == 9
    assert results["peak_bytes"] > 2**27
    out = capsys.readouterr().out
    assert "train: 2 slices, val: 2 slices, test: 2 slices" in out
    assert "v rand 0." in out
    for picture in ("curves.png", "examples.png"):
        with Image.open(run / "report" / picture) as image:
            assert image.size[0] > 300


def test_frames_are_mirrored_and_their_pieces_numbered(stack):
    source = FolderSource(stack, label_kind="binary")
    framed = Framed(source, 8)
    sample, raw = framed[1], source[1]["label"]
    assert sample["image"].shape == (46, 46, 1)
    np.testing.assert_array_equal(sample["label"][8:-8, 8:-8] > 0, raw)
    np.testing.assert_array_equal(sample["label"][:8], sample["label"][16:8:-1])  # row 8 is the slice's first
    assert set(np.unique(sample["label"])) == {0, 1, 2, 3, 4}
    pixels = np.bincount(np.concatenate([source[i]["label"].ravel() for i in range(6)]))
    assert framed.class_weights == (pixels[1] / pixels[0], 1)


def test_misuse_is_named(stack, tmp_path):
    with pytest.raises(ValueError, match="--data is missing: name the folder"):
        train_isbi2012.main(train_isbi2012.Config())
    with pytest.raises(ValueError, match=r"--train-slices 4, --held-back 4 of 6 slices: leave at least"):
        train_isbi2012.main(
            train_isbi2012.Config(data=stack, workdir=tmp_path / "run", train_slices=4, held_back=4, widths=(4, 8))
        )
    with pytest.raises(ValueError, match=r"16×16 pixels does not fit .* pad it to 188×188"):
        check_size((16, 16), (1, 2, 4, 8, 16), "VALID")
    with pytest.raises(ValueError, match="does not fit a network of 1 down-samplings with VALID padding"):
        train_isbi2012.main(train_isbi2012.Config(data=stack, tile=35, widths=(4, 8)))
    assert not (tmp_path / "run").exists()


def test_presets_fill_in_what_was_not_said(stack):
    paper = train_isbi2012.resolve(train_isbi2012.Config(data=stack), "gpu")
    assert (paper.widths, paper.batch, paper.momentum) == ((64, 128, 256, 512, 1024), 1, 0.99)
    assert train_isbi2012.resolve(train_isbi2012.Config(data=stack), "cpu").preset == "small"
