"""Folders of images and masks for the tests."""

import numpy as np
import tifffile
from PIL import Image


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.asarray(array)
    if path.suffix.lower().startswith(".tif"):
        tifffile.imwrite(path, array, photometric="rgb" if array.ndim == 3 else "minisblack")
    else:
        Image.fromarray(array).save(path)


def make(root, masks, *, names=None, shape=None, room="labels"):
    """A folder with an image for every mask; image i is i everywhere."""
    for i, mask in enumerate(masks):
        name = names[i] if names else f"n{i}"
        save(root / "images" / f"{name}.png", np.full(shape or np.shape(mask), i, np.uint8))
        save(root / room / f"{name}.png", np.asarray(mask))
    return root


def cells(root, *, shape=(32, 32), second=(slice(20, 30), slice(18, 30)), name="c"):
    """24 images of two bright squares, which their masks number 1 and 2; the same every time."""
    rng = np.random.default_rng(0)
    for i in range(24):
        label = np.zeros(shape, np.uint16)
        label[4:14, 3:12], label[second] = 1, 2
        image = (np.where(label > 0, 170, 60) + rng.integers(0, 50, shape)).astype(np.uint8)
        save(root / "images" / f"{name}{i}.png", image)
        save(root / "labels" / f"{name}{i}.png", label)
    return root


def squares(values, *, pieces=1, dtype=np.uint8, size=24):
    """A mask with each value in so many separate 2x2 squares."""
    mask = np.zeros((size, size), dtype)
    places = iter((r, c) for r in range(0, size, 3) for c in range(0, size, 3))
    for value in np.repeat(values, pieces):
        r, c = next(places)
        mask[r : r + 2, c : c + 2] = value
    return mask
