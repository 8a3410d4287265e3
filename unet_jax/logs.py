"""The run's records: one JSON row an epoch, TensorBoard events beside it, JSON files written whole or not at all."""

import csv
import dataclasses
import hashlib
import json
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from jaxtyping import Shaped


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a scratch path beside `path` that becomes `path` when the block ends well, and vanishes when it raises.

    The folder is made when absent. A reader sees the old file or the new one, never half of either, even after
    a power cut: the content is synced before the rename.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    long = len(os.fsencode(path.name)) > 200  # of the 255 bytes that a name may have
    inner = hashlib.sha256(os.fsencode(path.name)).hexdigest() if long else path.name
    scratch = path.with_name(f".{inner}.{os.getpid()}.tmp")
    try:
        with _naming(path):
            yield scratch
            with open(scratch, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(scratch, path)
    finally:
        with suppress(OSError):  # of a folder that may not be written to; the error itself is under way
            scratch.unlink(missing_ok=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file in errors that do not, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def plain(value: object) -> object:
    """Turn `value` into what JSON has: dict, list, str, bool, int, finite float, None.

    Numpy and JAX scalars and arrays become numbers and lists, dataclasses become dicts, paths become strings, and
    nan and infinities become None (JSON has no word for them).

    Raises:
        TypeError: for any other type.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes):
        items = sorted(value) if isinstance(value, set | frozenset) else value
        return [plain(item) for item in items]
    if hasattr(value, "__array__") or isinstance(value, np.generic):
        return plain(np.asarray(value).tolist())
    raise TypeError(f"{type(value).__name__} has no form in JSON: convert it to numbers, strings, lists or dicts")


def write_per_image(
    path: str | Path,
    ids: Sequence[str],
    *,
    texts: Mapping[str, Sequence[str]],
    scores: Mapping[str, Shaped[np.ndarray, " n"]],
) -> None:
    """Write a CSV with a row an image: id, texts, and scores with four decimals, empty where there is none.

    A text whose name is that of a score is called given_NAME.
    """
    with replacing(path) as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *(f"given_{name}" if name in scores else name for name in texts), *scores])
        for i, name in enumerate(ids):
            words = (column[i] for column in texts.values())
            writer.writerow([name, *words, *(_decimals(values[i]) for values in scores.values())])


def _decimals(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4f}" if math.isfinite(value) else ""


def write_json(path: str | Path, obj: object) -> None:
    """Write `obj`, made `plain`, to `path` as indented UTF-8 JSON; the file appears whole or stays as it was."""
    text = json.dumps(plain(obj), indent=2, ensure_ascii=False, allow_nan=False)
    with replacing(path) as scratch:
        scratch.write_text(text + "\n", encoding="utf-8")


def read_rows(path: str | Path) -> list[dict]:
    """Read the rows of a metrics.jsonl, oldest first; a torn last line (a run that was killed) is left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line before the last is not a JSON object.
    """
    *lines, _torn = Path(path).read_bytes().split(b"\n")  # what follows the last newline was never finished
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:  # not JSON, or not UTF-8
            row = None
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: not a JSON object: delete that line, or the file to begin anew")
        rows.append(row)
    return rows


def epoch_line(row: Mapping[str, float]) -> str:
    """A row of the metrics log for people: the losses, every other validation score by its name, the speed."""
    names = {"val_iou": "IoU", "val_dice": "Dice"}
    scores = {names.get(k, k.removeprefix("val_").replace("_", " ")): v for k, v in row.items() if k.startswith("val_")}
    del scores["loss"]
    return " | ".join(
        [
            f"epoch {row['epoch']:>3}",
            f"train loss {row['train_loss']:.4f}",
            f"val loss {row['val_loss']:.4f}",
            *(f"{name} {score:.4f}" for name, score in scores.items()),
            f"{row['images_per_second']:.1f} images/s",
            f"data {row['wait_share']:.0%}",
            duration(row["seconds"]),
        ]
    )


def duration(seconds: float) -> str:
    """Seconds as people say them: "48 s", "7.5 min", "3.2 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class MetricsLog:
    """Appends metrics rows to `workdir`/metrics.jsonl and mirrors them to TensorBoard events in `workdir`/tensorboard.

    A row is safe on disk when `append` returns. On resume call `truncate_after(step)` first. Without tensorboardX the
    events are left out, with one warning.

    Args:
        workdir: the run's folder, made when absent.
        tensorboard: False leaves the events out without a warning.

    Raises:
        ValueError: metrics.jsonl is there and damaged elsewhere than in its last line.
    """

    def __init__(self, workdir: str | Path, *, tensorboard: bool = True):
        """Make the folder, and heal a metrics.jsonl whose last line is torn."""
        self.path = Path(workdir) / "metrics.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._events = self.path.parent / "tensorboard" if tensorboard else None
        self._writer = None
        self._purge: int | None = None
        if self.path.exists():
            self._rewrite(read_rows(self.path))  # a torn last line would swallow the next row

    def __enter__(self) -> "MetricsLog":
        """Give the log itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def truncate_after(self, step: int) -> None:
        """Drop the rows, and hide the TensorBoard events, of steps beyond `step`; call it before the first append."""
        if self._writer is not None:
            raise ValueError("truncate_after must come before the first append: make a new MetricsLog to go back")
        if self.path.exists():
            self._rewrite([row for row in read_rows(self.path) if row["step"] <= step])
            self._purge = step + 1

    def append(self, row: Mapping[str, object]) -> None:
        """Write one row; it needs an integer "step", and its other numbers go to TensorBoard at that step."""
        text = json.dumps(plain(row), ensure_ascii=False, allow_nan=False)
        step = int(row["step"])  # type: ignore[call-overload]
        with _naming(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._mirror(step, json.loads(text))

    def close(self) -> None:
        """Close the TensorBoard events; closing twice does no harm."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _rewrite(self, rows: list[dict]) -> None:
        with replacing(self.path) as scratch:
            scratch.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")

    def _mirror(self, step: int, row: dict) -> None:
        if self._events is None:
            return
        if self._writer is None:
            try:
                from tensorboardX import SummaryWriter
            except ImportError:
                self._events = None
                warnings.warn("no TensorBoard events: install tensorboardX to have them", stacklevel=3)
                return
            # a resume within the second of the first start would otherwise overwrite its file
            suffix = f".{self._purge or 0}"
            self._writer = SummaryWriter(str(self._events), purge_step=self._purge, filename_suffix=suffix)
        for name, value in row.items():
            if name not in ("step", "epoch") and isinstance(value, int | float) and not isinstance(value, bool):
                self._writer.add_scalar(_tag(name), value, step)
        self._writer.flush()


def _tag(name: str) -> str:
    """TensorBoard shows train/loss and val/loss under headings of their own; everything else stands under run."""
    head, _, tail = name.partition("_")
    return f"{head}/{tail}" if tail and head in ("train", "val", "test") else f"run/{name}"
