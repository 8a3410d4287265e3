"""Image and label files as arrays; every failure is a ValueError that names the file and the mend."""

import functools
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Integer, Shaped, UInt8, UInt16

from unet_jax.claims import Refused
from unet_jax.data.decode import Raw, decode

_ALPHA_LOCK = threading.Lock()


def read_image(
    path: str | Path,
) -> UInt8[np.ndarray, "h w c"] | UInt16[np.ndarray, "h w c"] | Float32[np.ndarray, "h w c"]:
    """One image (H, W, C) in the file's own range: uint8 and uint16 as stored, every other number as float32.

    PNG, JPEG and TIFF, by content. A palette becomes RGB; alpha is dropped with one warning a folder; EXIF orientation
    is applied. Raises FileNotFoundError, and ValueError for a file that is damaged, no image, a stack, or too large.
    """
    path = Path(path)
    with named(path):
        raw = decode(path)
        image = image_of(raw)
    if raw.alpha:
        with _ALPHA_LOCK:
            _warn_alpha(path.resolve().parent)
    return image


def read_label(path: str | Path) -> Integer[np.ndarray, "h w"]:
    """One label (H, W) with the file's own numbers: ids, 0/255 or classes.

    A palette counts by its index, or by its grey where all its colours are grey; RGB counts if its channels are equal.
    Raises FileNotFoundError, and ValueError as `read_image` and for lossy files, colours, fractions and drawn alpha.
    """
    path = Path(path)
    with named(path):
        return label_of(decode(path))


def image_of(raw: Raw) -> UInt8[np.ndarray, "h w c"] | UInt16[np.ndarray, "h w c"] | Float32[np.ndarray, "h w c"]:
    """The image in a decoded file, as `read_image` gives it; Refused for numbers that are none."""
    values = raw.values
    if raw.palette is not None:
        values = colours_of(raw)
    elif raw.bits < 8 and values.dtype.kind in "ub":
        values = values.astype(np.uint8) * np.uint8(255 // (2**raw.bits - 1))
    if values.dtype.kind not in "uif":
        raise Refused(f"holds numbers of type {values.dtype}: save it as 8-bit, 16-bit or float32")
    values = as_read(values)
    values = values if values.ndim == 3 else values[..., None]
    return np.ascontiguousarray(values[..., :-1] if raw.alpha else values)


def as_read(values: Shaped[np.ndarray, "*s"]) -> Shaped[np.ndarray, "*s"]:
    """Numbers as `read_image` gives them: uint8 and uint16 as they are, flags as 0 and 255, all others as float32."""
    if values.dtype.kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype in (np.uint8, np.uint16, np.float32):
        return values
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is reported where it is used
        return values.astype(np.float32)


def label_of(raw: Raw) -> Integer[np.ndarray, "h w"]:
    """The label in a decoded file, as `read_label` gives it; Refused for what holds no certain numbers."""
    if raw.lossy:
        raise Refused(
            f"is compressed with {raw.lossy}, which alters label values: export the mask again as PNG from the "
            "program that drew it",
            fault="lossy-mask",
        )
    values = raw.values
    if raw.palette is not None and not np.ptp(raw.palette, axis=-1).any():  # the same for all files of a set
        values = colours_of(raw)
    if values.ndim == 3:
        values = _grey(values, alpha=raw.alpha)
    if values.dtype.kind == "f":
        values = _whole(values)
    if values.dtype.kind not in "uib":
        raise Refused(f"holds numbers of type {values.dtype}: save the mask with 8 or 16 bit integers")
    return np.ascontiguousarray(values.astype(np.uint8) if values.dtype.kind == "b" else values)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Give every failure of a decoder the file's name and a mend."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except Refused as error:
        raise Refused(f"{path}: {error}", fault=error.fault) from None
    except MemoryError:
        raise MemoryError(f"{path}: not enough memory to read it: cut it into smaller images") from None
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        mend = "copy it again, or open it in an image program and save it as PNG"
        if isinstance(error, PermissionError | IsADirectoryError):
            mend = "give this user the right to read it, as a plain file"
        elif isinstance(error, ImportError):
            mend = "install tifffile and imagecodecs, or save it as 8-bit PNG"
        raise ValueError(f"{path}: cannot be read ({reason}): {mend}") from error


@functools.cache
def _warn_alpha(folder: Path) -> None:
    warnings.warn(f"{folder}: images with an alpha channel; it is dropped (said once a folder)", stacklevel=4)


def colours_of(raw: Raw) -> UInt8[np.ndarray, "h w 3"]:
    """The colour of every pixel of a file with a palette; Refused where the palette is too short."""
    palette = raw.palette
    if raw.values.max(initial=0) >= len(palette):
        raise Refused("uses colours its palette does not have: save it as RGB")
    return palette[raw.values]


def _grey(values: np.ndarray, *, alpha: bool) -> np.ndarray:
    if alpha and np.ptp(values[..., -1]):
        raise Refused(
            "has a varying alpha channel: flatten it on black and save it as 8-bit grey PNG", fault="alpha-mask"
        )
    colours = values[..., :-1] if alpha else values
    if (colours != colours[..., :1]).any():
        raise Refused(
            "is a colour drawing, its red, green and blue differ: save it as grey PNG with one number a class or "
            "object",
            fault="colour-mask",
        )
    return colours[..., 0]


def _whole(values: np.ndarray) -> np.ndarray:
    if not (np.isfinite(values).all() and (values == np.rint(values)).all() and np.abs(values).max(initial=0) < 2**31):
        raise Refused(
            "holds fractions, where ids or classes must be whole numbers: round it and save it as 16-bit TIFF",
            fault="fraction-mask",
        )
    return values.astype(np.int32)
