"""Five ways in which a microscope spoils an image, each in five severities: how much of a score survives them.

After Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions (2019): five severities of
each, never seen in training as such. The measures here are those of a microscope's images of 8 bits.
"""

import hashlib
import io

import numpy as np
from jaxtyping import UInt8
from scipy import ndimage

SEVERITIES = {
    "noise": (0.04, 0.08, 0.12, 0.18, 0.26),
    "blur": (1.0, 1.5, 2.0, 3.0, 4.0),
    "low contrast": (0.3, 0.15, 0.08, 0.05, 0.03),
    "JPEG blocks": (25, 18, 12, 8, 5),
    "uneven light": (0.4, 0.55, 0.7, 0.82, 0.92),
}
MEANING = {
    "noise": "standard deviation of Gaussian noise, as a share of the image's range",
    "blur": "standard deviation of a Gaussian blur, in pixels",
    "low contrast": "share of the range that is left, in the middle of it, recorded again with 8 bits and noise of one "
    "grey level",
    "JPEG blocks": "quality of a JPEG compression",
    "uneven light": "share of the light that is lost from the brightest to the darkest place, along a random direction",
}


def degrade(
    image: UInt8[np.ndarray, "h w c"], kind: str, severity: int, *, name: str, seed: int = 0
) -> UInt8[np.ndarray, "h w c"]:
    """Spoil one image; the result depends on (image, kind, severity, name, seed) alone.

    The severities of one image share their random numbers: the same noise, stronger, light from the same side.

    Args:
        image: stretched to its range, as `data.to_uint8` gives it.
        kind: one of `SEVERITIES`; `MEANING` says what the numbers are.
        severity: 0 (nothing) to 5.
        name: of the image; another name, other random numbers.
        seed: another seed, other random numbers.

    Raises:
        ValueError: for another kind or severity.
    """
    if kind not in SEVERITIES or not 0 <= severity <= 5:
        raise ValueError(f"{kind!r} at severity {severity}: choose one of {', '.join(SEVERITIES)}, and 0 to 5")
    if severity == 0:
        return image
    digest = hashlib.sha256(f"{seed} {kind} {name}".encode("utf-8", "surrogateescape")).digest()
    rng, amount = np.random.default_rng(list(digest)), SEVERITIES[kind][severity - 1]
    if kind == "JPEG blocks":
        return _jpeg(image, int(amount))
    x = image.astype(np.float32)
    if kind == "noise":
        x += rng.normal(0, 255 * amount, x.shape)
    elif kind == "blur":
        x = ndimage.gaussian_filter(x, (amount, amount, 0))
    elif kind == "low contrast":
        x = 127.5 + amount * (x - 127.5) + rng.normal(0, 1, x.shape)
    else:
        x *= _lamp(rng, image.shape[:2], amount)[..., None]
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def _lamp(rng: np.random.Generator, shape: tuple[int, ...], lost: float) -> np.ndarray:
    """Light from 1 down to 1 - lost, falling evenly in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.ogrid[: shape[0], : shape[1]]
    way = np.sin(angle) * y + np.cos(angle) * x
    return (1 - lost * (way - way.min()) / max(np.ptp(way), 1)).astype(np.float32)


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Grey or RGB in one piece, other numbers of channels one by one."""
    from PIL import Image

    parts = [image] if image.shape[-1] == 3 else [image[..., c] for c in range(image.shape[-1])]
    read = []
    for part in parts:
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(part)).save(buffer, "JPEG", quality=quality)
        read.append(np.asarray(Image.open(buffer)))
    return read[0] if image.shape[-1] == 3 else np.stack(read, axis=-1)
