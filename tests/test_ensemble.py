"""Several models as one: the mean, its spread, and which may be averaged."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.trained import SMALL, TILE, card, random_variables, save_run
from unet_jax import cli, ensemble
from unet_jax.models import UNet
from unet_jax.prediction import Predictor, export_model

OTHER = UNet((3, 6))
FOREGROUND = {"head": "foreground", "separation": {"threshold": 0.4, "min_area": 10}}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def three():
    """Two models of one shape, and one of another."""
    variables = random_variables(SMALL)
    flipped = jax.tree.map(lambda a: a[..., ::-1].copy(), variables)
    return [(variables, card(SMALL)), (flipped, card(SMALL)), (random_variables(OTHER), card(OTHER))]


@pytest.fixture(scope="module")
def folders(three, tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for i, (variables, of) in enumerate(three):
        export_model(Predictor(variables, of), root / str(i), dtype="float32")
    return [root / str(i) for i in range(3)]


@pytest.fixture(scope="module")
def together(folders):
    return Predictor.load(folders)


def test_mean_and_spread_are_those_of_the_models_one_by_one(three, together):
    image = noise(20, 24, 1)
    each = np.stack([Predictor(*model)(image).probabilities for model in three])
    found = together(image)
    np.testing.assert_allclose(found.probabilities, each.mean(axis=0), atol=1e-5)
    # where tiles overlap, the spread is blended like every value
    one_tile = noise(TILE, TILE, 1, seed=1)
    each = np.stack([Predictor(*model)(one_tile).probabilities for model in three])
    np.testing.assert_allclose(together(one_tile).spread, each.std(axis=0).max(axis=-1), atol=1e-5)
    assert found.spread.shape == (20, 24)
    assert found.spread.max() > 0.01


def test_equal_models_share_a_program(together, monkeypatch):
    traces = []
    real = UNet.__call__
    monkeypatch.setattr(UNet, "__call__", lambda self, *a, **k: traces.append(self.widths) or real(self, *a, **k))
    fresh = dataclasses.replace(together)
    traces.clear()
    fresh(noise(9, 9, 1))
    fresh(noise(30, 9, 1))
    assert sorted(traces) == [(3, 6), (4, 8)]


def test_with_eight_views_the_spread_is_over_all(three):
    image = noise(TILE, TILE, 1)
    views = []
    for variables, of in three[:2]:
        one = Predictor(variables, of)
        for turns in range(4):
            for mirror in (False, True):
                seen = np.ascontiguousarray(np.rot90(image[:, ::-1] if mirror else image, turns))
                back = np.rot90(one(seen).probabilities, -turns)
                views.append(back[:, ::-1] if mirror else back)
    first, second = (Predictor(*model, tta=True) for model in three[:2])
    found = dataclasses.replace(first, others=(second,))(image)
    np.testing.assert_allclose(found.probabilities, np.mean(views, axis=0), atol=1e-5)
    np.testing.assert_allclose(found.spread, np.std(views, axis=0).max(axis=-1), atol=1e-5)


def test_folds_of_a_training_on_the_command_line(three, tmp_path, capsys):
    """Two runs, whose separation was chosen for each: the spread is written, the model's name is that of both."""
    for i, (variables, of) in enumerate(three[:2]):
        save_run(tmp_path / f"fold{i}", variables, {**of, **FOREGROUND})
    Image.fromarray(noise(20, 24)).save(tmp_path / "image.png")
    both = tuple(tmp_path / f"fold{i}" for i in (0, 1))
    options = {"input": (str(tmp_path / "image.png"),), "probabilities": True}
    assert cli.predict(cli.Predict(model=both, output=tmp_path / "out", **options)) == 0
    assert "1 images done" in capsys.readouterr().out
    spread = tifffile.imread(tmp_path / "out" / "spread" / "image.tif")
    assert (spread.shape, spread.max() > 0.01) == ((20, 24), True)
    alone = Predictor.load(both[0]).fingerprint
    assert json.loads((tmp_path / "out" / "predict.json").read_text())["model"] not in (alone, "")


def test_the_median_of_what_was_chosen():
    cards = [{"separation": {"threshold": t, "min_area": a}} for t, a in ((0.4, 0), (0.6, 20), (0.5, 40), (0.7, 10))]
    assert ensemble.separation(cards) == {"threshold": 0.5, "min_area": 10}  # the lower of two middle ones
    assert ensemble.separation([{}, {}]) == {}


def test_models_that_do_not_go_together(three, folders, together, tmp_path):
    variables, of = three[0]
    for changes, message in (
        ({"classes": ["background", "road"]}, r"model 2 has the classes \['background', 'road'\], the first"),
        ({"head": "foreground"}, "the head foreground, the first classes alone"),
        ({"normalisation": {"method": "percentile", "low": 2.0, "high": 98.0}}, "model 2 has the normalisation"),
    ):
        export_model(Predictor(variables, {**of, **changes}), tmp_path)
        with pytest.raises(ValueError, match=message):
            Predictor.load([folders[0], tmp_path])
    colour = UNet((4, 8))
    export_model(Predictor(random_variables(colour, 3), card(colour, channels=3)), tmp_path)
    with pytest.raises(ValueError, match="model 2 has the channels 3, the first 1"):
        Predictor.load([folders[0], tmp_path])
    deep = UNet((2, 4, 8, 8, 8, 8))
    export_model(Predictor(random_variables(deep, tile=32), card(deep, tile=32)), tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path}: tile 16×16: .*pad it to 32×32"):
        Predictor.load([folders[0], tmp_path])
    unpadded = UNet((4, 8), padding="VALID")
    export_model(Predictor(random_variables(unpadded, tile=28), card(unpadded, tile=28)), tmp_path)
    with pytest.raises(ValueError, match=r"model 2 makes \(12, 12\) pixels of a tile of \(28, 28\)"):
        Predictor.load([folders[0], tmp_path], tile=(28, 28))
    with pytest.raises(ValueError, match="no model: name at least one folder"):
        Predictor.load([])
    with pytest.raises(ValueError, match="3 models do not go into one folder"):
        export_model(together, tmp_path)
