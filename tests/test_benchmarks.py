import dataclasses
import json
import mmap
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from benchmarks import files, ours, scaling, second_start, throughput, timing
from benchmarks.peer import PyTorch, torch_weights
from benchmarks.plain_flax import PlainUNet
from benchmarks.timing import Spread
from benchmarks.work import Work, flops, host_batch
from tests.trained import SMALL, bright_variables, card
from unet_jax.models import primitives
from unet_jax.prediction import Predictor, export_model

TINY = {"width": 4, "depth": 1, "size": 16, "batch": 4}


def test_flops_by_hand():
    # One level of width 1 on 2×2 pixels: along an axis the windows of 3 meet 2 + 2 pixels, so 16 products a plane.
    # 3 -> 1 channels 2·3·16 = 96, 1 -> 1 channels 2·16 = 32, logits 1 -> 2 at 4 pixels 2·2·4 = 16.
    work = Work(width=1, depth=0, size=2, batch=5)
    assert flops(work, train=False) == 5 * (96 + 32 + 16)
    assert flops(work, train=True) == 3 * 5 * (96 + 32 + 16)


@pytest.mark.parametrize("rank", [2, 3])
def test_flops_against_what_xla_counts(rank):
    work = Work(width=16, depth=2, size=8, batch=2, rank=rank)
    model, image = PlainUNet(work.widths), jax.ShapeDtypeStruct((2, *work.shape, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.PRNGKey(0), image)
    counted = jax.jit(model.apply).lower(variables, image).cost_analysis()["flops"]
    # XLA also counts biases, ReLUs and pooling: a few operations a feature, against hundreds for its convolution
    assert flops(work, train=False) <= counted <= 1.03 * flops(work, train=False)


def test_work_that_cannot_be_done_names_the_mend():
    with pytest.raises(ValueError, match=r"size 100 is no multiple of 16: choose one, or a smaller --depth"):
        Work(size=100)
    with pytest.raises(ValueError, match="too small"):
        Work(batch=0)


def test_turns_alternate_and_last_long_enough(monkeypatch):
    turns = []
    monkeypatch.setattr(timing.time, "sleep", lambda seconds: turns.append("quiet"))

    def side(name, step_seconds):
        def run(steps):
            turns.append((name, steps))
            return steps * step_seconds

        return run

    rounds = timing.alternate([side("ours", 0.25), side("theirs", 2.0)], pairs=2, seconds=1.0)
    # 1 s are four steps of ours; one step of theirs would do, but three are the least
    one = ["quiet", ("ours", 4), "quiet", ("theirs", 3)]
    assert turns == [("ours", 2), ("theirs", 2), *one, *one]
    assert rounds == [(0.25, 2.0), (0.25, 2.0)]
    with pytest.raises(ValueError, match="nothing to time"):
        timing.alternate([], pairs=2, seconds=1.0)


def test_statistics_of_pairs():
    # seconds a step; the machine is half as fast in the third round, which must not move the ratios
    rounds = [(0.5, 1.0), (0.4, 1.0), (1.0, 2.2)]
    assert timing.rates(rounds, images=4) == [Spread(8.0, 4.0, 10.0), Spread(4.0, 4 / 2.2, 4.0)]
    assert timing.ratio(rounds) == Spread(2.2, 2.0, 2.5)
    assert timing.ratio(rounds, 1, 0) == Spread(1 / 2.2, 0.4, 0.5)
    assert Spread(1.0234, 0.98, 12345.6).text() == "1.02 (0.98 to 12,346)"


def test_ceiling_takes_the_best_of_products_that_last():
    # a machine of 1 TFLOP/s but for 1 ms to start: 256² and 512² are too short to tell, 1024² lasts over 3 ms
    sizes = []

    def product(n):
        sizes.append(n)
        return 2 * n**3 / 1e12 + 1e-3

    assert timing.ceiling(product, seconds=3e-3) == pytest.approx(2 * 1024**3 / (2 * 1024**3 / 1e12 + 1e-3))
    assert sizes == [256, 512, *[1024] * 6]


def test_a_busy_machine_is_said(monkeypatch, tmp_path, capsys):
    # jiffies: user nice system idle iowait irq softirq steal; 30 of 100 go to others between the two readings
    readings = iter(["cpu 100 0 50 1000 20 0 0 5 0 0\n", "cpu 115 5 55 1060 30 0 0 10 0 0\n"])
    monkeypatch.setattr(timing.Path, "read_text", lambda path: next(readings))
    assert timing.busy_share(0) == pytest.approx(0.3)
    monkeypatch.setattr(timing, "busy_share", lambda: 0.3)
    with pytest.raises(ValueError, match="cannot be started"):
        throughput.main(throughput.Config(**TINY, peer_python=str(tmp_path / "none")))
    assert "WARNING: other programs use 30% of this machine" in capsys.readouterr().err


def test_memory_of_a_process():
    before = timing.memory()
    if before is None:
        pytest.skip("no /proc on this machine")
    with mmap.mmap(-1, 2**27) as block:  # new pages, not those that an earlier test gave back to the heap
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        now, peak = timing.memory(os.getpid())
    assert now - before[0] > 0.9 * 2**27
    assert peak >= now
    assert timing.memory(2**22 + 1) is None


def test_weights_for_pytorch_follow_its_definitions():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 3, 3, 2)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 2, 4)).astype(np.float32)
    up = rng.normal(size=(2, 2, 2, 4)).astype(np.float32)
    w = torch_weights({"a": {"kernel": kernel, "bias": np.arange(4.0)}, "up0_conv": {"kernel": up}})
    assert set(w) == {"a.weight", "a.bias", "up0_conv.weight"}
    # conv2d, weight (out, in, h, w): y[k] = sum over c, i, j of weight[k, c, i, j] x[c, i, j] at the only position
    y = primitives.conv(jnp.asarray(x), jnp.asarray(kernel), padding="VALID")[0, 0, 0]
    np.testing.assert_allclose(y, np.einsum("kcij,ijc->k", w["a.weight"], x[0]), rtol=1e-4)
    # conv_transpose2d of stride 2, weight (in, out, h, w):
    # y[2 s + i, 2 t + j, k] = sum over c of x[s, t, c] weight[c, k, i, j]
    y = primitives.up_conv(jnp.asarray(x), jnp.asarray(up))[0]
    expected = np.einsum("stc,ckij->sitjk", x[0], w["up0_conv.weight"]).reshape(6, 6, 4)
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_absent_pytorch_names_the_mend(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('none here', name='torch')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"has no torch: pip install torch==2.13.0 .* --peer-python, .* --peer none"):
        throughput.main(throughput.Config(**TINY))


