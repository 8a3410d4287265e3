"""Every head: what it learns, that its own target is its best answer, and that objects come out of it again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unet_jax import heads, losses, tuning
from unet_jax.heads import HEADS

BASE = losses.weighted_sum((1.0, losses.dice), (1.0, losses.cross_entropy))
SURE = 12.0  # logit of a class that is certain


@pytest.fixture(scope="module")
def label():
    """Two touching squares and one alone, (1, 32, 32)."""
    label = np.zeros((1, 32, 32), np.int32)
    label[0, 4:14, 4:14], label[0, 4:14, 14:24], label[0, 20:30, 10:20] = 7, 2, 300
    return label


def perfect(head, label):
    """Logits that say what the target says."""
    target = head.target(jnp.asarray(label))
    classes = target["classes"] if isinstance(target, dict) else target
    logits = SURE * jax.nn.one_hot(classes, head.classes)
    if head.map_size(2):
        logits = jnp.concatenate([logits, target["map"].reshape(*label.shape, -1)], axis=-1)
    return logits, target


@pytest.mark.parametrize("name", HEADS)
def test_the_target_itself_has_the_least_loss_and_full_marks(name, label):
    head, mask = HEADS[name], jnp.ones(label.shape, bool)
    logits, target = perfect(head, label)
    assert logits.shape[-1] == head.outputs(2)
    assert head.loss(BASE, logits, target, mask).shape == (1,)
    slope = jax.grad(lambda x: jnp.sum(head.loss(BASE, x, target, mask)))
    assert head.loss(BASE, logits, target, mask)[0] < 0.01
    assert head.loss(BASE, jnp.zeros_like(logits), target, mask)[0] > 0.3
    assert (np.abs(slope(jnp.zeros_like(logits))).sum(axis=(0, 1, 2)) > 0).all()  # every output is taught
    np.testing.assert_array_equal(head.count(logits, target, mask)[0], np.diag([1024 - 300, 300]))
    np.testing.assert_array_equal(head.classify(logits), label > 0)


@pytest.mark.parametrize("name", HEADS)
def test_masked_pixels_teach_nothing(name, label):
    head, mask = HEADS[name], jnp.zeros(label.shape, bool).at[:, :16].set(True)
    logits, target = perfect(head, label)
    spoilt = logits.at[:, 16:].set(np.nan)
    assert head.loss(BASE, spoilt, target, mask)[0] == head.loss(BASE, logits, target, mask)[0]


@pytest.mark.parametrize("name", HEADS)
def test_objects_come_back(name, label):
    head = HEADS[name]
    values = np.asarray(head.values(perfect(head, label)[0]))[0]
    objects = head.separate(values, **{option: numbers[0] for option, numbers in head.grid.items()})
    if name == "foreground":
        assert objects.max() == 2  # the touching ones are one
        return
    assert objects.max() == 3
    for number in (2, 7, 300):
        mine = objects[label[0] == number]
        assert (mine == np.bincount(mine).argmax()).mean() > 0.9


def test_the_card_names_the_head():
    assert heads.head_of({}) is None
    assert heads.head_of({"head": "flow"}) is HEADS["flow"]
    with pytest.raises(ValueError, match="does not know: foreground, border"):
        heads.head_of({"head": "stars"})


def test_the_best_options_are_found_one_after_the_other():
    # The "image" is a row of heights: a pixel is an object if it reaches the threshold, and the truth has those of 3.
    height = np.array([[1, 0, 2, 0, 3, 0, 3]])
    sample = {"label": np.where(height == 3, np.arange(7) + 1, 0), "mask": np.ones((1, 7), bool)}

    def separate(value, *, threshold, shift):
        return np.where(value >= threshold + shift, np.arange(7) + 1, 0)

    chosen, trials = tuning.choose(separate, [height], [sample], {"threshold": (1, 2), "shift": (0, 1, 2)})
    assert chosen == {"threshold": 2, "shift": 1}
    assert [(t["threshold"], t["shift"], t["ap50"]) for t in trials] == [
        (1, 0, 0.5), (2, 0, 2 / 3), (2, 1, 1.0), (2, 2, 0.0),
    ]  # fmt: skip


def test_pixels_that_do_not_count_are_left_out_of_the_choice():
    label = np.array([[1, 0, 2]])
    sample = {"label": label, "mask": np.array([[True, True, False]])}
    counts = tuning.count_objects(lambda value: value, [np.array([[5, 0, 0]])], [sample])
    assert (counts.true[0], counts.predicted[0], counts.tp[0, 0]) == (1, 1, 1)
