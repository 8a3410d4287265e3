"""What a block of a test may take of the memory, and what a refusal says."""

import time
from pathlib import Path

import pytest


class Bounded:
    """Memory that the block takes at its peak, on top of what is there, in MiB; it fails beyond `most`."""

    def __init__(self, most=48):
        self.most = most

    def status(self, name):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024

    def __enter__(self):
        try:
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        except OSError:
            pytest.skip("this system does not tell the peak of the memory")
        self.before, self.began = self.status("VmRSS"), time.process_time()
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            assert self.status("VmHWM") - self.before < self.most
            assert time.process_time() - self.began < 20


def told(function, *arguments):
    try:
        function(*arguments)
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return ""
