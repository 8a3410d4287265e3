"""Any folder, without a flag: roads with soft edges trained for some steps; bands, scenes, palettes; and refusals."""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tifffile
from PIL import Image

from experiments import train_folder
from tests.folders import save, squares
from unet_jax import losses
from unet_jax.commands.evaluate import Evaluate, evaluate
from unet_jax.evaluating import NOTES
from unet_jax.planning import Statistics, make_plan


@pytest.fixture(scope="module")
def roads(tmp_path_factory):
    """Twelve RGB images of 48×40 with a bright road whose mask has soft edges."""
    folder = tmp_path_factory.mktemp("roads")
    rng = np.random.default_rng(0)
    for i in range(12):
        distance = abs(np.arange(48)[:, None] - 12 - 2 * i) * np.ones((48, 40))
        mask = np.clip((6 - distance) * 80, 0, 255).astype(np.uint8)
        image = mask[..., None] // 2 + rng.integers(40, 90, (48, 40, 3))
        save(folder / "images" / f"r{i}.png", image.astype(np.uint8))
        save(folder / "masks" / f"r{i}.png", mask)
    return folder


def config(data, workdir, **changes):
    options = {"widths": (4, 8), "patch": 32, "batch": 2, "crops": 2, "epochs": 2, "augment": False, "norm": "none"}
    return train_folder.Config(data=str(data), workdir=workdir, **options | changes)


