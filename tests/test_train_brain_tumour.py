"""The experiment as a user runs it, on two tiny phantoms: two steps, labels in the files' space, scores, misuse."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import train_brain_tumour as experiment
from tests.volumes import SHAPE, decathlon, save
from unet_jax.commands.predict_volumes import PredictVolumes, predict_volumes
from unet_jax.data.nifti import read_nifti
from unet_jax.data.phantom import phantom
from unet_jax.data.volume_folders import Case
from unet_jax.lock import locked
from unet_jax.volume_evaluation import predict_cases
from unet_jax.volume_prediction import VolumePredictor


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return decathlon(tmp_path_factory.mktemp("volumes"), 2)


def config(folder, workdir, **changes):
    tiny = {"data": str(folder), "epochs": 1, "crops": 4, "patch": (16, 16, 8), "widths": (4, 8), "overlap": 0.25}
    return experiment.Config(workdir=workdir, **tiny | changes)


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """Two steps and all that follows."""
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    assert experiment.main(config(folder, workdir)) == 0
    return workdir


def test_everything_a_run_leaves(run):
    row = json.loads((run / "metrics.jsonl").read_text())
    assert row["step"] == 2
    assert {"val_whole tumour", "val_tumour core", "val_enhancing tumour"} <= set(row)
    assert 1 - row["val_dice"] < row["val_loss"] < 1 - row["val_dice"] + 2, "cross-entropy, and the Dice of whole cases"
    assert row["val_dice"] == pytest.approx(np.mean([row[f"val_{n}"] for n in experiment_regions(run)]))
    results = json.loads((run / "results.json").read_text())
    assert (results["test"]["cases"], results["train"]["cases"]) == (1, 1)
    assert results["seconds"]["a_case"] > 0
    table = (run / "per_case.csv").read_text().splitlines()
    assert len(table) == 1 + 2 * 3
    assert table[1].startswith("test,phantom_001,whole tumour,")
    for name in ("curves", "phantom_000", "phantom_001"):
        with Image.open(run / "report" / f"{name}.png") as image:
            assert min(image.size) > 300


def test_a_folder_in_use_is_refused(folder, tmp_path):
    workdir = tmp_path / "busy"
    with locked(workdir), pytest.raises(FileExistsError, match="name another --workdir"):
        experiment.main(config(folder, workdir))


def experiment_regions(run):
    return json.loads((run / "results.json").read_text())["test"]["regions"]


def test_scores_are_those_of_the_label_that_was_written(run, folder):
    label, grid = read_nifti(run / "predictions" / "phantom_001.nii.gz")
    truth, _ = read_nifti(folder / "labelsTr" / "phantom_001.nii.gz")
    assert (label.dtype, label.shape, grid.axes) == (np.uint8, (*SHAPE, 1), "RAS")
    both, sizes = ((label > 0) & (truth > 0)).sum(), (label > 0).sum() + (truth > 0).sum()
    found = json.loads((run / "results.json").read_text())["test"]["regions"]["whole tumour"]
    assert found["dice"] == pytest.approx(2 * both / sizes)
    assert found["truth_ml"] == pytest.approx((truth > 0).sum() / 1000)


def test_the_label_lies_as_the_image_however_it_was_stored(run):
    """The same head stored by another scanner's axes gets the same label, turned alike."""
    predictor = VolumePredictor.load(run, overlap=0.25)
    image, _ = phantom(1, SHAPE)
    affine = np.zeros((4, 4))
    affine[0, 2], affine[1, 0], affine[2, 1], affine[3, 3] = -1, 1, -1, 1  # axes run front, down, left

    stored = image.transpose(1, 2, 0, 3)[:, ::-1, ::-1]
    _, grid = read_nifti(save(run / "turned.nii.gz", np.ascontiguousarray(stored), affine))
    plain, _ = read_nifti(run / "predictions" / "phantom_001.nii.gz")
    turned = predictor(stored, grid)
    np.testing.assert_array_equal(turned, plain[..., 0].transpose(1, 2, 0)[:, ::-1, ::-1])
    with pytest.raises(ValueError, match="3 modalities: the model was trained with FLAIR, T1w, T1gd, T2w"):
        predictor(stored[..., :3], grid)


def test_predicting_volumes_from_the_command_line(run, folder, tmp_path, capsys):
    room = tmp_path / "in"
    room.mkdir()
    (room / "good.nii.gz").write_bytes((folder / "imagesTr" / "phantom_001.nii.gz").read_bytes())
    (room / "torn.nii.gz").write_bytes((room / "good.nii.gz").read_bytes()[:5000])
    options = PredictVolumes(
        run, (room, room / "good.nii.gz"), tmp_path / "out", overlap=0.25
    )  # named twice, done once
    assert predict_volumes(options) == 1
    said = capsys.readouterr()
    assert "1 cases done" in said.out
    assert str(room / "torn.nii.gz") in said.err
    label, _ = read_nifti(tmp_path / "out" / "labels" / "good.nii.gz")
    np.testing.assert_array_equal(label, read_nifti(run / "predictions" / "phantom_001.nii.gz")[0])
    header, row = (tmp_path / "out" / "volumes.csv").read_text().splitlines()
    assert header == "case,whole tumour (ml),tumour core (ml),enhancing tumour (ml)"
    assert row.split(",")[:2] == ["good", f"{(label > 0).sum() / 1000:.3f}"]
    with Image.open(tmp_path / "out" / "pictures" / "good.png") as image:
        assert image.size[0] > 300


