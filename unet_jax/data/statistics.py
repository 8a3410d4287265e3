"""What a plan of training needs to know of the training images."""

from collections.abc import Sequence

import numpy as np

from unet_jax.data.normalisation import grid_step
from unet_jax.data.source import Source
from unet_jax.planning import Statistics


def measure(source: Source, classes: Sequence[str], *, background: int | None = 0) -> Statistics:
    """Statistics of images as they are in the files, with labels 0..K-1; every image is read once."""
    sizes, ranges, pixels, images = [], [], np.zeros(len(classes), np.int64), np.zeros(len(classes), np.int64)
    for i in range(len(source)):
        sample = source[i]
        counts = np.bincount(sample["label"][sample["mask"]], minlength=len(classes))
        pixels, images = pixels + counts, images + (counts > 0)
        sizes.append(sample["label"].shape)
        step = grid_step(sizes[-1])
        ranges.append(np.percentile(sample["image"][::step, ::step], [1, 99.8], axis=(0, 1)))
    heights, widths = np.array(sizes).T
    return Statistics(
        images=len(source),
        height=(int(heights.min()), float(np.median(heights)), int(heights.max())),
        width=(int(widths.min()), float(np.median(widths)), int(widths.max())),
        channels=source.channels,
        dtype=str(sample["image"].dtype),
        ranges=tuple((float(low), float(high)) for low, high in np.median(ranges, axis=0).T),
        classes=tuple(classes),
        pixel_share=tuple((pixels / max(pixels.sum(), 1)).tolist()),
        image_share=tuple((images / len(source)).tolist()),
        background=background,
    )
