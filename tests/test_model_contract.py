"""What every model of `models.MODELS` promises, in 2-D and 3-D; a new one is tested by being in that list."""

import dataclasses
import json
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from tests.drawn import QUICK, fill, noise, variables_of
from unet_jax.models import MODELS, from_spec, to_spec
from unet_jax.models.blocks import Skip

WIDTHS = (4, 6, 8)
SMALL = {"classes": 3, "deep_supervision": True, "layers": 2}  # of these, what a model has
SHAPES = {"2d": (2, 8, 12, 3), "3d": (2, 4, 8, 4, 2)}

each_model = pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)


def small(model, **options):
    known = {f.name for f in dataclasses.fields(model)}
    return model(WIDTHS, **{k: v for k, v in {**SMALL, **options}.items() if k in known})


def intercepted(scales):
    """Multiply what each skip carries by its number in `scales`, a dict, or note the names in a list."""

    def interceptor(call, args, options, context):
        if not isinstance(context.module, Skip):
            return call(*args, **options)
        if isinstance(scales, list):
            scales.append(context.module.name)
            return call(*args, **options)
        return call(*args, **options) * scales[context.module.name]

    return nn.intercept_methods(interceptor)


def wave(x):
    """A number that depends on every entry, each in its own way."""
    return jnp.sum(x * jnp.cos(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape))


@pytest.fixture(
    scope="module", params=[(m, r) for m in MODELS for r in SHAPES], ids=lambda p: f"{p[0].__name__}-{p[1]}"
)
def case(request, plain_layers):
    """One model, run in one compiled program in every way that the tests ask about."""
    model, rank = request.param
    module, image = small(model, norm="batch", dropout=0.3), noise(SHAPES[rank])
    names = []
    with intercepted(names):
        shapes = jax.eval_shape(module.init, jax.random.PRNGKey(0), image)

    def everything(variables, image):
        rows = jnp.concatenate([jnp.ones((1, len(names))), 1 - jnp.eye(len(names))])

        def cut(row, one):
            with intercepted(dict(zip(names, row, strict=True))):
                return module.apply(variables, one[None])[0]

        def loss(params, key):
            logits, changed = module.apply(
                {**variables, "params": params},
                image,
                train=True,
                rngs={"dropout": key},
                mutable=["batch_stats", "aux"],
            )
            return wave(logits) + sum(map(wave, jax.tree.leaves(changed.pop("aux", {})))), (logits, changed)

        def train(key):
            return jax.grad(loss, has_aux=True)(variables["params"], key)

        cuts = lax.map(lambda row: jax.vmap(partial(cut, row))(image), rows)
        grads, (trained, changed) = lax.map(train, jax.random.split(jax.random.PRNGKey(2)))
        named = dict(zip(names, cuts[1:], strict=True))
        return {"logits": cuts[0], "cuts": named, "grads": grads, "trained": trained, "changed": changed}

    variables = fill(shapes)
    out = jax.jit(everything, compiler_options=QUICK)(variables, image)
    return out | {"module": module, "image": image, "variables": variables, "shapes": shapes}


def test_shape_and_type(case):
    assert case["logits"].shape == (*case["image"].shape[:-1], 3)
    assert case["logits"].dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(case["shapes"]))
    assert np.ptp(case["logits"]) > 1e-3


def test_every_skip_is_alive(case):
    """Without it the output changes; and every level has one, where the output is finer than the bottom."""
    logits = np.asarray(case["logits"])
    for name, cut in case["cuts"].items():
        assert np.abs(cut - logits).max() > 1e-4, f"{name} is dead"
    coarse = np.array_equal(logits[:, :1, :1] + 0 * logits, logits)  # one verdict an image
    levels = {int(re.match(r"skip(\d+)", name)[1]) for name in case["cuts"]}
    assert levels == (set() if coarse else set(range(len(WIDTHS) - 1)))


def test_every_parameter_learns(case):
    for path, grad in jax.tree_util.tree_leaves_with_path(case["grads"]):
        assert np.abs(grad).max() > 1e-6, f"{jax.tree_util.keystr(path)} gets no gradient"


def test_statistics_and_dropout_act_in_training(case):
    before = jax.tree.leaves(case["variables"]["batch_stats"])
    moved = jax.tree.leaves(case["changed"]["batch_stats"])
    assert all(not np.allclose(m[0], b) for m, b in zip(moved, before, strict=True))
    first, second = case["trained"]
    assert not np.allclose(first, second)


def test_a_batch_by_hand_is_its_images_compiled(case):
    """Eager on the batch against compiled and vmapped over its images; without dropout, and no statistics move."""
    logits, kept = case["module"].apply(case["variables"], case["image"], mutable=["batch_stats"])
    np.testing.assert_allclose(logits, case["logits"], atol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, kept["batch_stats"], case["variables"]["batch_stats"])


@each_model
@pytest.mark.parametrize("rank", SHAPES)
def test_bfloat16_is_near_float32(model, rank, plain_layers):
    image = noise(SHAPES[rank])
    variables = variables_of(small(model), image)

    @partial(jax.jit, compiler_options=QUICK)
    def both(image):
        return [small(model, dtype=dtype).apply(variables, image) for dtype in ("float32", "bfloat16")]

    exact, rounded = both(image)
    assert rounded.dtype == jnp.float32
    assert not np.array_equal(rounded, exact)
    np.testing.assert_allclose(rounded, exact, atol=0.05 * np.abs(exact).max())  # eight bits, through ten layers


@each_model
def test_parameters_as_derived_in_the_docstring(model):
    shapes = jax.eval_shape(model().init, jax.random.PRNGKey(0), jnp.zeros((1, 64, 64, 1)))
    (derived,) = re.findall(r"sum +([\d,]+)", model.__doc__)
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == int(derived.replace(",", ""))


@each_model
def test_spec_round_trip_through_json(model):
    module = small(model, norm="group", dtype="bfloat16")
    assert from_spec(json.loads(json.dumps(to_spec(module)))) == module
    with pytest.raises(ValueError, match="no field depth"):
        from_spec({"name": model.__name__, "depth": 3})


@each_model
def test_odd_sizes_are_refused_with_the_mend(model):
    for size, mend in (((10, 12), "10×12.*pad it to 12×12, or use widths"), ((4, 8, 6), "4×8×6.*pad it to 4×8×8")):
        with pytest.raises(ValueError, match=mend):
            jax.eval_shape(small(model).init, jax.random.PRNGKey(0), jnp.zeros((1, *size, 1)))
