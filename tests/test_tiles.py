"""Tiles: every pixel counted once, with room around."""

import numpy as np
import pytest

from tests.coded import Coded
from unet_jax.data import Normalised, Subset, eval_tiles
from unet_jax.data.tiles import cut, tiles


@pytest.mark.parametrize("margin", [0, 1, 3])
@pytest.mark.parametrize("size", [(8, 8), (9, 30), (3, 17), (1, 1), (23, 64)])
def test_tiles_own_every_pixel_once_with_room_around(size, margin):
    owners = np.zeros(size, int)
    for tile in tiles(size, patch=(8, 8), margin=margin):
        owners[tuple(map(slice, tile.start, tile.stop))] += 1
        for n, origin, start, stop in zip(size, *tile, strict=True):
            assert start < stop
            assert n < 8 or 0 <= origin <= n - 8  # shifted inwards
            assert start - origin >= margin or start == 0
            assert origin + 8 - stop >= margin or stop == n
    assert (owners == 1).all()


def test_tiles_of_a_known_size():
    # 20 pixels, patch 8, margin 1: strides of at most 6, so 1 + 12 / 6 = 3 windows at 0, 6, 12, meeting at 7 and 13.
    along = [(t.origin[1], t.start[1], t.stop[1]) for t in tiles((8, 20), patch=(8, 8), margin=1)]
    assert along == [(0, 0, 7), (6, 7, 13), (12, 13, 20)]
    assert tiles((3, 8), patch=(8, 8), margin=1) == [((-3, 0), (0, 0), (3, 8))]
    assert len(tiles((20, 20, 8), patch=(8, 8, 8), margin=1)) == 9


def test_tiles_say_what_is_wrong():
    with pytest.raises(ValueError, match=r"margin 4 of a patch \(8, 8\): choose 0 <= margin < 4"):
        tiles((20, 20), patch=(8, 8), margin=4)
    with pytest.raises(ValueError, match="3 axes"):
        tiles((20, 20, 20), patch=(8, 8), margin=1)


def test_cut_is_numpys_reflection_and_a_view_inside():
    array = np.arange(5 * 6 * 2).reshape(5, 6, 2)
    padded = np.pad(array, [(7, 9), (6, 8), (0, 0)], mode="reflect")
    np.testing.assert_array_equal(cut(array, (-7, -6), (21, 20)), padded)
    np.testing.assert_array_equal(cut(array, (-2, 3), (4, 2)), padded[5:9, 9:11])
    assert np.shares_memory(cut(array, (1, 2), (3, 3)), array)


@pytest.mark.parametrize("batch", [1, 4, 50])
def test_eval_tiles_put_together_are_the_images(batch):
    sizes = [(20, 30), (8, 8), (3, 17), (9, 9)]
    source, whole = Coded(sizes), list(Normalised(Coded(sizes)))
    seen = [np.zeros(size, int) for size in sizes]
    counted = [np.zeros(size, int) for size in sizes]
    for b in eval_tiles(source, patch=(8, 8), batch=batch, margin=2):
        assert b["image"].shape == (batch, 8, 8, 2)
        assert (b["index"].dtype, b["origin"].dtype, b["origin"].shape) == (np.int32, np.int32, (batch, 2))
        for row, i in enumerate(b["index"]):
            if i < 0:
                assert not any(b[n][row].any() for n in ("image", "label", "mask", "owned", "origin"))
                assert b["id"][row] == ""
                continue
            assert b["id"][row] == source.ids[i]
            places = np.argwhere(b["owned"][row])
            at = tuple((places + b["origin"][row]).T)
            seen[i][at] += 1
            counted[i][at] += b["mask"][row][tuple(places.T)]
            assert b["mask"][row].sum() == b["mask"][row][b["owned"][row]].sum()
            for name in ("image", "label"):
                np.testing.assert_array_equal(b[name][row][tuple(places.T)], whole[i][name][at])
    assert all((s == 1).all() for s in seen)
    assert all((c == w["mask"]).all() for c, w in zip(counted, whole, strict=True))
    assert set(source.reads.values()) == {1}  # each image is read once, so a set beyond the memory limit serves


def test_eval_tiles_of_volumes_and_of_nothing():
    batches = list(eval_tiles(Coded([(6, 7, 4)]), patch=(4, 4, 4), batch=5, margin=1))
    assert batches[0]["image"].shape == (5, 4, 4, 4, 2)
    assert batches[0]["origin"].shape == (5, 3)
    assert sum(int(b["owned"].sum()) for b in batches) == 6 * 7 * 4
    assert list(eval_tiles(Subset(Coded([(8, 8)]), []), patch=(4, 4), batch=2, margin=0)) == []
    with pytest.raises(ValueError, match="choose at least 1"):
        next(eval_tiles(Coded([(8, 8)]), patch=(4, 4), batch=0, margin=0))
