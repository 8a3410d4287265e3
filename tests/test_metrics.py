import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unet_jax import metrics

TRUTH = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0]], np.int32)
GUESS = np.array([[0, 1, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]], np.int32)
# By hand: 5 pixels of class 1, of which 3 found (2 missed); 5 - 3 = 2 false; the other 9 right.
COUNTS = [[9, 2], [2, 3]]


def one_image(mask=None):
    logits = jnp.asarray(np.where(GUESS == 1, 0.3, -5.0)[None, ..., None], jnp.float32)
    return logits, jnp.asarray(TRUTH[None]), jnp.ones((1, 4, 4), bool) if mask is None else jnp.asarray(mask[None])


def test_confusion_by_hand_with_one_and_two_logits():
    logits, label, mask = one_image()
    one = metrics.confusion(logits, label, mask, num_classes=2)
    assert one.dtype == jnp.int32
    np.testing.assert_array_equal(one, [COUNTS])
    two = jnp.concatenate([jnp.zeros_like(logits), logits], -1)
    np.testing.assert_array_equal(metrics.confusion(two, label, mask, num_classes=2), [COUNTS])


def test_confusion_leaves_out_masked_pixels_and_labels_outside_the_classes():
    mask = np.ones((4, 4), bool)
    mask[0] = False  # truth 0011, guess 0111: takes one of [0,0], one of [0,1], two of [1,1]
    logits, label, mask = one_image(mask)
    np.testing.assert_array_equal(metrics.confusion(logits, label, mask, num_classes=2), [[[8, 1], [2, 1]]])
    label = label.at[0, 3, 0].set(255).at[0, 3, 1].set(-1)  # one of [1,0], one of [0,0]
    np.testing.assert_array_equal(metrics.confusion(logits, label, mask, num_classes=2), [[[7, 1], [1, 1]]])


def test_confusion_of_many_classes_in_3d_under_jit_and_vmap():
    rng = np.random.default_rng(0)
    label, mask = rng.integers(0, 5, (3, 2, 4, 8), dtype=np.int32), rng.random((3, 2, 4, 8)) < 0.8
    logits = rng.normal(size=(3, 2, 4, 8, 5)).astype(np.float32)
    expected = np.zeros((3, 5, 5), int)
    for where in zip(*np.nonzero(mask), strict=True):
        expected[where[0], label[where], logits[where].argmax()] += 1
    count = jax.jit(lambda *batch: metrics.confusion(*batch, num_classes=5))
    batch = jnp.asarray(logits), jnp.asarray(label), jnp.asarray(mask)
    np.testing.assert_array_equal(count(*batch), expected)
    np.testing.assert_array_equal(jax.vmap(count)(*(x[:, None] for x in batch))[:, 0], expected)


def test_confusion_is_exact_beyond_what_float32_can_count():
    shape = (1, 4097, 4097)  # 16,785,409 pixels: odd and above 2^24
    count = jax.jit(lambda *batch: metrics.confusion(*batch, num_classes=2))
    counts = count(jnp.ones((*shape, 1)), jnp.zeros(shape, jnp.int32), jnp.ones(shape, bool))
    np.testing.assert_array_equal(counts, [[[0, 4097 * 4097], [0, 0]]])


def test_confusion_refuses_another_number_of_classes():
    with pytest.raises(ValueError, match=r"num_classes=3 but the logits hold 2 classes"):
        metrics.confusion(*one_image(), num_classes=3)


def test_confusion_sharded_over_the_batch_does_not_communicate():
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    n = 2 * len(jax.devices())
    batch = [jax.device_put(jnp.repeat(x, n, 0), rows) for x in one_image()]
    count = jax.jit(lambda *b: metrics.confusion(*b, num_classes=2), out_shardings=rows).lower(*batch).compile()
    np.testing.assert_array_equal(count(*batch), [COUNTS] * n)
    assert not [word for word in ("all-reduce", "all-gather", "permute", "all-to-all") if word in count.as_text()]


def test_ratios_by_hand():
    counts = np.array([COUNTS], np.int32)
    np.testing.assert_allclose(metrics.iou(counts), [[9 / 13, 3 / 7]])
    np.testing.assert_allclose(metrics.dice(counts), [[18 / 22, 6 / 10]])
    # Rows are the truth: [[4, 1], [3, 2]] predicts class 1 three times, twice rightly, of five.
    counts = np.array([[4, 1], [3, 2]])
    np.testing.assert_allclose(metrics.precision(counts), [4 / 7, 2 / 3])
    np.testing.assert_allclose(metrics.recall(counts), [4 / 5, 2 / 5])


