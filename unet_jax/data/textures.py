"""Made-up images of up to 32 kinds of patch, some of them rare: many classes, exactly known."""

from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Int32, UInt8


class TexturedPatches:
    """Source of RGB images of round and square patches on noise; the class of a patch is its hue and its pattern.

    Kind k has hue k mod 8 and pattern k // 8; its class is k + 1, and 0 is the background. Image i depends on
    (seed, i) only. A patch is of kind k with a probability in proportion to exp(-3k / kinds): of 32 kinds the last is
    20 times rarer than the first.
    """

    channels = 3
    label_kind = "classes"

    def __init__(self, *, count: int = 400, size: int = 128, kinds: int = 32, seed: int = 0):
        """Nothing is drawn yet. Raises ValueError for what cannot be drawn."""
        if count < 1 or size < 32 or not 1 <= kinds <= 32 or seed < 0:
            raise ValueError(f"count {count}, size {size}, kinds {kinds}: choose >= 1, >= 32 and 1 to 32, seed >= 0")
        self.size, self.kinds, self.seed = size, kinds, seed
        self.ids = tuple(f"patches-{seed}-{i:05d}" for i in range(count))
        self.columns: dict[str, tuple[str, ...]] = {}
        self.names = ("background", *(f"{_HUES[k % 8]} {_PATTERNS[k // 8]}" for k in range(kinds)))
        self.classes = len(self.names)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.ids)

    def __getitem__(self, index: SupportsIndex, /) -> dict[str, Any]:
        """Sample `index`: image (size, size, 3) uint8, label (size, size) int32, mask all True, id."""
        i = range(len(self))[index]
        image, label = _draw(np.random.default_rng([self.seed, i]), self.size, self.kinds)
        return {"image": image, "label": label, "mask": np.ones(label.shape, bool), "id": self.ids[i]}


_HUES = ("red", "orange", "yellow", "green", "cyan", "blue", "violet", "grey")
_COLOURS = np.array(
    [
        *[(210, 60, 60), (220, 140, 50), (200, 200, 60), (70, 180, 70)],
        *[(60, 190, 190), (70, 90, 210), (160, 80, 200), (150, 150, 150)],
    ]
)
_PATTERNS = ("plain", "broadly striped", "finely striped", "chequered")


def _draw(
    rng: np.random.Generator, size: int, kinds: int
) -> tuple[UInt8[np.ndarray, "s s 3"], Int32[np.ndarray, "s s"]]:
    y, x = np.mgrid[:size, :size]
    image = np.full((size, size, 3), rng.uniform(60, 110), np.float32)
    label = np.zeros((size, size), np.int32)
    chance = np.exp(-3 * np.arange(kinds) / kinds)
    for kind in rng.choice(kinds, size=rng.integers(4, 10), p=chance / chance.sum()):
        centre, radius = rng.uniform(0, size, 2), rng.uniform(0.08, 0.2) * size
        dy, dx = y - centre[0], x - centre[1]
        inside = np.maximum(abs(dy), abs(dx)) < radius if rng.random() < 0.5 else dy**2 + dx**2 < radius**2
        turn = rng.uniform(0, np.pi)  # a class looks the same from every side, as augmentation will turn it
        u, v = np.cos(turn) * dx + np.sin(turn) * dy, np.cos(turn) * dy - np.sin(turn) * dx
        wave = {0: 0 * u, 1: np.sin(0.8 * u), 2: np.sin(2.1 * u), 3: np.sin(0.8 * u) * np.sin(0.8 * v)}[kind // 8]
        colour = _COLOURS[kind % 8] * rng.uniform(0.85, 1.15) + 45 * wave[..., None]
        image[inside], label[inside] = colour[inside], kind + 1
    image += rng.normal(0, rng.uniform(4, 12), image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), label
