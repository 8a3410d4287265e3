"""Objects of overlapping windows: numbered through the whole image, as if it had been one piece."""

import jax.numpy as jnp
import numpy as np
import pytest
import tifffile
from scipy import ndimage

from tests.trained import card, random_variables
from unet_jax import predict_files as files
from unet_jax import targets
from unet_jax.blending import Band
from unet_jax.data.images import read_label
from unet_jax.inputs import Input
from unet_jax.instances import separate_foreground
from unet_jax.models import UNet
from unet_jax.prediction import Predictor
from unet_jax.results import Wanted
from unet_jax.stitching import Stash, Stitcher, windows


def bands_of(values, heights):
    stops = np.cumsum(heights)
    for start, stop in zip([0, *stops[:-1]], stops, strict=True):
        yield Band(0, values.shape[:-1], int(start), int(stop), values[start:stop])


def stitched(values, heights, separate, *, before, after, agree, min_area=0):
    stitcher, owned, areas = Stitcher(separate, agree=agree, min_area=min_area), [], []
    for window in windows(bands_of(values, heights), before=before, after=after):
        label, count, given = stitcher.add(window)
        owned.append(np.where(label > 0, label + given, 0))
        areas.append(np.bincount(label.ravel(), minlength=count + 1)[1:])
    ids, count = stitcher.resolve(np.concatenate(areas))
    return ids[np.concatenate(owned)], count


def pieces(values):
    return ndimage.label(values[..., 0] > 0.5)[0]


@pytest.mark.parametrize("seed", range(20))
def test_stitched_pieces_are_those_of_the_whole_image(seed):
    """At a density of 0.6 pieces percolate: they wind through many bands, and arms meet again below."""
    rng = np.random.default_rng(seed)
    values = (rng.random((40, 23, 1)) < 0.6).astype(np.float32)
    cuts = np.sort(rng.choice(np.arange(1, 40), rng.integers(0, 9), replace=False))
    heights = np.diff([0, *cuts, 40])
    for before, after in ((1, 0), (2, 3), (4, 4)):
        found, count = stitched(values, heights, pieces, before=before, after=after, agree=0.0)
        np.testing.assert_array_equal(found, pieces(values))
        assert count == found.max()


@pytest.mark.parametrize("seed", range(5))
def test_what_is_large_enough_in_all_is_kept_however_seams_cut_it(seed):
    values = (np.random.default_rng(seed).random((40, 23, 1)) < 0.4).astype(np.float32)
    found, count = stitched(values, [7, 5, 9, 11, 8], pieces, before=1, after=0, agree=0.0, min_area=8)
    whole = separate_foreground(values[..., 0], min_area=8)
    assert 3 < count == whole.max() < pieces(values).max()
    np.testing.assert_array_equal(found, whole)


def test_objects_that_touch_stay_apart_when_windows_agree_about_them():
    """Discs cut by straight lines between their middles, as any rule would that looks at the neighbourhood only."""
    centres = np.array([(10, 10), (10, 18), (18, 12), (30, 10), (31, 19), (22, 20)])
    y, x = np.mgrid[:40, :30]
    distance = np.stack([np.hypot(y - cy, x - cx) for cy, cx in centres])
    whole = np.where(distance.min(axis=0) < 5, distance.argmin(axis=0) + 1, 0)
    values = whole[..., None].astype(np.float32)

    def separate(window):
        ids = np.unique(window[window > 0])
        return np.where(window[..., 0] > 0, np.searchsorted(ids, window[..., 0]) + 1, 0)

    found, count = stitched(values, [13, 7, 10, 10], separate, before=4, after=4, agree=0.5)
    assert count == len(centres)
    pairs = {tuple(pair) for pair in np.stack([found.ravel(), whole.ravel()], axis=1).tolist()}
    assert len(pairs) == len(centres) + 1  # one to one, background with background


