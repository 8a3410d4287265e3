"""Normalisation and training batches: the same from any start, nothing lost."""

import itertools
from collections import Counter

import numpy as np
import pytest

from tests.coded import Coded
from unet_jax.data import Normalised, Percentiles, Subset, eval_tiles, steps_per_epoch, to_uint8, train_batches, visits
from unet_jax.data.tiles import UNSEEN


def take(n, source, **options):
    options = {"patch": (8, 8), "batch": 3, "seed": 1} | options
    return list(itertools.islice(train_batches(source, **options), n))


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
    return True


def test_to_uint8_stretches_between_percentiles_of_all_channels():
    # 0..100 has its 10th percentile at 10 and its 90th at 90: 50 -> 255 * 40 / 80 = 127.5, to even 128.
    image = np.arange(101, dtype=np.uint16).reshape(101, 1, 1)
    out = to_uint8(image, low=10, high=90).ravel()
    assert out.dtype == np.uint8
    assert [out[0], out[10], out[50], out[90], out[100]] == [0, 0, 128, 255, 255]
    np.testing.assert_array_equal(to_uint8(image.astype(np.float32) * 2**20, low=10, high=90).ravel(), out)
    # One channel 0, the other 100: stretched together, so each stays constant and they stay apart.
    two = np.stack([np.zeros((4, 4)), np.full((4, 4), 100)], -1).astype(np.uint8)
    np.testing.assert_array_equal(to_uint8(two), two * 2 + (two > 0) * 55)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_to_uint8_of_constant_and_sparse_images(dtype):
    image = np.full((40, 40, 1), 7, dtype)
    assert to_uint8(image).max() == 0
    image[3, 3] = 9  # one pixel of 1600 lies beyond the 99.8th percentile, which equals the first
    out = to_uint8(image)
    assert (out[3, 3, 0], out.sum()) == (255, 255)


def test_to_uint8_of_huge_floats_does_not_overflow():
    image = np.array([-3e38, 0, 3e38], np.float32).reshape(1, 3, 1)
    np.testing.assert_array_equal(to_uint8(image, low=0, high=100).ravel(), [0, 128, 255])


def test_to_uint8_of_a_large_image_uses_a_grid_and_comes_out_alike():
    row = np.linspace(0, 60000, 2300).astype(np.uint16)
    large = np.broadcast_to(row[:, None, None], (2300, 1900, 1))  # 4.37 Mpx
    out = to_uint8(large)
    np.testing.assert_array_equal(out, to_uint8(large))
    np.testing.assert_allclose(out[:, 0, 0], to_uint8(row[:, None, None])[:, 0, 0], atol=1)


def test_to_uint8_refuses_missing_numbers_and_odd_percentiles():
    image = np.array([1, np.nan, np.inf], np.float32).reshape(1, 3, 1)
    with pytest.raises(ValueError, match=r"2 values are infinite or not a number: .*nan_to_num"):
        to_uint8(image)
    with pytest.raises(ValueError, match="choose 0 <= low < high <= 100"):
        to_uint8(np.zeros((2, 2, 1), np.uint8), low=5, high=5)


def test_normalised_does_it_once_and_names_the_image(monkeypatch):
    source = Coded([(20, 30), (9, 9)])
    normal = Normalised(source, Percentiles(low=0, high=100))
    first = normal[0]["image"]
    assert first is normal[-2]["image"]
    np.testing.assert_array_equal(first, to_uint8(source[0]["image"], low=0, high=100))
    assert (normal.ids, normal.channels, normal.label_kind, normal.columns) == (source.ids, 2, "instances", {})
    assert Normalised(source, cache_bytes=0)[0]["image"] is not Normalised(source, cache_bytes=0)[0]["image"]
    bad = Coded([(2, 2)])
    monkeypatch.setattr(
        Coded, "__getitem__", lambda self, i: {"image": np.full((2, 2, 1), np.nan, np.float32), "id": "x"}
    )
    with pytest.raises(ValueError, match="image x: 4 values are infinite"):
        Normalised(bad)[0]


def test_batch_shapes_and_types():
    batch = take(1, Coded([(20, 30)] * 2), patch=(8, 12))[0]
    assert {k: (v.shape, v.dtype.kind) for k, v in batch.items()} == {
        "image": ((3, 8, 12, 2), "u"),
        "label": ((3, 8, 12), "i"),
        "mask": ((3, 8, 12), "b"),
        "id": ((3,), "U"),
    }
    assert (batch["image"].dtype, batch["label"].dtype) == (np.uint8, np.int32)


def test_image_label_and_mask_are_cropped_alike():
    whole = {s["id"]: s for s in Normalised(Coded([(20, 30), (16, 40)]))}
    for batch in take(4, Coded([(20, 30), (16, 40)])):
        for image, label, mask, id in zip(*(batch[n] for n in ("image", "label", "mask", "id")), strict=True):
            r, c = divmod(int(label[0, 0]) - 1, 1000)
            here = slice(r, r + 8), slice(c, c + 8)
            np.testing.assert_array_equal(label, whole[id]["label"][here])
            np.testing.assert_array_equal(image, whole[id]["image"][here])  # of the whole image's range
            np.testing.assert_array_equal(mask, whole[id]["mask"][here])


