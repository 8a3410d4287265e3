import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.trained import SMALL, TILE, bright_variables, card, random_variables, save_run
from unet_jax import prediction
from unet_jax.data import to_uint8
from unet_jax.models import UNet, UNetPP, from_spec, to_spec, unetpp
from unet_jax.prediction import Predictor, export_model
from unet_jax.probabilities import class_map, foreground
from unet_jax.training import to_unit


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@functools.partial(jax.jit, static_argnums=0)
def forward(model, variables, image):
    return model.apply(variables, image, train=False)


def plain_forward(model, variables, image):
    """Probabilities of the whole image in one piece, normalised as the card says."""
    logits = forward(model, variables, to_unit(jnp.asarray(to_uint8(image, low=0, high=100))[None]))
    return np.asarray(jax.nn.softmax(logits, axis=-1))[0]


@pytest.fixture(scope="module")
def predictor():
    return Predictor(random_variables(SMALL), card(SMALL))


def test_a_tile_that_covers_the_image_gives_the_plain_forward_pass(predictor):
    image = noise(TILE, TILE, 1)
    found = predictor(image)
    np.testing.assert_allclose(found.probabilities, plain_forward(SMALL, predictor.variables, image), atol=1e-5)
    assert found.classes == ("background", "cell")
    assert found.spread is None
    np.testing.assert_allclose(found.foreground, found.probabilities[..., 1], atol=1e-6)


def test_an_image_smaller_than_a_tile_is_mirrored_around(predictor):
    image = noise(10, 13, 1)  # in the middle of 16 × 16: 3 before and 3 after, 1 before (rounded down: 2) and 1 after
    mirrored = np.pad(image, ((3, 3), (2, 1), (0, 0)), mode="reflect")
    want = plain_forward(SMALL, predictor.variables, mirrored)[3:13, 2:15]
    np.testing.assert_allclose(predictor(image).probabilities, want, atol=1e-5)


def test_far_from_tile_borders_a_large_image_is_predicted_as_in_one_piece(predictor):
    """The network sees 9 pixels around; 16 of the tile's 40 are its own, farther than that from its border."""
    image = noise(64, 64, 1)
    tiled = Predictor(predictor.variables, predictor.card, tile=(40, 40), overlap=0.4)  # origins 0 and 24
    difference = np.abs(tiled(image).probabilities - plain_forward(SMALL, predictor.variables, image))
    assert difference[:14, :14].max() < 1e-5
    assert difference[50:, 50:].max() < 1e-5
    assert difference.max() < 0.02