def test_what_a_window_cuts_at_its_far_edge_joins_nothing():
    """Two columns of cells that touch; a separation that takes two cells for one where the window cuts them."""
    whole = np.repeat(np.repeat(1 + np.arange(20).reshape(10, 2), 6, axis=0), 5, axis=1)
    values = whole[..., None].astype(np.float32)

    def separate(window):
        label = window[..., 0].astype(int)
        for edge in (label[0].copy(), label[-1].copy()):
            label[np.isin(label, edge)] = edge[0]
        return label

    found, count = stitched(values, [12, 13, 11, 14, 10], separate, before=8, after=8, agree=0.25)
    inner = slice(6, -6)  # the image's own edges cut too
    assert count == 18
    pairs = {tuple(pair) for pair in np.stack([found[inner].ravel(), whole[inner].ravel()], axis=1).tolist()}
    assert len(pairs) == 16


def copying_variables(model):
    """Weights of a network whose logits are those of the first channel, then the flow that the next two hold."""
    variables = {"params": {}}
    for block, layers in random_variables(model, 3)["params"].items():
        variables["params"][block] = {}
        for layer, value in layers.items():
            blank = {k: np.zeros_like(v) for k, v in value.items()} if isinstance(value, dict) else np.zeros_like(value)
            variables["params"][block][layer] = blank
    params = variables["params"]
    for block in ("down0", "up0"):
        for conv in ("conv0", "conv1"):
            for channel in range(3):
                params[block][conv]["kernel"][1, 1, channel, channel] = 1
    params["logits"]["kernel"][0, 0] = [[0, 40, 0, 0], [0, 0, 2, 0], [0, 0, 0, 2]]
    params["logits"]["bias"][:] = [20, 0, -1, -1]
    return variables


def test_touching_cells_of_a_large_image_come_out_as_those_of_the_whole(tmp_path, monkeypatch):
    """Cells of 14 pixels side by side down a tall image, told apart by their flow."""
    y, x = np.mgrid[:340, :48]
    rng = np.random.default_rng(0)
    centres = np.stack(np.meshgrid(np.arange(7, 340, 13), np.arange(6, 48, 12), indexing="ij"), -1).reshape(-1, 2)
    centres = centres + rng.uniform(-2, 2, centres.shape)
    distance = np.stack([np.hypot(y - cy, x - cx) for cy, cx in centres])
    label = np.where(distance.min(axis=0) < 7, distance.argmin(axis=0) + 1, 0).astype(np.int32)
    flow = np.asarray(targets.flow(jnp.asarray(label)[None]))[0]
    image = np.concatenate([255.0 * (label > 0)[..., None], 127.5 * (1 + np.where(label[..., None] > 0, flow, 0))], -1)
    tifffile.imwrite(tmp_path / "x.tif", np.rint(image).astype(np.uint8), photometric="rgb", tile=(32, 48))
    model = UNet((3, 4), classes=4)
    predictor = Predictor(
        copying_variables(model), card(model, channels=3) | {"head": "flow", "classes": ["background", "cell"]}
    )
    inputs = [Input("x", tmp_path / "x.tif")]
    (whole,) = files.predict_files(predictor, inputs, tmp_path / "whole", Wanted()).done
    assert whole["objects"] == len(centres)
    monkeypatch.setattr(files, "STREAM_PIXELS", 1000)
    (bands,) = files.predict_files(predictor, inputs, tmp_path / "bands", Wanted()).done
    assert bands["objects"] == len(centres)
    one, other = (read_label(tmp_path / name / "labels" / "x.tif") for name in ("whole", "bands"))
    _, pixels = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1, return_counts=True)
    assert pixels[np.argsort(pixels)[-len(centres) - 1 :]].sum() > 0.995 * one.size


def test_stash_gives_back_what_it_got(tmp_path):
    arrays = [np.arange(12).reshape(3, 4), np.zeros((0, 4), np.uint8), np.arange(5, dtype=np.int32)]
    with (tmp_path / "f").open("w+b") as file:
        stash = Stash(file)
        for array in arrays:
            stash.append(array)
        for _ in range(2):
            for found, want in zip(stash, arrays, strict=True):
                np.testing.assert_array_equal(found, want)
