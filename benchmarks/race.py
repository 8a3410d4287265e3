"""Train until a validation score is reached: the loop and the data of both sides. Needs numpy only."""

import json
import time
from pathlib import Path

import numpy as np

IGNORED = 255  # a label that does not count
ARRAYS = ("image", "label", "val_image", "val_label")


class Stream:
    """Batches on the disk that both sides read, as memory maps, and the learning rate of every step.

    image (N, B, H, W, C) and val_image (M, B, H, W, C) uint8; label and val_label (N or M, B, H, W) uint8: 0, 1 or
    IGNORED.
    """

    def __init__(self, folder):
        folder = Path(folder)
        self.image, self.label, self.val_image, self.val_label = (
            np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS
        )
        self.rates = json.loads((folder / "rates.json").read_text())


def race(train, validate, *, steps, every, score):
    """Rows {"step", "seconds", "dice"} of a validation every so many steps, until one reaches the score.

    `train(n)` does step n; `validate()` gives the pixels (in both, predicted, true) of all validation images.
    """
    rows, began = [], time.perf_counter()
    for done in range(1, steps + 1):
        train(done - 1)
        if done % every == 0 or done == steps:
            both, predicted, true = (int(count) for count in validate())
            dice = 2 * both / max(predicted + true, 1)
            rows.append({"step": done, "seconds": time.perf_counter() - began, "dice": dice})
            if dice >= score:
                break
    return rows