@pytest.mark.parametrize("score", [metrics.iou, metrics.dice, metrics.precision, metrics.recall])
def test_empty_classes(score):
    absent = np.array([[16, 0, 0], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(score(absent), [1, 1, 1])
    invented = np.array([[8, 8, 0], [0, 0, 0], [0, 0, 0]])
    assert score(invented)[1] == 0
    missed = np.array([[8, 0, 0], [8, 0, 0], [0, 0, 0]])
    assert score(missed)[1] == 0
    assert score(np.stack([absent, missed])[:, None]).shape == (2, 1, 3)
    assert "enters no mean" in metrics.EMPTY_RULE


def test_pooled_sums_without_overflow():
    large = np.full((4, 2, 2), 2**30, np.int32)
    scores = metrics.summarise(large)
    assert scores["iou_pooled"] == pytest.approx(1 / 3)
    assert scores["dice_mean"] == pytest.approx(1 / 2)


def test_summarise_two_classes_pooled_differs_from_mean():
    counts = np.array([[[9, 2], [2, 3]], [[6, 0], [0, 10]], [[0, 0], [0, 0]]], np.int32)  # the last is padding
    # Pooled: hit 13, union 13 + 2 + 2 = 17, pixels 15 + 15. Mean: (3/7 + 1) / 2 and (6/10 + 1) / 2. The first image has
    # 5 pixels of each, 3 in common.
    expected = {
        "images": 2,
        "iou_pooled": 13 / 17,
        "dice_pooled": 26 / 30,
        "iou_mean": (3 / 7 + 1) / 2,
        "dice_mean": (0.6 + 1) / 2,
        "precision_pooled": 13 / 15,
        "recall_pooled": 13 / 15,
        "precision_mean": (3 / 5 + 1) / 2,
        "recall_mean": (3 / 5 + 1) / 2,
    }
    assert metrics.summarise(counts) == pytest.approx(expected)


def test_summarise_many_classes_weighs_each_alike():
    first = [[5, 0, 0], [0, 4, 0], [1, 0, 0]]  # IoU of classes 1, 2: 1, 0
    second = [[9, 1, 0], [0, 1, 0], [0, 0, 0]]  # 1/2; there is no class 2
    counts = np.array([first, second])
    # Pooled: class 1 has hit 5, union 6; class 2 hit 0.
    scores = metrics.summarise(counts)
    assert scores["iou_pooled"] == pytest.approx((5 / 6 + 0) / 2)
    assert scores["iou_mean"] == pytest.approx(((1 + 0) / 2 + 1 / 2) / 2)
    # Class 0 has hit 14, union 16; in the images 5/6 and 9/10.
    every = metrics.summarise(counts, background=None)
    assert every["iou_pooled"] == pytest.approx((14 / 16 + 5 / 6 + 0) / 3)
    assert every["iou_mean"] == pytest.approx(((5 / 6 + 1 + 0) / 3 + (9 / 10 + 1 / 2) / 2) / 2)


def test_what_the_truth_has_nowhere_is_scored_by_what_is_made_up():
    absent, invented = np.diag([16, 0, 0]), np.array([[12, 0, 4], [0, 0, 0], [0, 0, 0]])
    assert metrics.summarise(absent[None])["recall_pooled"] == 1
    assert metrics.summarise(invented[None])["recall_pooled"] == 0
    assert metrics.summarise(np.stack([absent, invented]))["iou_mean"] == 1 / 2
    np.testing.assert_array_equal(metrics.per_image(np.stack([absent, 0 * absent]))["iou"], [1, np.nan])


def test_nothing_to_score_is_an_error():
    with pytest.raises(ValueError, match="no image with a valid pixel"):
        metrics.summarise(np.zeros((2, 2, 2), np.int32))


def test_by_group():
    good, bad, padding = [[8, 0], [0, 8]], [[0, 8], [8, 0]], [[0, 0], [0, 0]]
    counts = np.array([good, bad, good, padding])
    groups = metrics.by_group(counts, ["tissue", "fluorescence", "tissue", "none"])
    assert list(groups) == ["fluorescence", "tissue"]
    assert groups["tissue"].pop("images") == 2
    assert len(groups["tissue"]) == 8
    assert set(groups["tissue"].values()) == {1}
    assert groups["fluorescence"]["iou_pooled"] == 0
    with pytest.raises(ValueError, match="1 groups for 4 images"):
        metrics.by_group(counts, ["a"])


def test_pixels_counted_on_the_host_are_those_counted_in_the_step():
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(-1, 4, (5, 7)).astype(np.int32), rng.integers(0, 3, (5, 7)).astype(np.uint8)
    mask = rng.random((5, 7)) < 0.8
    logits = np.eye(3, dtype=np.float32)[prediction]
    expected = metrics.confusion(*(jnp.asarray(a[None]) for a in (logits, truth, mask)), num_classes=3)[0]
    counts = metrics.count_pixels(truth, prediction, num_classes=3, mask=mask)
    np.testing.assert_array_equal(counts, expected)
    assert counts.sum() == (mask & (truth >= 0) & (truth < 3)).sum()
    assert metrics.count_pixels(truth, prediction, num_classes=3).sum() == ((truth >= 0) & (truth < 3)).sum()
    with pytest.raises(ValueError, match="predicted classes 0 to 2, and there are 2"):
        metrics.count_pixels(truth, prediction, num_classes=2)
