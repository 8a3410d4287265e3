"""A source whose labels say where a pixel lies."""

from collections import Counter

import numpy as np


class Coded:
    """Images of given sizes whose label says where a pixel lies: 1000 * row + column + 1; the image is the column."""

    channels = 2
    label_kind = "instances"
    columns: dict = {}  # noqa: RUF012

    def __init__(self, sizes):
        self.sizes, self.ids, self.reads = sizes, tuple(f"i{i}" for i in range(len(sizes))), Counter()

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        i = range(len(self))[index]
        self.reads[i] += 1
        shape = self.sizes[i]
        place = np.indices(shape)
        label = sum(axis * 1000 ** (len(shape) - 1 - a) for a, axis in enumerate(place)) + 1
        image = np.stack([place[-1], place[-1] * 0 + i], -1).astype(np.uint8)
        mask = label % 7 != 0  # some pixels are ignored
        return {"image": image, "label": label.astype(np.int32), "mask": mask, "id": self.ids[i]}
