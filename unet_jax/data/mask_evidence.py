"""Evidence for what the numbers of masks are: greys of soft edges, objects numbered through, or classes."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int64, UInt8

from unet_jax.data.labels import Values, decide_kind

MAX_CLASSES = 256
FEW = 32  # numbers that may be classes even where each lies in one piece
HANDFUL = 8  # numbers that are classes unless told otherwise: 1 and 2 are liver and tumour sooner than two cells
_RIM = 0.02  # of the pixels: a rim of one grey around things, as halving a mask along one axis leaves it
_LEAST_TOP = 32  # of greys: the brightest pixel of the thinnest lines after resizing; class numbers rarely reach it


def neighbours(values: UInt8[np.ndarray, "h w"]) -> Int64[np.ndarray, "2 256"]:
    """Of each value 0..255: how many of its eight neighbours are not 0, and how many of these are of the same value.

    Pixels of a class lie among their like, however thin the class is drawn; greys of an edge do not.
    """
    height, width = values.shape
    found = np.zeros((2, 256), np.int64)
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):  # the other four are these, seen from the other pixel
        here = values[: height - down, max(-right, 0) : width - max(right, 0)]
        there = values[down:, max(right, 0) : width + min(right, 0)]
        both = (here > 0) & (there > 0)
        here, there = here[both], there[both]
        found[0] += np.bincount(here, minlength=256) + np.bincount(there, minlength=256)
        found[1] += 2 * np.bincount(here[here == there], minlength=256)
    return found


def soft_share(pixels: Mapping[int, int], beside: Int64[np.ndarray, "2 256"], *, lossy: bool) -> float | None:
    """Share of the pixels that are neither dark nor bright in masks of one foreground with soft edges; else None.

    Soft are masks with up to a third of such pixels, the middle greys, and

    * three or more greys between 0 and the greatest value, or fewer that are hardly anywhere, the middle ones among
      their like less than half the time (smoothing, resizing); or
    * greys near 255 alone, or a lossy file that reaches about 255 (compression).

    Args:
        pixels: how often each value occurs in all masks together.
        beside: sum of `neighbours` over the masks.
        lossy: whether any mask was stored by a method that alters values.
    """
    top = max(pixels)
    greys = [value for value in pixels if 0 < value < top]
    middle = [value for value in greys if top / 8 <= value < 7 * top / 8]
    share = sum(pixels[value] for value in middle) / sum(pixels.values())
    if not _LEAST_TOP <= top <= 255 or not greys or share > 1 / 3:
        return None
    if lossy:
        return share if top >= 240 else None
    if not middle:
        return share if max(greys) >= 240 else None
    around, alike = beside[:, middle].sum(axis=1)
    return share if (len(greys) >= 3 or share < _RIM) and 2 * alike < around else None


def like_objects(files: Sequence[Values]) -> bool:
    """Whether each number lies in one piece and files hold different ones, as objects do, and some organs too."""
    try:
        return decide_kind(files) == "instances"
    except ValueError:  # left open
        return False


def are_objects(files: Sequence[Values], values: Sequence[int], *, wide: bool) -> bool:
    """Whether numbers are objects beyond doubt: like objects, and

    * more than 32 of them; or
    * three or more, `wide`: in files of 16 bits, with which programs number objects, even where they are few; or
    * more than 8, the largest differs between the files, and most files that hold n hold n - 1 others: of classes any
      may be missing, objects are numbered through.

    More numbers than there may be classes are objects too.
    """
    if len(values) > MAX_CLASSES:
        return True
    if not like_objects(files):
        return False
    if len(values) > FEW or (wide and len(set(values) - {0}) >= 3):
        return True
    found = [set(file.values) - {0} for file in files]
    largest = [max(numbers) for numbers in found if numbers]
    gaps = sum(max(numbers) > len(numbers) for numbers in found if numbers)
    differs = len(set(largest)) > 1 or len(largest) == 1
    return max(largest) > HANDFUL and differs and 2 * gaps <= len(largest)
