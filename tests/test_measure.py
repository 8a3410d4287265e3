import numpy as np
import pytest
from skimage.measure import regionprops_table

from unet_jax.measure import measure, merge, table


def blobs(seed=0, size=60):
    rng = np.random.default_rng(seed)
    label = np.zeros((size, size), np.int32)
    y, x = np.mgrid[:size, :size]
    for number in range(1, 12):
        cy, cx, a, b = *rng.uniform(0, size, 2), *rng.uniform(1, 9, 2)
        label[((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 < 1] = number
    image = rng.integers(0, 60_000, (size, size, 3)).astype(np.uint16)
    return label, image, rng.random((size, size), np.float32)


def test_the_table_is_that_of_scikit_image():
    label, image, probability = blobs()
    found = table(measure(label, image, probability))
    stack = np.stack([image.mean(axis=-1), probability], axis=-1)
    names = ("label", "centroid", "area", "bbox", "eccentricity", "mean_intensity")
    want = regionprops_table(label, stack, properties=names)
    for column, name in {
        "id": "label", "centroid_y": "centroid-0", "centroid_x": "centroid-1", "area": "area", "min_y": "bbox-0",
        "min_x": "bbox-1", "max_y": "bbox-2", "max_x": "bbox-3", "eccentricity": "eccentricity",
        "mean_intensity": "mean_intensity-0", "mean_probability": "mean_intensity-1",
    }.items():  # fmt: skip
        np.testing.assert_allclose(found[column], want[name], atol=1e-6, rtol=1e-6, err_msg=column)


def test_parts_of_an_image_add_up_to_the_whole():
    label, image, probability = blobs(1)
    whole = measure(label, image, probability)
    parts, ids = [], []
    for rows in (slice(0, 7), slice(7, 40), slice(40, 60)):
        numbers, own = np.unique(label[rows], return_inverse=True)
        own = own.reshape(label[rows].shape) + (numbers[0] != 0)
        parts.append(measure(own, image[rows], probability[rows], top=rows.start))
        ids.append(numbers[numbers > 0])
    found = merge(parts, np.concatenate(ids).astype(np.int64), len(whole.area))
    for column, values in table(whole).items():
        np.testing.assert_allclose(table(found)[column], values, err_msg=column)


def test_far_from_the_origin_moments_keep_their_digits():
    label = np.ones((3, 9), np.int32)
    image, probability = np.zeros((3, 9, 1), np.uint8), np.zeros((3, 9), np.float32)
    near, far = (table(measure(label, image, probability, top=top)) for top in (0, 10**6))
    assert far["eccentricity"][0] == pytest.approx(near["eccentricity"][0], abs=1e-4)
    assert far["centroid_y"][0] == 10**6 + 1
