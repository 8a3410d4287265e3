"""What is measured: the padded 2015 U-Net, the batch it sees, the operations of a step. Needs numpy only."""

import dataclasses
from typing import Literal

import numpy as np

CHANNELS, CLASSES, LEARNING_RATE = 3, 2, 1e-4


@dataclasses.dataclass(frozen=True)
class Work:
    """A network and its input."""

    width: int = 64
    """Filters of the first level; every level below has twice as many."""
    depth: int = 4
    """Down-samplings."""
    batch: int = 4
    """Images a step, over all devices."""
    size: int = 256
    """Pixels along each side of an image."""
    rank: Literal[2, 3] = 2
    """Spatial axes: 2 for images, 3 for volumes."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the network; parameters, logits and loss stay float32."""

    def __post_init__(self) -> None:
        """Refuse what would only fail in the middle of a run."""
        if min(self.width, self.batch, self.size) < 1 or self.depth < 0:
            raise ValueError(f"width {self.width}, batch {self.batch}, size {self.size}, depth {self.depth}: too small")
        if self.size % 2**self.depth:
            raise ValueError(f"size {self.size} is no multiple of {2**self.depth}: choose one, or a smaller --depth")

    @property
    def widths(self) -> tuple[int, ...]:
        """Filters of every level, the bottom last."""
        return tuple(self.width * 2**level for level in range(self.depth + 1))

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape of an image."""
        return (self.size,) * self.rank


def host_batch(work: Work) -> dict[str, np.ndarray]:
    """One batch: image (B, *S, 3) uint8 of noise, label (B, *S) int32 in {0, 1}, mask (B, *S) all True."""
    image = np.random.default_rng(0).integers(0, 256, (work.batch, *work.shape, CHANNELS), dtype=np.uint8)
    return {"image": image, "label": (image[..., 0] > 127).astype(np.int32), "mask": np.ones(image.shape[:-1], bool)}


def flops(work: Work, *, train: bool) -> int:
    """Floating-point operations of the convolutions in one step of `work.batch` images.

    A multiplication and an addition count two. Along an axis of n pixels a padded window of 3 meets 3 n - 2 pixels (the
    products with the zeros beyond the edge are left out, as XLA leaves them out); the up-convolution makes each of its
    output pixels from one input pixel. Training is three times the forward pass: the gradients of a convolution by its
    input and by its kernel take as many operations as the convolution.
    """

    def conv(level: int, channels: int, features: int, window: int) -> int:
        n = work.size // 2**level
        return 2 * channels * features * (3 * n - 2 if window == 3 else n) ** work.rank

    def block(level: int, channels: int) -> int:
        features = work.widths[level]
        return conv(level, channels, features, 3) + conv(level, features, features, 3)

    widths = work.widths
    total = sum(block(level, widths[level - 1] if level else CHANNELS) for level in range(work.depth + 1))
    for level in range(work.depth):
        total += conv(level, widths[level + 1], widths[level], 1) + block(level, 2 * widths[level])
    total += conv(0, widths[0], CLASSES, 1)
    return (3 if train else 1) * work.batch * total
