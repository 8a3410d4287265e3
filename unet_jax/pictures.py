"""Label outlines, contrast and fields of view: the pure part of the report's pictures, arrays in and arrays out."""

import colorsys
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Integer, Shaped, UInt8
from scipy import ndimage

from unet_jax.matching import Matches

OBJECTS_ACROSS = 7  # a field of view holds at least that many objects of median size side by side, where it can
TRUTH, PREDICTION = (255, 225, 25), (40, 225, 255)  # yellow and cyan, light on any stain
FOUND, LOST, EXTRA = PREDICTION, (255, 150, 30), (255, 80, 210)  # of objects one by one: cyan, orange, pink
OUTLINE_REACH = 4  # pixels away that `overlay` looks at
MISSED, FALSE, AGREED, NOTHING = (213, 94, 0), (0, 114, 178), (196, 196, 196), (245, 245, 245)
CONFUSED = (204, 80, 167)  # one class taken for another
HATCH = (128, 128, 128)  # over what nobody annotated
Label = Integer[np.ndarray, "h w"] | Bool[np.ndarray, "h w"]


def outline(label: Label, *, width: int = 1) -> Bool[np.ndarray, "h w"]:
    """Mark the pixels of objects that lie within `width` pixels (Euclidean) of a pixel with another value.

    Each object of an instance label gets a ring of its own, inside it; the image's edge is no border.
    """
    reach = np.arange(-width, width + 1)
    disc = reach[:, None] ** 2 + reach[None, :] ** 2 <= width**2
    number = label.astype(np.int32)
    low = ndimage.minimum_filter(number, footprint=disc, mode="nearest")
    high = ndimage.maximum_filter(number, footprint=disc, mode="nearest")
    return (number != 0) & (low != high)


