"""The network as one writes it in plain flax, and what a compiler counts of both."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from benchmarks import compiled, pods
from benchmarks.plain_flax import PlainUNet
from benchmarks.work import Work
from unet_jax.models import UNet


@pytest.mark.parametrize(("widths", "shape"), [((4, 6, 8), (2, 8, 12, 3)), ((4, 6), (1, 2, 6, 4, 2))], ids=["2d", "3d"])
def test_plain_flax_is_the_same_function_of_the_same_parameters(widths, shape):
    model, plain = UNet(widths), PlainUNet(widths)
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.random(shape, np.float32))
    shapes = jax.eval_shape(model.init, jax.random.PRNGKey(0), image)
    assert shapes == jax.eval_shape(plain.init, jax.random.PRNGKey(0), image)
    variables = jax.tree.map(lambda x: 0.3 * rng.standard_normal(x.shape, np.float32), shapes)

    def run(module):
        def objective(variables):
            logits = module.apply(variables, image)
            return jnp.mean(logits**2), logits

        (_, logits), grads = jax.jit(jax.value_and_grad(objective, has_aux=True))(variables)
        return logits, *jax.tree.leaves(grads)

    for a, b in zip(run(model), run(plain), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.max(jnp.abs(b))), rtol=0)


def test_counts_of_a_compiled_step():
    """On four CPU devices the gradients are summed over them, and inference talks to nobody."""
    work, mesh = Work(width=4, depth=1, size=16, batch=4), Mesh(np.array(jax.devices()), ("data",))
    rows = {
        what: compiled.analyse(lowered.compile())
        for what, lowered in compiled.steps(PlainUNet(work.widths), work, mesh).items()
    }
    assert rows["train"]["collectives"]["all-reduce"] >= 1
    assert rows["infer"]["collectives"] == {}
    for row in rows.values():
        assert min(row["flop"], row["bytes_moved"], row["temporary_bytes"]) > 0
    assert rows["train"]["bytes_moved"] > rows["infer"]["bytes_moved"]


def test_absent_tpu_compiler_names_the_mend(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install libtpu"):
        compiled.main(compiled.Config())


def test_efficiency_of_a_slice():
    """10 TFLOP at 197 TFLOP/s: 50.8 ms; 1 GB over 4 chips sends 1.5 GB: 30 ms through one link, 7.5 ms through four."""
    row = {"flop": 10e12, "bytes_moved": 1e9, "collective_bytes": {"all-reduce": 1e9}}
    found = pods.estimate(row, 4)
    assert found["sent_bytes"] == 1.5e9
    assert found["efficiency_one_link"] == pytest.approx(0.050761 / 0.080761, rel=1e-4)
    assert found["efficiency_all_links"] == pytest.approx(0.050761 / 0.058261, rel=1e-4)
    assert pods.estimate(row, 1)["efficiency_one_link"] == 1
