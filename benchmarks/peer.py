"""The other end of `peer_pytorch.py`: PyTorch in a process of its own, with its own memory, threads and allocator."""

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import timing
from benchmarks.work import CLASSES, LEARNING_RATE, Work


class PyTorch:
    """A side of the benchmark: `run(steps)` gives seconds. A context manager, which ends the process."""

    def __init__(self, python: str, script: str = "peer_pytorch.py"):
        """Start the process; ValueError with the mend when `python` has no PyTorch."""
        script = Path(__file__).with_name(script)
        try:
            self.process = subprocess.Popen(
                [python, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
        except OSError as error:
            raise ValueError(f"--peer-python {python}: cannot be started ({error})") from error
        self.loss: float | None = None
        self._peak: int | None = None
        self._scratch = tempfile.TemporaryDirectory(prefix="peer_pytorch_")
        hello = self._answer()
        if "missing" in hello:
            self.close()
            raise ValueError(
                f"{python} has no {hello['missing']}: pip install torch==2.13.0 (for a CPU alone add --index-url "
                "https://download.pytorch.org/whl/cpu), name a Python that has it with --peer-python, or time this "
                "library alone with --peer none"
            )
        self.name, self.cuda = f"PyTorch {hello['torch']}", hello["cuda"]
        self.start_memory = timing.memory(self.process.pid)

    def setup(
        self, work: Work, what: str, dtype: str, *, gpu: bool, threads: int, params: Mapping[str, Any],
        batch: Mapping[str, np.ndarray],
    ) -> None:  # fmt: skip
        """Give it the network's weights and the batch; on a GPU, ValueError when its PyTorch sees none."""
        if gpu and not self.cuda:
            raise ValueError(f"{self.name} sees no GPU: install its CUDA build, pip install torch==2.13.0")
        file = Path(self._scratch.name) / "setup.npz"
        np.savez(file, **torch_weights(params), **batch)
        self.ask(
            "setup", what=what, widths=work.widths, classes=CLASSES, rank=work.rank, learning_rate=LEARNING_RATE,
            dtype=dtype, device="cuda" if gpu else "cpu", threads=threads, file=str(file),
        )  # fmt: skip
        file.unlink()

    def run(self, steps: int) -> float:
        """Seconds of so many steps."""
        answer = self.ask("run", steps=steps)
        self.loss, self._peak = answer["loss"], answer["device_peak"]
        return answer["seconds"]

    def exact_logits(self, image: np.ndarray) -> np.ndarray:
        """Logits of uint8 images (B, *S, C), true float32."""
        file, out = Path(self._scratch.name) / "image.npz", Path(self._scratch.name) / "logits.npz"
        np.savez(file, image=image)
        self.ask("exact_logits", file=str(file), out=str(out))
        with np.load(out) as stored:
            return stored["logits"]

    def product(self, n: int, dtype: str) -> float:
        """Seconds of one n × n matrix product."""
        return self.ask("product", n=n, dtype=dtype)["seconds"]

    def device_peak(self) -> int | None:
        """Most bytes ever used on a GPU, None on a CPU."""
        return self._peak

    def memory(self) -> tuple[int, int] | None:
        """Resident bytes of the process now, and their peak."""
        return timing.memory(self.process.pid)

    def ask(self, do: str, **values: Any) -> dict[str, Any]:
        """Have it do something, and wait for the answer."""
        with contextlib.suppress(BrokenPipeError):  # of a process that has ended, as the answer will tell
            self.process.stdin.write(json.dumps({"do": do, **values}) + "\n")
            self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            self.close()
            raise OSError(
                f"the PyTorch process ended with code {self.process.returncode}: its own message stands above; where "
                "memory ran out, lower --batch or --size"
            )
        return json.loads(line)

    def close(self) -> None:
        """Let the process end, and wait for it."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self._scratch.cleanup()

    def __enter__(self) -> "PyTorch":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def torch_weights(params: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """Parameters and batch statistics of `UNet` under PyTorch's names and in its layout.

    A kernel (*window, in, out) becomes (out, in, *window). That of an up-convolution becomes (in, out, *window) with
    its window reversed, for PyTorch defines it as a gradient, and flax as a convolution of the spread-out input.
    """
    names = {"kernel": "weight", "bias": "bias", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    out: dict[str, np.ndarray] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):  # a layer within our normalisation, which PyTorch's network has not
            out |= torch_weights(value, prefix if name in ("batch", "group") else f"{prefix}{name}.")
            continue
        array = np.asarray(value)
        if name == "kernel":
            window, last = tuple(range(array.ndim - 2)), array.ndim - 1
            up = prefix.endswith("_conv.")
            array = np.flip(array, window) if up else array
            array = array.transpose((last - 1, last, *window) if up else (last, last - 1, *window))
        out[prefix + names[name]] = np.ascontiguousarray(array)
    return out
