import numpy as np
import pytest

from unet_jax.blending import blend, gaussian, in_batches, predict_probabilities, shares, whole


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def as_float(seen=None):
    """A network that answers its input; it notes the shapes it got."""

    def apply(batch):
        if seen is not None:
            seen.add(batch.shape)
        return batch.astype(np.float32)

    return apply


def test_weights_are_a_gaussian_above_zero():
    weight = gaussian(8)  # sigma 1, the middle between the pixels 3 and 4
    np.testing.assert_allclose(weight[[0, 3, 4, 7]], np.exp([-6.125, -0.125, -0.125, -6.125]), rtol=1e-6)
    assert all(gaussian(n).min() >= np.exp(-8) for n in (1, 2, 33, 256))


@pytest.mark.parametrize(("size", "patch", "origins"), [(20, 8, [0, 6, 12]), (5, 8, [-1]), (1, 3, [-1])])
def test_shares_add_up_to_one_within_the_image_only(size, patch, origins):
    total = np.zeros(size + 2 * patch)
    for origin, share in shares(size, patch, origins).items():
        total[patch + origin : 2 * patch + origin] += share
    np.testing.assert_allclose(total[patch : patch + size], 1, atol=1e-6)
    assert not total[:patch].any()
    assert not total[patch + size :].any()


@pytest.mark.parametrize("size", [(1, 1), (7, 40), (16, 16), (33, 17), (12, 9, 21)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_an_image_comes_back_from_a_network_that_answers_its_input(size, overlap):
    image, seen = noise(*size, 2), set()
    patch = (16, 16, 8)[-len(size) :]
    result = predict_probabilities(as_float(seen), image, patch=patch, overlap=overlap, batch=3)
    np.testing.assert_allclose(result, image, atol=1e-3)
    assert seen == {(3, *patch, 2)}


def test_images_share_batches_and_come_back_in_order():
    images, calls = [noise(n, 9 + n, 1) for n in range(1, 12)], []

    def apply(batch):
        calls.append(batch.shape)
        return batch.astype(np.float32)

    results = list(whole(blend(apply, iter(images), patch=(32, 32), overlap=0.25, batch=4)))
    for image, result in zip(images, results, strict=True):
        np.testing.assert_array_equal(result, image)  # one tile each: nothing to blend, so not a bit changes
    assert calls == [(4, 32, 32, 1)] * 3  # eleven tiles


def test_bands_are_the_rows_of_the_image_in_order():
    image = noise(50, 20, 1)
    bands = list(blend(as_float(), [image], patch=(16, 16), overlap=0.5, batch=2))
    assert [bands[0].start, *(band.stop for band in bands)] == [*(band.start for band in bands), 50]
    np.testing.assert_allclose(np.concatenate([band.values for band in bands]), image, atol=1e-3)


def test_context_is_the_neighbouring_image_and_mirrored_at_its_edge():
    """A network that answers the mean of the 5 × 5 pixels around, and loses two pixels on every side."""

    def mean(batch):
        windows = np.lib.stride_tricks.sliding_window_view(batch.astype(np.float32), (5, 5), axis=(1, 2))
        return windows.mean(axis=(-2, -1))

    image = noise(30, 23, 1)
    result = predict_probabilities(mean, image, patch=(8, 8), overlap=0.0, batch=4, context=2)
    mirrored = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="reflect")
    np.testing.assert_allclose(result, mean(mirrored[None])[0], atol=1e-3)


def test_a_tile_fades_in_where_it_begins():
    """Tiles that disagree wholly, 0 and 1 everywhere: the worst seam there is.

    Tiles of 64 overlap by a quarter or half, d = 48 or 32 pixels apart, σ = 8. The first pixel of the second is 31.5
    off its middle and d - 31.5 from the first one's: weights exp(-7.753) against exp(-2.127) or exp(-0.002), a share
    of 1/278 or 1/2326. Between the two the share is logistic, with a slope of d/(4σ²) a pixel at most.
    """
    for overlap, step, slope, seam in ((0.25, 48, 0.1875, 1 / 278), (0.5, 32, 0.125, 1 / 2326)):
        calls = []

        def apply(batch, calls=calls):
            calls.append(len(calls))
            return np.full((*batch.shape[:-1], 1), calls[-1], np.float32)

        image = np.zeros((64, 64 + step, 1), np.uint8)
        row = predict_probabilities(apply, image, patch=(64, 64), overlap=overlap, batch=1)[30, :, 0]
        assert len(calls) == 2
        assert row[step - 1] == 0
        np.testing.assert_allclose([row[step], 1 - row[63]], seam, rtol=0.01)
        assert row[64] == 1
        assert np.abs(np.diff(row)).max() < slope * 1.01


def test_the_last_batch_is_filled_up_and_the_filling_dropped():
    found = list(in_batches(lambda stack: stack * 2, ((i, np.full(3, i)) for i in range(5)), 4))
    assert [tag for tag, _ in found] == [0, 1, 2, 3, 4]
    assert [int(values[0]) for _, values in found] == [0, 2, 4, 6, 8]


@pytest.mark.parametrize(("changes", "words"), [({"overlap": 1.0}, "overlap"), ({"batch": 0}, "at least 1")])
def test_options_that_cannot_be(changes, words):
    options = {"patch": (8, 8), "overlap": 0.25, "batch": 2} | changes
    with pytest.raises(ValueError, match=words):
        predict_probabilities(as_float(), noise(9, 9, 1), **options)