def test_a_peer_that_cannot_work_is_said():
    with pytest.raises(ValueError, match="--peer-python /nowhere/python: cannot be started"):
        PyTorch("/nowhere/python")
    with pytest.raises(OSError, match=r"ended with code \d+: its own message stands above"):
        PyTorch("false")


def test_results_that_differ_are_refused():
    throughput.same("logits", np.array([100.0, 1.0]), np.array([100.005, 1.005]), 1e-4)
    for wrong in (100.02, np.nan):
        with pytest.raises(ArithmeticError, match="logits of the two differ"):
            throughput.same("logits", np.array([100.0, 1.0]), np.array([wrong, 1.0]), 1e-4)


@pytest.mark.parametrize("what", ["train", "infer"])
def test_two_short_turns_without_a_peer(what, tmp_path, capsys):
    file = tmp_path / "record.json"
    config = throughput.Config(**TINY, what=what, peer="none", pairs=2, seconds=0.02, json=file)
    assert throughput.main(config) == 0
    record = json.loads(file.read_text())
    (side,) = record["sides"]
    assert len(record["seconds_a_step"]) == 2
    assert record["work"] == {**TINY, "rank": 2, "dtype": "float32"}
    assert record["flops"] == flops(Work(**TINY), train=what == "train")
    assert side["images_per_second"]["high"] == pytest.approx(4 / min(turn for (turn,) in record["seconds_a_step"]))
    assert 0 < side["share_of_ceiling"] < 1
    assert "unet_jax" in capsys.readouterr().out


def test_training_side_learns_and_inference_gives_classes():
    work = Work(**TINY)
    batch = host_batch(work)
    side = ours.Train(work, batch)
    side.run(1)
    first = side.loss
    side.run(20)
    assert side.loss < first
    infer = ours.Infer(work, batch)
    classes = infer.step(infer.state, infer.batch)
    expected = np.argmax(ours.exact_logits(work, infer.weights(), batch["image"]), -1)
    np.testing.assert_array_equal(classes, expected)