def test_two_patients_of_one_name_are_refused(run, folder, tmp_path):
    rooms = tmp_path / "siteA", tmp_path / "siteB"
    for room, name in zip(rooms, ("phantom_000", "phantom_001"), strict=True):
        room.mkdir()
        (room / "case1.nii.gz").write_bytes((folder / "imagesTr" / f"{name}.nii.gz").read_bytes())
    with pytest.raises(ValueError, match=r"two cases are called case1 \(.*siteA.* and .*siteB.*two --output folders"):
        predict_volumes(PredictVolumes(run, rooms, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_exclusive_classes(folder, tmp_path):
    workdir = tmp_path / "run"
    assert experiment.main(config(folder, workdir, outputs="classes", augment=False, scored_train_cases=0)) == 0
    assert json.loads((workdir / "metrics.jsonl").read_text())["step"] == 2
    predictor = VolumePredictor.load(workdir)
    assert (predictor.card["outputs"], predictor.card["model"]["classes"]) == ("classes", 4)
    label, truth = (
        read_nifti(path / "phantom_001.nii.gz")[0] for path in (workdir / "predictions", folder / "labelsTr")
    )
    assert set(np.unique(label)) <= {0, 1, 2, 3}
    found = experiment_regions(workdir)
    assert list(found) == ["whole tumour", "tumour core", "enhancing tumour"]
    for members, scores in zip(((1, 2, 3), (2, 3), (3,)), found.values(), strict=True):
        seen, there = np.isin(label, members), np.isin(truth, members)
        assert scores["dice"] == pytest.approx(2 * (seen & there).sum() / (seen.sum() + there.sum()))


def test_a_case_seen_at_another_spacing_is_labelled_on_its_own_grid(run, tmp_path):
    """A bright block, found by its grey level alone, in a file whose axes run down, right and behind.

    Two axes of 1 mm are seen at 2 mm: each wide voxel is the mean of two; with the block's ends even, none lies across
    them. On the way back a voxel lies a quarter of a wide one off its centre: the block's share along an axis is
    1 or 0.75 inside and 0 or 0.25 outside, along both at least 0.5625 and at most 0.25; a half decides.
    """
    affine = np.zeros((4, 4))
    affine[2, 0], affine[0, 1], affine[1, 2], affine[:, 3] = -2, 1, -1, (5, -7, 11, 1)
    block = np.zeros((16, 32, 32), bool)
    block[2:10, 4:20, 10:26] = True
    path = save(tmp_path / "a.nii.gz", np.repeat(np.where(block, 200, 100)[..., None], 4, -1).astype(np.int16), affine)

    trained = VolumePredictor.load(run, overlap=0.25)
    card = {**trained.card, "spacing": [2.0, 2.0, 2.0]}
    predictor = VolumePredictor(dataclasses.replace(trained.predictor, card=card), 0.25)
    seen = []

    def bright(tiles):  # mean 112.5, deviation 33.1: 127.5 (1 + z / 5) is 195 in the block, 118 around
        seen.append(tiles.shape)
        return jnp.repeat((tiles[..., :1] > 150).astype(jnp.float32), 3, axis=-1)

    vars(predictor)["_forward"] = bright  # in the place of the network
    done, failed = predict_cases(predictor, [Case("a", (path,), None)], tmp_path / "out", say=print)
    assert (done, failed) == (["a"], [])
    label, grid = read_nifti(tmp_path / "out" / "labels" / "a.nii.gz")
    assert (label.dtype, label.shape) == (np.uint8, (16, 32, 32, 1))
    np.testing.assert_allclose(grid.affine, affine)
    np.testing.assert_array_equal(label[..., 0], 3 * block)
    assert len(seen) <= 8  # 16 x 16 x 16 wide voxels in tiles of 16 x 16 x 8, not 32 x 32 x 16


def test_the_network_halves_thin_volumes_less_often(folder, tmp_path):
    source = experiment.open_source(config(folder, tmp_path))
    thin = dataclasses.replace(config(folder, tmp_path, patch=None, widths=(4, 8, 16)), preset="small", dtype="float32")
    plan = experiment.make_plan(thin, source)
    size = np.median([source[i]["label"].shape for i in range(2)], axis=0)
    assert 8 <= size[2] < 16 <= size[0]  # planes that can be halved once
    assert plan.patch == (*(int(n) // 4 * 4 for n in size[:2]), int(size[2]) // 2 * 2)
    model, *_ = experiment.compose(thin, ((1,),), source, plan, 9)
    assert model.strides == plan.strides == ((2, 2, 2), (2, 2, 1))
    with pytest.raises(ValueError, match=r"--patch 16×16×9 cannot be halved .*: give 16×16×8 or 16×16×10"):
        experiment.make_plan(dataclasses.replace(thin, patch=(16, 16, 9), widths=(4, 8)), source)


def test_misuse_leaves_nothing_behind(folder, tmp_path):
    for changes, message in (
        ({"data": str(tmp_path / "none")}, "no such folder"),
        ({"crops": 0}, "--crops 0: give 1 or more"),
        ({"overlap": 1.0}, "--overlap 1.0: give a share from 0 to below 1"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            experiment.main(config(folder, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()
