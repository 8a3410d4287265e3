import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unet_jax import losses, metrics, parallel, targets, training
from unet_jax.models import UNet

SHAPE = (16, 16, 1)
MODEL = UNet((4, 8), norm="batch", dropout=0.3)


def make_batch(n=4, seed=0):
    rng = np.random.default_rng(seed)
    label = (rng.random((n, 16, 16)) > 0.6).astype(np.int32) * np.arange(1, n + 1, dtype=np.int32)[:, None, None]
    image = np.where(label > 0, 180, 60)[..., None] + rng.integers(0, 40, (n, 16, 16, 1))
    return {"image": image.astype(np.uint8), "label": label, "mask": np.ones((n, 16, 16), bool)}


@functools.cache
def compiled(devices=1, sgd=False):
    """Mesh, step and fresh state; plain SGD where devices are compared, as Adam amplifies rounding."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("data",))
    rule = optax.identity() if sgd else optax.scale_by_adam()
    optimizer = optax.chain(rule, training.scheduled(0.02, 100, warmup=1))
    step = training.make_train_step(MODEL, optimizer, losses.dice, target=targets.foreground)
    state = training.init_state(MODEL, optimizer, SHAPE, seed=3)
    state = jax.device_put(state, parallel.replicated(mesh))
    return mesh, jax.jit(step, out_shardings=parallel.replicated(mesh)), state


def train(n, devices=1, state=None, start=0, sgd=False):
    mesh, step, fresh = compiled(devices, sgd)
    state = fresh if state is None else state
    losses_seen = []
    for i in range(start, n):
        state, out = step(state, parallel.shard(make_batch(seed=i), mesh))
        losses_seen.append(float(out["loss"]))
    return state, losses_seen


def test_learns_a_threshold():
    _, seen = train(60)
    assert np.mean(seen[-5:]) < 0.5 * np.mean(seen[:5])


def test_steps_depend_on_the_state_alone():
    straight, _ = train(6)
    half, _ = train(3)
    resumed, _ = train(6, state=jax.tree.map(jnp.array, half), start=3)
    for a, b in zip(jax.tree.leaves(straight), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_same_curve_on_any_number_of_devices():
    _, one = train(6, devices=1, sgd=True)
    for devices in (2, 4):
        _, many = train(6, devices=devices, sgd=True)
        np.testing.assert_allclose(many, one, atol=1e-5)


def test_pmap_follows_the_same_curve():
    """With batch statistics and uneven masks, without dropout: its random numbers are drawn device by device."""
    model, mesh = UNet((4, 8), norm="batch"), parallel.make_mesh("data=4", 4, 16)
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), training.scheduled(0.1, 100, warmup=1))
    state = jax.device_put(training.init_state(model, optimizer, SHAPE, seed=3), parallel.replicated(mesh))
    make = functools.partial(training.make_train_step, model, optimizer, losses.dice, target=targets.foreground)
    curves = []
    for step in (jax.jit(make()), parallel.pmapped(make(axis_name="data"), mesh)):
        now, seen = state, []
        for i in range(20):
            batch = make_batch(seed=i)
            batch["mask"][0, :5], batch["mask"][2] = False, False
            now, out = step(now, parallel.shard(batch, mesh))
            seen.append((float(out["loss"]), float(out["grad_norm"])))
        curves.append((np.array(seen), jax.tree.leaves(now.model_state)))
    np.testing.assert_allclose(*(curve[0] for curve in curves), atol=1e-5)
    for a, b in zip(*(curve[1] for curve in curves), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_image_without_a_valid_pixel_counts_for_nothing():
    mesh, step, state = compiled()
    batch = make_batch()
    batch["mask"][3] = False
    _, with_empty = step(state, parallel.shard(batch, mesh))

    def loss_of(rows):
        logits, _ = MODEL.apply(
            {"params": state.params, **state.model_state},
            training.to_unit(jnp.asarray(batch["image"])),
            train=True,
            rngs={"dropout": jax.random.split(jax.random.fold_in(state.key, state.step))[1]},
            mutable=["batch_stats"],
        )
        return losses.dice(logits[rows], jnp.asarray(batch["label"][rows] > 0, jnp.int32), jnp.ones((3, 16, 16), bool))

    np.testing.assert_allclose(with_empty["loss"], jnp.mean(loss_of(slice(0, 3))), rtol=1e-5)


def test_refinement_takes_over_at_its_share_of_the_plan():
    """Of ten planned steps the last three; the first changes take the objects away, the second nothing."""
    optimizer = optax.chain(optax.scale_by_adam(), training.scheduled(0.02, 10))

    def emptied(key, image, label, mask):
        return image, jnp.zeros_like(label), mask

    def same(key, *batch):
        return batch

    def losses_of(**options):
        step = training.make_train_step(MODEL, optimizer, losses.dice, target=targets.foreground, **options)
        fresh, jitted = training.init_state(MODEL, optimizer, SHAPE, seed=3), jax.jit(step)
        return [float(jitted(fresh.replace(step=jnp.asarray(at)), make_batch())[1]["loss"]) for at in (0, 6, 7, 9)]

    first, second = losses_of(augment=emptied), losses_of(augment=same)
    assert min(abs(a - b) for a, b in zip(first, second, strict=True)) > 0.05
    assert losses_of(augment=emptied, refine=(same, 0.3)) == pytest.approx([*first[:2], *second[2:]], rel=1e-5)
    assert losses_of(augment=emptied, refine=(same, 0.0)) == pytest.approx(first, rel=1e-5)


def test_a_skipped_step_moves_nothing_but_the_step():
    """The network itself blows up: its last bias is infinite for one batch."""
    mesh, step, state = compiled()
    guarded = jax.jit(training.skipping_nonfinite(step))
    batch = parallel.shard(make_batch(), mesh)
    learnt, _ = step(state, batch)
    same, _ = guarded(state, batch)
    for a, b in zip(jax.tree.leaves(learnt), jax.tree.leaves(same), strict=True):
        np.testing.assert_array_equal(a, b)
    broken = state.replace(params=jax.tree.map(lambda x: x * jnp.inf, state.params))
    after, out = guarded(broken, batch)
    assert not np.isfinite(out["loss"])
    assert int(after.step) == 1
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(broken.replace(step=after.step)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_evaluation_counts_every_valid_pixel_once():
    mesh, _, state = compiled()
    count = functools.partial(metrics.confusion, num_classes=2)
    batch = make_batch()
    batch["mask"][0, :8] = False
    out = jax.jit(training.make_eval_step(MODEL, losses.dice, count, target=targets.foreground))(
        state, parallel.shard(batch, mesh)
    )
    counts = np.asarray(out["counts"])
    assert counts.sum(axis=(1, 2)).tolist() == [128, 256, 256, 256]
    truth = [(batch["label"] > 0)[i][batch["mask"][i]].sum() for i in range(4)]
    assert counts[:, 1].sum(axis=1).tolist() == truth
    predicted = [np.asarray(out["prediction"])[i][batch["mask"][i]].sum() for i in range(4)]
    assert counts[:, :, 1].sum(axis=1).tolist() == predicted


def test_schedule_rises_falls_and_can_be_moved():
    rule = training.scheduled(1.0, 100)
    grads = {"w": jnp.ones(())}

    def rate(count, planned):
        state = training.ScheduleState(jnp.asarray(count), jnp.asarray(planned), jnp.zeros(()))
        updates, after = rule.update(grads, state)
        assert float(updates["w"]) == -float(after.learning_rate)
        return float(after.learning_rate)

    # rise: (count + 1) / 5, a twentieth of the plan, or / 100, the default, × half a cosine of count / plan
    assert rate(0, 100) == pytest.approx(0.2)
    assert rate(0, 10**6) == pytest.approx(0.01)
    assert rate(50, 100) == pytest.approx(0.5)
    assert rate(100, 100) == pytest.approx(0.0, abs=1e-6)
    assert rate(50, 200) == pytest.approx(0.5 * (1 + np.cos(np.pi / 4)))
    with pytest.raises(ValueError, match="choose cosine or constant"):
        training.scheduled(1.0, 10, shape="linear")


def test_replan_moves_only_the_plan():
    _, _, state = compiled()
    moved = training.replan(state, 7)
    assert int(optax.tree_utils.tree_get(moved.opt_state, "planned_steps")) == 7
    differing = [
        jax.tree_util.keystr(path)
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(moved), strict=True)
        if not np.array_equal(a, b)
    ]
    assert len(differing) == 1
    assert "planned_steps" in differing[0]


def test_valid_padding_scores_the_centre():
    model = UNet((4, 8), padding="VALID")
    optimizer = optax.chain(optax.scale_by_adam(), training.scheduled(0.01, 10))
    state = training.init_state(model, optimizer, (32, 32, 1), seed=0)
    count = functools.partial(metrics.confusion, num_classes=2)
    evaluate = training.make_eval_step(model, losses.cross_entropy, count, target=targets.foreground)
    batch = {"image": np.zeros((1, 32, 32, 1), np.uint8), "label": np.zeros((1, 32, 32), np.int32)}
    batch["mask"] = np.ones((1, 32, 32), bool)
    assert np.asarray(jax.jit(evaluate)(state, batch)["counts"]).sum() == 16 * 16  # 32 - 2 × 8


@functools.cache
def stepped(accumulate=1, *, norm="none", remat=False, devices=1):
    """A step of plain SGD at rate 1, compiled, and the states before and after it; an image has no valid pixel."""
    model = UNet((4, 8), norm=norm, remat=remat)
    optimizer = optax.chain(optax.identity(), training.scheduled(1.0, 100, shape="constant", warmup=0))
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("data",))

    def noise(key, image, label, mask):
        return image + 0.1 * jax.random.normal(key, image.shape), label, mask

    step = training.make_train_step(
        model, optimizer, losses.dice, target=targets.foreground, augment=noise, accumulate=accumulate
    )
    state = jax.device_put(training.init_state(model, optimizer, SHAPE, seed=3), parallel.replicated(mesh))
    images = make_batch(n=8)
    images["mask"][3] = False
    images = parallel.shard(images, mesh)
    compiled = jax.jit(step, out_shardings=parallel.replicated(mesh)).lower(state, images).compile()
    return compiled, *jax.device_get((state, *compiled(state, images)))


def scratch(compiled):
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(("accumulate", "devices"), [(4, 1), (2, 4)])
def test_accumulated_gradients_are_those_of_the_whole_batch(accumulate, devices):
    whole, before, after, one = stepped()
    parts, _, got, several = stepped(accumulate, devices=devices)
    assert several["loss"] == pytest.approx(one["loss"], abs=1e-6)
    for start, a, b in zip(*(jax.tree.leaves(s.params) for s in (before, after, got)), strict=True):
        assert np.abs(a - start).max() > 1e-4  # every parameter has a gradient well above the tolerance
        np.testing.assert_allclose(b, a, atol=1e-6)
    if devices == 1:
        assert scratch(parts) < 0.6 * scratch(whole)
    else:  # the parts are taken so that no device needs another's images: only sums go between them
        text = parts.as_text()
        assert " all-reduce" in text
        assert not any(word in text for word in (" all-gather", " all-to-all", " collective-permute"))


def test_unequal_parts_are_refused():
    with pytest.raises(ValueError, match="a batch of 8 images has no 3 equal parts"):
        stepped(3)


def test_batch_statistics_of_accumulation_are_those_of_the_parts():
    _, before, once, _ = stepped(norm="batch")
    _, _, four, _ = stepped(4, norm="batch")
    for start, a, b in zip(*(jax.tree.leaves(s.model_state) for s in (before, once, four)), strict=True):
        # one move by a tenth goes 0.1 of the way, four moves 1 - 0.9**4 = 0.344
        assert 2.5 * np.abs(a - start).max() < np.abs(b - start).max() < 4.5 * np.abs(a - start).max()


def test_remat_is_the_same_step():
    _, before, after, one = stepped(norm="batch")
    _, same, got, other = stepped(norm="batch", remat=True)
    assert jax.tree.structure(before) == jax.tree.structure(same)
    for a, b in zip(jax.tree.leaves((after, one)), jax.tree.leaves((got, other)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.slow
def test_remat_takes_less_memory():
    """Compiled, not run: 338 MiB a device instead of 508 where it was measured."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("data",))
    everywhere, split = parallel.replicated(mesh), parallel.split(mesh)
    shapes = {"image": ((3,), np.uint8), "label": ((), np.int32), "mask": ((), np.bool_)}
    batch = {name: jax.ShapeDtypeStruct((8, 256, 256, *last), dtype) for name, (last, dtype) in shapes.items()}
    optimizer = optax.chain(optax.scale_by_adam(), training.scheduled(1e-4, 100))
    sizes = []
    for remat in (False, True):
        model = UNet((16, 32, 64, 128, 256), norm="batch", remat=remat)
        state = jax.eval_shape(lambda m=model: training.init_state(m, optimizer, (256, 256, 3), seed=0))
        step = training.make_train_step(model, optimizer, losses.dice, target=targets.foreground)
        step = jax.jit(step, donate_argnums=0, in_shardings=(everywhere, split), out_shardings=everywhere)
        sizes.append(scratch(step.lower(state, batch).compile()))
    assert sizes[1] < 0.75 * sizes[0]
