"""A folder of images and masks as a source."""

import os
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex

import numpy as np

from unet_jax.claims import one_large_at_a_time
from unet_jax.data.images import read_image, read_label
from unet_jax.data.labels import KINDS, Values, decide_kind, fault_of, to_label, values_of
from unet_jax.data.pairs import Pair, find_pairs, index_file, read_index
from unet_jax.data.scenes import SCENE, Kept, on_disk, opened


class _Facts(NamedTuple):
    """What is kept of every file once it was seen: channels, values of the mask, and what is wrong."""

    channels: int
    values: Values | None
    fault: str


class FolderSource:
    """Source of the pairs `images/NAME.png`, `labels/NAME.png` (or `masks/`) in a folder, in a format of `decode.READ`.

    `rooms` and `pairs` say which other names of folders and masks are understood. An `index.csv` whose first column is
    `id` gives `columns`: rows without an image are ignored, an image without a row is an error.

    Args:
        folder: holds `images` and `labels` or `masks`.
        label_kind: "instances", "binary" (0 and one other number), "classes"; None decides it from all masks by the
            rule of `labels.decide_kind`.
        ignore: value of mask pixels that do not count: mask False, label 0.
        classes: K, for label_kind "classes"; None takes the largest class found, at most 31, plus one.
        cache_bytes: decoded samples are kept in memory up to this size; beyond it they are decoded on access, but for
            images of `scenes.SCENE` pixels, which are kept on the disk and mapped.
        read: reads a mask file as numbers (H, W); None is `images.read_label`.

    Raises FileNotFoundError and ValueError. What needs decoding is checked by `preload()`, else on access.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        label_kind: str | None = None,
        ignore: int | None = None,
        classes: int | None = None,
        cache_bytes: int = 2 * 2**30,
        read: Callable[[Path], np.ndarray] | None = None,
    ):
        """Pair the files; nothing is decoded yet."""
        if label_kind not in (None, *KINDS):
            raise ValueError(f"label_kind={label_kind!r}: give one of {', '.join(KINDS)}, or None to have it decided")
        self.folder = Path(folder)
        self._pairs: list[Pair] = find_pairs(self.folder)
        self.ids: tuple[str, ...] = tuple(pair.id for pair in self._pairs)
        self.columns = read_index(index_file(self.folder, self._pairs), self.ids)
        self._asked, self._ignore, self._classes = label_kind, ignore, classes
        self._read = read
        self._samples: dict[int, dict[str, Any]] = {}  # arrays, or `Kept` ones
        self._room = cache_bytes
        self._lock, self._scan_lock = threading.Lock(), threading.Lock()
        self._facts: list[_Facts] = []  # filled by the first scan
        self._kind = label_kind

    @property
    def label_kind(self) -> str:
        """What a label's numbers mean; if it was not given, the first question reads all files."""
        return self._kind or self._scan()._kind

    @property
    def classes(self) -> int:
        """K, the number of classes; 2 (background and foreground) for the other kinds."""
        if self.label_kind != "classes":
            return 2
        return self._classes or 1 + max((facts.values.values or (1,))[-1] for facts in self._scan()._facts)

    @cached_property
    def channels(self) -> int:
        """C, the same in every image."""
        return self._facts[0].channels if self._facts else read_image(self._pairs[0].image).shape[-1]

    def preload(self) -> "FolderSource":
        """Read and check all files, several at a time, and keep them within the memory limit; gives the source back.

        Raises one ValueError that says what is wrong with each file (the first ten).
        """
        return self._scan()

    def __len__(self) -> int:
        """Number of images."""
        return len(self.ids)

    def __getitem__(self, index: SupportsIndex, /) -> dict[str, Any]:
        """The sample at `index`; its arrays are read-only."""
        i = range(len(self))[index]
        kind = self.label_kind
        if (sample := self._samples.get(i)) is not None:
            with suppress(FileNotFoundError):  # somebody has emptied the cache
                return opened(sample)
        facts, image, raw = self._look(i)
        fault = facts.fault or self._fault(i, facts, kind)
        if not fault and facts.channels != self.channels:
            fault = f"{self._pairs[i].image}: {facts.channels} channels, {self.channels} in the first image"
        if fault:
            raise ValueError(fault)
        return opened(self._keep(i, image, raw, kind))

    def _scan(self) -> "FolderSource":
        """Look at every file once, decide the kind, raise what is wrong."""
        with self._scan_lock:
            if self._facts:
                return self
            held: dict[int, tuple[np.ndarray | Kept, ...]] = {}  # image and mask file
            pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="unet-jax-read")
            try:
                facts = list(pool.map(lambda i: self._look_alone(i, held), range(len(self))))
            finally:
                pool.shutdown(cancel_futures=True)  # else Ctrl-C would wait for all files
            faults = [file.fault for file in facts if file.fault] or self._channel_faults(facts)
            _raise(faults, self.folder, len(self))
            try:
                kind = self._asked or decide_kind([file.values for file in facts])
            except ValueError as error:
                raise ValueError(f"{self._pairs[0].label.parent}: {error}") from None
            _raise([f for i, file in enumerate(facts) if (f := self._fault(i, file, kind))], self.folder, len(self))
            for i in sorted(held):
                self._keep(i, *held.pop(i), kind, reserved=True)
            self._facts, self._kind = facts, kind
        return self

    def _look_alone(self, i: int, held: dict) -> _Facts:
        """Decode one pair beside other threads, large ones one after the other."""
        with one_large_at_a_time():
            return self._look(i, held)[0]

    def _look(self, i: int, held: dict | None = None) -> tuple[_Facts, np.ndarray | None, np.ndarray | None]:
        """Decode one pair; what is wrong with it is a text in the facts, so that all files can be told of at once."""
        pair = self._pairs[i]
        try:
            image, raw = read_image(pair.image), (self._read or read_label)(pair.label)
        except (FileNotFoundError, ValueError) as error:
            return _Facts(0, None, str(error)), None, None
        if image.shape[:2] != raw.shape:
            sizes = f"{_size(image)} pixels, its mask {pair.label} {_size(raw)}"
            mend = "make the mask from this very image, neither resized nor turned"
            return _Facts(image.shape[-1], None, f"{pair.image}: {sizes} (height x width): {mend}"), None, None
        facts = _Facts(
            image.shape[-1], values_of(raw, ignore=self._ignore, measure_pieces=i < 64 and not self._asked), ""
        )
        if held is not None and i not in self._samples:
            if self._reserve(image, raw):
                held[i] = image, raw
            elif raw.size >= SCENE and (kept := on_disk(image, raw)):
                held[i] = kept
        return facts._replace(fault=self._fault(i, facts, self._asked)), image, raw

    def _fault(self, i: int, facts: _Facts, kind: str | None) -> str:
        """What is wrong with the values of a mask."""
        fault = fault_of(facts.values, kind, classes=self._classes)
        return f"{self._pairs[i].label}: {fault}" if fault else ""

    def _channel_faults(self, facts: list[_Facts]) -> list[str]:
        """Images whose number of channels is not the commonest."""
        usual, times = Counter(file.channels for file in facts).most_common(1)[0]
        return [
            f"{pair.image}: {file.channels} channels, where {times} of {len(facts)} images have {usual}: save all "
            "images as grey, or all as RGB"
            for pair, file in zip(self._pairs, facts, strict=True)
            if file.channels != usual
        ]

    def _reserve(self, image: np.ndarray, raw: np.ndarray) -> bool:
        """Take memory of the limit for a sample: image, int32 label, mask."""
        size = image.nbytes + 5 * raw.size
        with self._lock:
            fits = size <= self._room
            self._room -= size * fits
        return fits

    def _keep(
        self, i: int, image: np.ndarray | Kept, raw: np.ndarray | Kept, kind: str, *, reserved: bool = False
    ) -> dict[str, Any]:
        """The finished sample, not `opened`, remembered if there is room in memory or, for a scene, on the disk."""
        on_disk_already = isinstance(raw, Kept)
        label, mask = to_label(raw.map() if on_disk_already else raw, kind, ignore=self._ignore)
        if isinstance(image, np.ndarray):
            image.flags.writeable = False
        arrays: tuple[np.ndarray | Kept, ...] = (image, label, mask)
        remembered = not on_disk_already and (reserved or self._reserve(image, raw))
        if not remembered and label.size >= SCENE and (kept := on_disk(*arrays)):
            arrays, remembered = kept, True
        sample = dict(zip(("image", "label", "mask"), arrays, strict=True)) | {"id": self.ids[i]}
        if remembered:
            self._samples[i] = sample
        return sample


def _size(array: np.ndarray) -> str:
    return f"{array.shape[0]}x{array.shape[1]}"


def _raise(faults: list[str], folder: Path, total: int) -> None:
    if len(faults) == 1:
        raise ValueError(faults[0])
    if faults:
        more = [f"... and {len(faults) - 10} more"] if len(faults) > 10 else []
        lines = "".join(f"\n  {line}" for line in faults[:10] + more)
        raise ValueError(f"{folder}: {len(faults)} of {total} images or masks cannot be used:{lines}")