def test_crops_reach_every_place():
    corners = Counter(int(label[0, 0]) for b in take(60, Coded([(10, 9)])) for label in b["label"])
    # 3 rows x 2 columns of places, 180 draws: 30 each; a binomial of 180 and 1/6 deviates by 5, so below 10 is 4 sigma.
    assert sorted(corners) == [1, 2, 1001, 1002, 2001, 2002]
    assert min(corners.values()) >= 10


@pytest.mark.parametrize("threads", [0, 3])
def test_any_start_and_any_number_of_threads_give_the_same(threads):
    source = Coded([(20, 20)] * 5)
    reference = take(7, source)
    assert not np.array_equal(reference[0]["label"], reference[5]["label"])  # 15 crops are three rounds of 5
    for start in (0, 4):
        resumed = take(7 - start, source, start_step=start, threads=threads)
        assert all(same(*pair) for pair in zip(reference[start:], resumed, strict=True))


def test_another_seed_gives_another_order():
    source = Coded([(20, 20)] * 12)
    one, other = (np.concatenate([b["id"] for b in take(4, source, seed=seed)]) for seed in (1, 2))
    assert sorted(one) == sorted(other)
    assert list(one) != list(other)


@pytest.mark.parametrize(("images", "batch"), [(7, 3), (3, 8), (4, 4)])
def test_every_image_is_seen_equally_often(images, batch):
    # images * batch crops are batch whole rounds, whatever the tail of a round.
    batches = take(images, Coded([(9, 9)] * images), batch=batch)
    ids = np.concatenate([b["id"] for b in batches])
    assert Counter(ids) == {f"i{i}": batch for i in range(images)}
    rounds = ids.reshape(batch, images)
    assert all(len(set(r)) == images for r in rounds)
    assert batch < 3 or len({tuple(r) for r in rounds}) > 1  # shuffled anew


def test_rows_are_those_of_the_whole_batch_and_others_are_not_read():
    whole = take(3, Coded([(20, 20)] * 4), batch=4)
    source = Coded([(20, 20)] * 4)
    parts = [take(3, source, batch=4, rows=rows, threads=0) for rows in (slice(0, 1), slice(1, 4))]
    assert sum(source.reads.values()) == 12
    for step in range(3):
        for name in whole[0]:
            joined = np.concatenate([part[step][name] for part in parts])
            np.testing.assert_array_equal(joined, whole[step][name])


def test_small_images_are_mirrored_where_label_and_mask_see_nothing():
    for batch in take(5, Coded([(20, 3), (1, 1)]), patch=(8, 8)):
        for image, label, mask, id in zip(*(batch[name] for name in ("image", "label", "mask", "id")), strict=True):
            if id == "i1":
                assert np.unique(label).tolist() == [UNSEEN, 1]
                np.testing.assert_array_equal(label == 1, mask)
                assert mask.sum() == 1  # the pixel itself, once
                continue
            column = np.searchsorted(np.unique(image[..., 0]), image[..., 0])
            assert set(column[0]) == {0, 1, 2}
            assert (np.abs(np.diff(column)) == 1).all()  # 2 1 0 1 2 1 0 ...: neighbours stay neighbours
            seen = np.flatnonzero((label != UNSEEN).any(0))
            assert (np.diff(label[:, seen], axis=1) == 1).all()
            assert (np.diff(label[:, seen], axis=0) == 1000).all()
            np.testing.assert_array_equal(column[:, seen], [[0, 1, 2]] * 8)
            assert (np.delete(label, seen, 1) == UNSEEN).all()
            np.testing.assert_array_equal(mask, (label != UNSEEN) & (label % 7 != 0))


def test_images_smaller_and_larger_than_the_patch_share_a_batch():
    sizes = [(5, 5), (20, 20), (5, 20), (20, 5)]
    for batch in take(12, Coded(sizes), batch=4):
        assert batch.keys() == {"image", "label", "mask", "id"}
        assert batch["image"].shape == (4, 8, 8, 2)
        for mask, id in zip(batch["mask"], batch["id"], strict=True):
            assert (mask.any(1).sum(), mask.any(0).sum()) == tuple(min(n, 8) for n in sizes[int(id[1:])])


def test_volumes_are_cropped_by_the_same_code():
    batch = take(1, Coded([(6, 7, 4)]), patch=(4, 5, 6))[0]
    assert batch["image"].shape == (3, 4, 5, 6, 2)
    assert 0 < batch["mask"].sum() < 3 * 4 * 5 * 4  # two of six planes are mirrored


