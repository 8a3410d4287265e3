"""A prepared tensorflow-datasets split as a source."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, SupportsIndex

import numpy as np


@contextmanager
def quiet() -> Iterator[None]:
    """Let absl, through which tensorflow-datasets talks, say errors only."""
    from absl import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


class TfdsSource:
    """Source over one split of a prepared builder of tensorflow-datasets, read by random access, without TensorFlow.

    Every image is decoded when it is asked for. The ids and the columns are read once, here, without decoding images.

    Args:
        builder: a `tensorflow_datasets.core.DatasetBuilder`, prepared as array_record.
        split: as in `as_data_source`, e.g. "train" or "train[:80%]".
        image, label: names of the features (*S, C) and (*S) or (*S, 1).
        name: feature that holds each image's id; None numbers them "<data set>-<split>-00000".
        columns: text features to carry along.
        label_kind: "instances", "binary" or "classes".

    Raises:
        KeyError: a feature that the data set does not have.
        NotImplementedError: a data set prepared in a format without random access.
    """

    def __init__(
        self,
        builder: Any,
        *,
        split: str = "train",
        image: str = "image",
        label: str = "label",
        name: str | None = "id",
        columns: Sequence[str] = (),
        label_kind: str = "instances",
    ) -> None:
        """Open the split and read its texts."""
        from tensorflow_datasets import decode

        features = builder.info.features
        if missing := {image, label, *columns, *([name] if name else [])} - set(features):
            raise KeyError(f"{builder.name} has no feature {sorted(missing)}; it has {sorted(features)}")
        self.label_kind = label_kind
        self._image, self._label = image, label
        self._data = builder.as_data_source(split)
        with quiet():  # the first decoded image earns a line about OpenCV
            self.channels = int(np.shape(self._data[0][image])[-1])
        skipped = {image: decode.SkipDecoding(), label: decode.SkipDecoding()}
        raw = builder.as_data_source(split, decoders=skipped)
        texts = [raw[i] for i in range(len(raw))] if name or columns else []
        self.columns = {c: tuple(_text(t[c]) for t in texts) for c in columns}
        self.ids = tuple(_text(t[name]) for t in texts) if name else _numbered(builder.name, split, len(self._data))

    def __len__(self) -> int:
        """Number of images."""
        return len(self._data)

    def __getitem__(self, index: SupportsIndex, /) -> dict[str, Any]:
        """Sample `index`: image (*S, C), label (*S) int32, mask all True, id."""
        index = range(len(self))[index]
        example = self._data[index]
        image, label = np.asarray(example[self._image]), np.asarray(example[self._label], np.int32)
        if label.ndim == image.ndim:
            label = label[..., 0]
        return {"image": image, "label": label, "mask": np.ones(label.shape, bool), "id": self.ids[index]}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _numbered(name: str, split: str, count: int) -> tuple[str, ...]:
    return tuple(f"{name}-{split}-{i:05d}" for i in range(count))
