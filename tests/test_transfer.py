import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.trained import random_variables
from unet_jax import pretrained, transfer
from unet_jax.models import UNet
from unet_jax.training import State

WIDTHS = (2, 4)


def fresh(model, channels):
    params = jax.tree.map(jnp.zeros_like, random_variables(model, channels)["params"])
    return State(jnp.zeros((), jnp.int32), params, {}, optax.EmptyState(), jax.random.PRNGKey(0))


def logits(model, state, image):
    return model.apply({"params": state.params}, image, train=False)


def test_all_that_fits_is_taken_and_the_head_stays_fresh():
    old = random_variables(UNet(WIDTHS, classes=2))
    state, left = transfer.start_from(fresh(UNet(WIDTHS, classes=4), 1), old)
    assert left == ["params/logits/bias", "params/logits/kernel"]
    np.testing.assert_array_equal(state.params["down0"]["conv0"]["kernel"], old["params"]["down0"]["conv0"]["kernel"])
    assert not state.params["logits"]["kernel"].any()


@pytest.mark.parametrize(("trained", "wanted"), [(3, 1), (1, 3)])
def test_grey_and_colour_see_a_grey_image_alike(trained, wanted):
    model = UNet(WIDTHS)
    old = jax.tree.map(jnp.asarray, random_variables(model, trained))
    state, left = transfer.start_from(fresh(model, wanted), old)
    assert left == []
    grey = jnp.asarray(np.random.default_rng(0).random((1, 8, 8, 1)), jnp.float32)
    before = model.apply(old, jnp.repeat(grey, trained, axis=-1), train=False)
    np.testing.assert_allclose(logits(model, state, jnp.repeat(grey, wanted, axis=-1)), before, atol=1e-5)


def test_another_network_is_refused():
    with pytest.raises(ValueError, match="give the --model, --widths"):
        transfer.start_from(fresh(UNet((4, 8)), 1), random_variables(UNet(WIDTHS)))


def test_a_folder_is_itself_and_a_name_is_looked_up(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "_HERE", tmp_path / "package")
    (tmp_path / "package" / "mine").mkdir(parents=True)
    (tmp_path / "package" / "mine" / "card.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert pretrained.names() == ("mine",)
    assert pretrained.resolve("mine") == tmp_path / "package" / "mine"
    (tmp_path / "mine").mkdir()
    assert pretrained.resolve("mine") == tmp_path / "package" / "mine", "a folder of images may have that name"
    (tmp_path / "mine" / "card.json").write_text("{}")
    assert str(pretrained.resolve("mine")) == "mine"