def test_a_source_is_not_normalised_twice():
    normal = Normalised(Coded([(8, 8)] * 3), Percentiles(low=30, high=60))  # once more would change it
    for source in (normal, Subset(normal, [0, 2])):
        batch = take(1, source)[0]
        np.testing.assert_array_equal(batch["image"][0], normal[normal.ids.index(batch["id"][0])]["image"])
    tile = next(eval_tiles(Subset(normal, [1]), patch=(8, 8), batch=1, margin=0))
    np.testing.assert_array_equal(tile["image"][0], normal[1]["image"])


def test_each_image_is_normalised_once_in_a_stream(monkeypatch):
    from unet_jax.data import normalisation

    calls = []
    monkeypatch.setattr(normalisation, "to_uint8", lambda image, **_: calls.append(1) or image)
    take(10, Coded([(9, 9)] * 4), threads=0)
    assert len(calls) == 4


def test_train_batches_says_what_is_wrong():
    source = Coded([(9, 9)])
    with pytest.raises(ValueError, match=r"image i0 has 2 axes \(9, 9\), the patch \(4, 4, 4\)"):
        take(1, source, patch=(4, 4, 4))
    with pytest.raises(ValueError, match="0 images"):
        take(1, Subset(source, []))
    with pytest.raises(ValueError, match="0 rows of a batch of 2"):
        take(1, source, batch=2, rows=slice(2, 4))
    with pytest.raises(ValueError, match="at least one pixel"):
        take(1, source, patch=(0, 4))


def test_a_failure_while_reading_reaches_the_loop(monkeypatch):
    source = Coded([(9, 9)] * 2)

    def broken(self, index):
        raise ValueError("labels/i0.png: is truncated")

    monkeypatch.setattr(Coded, "__getitem__", broken)
    with pytest.raises(ValueError, match=r"labels/i0.png: is truncated"):
        take(1, source)


def test_steps_per_epoch():
    assert [steps_per_epoch(*n) for n in ((388, 8), (7, 8), (3, 8), (12, 8))] == [48, 1, 1, 2]


def test_large_images_are_visited_more_often():
    class Sizes:
        ids, channels, label_kind, columns = tuple("abcd"), 1, "binary", {}

        def __len__(self):
            return 4

        def __getitem__(self, i):
            side = (8, 16, 47, 64)[i]
            return {"label": np.zeros((side, side), np.int32), "id": self.ids[i]}

    # sides of 8, 16, 47, 64 pixels against a patch of 16: 0.5, 1, 2.9 and 4 times
    assert visits(Sizes(), patch=(16, 16)).ids == ("a", "b", "c", "c", "c", "d", "d", "d", "d")


class Marked(Coded):
    """30×40 pixels of which one is object 1 and a block of 10×10, in the corner, object 2; the last row is ignored."""

    def __getitem__(self, i):
        sample = super().__getitem__(i)
        label = np.zeros((30, 40), np.int32)
        label[15, 20], label[:10, :10], label[29, 0] = 1, 2, 3
        return sample | {"label": label, "mask": np.arange(30)[:, None].repeat(40, 1) < 29}


def test_centred_crops_lie_around_every_value_alike():
    crops = [b for batch in take(60, Marked([(30, 40)]), patch=(8, 8), batch=4, centred=1.0) for b in batch["label"]]
    around_one = sum(crop[4, 4] == 1 for crop in crops)
    assert all(crop[crop != 3].any() for crop in crops)  # none around the ignored one, and none of background alone
    assert 90 < around_one < 150  # half of 240, though value 2 has a hundred times the pixels
    by_chance = [b for batch in take(60, Marked([(30, 40)]), patch=(8, 8), batch=4) for b in batch["label"]]
    some = [b for batch in take(60, Marked([(30, 40)]), patch=(8, 8), batch=4, centred=0.5) for b in batch["label"]]
    # A share of 0.5 lies between: about 0.25 around the single pixel, where chance gives 1 in 23 × 33 positions.
    assert sum(crop[4, 4] == 1 for crop in by_chance) < 5 < 40 < sum(crop[4, 4] == 1 for crop in some) < 80
    options = {"patch": (8, 8), "batch": 4, "centred": 1.0, "background": None}
    thirds = [b for batch in take(60, Marked([(30, 40)]), **options) for b in batch["label"]]
    assert 55 < sum(crop[4, 4] == 1 for crop in thirds) < 105  # 80 of 240, where 0 is a class like 1 and 2
    with pytest.raises(ValueError, match=r"centred=1\.5: give the share"):
        take(1, Marked([(30, 40)]), centred=1.5)


def test_centred_crops_of_an_image_without_objects_and_of_one_smaller_than_the_patch():
    class Blank(Coded):
        def __getitem__(self, i):
            return super().__getitem__(i) | {"label": np.zeros((9, 9), np.int32)}

    blank = take(5, Blank([(9, 9)]), patch=(4, 4), centred=1.0)
    assert len({batch["image"].tobytes() for batch in blank}) > 1  # anywhere, as without the option
    large = take(3, Marked([(30, 40)]), patch=(64, 16), centred=1.0)
    for batch in large:
        assert (batch["mask"].sum(axis=(1, 2)) == 29 * 16).all()  # the image lies whole in it