def test_fifty_images_of_fifty_sizes_compile_once(predictor, monkeypatch):
    traces = []
    real = prediction.activate

    def counting(logits):
        traces.append(logits.shape)
        return real(logits)

    monkeypatch.setattr(prediction, "activate", counting)
    fresh = Predictor(predictor.variables, predictor.card)
    images = [noise(3 + i, 40 - i // 2, 1) for i in range(50)]
    sizes = [found.probabilities.shape for found in fresh.run(map(fresh.prepare, images))]
    fresh(images[0])
    assert sizes == [(*image.shape[:2], 2) for image in images]
    assert traces == [(8, TILE, TILE, 2)]


def test_eight_views_in_one_call(predictor):
    """The mean and the spread are those of eight predictions, each turned back by hand."""
    image = noise(TILE, TILE, 1)
    views = []
    for turns, mirror in itertools.product(range(4), (False, True)):
        seen = np.rot90(image[:, ::-1] if mirror else image, turns)
        back = np.rot90(plain_forward(SMALL, predictor.variables, np.ascontiguousarray(seen)), -turns)
        views.append(back[:, ::-1] if mirror else back)
    found = Predictor(predictor.variables, predictor.card, tta=True)(image)
    np.testing.assert_allclose(found.probabilities, np.mean(views, axis=0), atol=1e-5)
    np.testing.assert_allclose(found.spread, np.std(views, axis=0).max(axis=-1), atol=1e-5)
    assert found.spread.max() > 1e-4


def test_a_vector_turns_with_its_view():
    """A network whose map is the image's gradient: seen from eight sides it says the same as from one."""
    model = UNet((5, 4), classes=4)
    variables = jax.tree.map(lambda a: np.zeros(a.shape, np.float32), random_variables(model))
    params = variables["params"]
    params["down0"]["conv0"]["kernel"][1, 1, 0, 0] = 1
    for channel, (ahead, behind) in enumerate([((2, 1), (0, 1)), ((0, 1), (2, 1)), ((1, 2), (1, 0)), ((1, 0), (1, 2))]):
        params["down0"]["conv0"]["kernel"][(*ahead, 0, channel + 1)] = 1
        params["down0"]["conv0"]["kernel"][(*behind, 0, channel + 1)] = -1
    for block, conv in (("down0", "conv1"), ("up0", "conv0"), ("up0", "conv1")):
        for channel in range(5):
            params[block][conv]["kernel"][1, 1, channel, channel] = 1
    params["logits"]["kernel"][0, 0] = [[0, 9, 0, 0], [0, 0, 1, 0], [0, 0, -1, 0], [0, 0, 0, 1], [0, 0, 0, -1]]
    told = card(model) | {"head": "flow", "classes": ["background", "cell"]}
    image = noise(TILE, TILE, 1)
    once, views = (Predictor(variables, told, tta=tta)(image).values for tta in (False, True))
    assert np.abs(once[..., 2:4]).max() > 0.5
    np.testing.assert_allclose(views[..., :4], once[..., :4], atol=1e-5)


def test_unpadded_network_by_the_overlap_tile_strategy():
    """Tiles 28 in, 12 out, at even places, so that pooling falls on the same pixels as in one piece."""
    model = UNet((4, 8), padding="VALID")
    variables = random_variables(model, tile=28)
    unpadded = Predictor(variables, card(model, tile=28), overlap=0.0)
    assert unpadded.output_size == (12, 12)
    image = noise(20, 24, 1)
    mirrored = np.pad(image, ((8, 8), (8, 8), (0, 0)), mode="reflect")
    np.testing.assert_allclose(unpadded(image).probabilities, plain_forward(model, variables, mirrored), atol=1e-5)


def test_volumes_too():
    model = UNet((2, 4), classes=1)
    volume = Predictor(random_variables(model, tile=8, rank=3), card(model, tile=8, rank=3), batch=2)
    found = volume(noise(9, 8, 11))
    assert found.probabilities.shape == (9, 8, 11, 1)
    np.testing.assert_array_equal(found.foreground, found.probabilities[..., 0])


def test_best_and_latest_of_a_training(predictor, tmp_path):
    run = save_run(tmp_path / "run", predictor.variables, predictor.card)
    image = noise(20, 20, 1)
    best, latest = Predictor.load(run), Predictor.load(str(run / "checkpoints"), which="latest")
    assert (best.card["position"]["step"], latest.card["position"]["step"]) == (1, 2)
    assert best.fingerprint == predictor.fingerprint != latest.fingerprint
    np.testing.assert_array_equal(best(image).probabilities, predictor(image).probabilities)
    np.testing.assert_allclose(latest(image).probabilities, 0.5, atol=1e-6)


@pytest.mark.parametrize(("dtype", "close", "bytes_each"), [("float32", 0, 4), ("float16", 2e-3, 2)])
def test_exported_model_predicts_the_same(predictor, tmp_path, dtype, close, bytes_each):
    export_model(predictor, tmp_path / "small", dtype=dtype)
    assert sorted(path.name for path in (tmp_path / "small").iterdir()) == ["card.json", "params.npz"]
    with np.load(tmp_path / "small" / "params.npz", allow_pickle=False) as stored:
        assert {stored[name].dtype.itemsize for name in stored.files} == {bytes_each}
    image = noise(20, 20, 1)
    again = Predictor.load(tmp_path / "small")
    np.testing.assert_allclose(again(image).probabilities, predictor(image).probabilities, atol=close)


def test_a_pruned_network_is_a_model_like_any_other(tmp_path):
    """As README has it: cut at column 1 and exported, it predicts what the whole network's head says there."""
    model = UNetPP((4, 6, 8))
    whole = Predictor(random_variables(model), card(model))
    small, variables = unetpp.prune(from_spec(whole.card["model"]), whole.variables, columns=1)
    export_model(Predictor(variables, {**whole.card, "model": to_spec(small)}), tmp_path, dtype="float32")
    image = noise(TILE, TILE, 1)
    seen = to_unit(jnp.asarray(whole.prepare(image))[None])
    _, sown = model.apply(jax.device_put(whole.variables), seen, mutable=["aux"])
    want = jax.nn.softmax(sown["aux"]["level1"][0][0], axis=-1)
    np.testing.assert_allclose(Predictor.load(tmp_path)(image).probabilities, want, atol=1e-5)


def test_parameters_out_of_range_of_float16_are_refused(predictor, tmp_path):
    large = jax.tree.map(lambda a: np.asarray(a) + 1e5, predictor.variables)
    with pytest.raises(ValueError, match="choose float32"):
        export_model(Predictor(large, predictor.card), tmp_path)
    with pytest.raises(ValueError, match="float16 or float32"):
        export_model(predictor, tmp_path, dtype="int8")
    assert not (tmp_path / "params.npz").exists()


def test_statistics_of_batch_normalisation_stay_float32(tmp_path):
    model = UNet((4, 8), norm="batch")
    variables = jax.tree.map(np.array, dict(random_variables(model)))
    variables["batch_stats"]["down0"]["norm0"]["batch"]["var"][:] = 1e6  # beyond float16
    export_model(Predictor(variables, card(model)), tmp_path)
    read = Predictor.load(tmp_path).variables["batch_stats"]["down0"]["norm0"]["batch"]["var"]
    np.testing.assert_array_equal(read, 1e6)


def test_folders_without_a_model(predictor, tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(FileNotFoundError, match="holds no model: name the --workdir"):
            Predictor.load(folder)
    assert not (tmp_path / "absent").exists()
    export_model(predictor, tmp_path / "small")
    (tmp_path / "small" / "card.json").unlink()
    with pytest.raises(FileNotFoundError, match="holds no card"):
        Predictor.load(tmp_path / "small")


def test_damaged_folders(predictor, tmp_path):
    export_model(predictor, tmp_path)
    data = (tmp_path / "params.npz").read_bytes()
    (tmp_path / "params.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="damaged"):
        Predictor.load(tmp_path)
    export_model(predictor, tmp_path)
    (tmp_path / "card.json").write_text(json.dumps({"model": predictor.card["model"], "channels": 1}))
    with pytest.raises(ValueError, match="says nothing about normalisation, classes, patch"):
        Predictor.load(tmp_path)
    (tmp_path / "card.json").write_text(json.dumps({**predictor.card, "channels": 3}))
    with pytest.raises(ValueError, match="belong to two models"):
        Predictor.load(tmp_path)


def test_tiles_the_network_cannot_take(predictor):
    with pytest.raises(ValueError, match=r"tile 15×15: .*pad it to 16×16"):
        Predictor(predictor.variables, predictor.card, tile=(15, 15))
    with pytest.raises(ValueError, match="equal sides"):
        Predictor(predictor.variables, predictor.card, tile=(16, 32), tta=True)


def test_channels(predictor):
    colour = Predictor(bright_variables(SMALL, 3), card(SMALL, channels=3))
    grey = noise(12, 12, 1)
    repeated = colour(np.repeat(grey, 3, axis=-1)).probabilities
    np.testing.assert_array_equal(colour(grey).probabilities, repeated)
    np.testing.assert_array_equal(colour(grey[..., 0]).probabilities, repeated)
    np.testing.assert_array_equal(
        predictor(np.repeat(grey, 3, axis=-1)).probabilities, predictor(grey).probabilities
    )  # grey saved as colour
    for model, channels, mend in ((predictor, 3, "convert it to grey"), (colour, 4, "fourth"), (colour, 2, "order")):
        with pytest.raises(ValueError, match=f"has {channels} channels, .*{mend}"):
            model(noise(12, 12, channels))
    with pytest.raises(ValueError, match="2 axes of space"):
        predictor(noise(4, 4, 4, 1))


@pytest.mark.parametrize("kind", [bool, np.int32, np.uint16, np.float64])
def test_numbers_of_any_kind(kind):
    bright = Predictor(bright_variables(SMALL), card(SMALL))
    mask = noise(12, 12) > 128
    found = bright(mask.astype(kind)).foreground
    np.testing.assert_array_equal(found > 0.5, mask)


def test_class_maps():
    three = np.array([[[0.2, 0.3, 0.5], [0.4, 0.3, 0.3]]], np.float32)
    assert class_map(three, 0.5).tolist() == [[2, 0]]
    two = np.array([[[0.7, 0.3], [0.5, 0.5]]], np.float32)
    assert class_map(two, 0.5).tolist() == [[0, 1]]
    np.testing.assert_allclose(foreground(two), [[0.3, 0.5]], atol=1e-6)
    assert class_map(two[..., 1:], 0.2).tolist() == [[1, 1]]
