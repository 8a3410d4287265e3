"""Overlapping regions against hand-made logits."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unet_jax import losses, regions

TUMOUR = ((1, 2, 3), (2, 3), (3,))


def test_each_region_has_a_class_of_its_own():
    assert regions.own_classes(TUMOUR) == (1, 2, 3)
    assert regions.own_classes(((1, 2), (2,), (3,))) == (1, 2, 3)
    with pytest.raises(ValueError, match="holds 2 classes that no region within it has"):
        regions.own_classes(((1, 2, 3), (3,)))
    with pytest.raises(ValueError, match="from the largest to the smallest"):
        regions.own_classes(((3,), (2, 3), (1, 2, 3)))


def test_the_innermost_region_decides():
    logits = jnp.array([[-1, -1, -1], [1, -1, -1], [1, 1, -1], [1, 1, 1], [-1, -1, 1]], jnp.float32)[None]
    np.testing.assert_array_equal(regions.decide(TUMOUR)(logits), [[0, 1, 2, 3, 3]])


def test_loss_of_regions_is_the_mean_of_their_binary_losses():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(2, 4, 3, 5, 3)), jnp.float32)
    label = jnp.asarray(rng.integers(0, 4, (2, 4, 3, 5)), jnp.int32)
    mask = jnp.asarray(rng.random((2, 4, 3, 5)) < 0.8)
    parts = [
        jax.jit(losses.dice)(logits[..., i : i + 1], (label > i).astype(jnp.int32), mask)  # class 1.., 2.., 3
        for i in range(3)
    ]
    found = jax.jit(regions.region_loss(losses.dice, TUMOUR))(logits, label, mask)
    np.testing.assert_allclose(found, sum(parts) / 3, rtol=1e-6)
    with pytest.raises(ValueError, match="3 logits for 2 regions"):
        regions.region_loss(losses.dice, TUMOUR[:2])(logits, label, mask)


def test_counts_of_regions_by_hand():
    """Truth 0 1 2 3 and one ignored voxel, predicted 1 1 3 0."""
    label, mask = jnp.array([[0, 1, 2, 3, 3]]), jnp.array([[True] * 4 + [False]])
    logits = jnp.array([[[0, 9, 0, 0], [0, 9, 0, 0], [0, 0, 0, 9], [9, 0, 0, 0], [9, 0, 0, 0]]], jnp.float32)
    counts = jax.jit(partial(regions.count_regions, decide=regions.exclusive, regions=TUMOUR))(logits, label, mask)
    # whole: truth voxels 1 2 3, predicted 0 1 2; core: truth 2 3, predicted 2; enhancing: truth 3, predicted 2
    np.testing.assert_array_equal(counts, [[[[0, 1], [1, 2]], [[2, 0], [1, 1]], [[2, 1], [1, 0]]]])
