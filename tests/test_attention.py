"""Attention maps of images of any size, and their picture."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.trained import SMALL, TILE, card, random_variables, save_run
from unet_jax import cli
from unet_jax.attention import AttentionMaps, draw_attention
from unet_jax.models import AttentionUNet
from unet_jax.models.attention_unet import attention_maps
from unet_jax.prediction import Predictor
from unet_jax.training import to_unit

GATED = AttentionUNet((4, 6, 8))


@pytest.fixture(scope="module")
def predictor():
    return Predictor(random_variables(GATED), card(GATED), batch=2)


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_maps_of_a_tile_and_of_an_image_of_another_size(predictor):
    maps = AttentionMaps(predictor)
    image = noise(TILE, TILE, 1)
    seen = to_unit(jnp.asarray(predictor.prepare(image))[None])
    want = attention_maps(GATED, jax.device_put(predictor.variables), seen)
    np.testing.assert_allclose(maps(image), np.stack([np.asarray(level)[0] for level in want], axis=-1), atol=1e-5)
    large = maps(noise(21, 30))
    assert large.shape == (21, 30, 2)
    assert 0 < large.min() < large.max() < 1
    zoomed = AttentionMaps(dataclasses.replace(predictor, zoom=2))(noise(TILE // 2, TILE // 2))
    assert zoomed.shape == (TILE // 2, TILE // 2, 2)
    assert np.abs(zoomed - maps(noise(TILE // 2, TILE // 2))).max() > 1e-4


def test_models_without_gates():
    plain = Predictor(random_variables(SMALL), card(SMALL))
    with pytest.raises(ValueError, match="attention maps of a UNet: name one model, trained with"):
        AttentionMaps(plain)


def test_predict_draws_them(predictor, tmp_path):
    run = save_run(tmp_path / "run", predictor.variables, predictor.card)
    Image.fromarray(noise(20, 31)).save(tmp_path / "a.png")
    options = {"input": (str(tmp_path / "a.png"),), "output": tmp_path / "out", "batch": 2}
    assert cli.predict(cli.Predict(model=(run,), attention=True, **options)) == 0
    with Image.open(tmp_path / "out" / "attention" / "a.png") as picture:
        assert picture.size[0] > 2 * picture.size[1] > 300


def test_a_map_is_drawn_to_its_own_scale(tmp_path):
    """The left half of the only map is 0.2, the right 0.3: black and light yellow; of a volume, its middle plane."""
    maps = np.full((3, 8, 8, 1), 0.25, np.float32)
    maps[1, :, :4], maps[1, :, 4:] = 0.2, 0.3
    draw_attention(noise(3, 8, 8, 1), maps, tmp_path / "a.png", title="a")
    with Image.open(tmp_path / "a.png") as picture:
        pixels = np.asarray(picture)
    dark, light = (np.abs(pixels.astype(int) - colour).sum(axis=-1) < 12 for colour in ((0, 0, 4), (252, 253, 191)))
    assert dark.mean() > 0.08
    assert light.mean() > 0.08
    assert np.flatnonzero(dark.mean(axis=0) > 0.2).max() < np.flatnonzero(light.mean(axis=0) > 0.2).min()