def test_roads_without_a_flag_but_for_speed(roads, tmp_path, capsys):
    run = tmp_path / "run"
    assert train_folder.main(config(roads, run)) == 0
    out = capsys.readouterr().out
    assert "a pixel of 128 or more is foreground" in out
    assert "loss: dice+ce; foreground, the rarest class, is" in out
    assert "patch: 32; given" in out
    plan = json.loads((run / "plan.json").read_text())
    assert (plan["patch"], plan["reasons"]["patch"]) == (32, "given")
    results = json.loads((run / "results.json").read_text())
    assert set(results["classes"]) == {"background", "foreground"}
    assert results["test"]["worst_class"] == "foreground"
    assert "an absent class has no score" in results["rules"]["classes"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    # 8 or so images, visited once at least: more than the two crops asked for
    assert rows[-1]["step"] == 2 * rows[0]["step"] > 2
    with Image.open(run / "report" / "examples.png") as image:
        assert image.size[0] > 300
    evaluate(Evaluate(str(roads), tmp_path / "scores", model=run, split="test"))
    again = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert again["about"]["notes"] == [NOTES["classes"]]  # the same test images
    assert again["pixels"]["images"] == results["test"]["images"]
    for name, row in results["classes"].items():
        assert again["pixels"]["by_class"][name]["pixels"] == row["pixels"]
    assert again["pixels"]["iou_pooled"] == pytest.approx(results["test"]["iou_pooled"], abs=0.05)  # tiles differ


def test_a_run_goes_on_by_the_plan_it_had(roads, tmp_path):
    first = config(roads, tmp_path, widths=(4, 8, 16), patch=None)
    plan = {"patch": 100, "widths": [4, 8, 16], "batch": 3, "normalisation": "percentile", "loss": "tversky+focal",
            "centred": 0.1, "balance": 0.2, "crops": 6, "epochs": 7, "reasons": {}}  # fmt: skip
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    assert train_folder.planned_before(first) == {}  # one that begins
    went_on, *_ = train_folder.prepare(
        dataclasses.replace(first, resume=True, max_minutes=1.0, epochs=None, crops=None)
    )
    assert (went_on.patch, went_on.widths, went_on.loss, went_on.crops) == (100, (4, 8, 16), "tversky+focal", 6)
    assert went_on.epochs == 10_000  # the minutes decide, also now


def test_bands_of_16_bits_are_stretched_one_by_one(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for i in range(3):
        bands = rng.random((40, 40, 5)) * [10, 100, 1000, 10000, 60000]
        (tmp_path / "images").mkdir(exist_ok=True)
        tifffile.imwrite(
            tmp_path / "images" / f"s{i}.tif", bands.astype(np.uint16), photometric="minisblack", planarconfig="contig"
        )
        save(tmp_path / "labels" / f"s{i}.png", squares([1, 2], pieces=9, size=40))
    plan, legend, parts, how = train_folder.prepare(config(tmp_path, tmp_path / "run"))
    assert type(how).__name__ == "ChannelPercentiles"
    assert "5 bands with spans from" in plan.reasons["normalisation"]
    assert legend.names == ("background", "class 1", "class 2")
    assert parts["train"][0]["image"].std(axis=(0, 1)).min() > 50
    assert "3 images are few" in capsys.readouterr().out


def test_a_single_scene_is_cut_and_split(tmp_path, capsys):
    save(tmp_path / "images" / "scene.png", np.random.default_rng(0).integers(0, 255, (200, 160), np.uint8))
    save(tmp_path / "masks" / "scene.png", np.tile(squares([255] * 20, size=40), (5, 4)))
    _, _, parts, _ = train_folder.prepare(config(tmp_path, tmp_path / "run"))
    ids = [{i.split("@")[1] for i in part.ids} for part in parts.values()]
    assert not ids[0] & ids[1] | ids[1] & ids[2] | ids[0] & ids[2]
    assert "cut into 20 windows that share no pixel, to be split" in capsys.readouterr().out


def test_palette_and_ignore(tmp_path):
    table = np.array([(0, 0, 0), (255, 0, 0), (9, 9, 9)], np.uint8)
    for i in range(3):
        save(tmp_path / "images" / f"s{i}.png", np.zeros((24, 24), np.uint8))
        save(tmp_path / "labels" / f"s{i}.png", table[squares([1, 2])])
    (tmp_path / "palette.txt").write_text("ground 0 0 0\nhouse 255 0 0\n")
    source, legend = train_folder.open_source(train_folder.Config(data=str(tmp_path), ignore="9,9,9"))
    assert legend.names == ("ground", "house")
    assert (~source[0]["mask"]).sum() == 4
    with pytest.raises(ValueError, match=r"s0.png: holds #090909, which no class has: give --ignore VALUE"):
        train_folder.open_source(train_folder.Config(data=str(tmp_path)))
    with pytest.raises(ValueError, match="--ignore nine: give a number, or a colour"):
        train_folder.open_source(train_folder.Config(data=str(tmp_path), ignore="nine"))


def test_misuse_is_named(tmp_path):
    with pytest.raises(ValueError, match="--data is missing: name a folder"):
        train_folder.main(train_folder.Config())
    with pytest.raises(FileNotFoundError, match="no such folder"):
        train_folder.main(train_folder.Config(data=str(tmp_path / "nowhere"), workdir=tmp_path / "run"))
    for changes, message in (({"centred": 1.5}, "--centred 1.5: give a share"), ({"batch": 0}, "--batch 0: give 1")):
        with pytest.raises(ValueError, match=message):
            train_folder.main(dataclasses.replace(train_folder.Config(data="x", workdir=tmp_path / "run"), **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["dice+ce", "tversky+focal"])
def test_a_class_absent_from_the_batch_neither_rewards_nor_punishes(name):
    label = jnp.asarray(squares([1, 2], pieces=5, size=16)[None], jnp.int32)
    mask, rng = jnp.ones(label.shape, bool), np.random.default_rng(0)
    guess = jnp.asarray(rng.normal(size=(1, 16, 16, 3)), jnp.float32)
    without, loss = (train_folder.make_losses(classes)[name] for classes in (3, 4))
    # A fourth class that nobody drew and nobody predicts changes nothing: it is no easy success.
    nowhere = jnp.full((1, 16, 16, 1), -60.0)
    np.testing.assert_allclose(
        loss(jnp.concatenate([guess, nowhere], -1), label, mask), without(guess, label, mask), rtol=1e-5
    )
    # Background taken for it costs what a wrong pixel costs, and nothing on top for the overlap of that class.
    right = 20 * jax.nn.one_hot(label, 4)
    wrong = right.at[0, 15].set(20 * jnp.eye(4)[3])
    pixels = partial(losses.focal, alpha=None) if "focal" in name else losses.cross_entropy
    weight = 4 if "focal" in name else 1
    overlap = [loss(x, label, mask) - weight * pixels(x, label, mask) for x in (right, wrong)]
    assert not label[0, 15].any()
    assert pixels(wrong, label, mask) > 1
    np.testing.assert_allclose(*overlap, atol=1e-5)


@pytest.mark.parametrize("background", [0, None])
def test_the_overlap_of_class_0_counts_where_it_is_no_background(background):
    label = jnp.asarray(squares([1, 2], pieces=5, size=16)[None], jnp.int32)
    mask, guess = jnp.ones(label.shape, bool), jnp.asarray(np.random.default_rng(0).normal(size=(1, 16, 16, 3)))
    overlap = losses.dice(guess, label, mask, background=background is None, present_only=True)
    found = train_folder.make_losses(3, background=background)["dice+ce"](guess, label, mask)
    np.testing.assert_allclose(found, overlap + losses.cross_entropy(guess, label, mask), rtol=1e-5)


def test_every_planned_loss_exists():
    size, shares = (9, 9.0, 9), (0.5, 0.5)
    base = Statistics(9, size, size, 1, "uint8", ((0.0, 1.0),), ("background", "a"), shares, (1.0, 1.0))
    for share in (0.5, 0.001):
        plan = make_plan(dataclasses.replace(base, pixel_share=(1 - share, share)))
        assert callable(train_folder.make_losses(2)[plan.loss])