def overlay(
    picture: UInt8[np.ndarray, "h w 3"], label: Label, colour: tuple[int, int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    """Draw the outline of every object, light between dark casings to show on any ground; touching ones stay apart."""
    line = outline(label, width=2)
    cross = ndimage.generate_binary_structure(2, 1)
    nearest = np.where(label == 0, np.iinfo(np.int32).max, label)
    lowest = ndimage.minimum_filter(nearest, footprint=cross, mode="nearest")  # among the objects, background apart
    line &= lowest == ndimage.maximum_filter(label.astype(np.int32), footprint=cross, mode="nearest")
    casing = ndimage.binary_dilation(line, structure=np.ones((3, 3), bool)) & ~line
    drawn = picture.copy()
    drawn[casing] = (drawn[casing] * 0.35).astype(np.uint8)
    drawn[line] = colour
    return drawn


def error_map(truth: Label, prediction: Label) -> UInt8[np.ndarray, "h w 3"]:
    """Paint what was missed, what was found falsely and what agrees, as foreground against background."""
    colours = np.array([[NOTHING, FALSE], [MISSED, AGREED]], np.uint8)
    return colours[(truth != 0).astype(int), (prediction != 0).astype(int)]


def class_error_map(truth: Label, prediction: Label) -> UInt8[np.ndarray, "h w 3"]:
    """The same for classes: what one class was taken for another is painted too."""
    errors = error_map(truth, prediction)
    errors[(truth != prediction) & (truth != 0) & (prediction != 0)] = CONFUSED
    return errors


def class_colours(count: int) -> UInt8[np.ndarray, "n 3"]:
    """A colour for each class, neighbours far apart on the circle of hues; class 0 is black."""
    hues = [(k * 0.618034 % 1.0, (0.85, 0.55)[k % 2], (0.95, 0.75)[k // 2 % 2]) for k in range(count)]
    colours = (255 * np.array([colorsys.hsv_to_rgb(*hue) for hue in hues])).astype(np.uint8).reshape(-1, 3)
    colours[:1] = 0
    return colours


def painted(
    picture: UInt8[np.ndarray, "h w 3"], label: Integer[np.ndarray, "h w"], colours: UInt8[np.ndarray, "n 3"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Lay the colour of its class over every pixel that is not of class 0."""
    mixed = (0.4 * picture + 0.6 * colours[label]).astype(np.uint8)
    return np.where(label[..., None] > 0, mixed, picture)


def hatched(picture: UInt8[np.ndarray, "h w 3"], where: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Draw grey diagonals, a quarter of the pixels, over `where`."""
    y, x = np.indices(where.shape)
    drawn = picture.copy()
    drawn[where & ((x + y) % 8 < 2)] = HATCH
    return drawn


def magnified(array: Shaped[np.ndarray, "h w *c"], zoom: float) -> Shaped[np.ndarray, "H W *c"]:
    """Repeat each pixel `zoom` times both ways; at 1/2, the mean of 2 x 2 in pictures, one of the four in labels."""
    if zoom >= 1:
        return array.repeat(int(zoom), axis=0).repeat(int(zoom), axis=1)
    if array.ndim == 3:
        array = ndimage.uniform_filter(array, size=(2, 2, 1), origin=(-1, -1, 0))
    return array[::2, ::2]


def for_display(
    image: Shaped[np.ndarray, "h w c"], sample: Shaped[np.ndarray, "n m c"] | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Make an RGB picture: three channels are colours, else the first is grey; dark or non-uint8 images are stretched.

    The stretch maps the percentiles 1 and 99.8 to black and white, then takes the power 0.7, so that faint objects show
    beside bright ones. An image is dark when its median is below 64: fluorescence, not tissue or bright field. Both are
    measured on `sample` where the image is a part of a larger one.
    """
    rgb, whole = (
        part if part.shape[-1] == 3 else np.repeat(part[..., :1], 3, axis=-1)
        for part in (image, image if sample is None else sample)
    )
    if rgb.dtype == np.uint8 and np.median(whole) >= 64:
        return rgb
    low, high = np.percentile(whole, (1, 99.8))
    least = 16 if rgb.dtype == np.uint8 else 1e-12  # no stretching of the last bits' noise
    unit = np.clip((rgb - low) / max(high - low, least), 0, 1)
    return np.round(255 * unit**0.7).astype(np.uint8)


def field_of_view(
    truth: Label, prediction: Label, *, panel: int, wrong: Bool[np.ndarray, "h w"] | None = None
) -> tuple[slice, slice, float]:
    """Choose the square to show, and how many pixels of a panel an image pixel fills (a whole number, or 1/2).

    The magnification is the largest at which `OBJECTS_ACROSS` objects of median size fit side by side. An image that
    would not fill the panel is magnified further: as a whole, or cut while four such objects still fit. The square is
    the one with the most pixels in disagreement; among equals, with the most of the truth, then the upper left one.

    Args:
        truth: ids or classes, 0 is background.
        prediction: the same, its numbers need not match.
        panel: side of the square that is drawn, in pixels.
        wrong: pixels in disagreement; None for those where only one of the two is background.

    Returns:
        Rows and columns of the square, and the magnification.
    """
    pieces = truth if truth.max() > 1 else ndimage.label(truth)[0]
    areas = np.bincount(pieces.ravel())[1:]
    diameter = math.sqrt(np.median(areas[areas > 0])) if areas.any() else 1.0
    least = max(panel // max(truth.shape), 0.5 if min(truth.shape) >= 2 * panel else 1)
    zoom = max(least, next((z for z in (3, 2, 1) if panel // z >= OBJECTS_ACROSS * diameter), 0.5))
    if zoom < 3 and zoom * min(truth.shape) < panel and panel // (zoom + 1) >= 4 * diameter:
        zoom += 1
    side = int(panel / zoom)
    h, w = (min(side, size) for size in truth.shape)

    def in_windows(flags: np.ndarray) -> np.ndarray:
        total = np.pad(np.cumsum(np.cumsum(flags, axis=0, dtype=np.int64), axis=1), ((1, 0), (1, 0)))
        return total[h:, w:] - total[:-h, w:] - total[h:, :-w] + total[:-h, :-w]

    there = truth != 0
    wrong = there != (prediction != 0) if wrong is None else wrong
    worth = in_windows(wrong) * (side * side + 1) + in_windows(there)
    top, left = (int(i) for i in np.unravel_index(np.argmax(worth), worth.shape))
    return slice(top, top + h), slice(left, left + w), float(zoom)


def panels(
    image: Shaped[np.ndarray, "h w c"],
    truth: Label,
    prediction: Label,
    *,
    side: int,
    classes: int = 0,
    mask: Bool[np.ndarray, "h w"] | None = None,
) -> tuple[list[UInt8[np.ndarray, "side side 3"]], tuple[int, int]]:
    """Draw one field of view four times: the image, truth over it, prediction over it, errors; and give its h and w.

    Truth and prediction are outlines, or painted where there are so many `classes`. Pixels outside `mask` are not
    annotated: there all but the image is hatched, and nothing is an error.
    """
    mask = np.ones(truth.shape, bool) if mask is None else mask
    truth, prediction = truth * mask, prediction * mask
    wrong = truth != prediction if classes else None
    rows, columns, zoom = field_of_view(truth, prediction, panel=side, wrong=wrong)
    picture, truth, prediction, mask = (
        magnified(array[rows, columns], zoom) for array in (for_display(image), truth, prediction, mask)
    )
    if classes:
        maps = [painted(picture, label, class_colours(classes)) for label in (truth, prediction)]
        drawn = [picture, *maps, class_error_map(truth, prediction)]
    else:
        outlines = [overlay(picture, truth, TRUTH), overlay(picture, prediction, PREDICTION)]
        drawn = [picture, *outlines, error_map(truth, prediction)]
    drawn[1:] = [hatched(part, ~mask) for part in drawn[1:]]
    return _framed(drawn, side), (rows.stop - rows.start, columns.stop - columns.start)


def outcomes(
    image: Shaped[np.ndarray, "h w c"],
    truth: Integer[np.ndarray, "h w"],
    prediction: Integer[np.ndarray, "h w"],
    matches: Matches,
    *,
    side: int,
) -> tuple[list[UInt8[np.ndarray, "side side 3"]], tuple[int, int]]:
    """Draw one field of view three times: the image, its true objects, the predicted ones; and give its h and w.

    True objects are outlined as found (`FOUND`) or missed (`LOST`), predicted ones as right (`FOUND`) or without a
    partner (`EXTRA`). The field is the one where most pixels belong to objects that went wrong.
    """
    missed, false = np.isin(truth, matches.missed), np.isin(prediction, matches.false)
    rows, columns, zoom = field_of_view(truth, prediction, panel=side, wrong=missed | false)
    picture, truth, prediction, missed, false = (
        magnified(array[rows, columns], zoom) for array in (for_display(image), truth, prediction, missed, false)
    )
    drawn = [picture]
    for label, wrong, colour in ((truth, missed, LOST), (prediction, false, EXTRA)):
        right = overlay(picture, np.where(wrong, 0, label), FOUND)
        drawn.append(overlay(right, np.where(wrong, label, 0), colour))
    return _framed(drawn, side), (rows.stop - rows.start, columns.stop - columns.start)


def _framed(drawn: Sequence[np.ndarray], side: int) -> list[UInt8[np.ndarray, "side side 3"]]:
    """Each picture in the middle of a white square."""
    top, left = ((side - size) // 2 for size in drawn[0].shape[:2])
    squares = [np.full((side, side, 3), 255, np.uint8) for _ in drawn]
    for square, part in zip(squares, drawn, strict=True):
        square[top : top + part.shape[0], left : left + part.shape[1]] = part
    return squares
