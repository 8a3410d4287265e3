import gc
import itertools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from unet_jax import parallel
from unet_jax.checkpoint import Checkpoints, load, provenance
from unet_jax.training import State


def make_state(step, devices=1):
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    params = {"w": jnp.full((4, 3), float(step))}
    state = State(jnp.asarray(step, jnp.int32), params, {}, {"m": jnp.arange(5.0)}, jax.random.PRNGKey(1))
    return jax.device_put(state, parallel.replicated(mesh))


def test_latest_and_best(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step, score in ((10, 0.5), (20, 0.9), (30, float("nan")), (40, 0.7), (50, 0.8), (53, None)):
            checkpoints.save(make_state(step), {"position": {"step": step}}, score=score)
        for which, step in (("latest", 53), ("best", 20)):
            state, card = checkpoints.restore(make_state(0), which=which)
            assert (int(state.step), card["position"], card["format"]) == (step, {"step": step}, 2)
            np.testing.assert_array_equal(state.params["w"], np.full((4, 3), step))
        assert {p.name for p in tmp_path.iterdir() if p.name.isdigit()} == {"20", "50", "53"}


def test_saving_a_step_twice_keeps_the_first(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(make_state(5), {"word": "first"}, score=0.5)
        checkpoints.save(make_state(5), {"word": "second"}, score=None)
        assert checkpoints.restore(make_state(0))[1]["word"] == "first"


def test_restore_on_another_number_of_devices(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(make_state(7, devices=4), {}, score=None)
        for devices in (1, 2):
            state, _ = checkpoints.restore(make_state(0, devices))
            assert len(state.params["w"].sharding.device_set) == devices
            assert int(state.step) == 7


def test_nothing_to_restore(tmp_path):
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        checkpoints.restore(make_state(0))


def test_a_save_that_was_cut_off_is_not_seen(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(make_state(5), {}, score=None)
    (tmp_path / "9.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "9.orbax-checkpoint-tmp" / "state").mkdir()
    with Checkpoints(tmp_path) as again:
        assert again.latest_step() == 5


def test_parameters_and_card_alone_for_prediction(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step, score in ((10, 0.9), (20, 0.8)):
            state = make_state(step, devices=2).replace(model_state={"batch_stats": {"mean": jnp.ones(2)}})
            checkpoints.save(state, {"word": str(step)}, score=score)
    (tmp_path / "30.orbax-checkpoint-tmp").mkdir()  # a training is writing
    before = sorted(tmp_path.rglob("*"))
    for which, step in (("best", 10), ("latest", 20)):
        variables, card = load(tmp_path, which=which)
        assert card["word"] == str(step)
        assert variables.keys() == {"params", "batch_stats"}
        assert type(variables["params"]["w"]) is np.ndarray
        np.testing.assert_array_equal(variables["params"]["w"], np.full((4, 3), step))
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(ValueError, match='"best" or "latest"'):
        load(tmp_path, which="third")


def test_nothing_to_load(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
            load(folder)
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("file", ["card/metadata", "state/_METADATA"])
def test_damaged_checkpoints(tmp_path, file):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(make_state(5), {"word": "x" * 50}, score=None)
    data = (tmp_path / "5" / file).read_bytes()
    (tmp_path / "5" / file).write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"5 is damaged or truncated .*copy the folder again"):
        load(tmp_path)


def faults(step):
    """Every file of a checkpoint gone, cut to half, emptied, or with one bit of its middle turned."""
    for path in sorted(p.relative_to(step) for p in step.rglob("*") if p.is_file()):
        data = (step / path).read_bytes()
        middle = len(data) // 2
        yield f"{path} is missing", path, None
        if data:
            yield f"{path} is truncated", path, data[:middle]
            turned = bytes([data[middle] ^ 4])
            yield f"{path} has a bit turned", path, data[:middle] + turned + data[middle + 1 :]


# orbax leaves coroutines behind when one of its reads fails
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine:RuntimeWarning")
@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_whatever_is_done_to_the_newest_the_one_before_is_used_and_never_a_wrong_one(tmp_path, caplog, every):
    def read(checkpoints, which):
        state, card = checkpoints.restore(make_state(0), which=which)
        assert card["position"] == {"step": int(state.step), "word": "x" * 50}
        for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(make_state(int(state.step))), strict=True):
            np.testing.assert_array_equal(a, b)
        return int(state.step)

    whole = tmp_path / "whole"
    with Checkpoints(whole) as checkpoints:
        for step, score in ((10, 0.5), (20, 0.6)):
            checkpoints.save(make_state(step), {"position": {"step": step, "word": "x" * 50}}, score=score)
    fell_back = set()
    for i, (what, path, data) in enumerate(itertools.islice(faults(whole / "20"), 0, None, every)):
        folder = tmp_path / str(i)
        shutil.copytree(whole, folder)
        (folder / "20" / path).unlink()
        if data is not None:
            (folder / "20" / path).write_bytes(data)
        caplog.clear()
        with Checkpoints(folder) as checkpoints:
            step = read(checkpoints, "best" if i % 2 else "latest")
            if step == 10:
                fell_back.add(what)
                assert (folder / "damaged-20").is_dir(), what
                assert "20 is damaged or truncated" in caplog.text or "20 holds no card" in caplog.text, what
                assert "the one before it used" in caplog.text, what
                checkpoints.save(make_state(20), {"position": {"step": 20, "word": "x" * 50}}, score=0.6)
                assert read(checkpoints, "latest") == 20, what
            else:
                assert "damaged" not in caplog.text, what
    assert len(fell_back) > 10 / every
    gc.collect()


def test_what_is_added_to_a_card_is_under_its_checksum(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(make_state(5), {"word": "old", "best_score": float("-inf")}, score=0.5)
        checkpoints.amend({"word": "new"})
        assert checkpoints.restore(make_state(0))[1]["word"] == "new"
    card = tmp_path / "5" / "card" / "metadata"
    card.write_text(card.read_text().replace("new", "odd"))
    with pytest.raises(ValueError, match=r"5 is damaged .*the card's checksum is wrong"):
        load(tmp_path)


def test_another_network_is_no_damage(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(make_state(5), {}, score=0.5)
        other = make_state(0).replace(params={"w": jnp.zeros((4, 4))})
        with pytest.raises(ValueError, match=r"5 holds another network .*give the options of that run"):
            checkpoints.restore(other)
        assert int(checkpoints.restore(make_state(0))[0].step) == 5


def test_a_checkpoint_of_the_first_format_has_no_checksums(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(make_state(5), {"word": "old"}, score=0.5)
    path = tmp_path / "5" / "card" / "metadata"
    path.write_text(json.dumps({"format": 1, "word": "old"}))
    assert load(tmp_path)[1]["word"] == "old"
    path.write_text(json.dumps({"format": 2, "word": "old"}))
    with pytest.raises(ValueError, match="the card has no checksums"):
        load(tmp_path)


def test_provenance_names_the_version():
    found = provenance()
    assert found["version"] == "0.1.0"
    assert set(found) == {"version", "commit"}