@pytest.mark.slow
def test_pipeline(capsys):
    throughput.main(throughput.Config(**TINY, what="pipeline", pairs=2, seconds=0.02))
    out = capsys.readouterr().out
    assert all(name in out for name in ("whole training loop", "step with augmentation", "bare step"))
    with pytest.raises(ValueError, match="leave out --rank 3"):
        throughput.main(throughput.Config(**TINY, what="pipeline", rank=3))


def test_files_against_the_forward_pass(tmp_path, capsys):
    """Images of the tile's size count, those of another do not; every file in gives its files out."""
    export_model(Predictor(bright_variables(SMALL), card(SMALL)), tmp_path / "model")
    (tmp_path / "in").mkdir()
    for i, side in enumerate((16, 16, 20, 16, 16)):
        image = np.zeros((side, side), np.uint8)
        image[2:5, 2:5] = image[9:12, 9:12] = 255
        Image.fromarray(image).save(tmp_path / "in" / f"{i}.png")
    config = throughput.Config(what="predict", model=tmp_path / "model", data=tmp_path / "in", batch=4, pairs=2,
                               seconds=0.02, json=tmp_path / "record.json")  # fmt: skip
    throughput.main(config)
    record = json.loads((tmp_path / "record.json").read_text())
    assert [side["name"] for side in record["sides"]] == ["files in, files out", "bare forward pass"]
    assert record["sides"][1]["files_against_it"]["median"] > 0
    assert (record["work"]["width"], record["work"]["depth"], record["work"]["size"]) == (4, 1, 16)
    assert "files against it" in capsys.readouterr().out
    predictor = files.load(tmp_path / "model", 4)
    side = files.Files(predictor, files.images_of_one_tile(tmp_path / "in", predictor))
    assert len(side.paths) == 4
    assert side.run(2) > 0
    assert side.objects == 2 * 4 * 2
    with pytest.raises(ValueError, match="4 images of 16×16 pixels, which is no batch"):
        throughput.main(dataclasses.replace(config, batch=8))
    with pytest.raises(ValueError, match="needs --model"):
        throughput.main(throughput.Config(what="predict"))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"what": "infer"}, {"rank": 3}, {"peer_dtype": "bfloat16"}], ids=str)
def test_against_pytorch(changes, capsys):
    python = os.environ.get("UNET_JAX_TORCH_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import torch"], capture_output=True, check=False).returncode:
        pytest.skip("no PyTorch: name a Python that has it with UNET_JAX_TORCH_PYTHON")
    config = throughput.Config(**TINY | {"pairs": 2, "seconds": 0.02, "peer_python": python} | changes)
    assert throughput.main(config) == 0
    assert "ratio to PyTorch" in capsys.readouterr().out


def test_scaling_varies_one_quantity_at_a_time():
    work = Work(width=16, batch=4)
    cases = scaling.cases(work)
    for quantity, values in {"devices": [1, 2, 4, 8], "width": [8, 16, 32], "depth": [2, 3, 4]}.items():
        assert [value for name, value, _ in cases if name == quantity] == values
    for name, value, case in cases:
        changed = {k for k in TINY if getattr(case, k) != getattr(work, k)}
        assert changed <= ({"batch"} if name == "devices" else {name})
        assert case.batch % value == 0 if name == "devices" else getattr(case, name) == value


def test_children_get_their_devices_and_keep_other_flags(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_one=1 --xla_force_host_platform_device_count=4 --xla_two=2")
    flags = scaling.with_devices(8)["XLA_FLAGS"].split()
    assert sorted(flags) == ["--xla_force_host_platform_device_count=8", "--xla_one=1", "--xla_two=2"]


@pytest.mark.slow
def test_scaling_measures_in_a_new_process():
    record = scaling.measure(Work(**TINY), pairs=1, seconds=0.02, environment=scaling.with_devices(2))
    assert record["device"] == "2 × cpu"
    assert record["sides"][0]["images_per_second"]["median"] > 0
    with pytest.raises(OSError, match=r"ended with code 1: .*0 pairs of 1 sides"):
        scaling.measure(Work(**TINY), pairs=0, seconds=0.02, environment=scaling.with_devices(2))


@pytest.mark.slow
def test_a_second_start_takes_less_than_a_third():
    assert second_start.measure(Work(width=16, batch=8))["ratio"] < 1 / 3


def test_a_start_that_fails_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(second_start, "CHILD", "{fields}; raise SystemExit('no room')")
    with pytest.raises(OSError, match="code 1: no room"):
        second_start.start(Work(**TINY), tmp_path)
