"""Images at another magnification than the network was trained at: enlarged for it, its answer brought back."""

import numpy as np
from jaxtyping import Float32, Int32

from unet_jax.blending import Rows

LEAST, MOST = 0.1, 10.0


def zoomed(image: Rows, zoom: float) -> Rows:
    """The image (*S, C) at `zoom` times its size along each axis, rounded; with 1 itself, whose rows are read later.

    Linear between pixels, smoothed when it shrinks.
    """
    if zoom == 1:
        return image
    image = image[:]
    size = tuple(max(1, round(n * zoom)) for n in image.shape[:-1])
    return np.rint(_resize(image, (*size, image.shape[-1]), smooth=zoom < 1)).astype(np.uint8)


def values_at(values: Float32[np.ndarray, "*s k"], size: tuple[int, ...]) -> Float32[np.ndarray, "*t k"]:
    """Numbers of every pixel at another size (*T), linear between pixels."""
    return values if values.shape[:-1] == size else _resize(values, (*size, values.shape[-1])).astype(np.float32)


def label_at(label: Int32[np.ndarray, "*s"], size: tuple[int, ...]) -> Int32[np.ndarray, "*t"]:
    """A label image at another size (*T): the object at the middle of each pixel; ids 1..n of those that are left."""
    if label.shape == size:
        return label
    middles = [((np.arange(t) + 0.5) * n / t).astype(int) for n, t in zip(label.shape, size, strict=True)]
    found = label[np.ix_(*middles)]
    return np.unique(found, return_inverse=True)[1].reshape(size).astype(np.int32) + np.int32(found.min() > 0)


def check(zoom: float) -> None:
    """ValueError for a zoom that is out of all reason."""
    if not LEAST <= zoom <= MOST:
        raise ValueError(f"zoom {zoom}: choose a factor from {LEAST} to {MOST:g}, 2 for objects half as wide as usual")


def _resize(values: np.ndarray, shape: tuple[int, ...], *, smooth: bool = False) -> np.ndarray:
    from skimage.transform import resize

    return resize(values.astype(np.float32), shape, order=1, mode="edge", anti_aliasing=smooth, preserve_range=True)
