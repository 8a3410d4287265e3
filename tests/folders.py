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


def squares(values, *, pieces=1, dtype=np.uint8, size=24):
    """A mask with each value in so many separate 2x2 squares."""
    mask = np.zeros((size, size), dtype)
    places = iter((r, c) for r in range(0, size, 3) for c in range(0, size, 3))
    for value in np.repeat(values, pieces):
        r, c = next(places)
        mask[r : r + 2, c : c + 2] = value
    return mask
