import errno

import numpy as np
import pytest
from scipy import ndimage

from unet_jax.data import cells, synthetic
from unet_jax.data.source import Source
from unet_jax.data.synthetic import KINDS, SyntheticCells, render_cells
from unet_jax.startup import cache_dir


@pytest.fixture(scope="module")
def rendered():
    return {
        kind: [render_cells(np.random.default_rng([7, i]), kind=kind, size=160) for i in range(10)] for kind in KINDS
    }


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_consecutive_and_every_cell_is_one_piece(rendered, kind):
    for image, label in rendered[kind]:
        count = label.max()
        assert image.shape == (160, 160, 3)
        assert 4 <= count <= 25  # 10 to 60 on 256² is 3.9 to 24.4 on 160²
        np.testing.assert_array_equal(np.unique(label), np.arange(count + 1))
        for number in range(1, count + 1):
            assert ndimage.label(label == number)[1] == 1


def test_every_cell_shows_most_of_itself_and_clusters_do_hide_some():
    shares = []
    for i in range(6):
        placed, label = cells._place(np.random.default_rng(i), "overlapping", 256)
        seen = np.bincount(label.ravel())[1:]
        assert len(seen) == len(placed)
        shares += [s / c.area for s, c in zip(seen, placed, strict=True)]
    assert min(shares) >= 0.6
    assert np.mean(np.array(shares) < 0.95) > 0.2


def touching(label):
    """Share of the cells with another cell's pixel right beside them."""
    pairs = set()
    for a, b in ((label[1:], label[:-1]), (label[:, 1:], label[:, :-1])):
        met = (a != b) & (a > 0) & (b > 0)
        pairs |= set(a[met].tolist()) | set(b[met].tolist())
    return len(pairs) / label.max()


def test_only_overlapping_cells_touch(rendered):
    share = {kind: np.mean([touching(label) for _, label in rendered[kind]]) for kind in KINDS}
    assert share["clear"] == share["low_contrast"] == 0
    assert share["overlapping"] > 0.5


def contrast(image, label):
    """Difference of the means over the standard deviation of one ground pixel's noise.

    The noise is taken from neighbours' differences (standard deviation sqrt(2) times one pixel's, whatever the lamp
    does), its robust deviation from the 16th and 84th percentile, which specks of dust do not move.
    """
    green, ground = image[..., 1].astype(float), ~ndimage.binary_dilation(label > 0, iterations=4)
    step = (green[:, 1:] - green[:, :-1])[ground[:, 1:] & ground[:, :-1]]
    low, high = np.percentile(step, [16, 84])
    noise = np.hypot((high - low) / 2 / np.sqrt(2), 0.3)  # 0.3: of rounding to whole grey levels
    return abs(green[label > 0].mean() - green[ground].mean()) / noise


def test_low_contrast_is_near_the_noise_yet_above_it_and_clear_is_far(rendered):
    measured = {kind: [contrast(*pair) for pair in rendered[kind]] for kind in KINDS}
    assert min(measured["low_contrast"]) > 1
    assert max(measured["low_contrast"]) < 4.5
    assert min(measured["clear"]) > max(measured["low_contrast"])


def test_both_dark_and_light_grounds_and_colour_appear(rendered):
    images = [image for kind in KINDS for image, _ in rendered[kind]]
    dark = np.mean([np.median(image) < 100 for image in images])
    coloured = np.mean([np.ptp(image.astype(int), axis=-1).mean() > 8 for image in images])
    assert 0.2 < dark < 0.8
    assert 0.05 < coloured < 0.6


def test_an_image_depends_on_seed_and_index_only(tmp_path):
    few, more = (SyntheticCells(count=n, size=64, seed=3, cache_dir=tmp_path) for n in (2, 4))
    assert more.ids[:2] == few.ids == ("synthetic-3-00000", "synthetic-3-00001")
    assert more.columns["kind"][:2] == few.columns["kind"]
    for i in range(2):
        np.testing.assert_array_equal(few[i]["image"], more[i]["image"])
        np.testing.assert_array_equal(few[i]["label"], more[i]["label"])
    other = SyntheticCells(count=2, size=64, seed=4, cache_dir=tmp_path)
    assert not np.array_equal(other[0]["image"], few[0]["image"])


def test_it_is_a_source_of_samples(tmp_path):
    source = SyntheticCells(count=2, size=64, cache_dir=tmp_path)
    assert isinstance(source, Source)
    assert (len(source), source.channels, source.label_kind) == (2, 3, "instances")
    sample = source[-1]
    assert (sample["image"].dtype, sample["label"].dtype, sample["mask"].dtype) == (np.uint8, np.int32, np.bool_)
    assert sample["mask"].all()
    assert sample["id"] == source.ids[1]
    with pytest.raises(IndexError):
        source[2]


def test_kinds_come_half_three_tenths_two_tenths():
    drawn = [synthetic._kind(np.random.default_rng([0, i])) for i in range(2000)]
    # three standard deviations of a share of 2000 draws: 3 * sqrt(0.25 / 2000) = 0.034
    for kind, share in zip(KINDS, (0.5, 0.3, 0.2), strict=True):
        assert abs(drawn.count(kind) / 2000 - share) < 0.034


def test_the_second_time_reads_the_cache(tmp_path, monkeypatch):
    first = SyntheticCells(count=2, size=64, cache_dir=tmp_path)
    monkeypatch.setattr(synthetic, "render_cells", None)
    again = SyntheticCells(count=2, size=64, cache_dir=tmp_path)
    np.testing.assert_array_equal(first[1]["image"], again[1]["image"])
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied", "another shape"])
def test_a_damaged_cache_is_drawn_again(tmp_path, damage):
    first = SyntheticCells(count=2, size=64, cache_dir=tmp_path)
    (file,) = tmp_path.iterdir()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    if damage == "another shape":
        np.savez(file, images=np.zeros((1, 64, 64, 3), np.uint8), labels=np.zeros((1, 64, 64), np.uint16))
    else:
        file.write_bytes({"truncated": data[: len(data) // 2], "flipped": data, "emptied": b""}[damage])
    for _ in range(2):  # drawn again, then read from the mended file
        again = SyntheticCells(count=2, size=64, cache_dir=tmp_path)
        np.testing.assert_array_equal(first[0]["image"], again[0]["image"])
        np.testing.assert_array_equal(first[1]["label"], again[1]["label"])


def test_a_folder_that_cannot_be_made_costs_a_warning_only(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="UNET_JAX_CACHE"):
        source = SyntheticCells(count=1, size=64, cache_dir=tmp_path / "file" / "cache")
    assert source[0]["label"].max() > 0


def test_a_full_disk_costs_a_warning_and_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(stream, **arrays):
        stream.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.warns(UserWarning, match="No space left"):
        SyntheticCells(count=1, size=64, cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("UNET_JAX_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.delenv("UNET_JAX_CACHE")
    assert cache_dir() == tmp_path / "xdg" / "unet_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "unet_jax"


def test_errors_name_the_mend(tmp_path):
    with pytest.raises(ValueError, match="clear, overlapping, low_contrast"):
        render_cells(np.random.default_rng(0), kind="blurred")
    with pytest.raises(ValueError, match="64 or more"):
        render_cells(np.random.default_rng(0), kind="clear", size=32)
    with pytest.raises(ValueError, match="count >= 1"):
        SyntheticCells(count=0, cache_dir=tmp_path)
