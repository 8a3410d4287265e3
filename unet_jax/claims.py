"""What a file claims to hold, against its own bytes and this machine's memory, before a decoder takes any memory."""

import functools
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LARGE = 2**26  # bytes of pixels from which files are decoded one at a time
COPIES = 3  # a decoder's own, the array, and one that a conversion makes
MOST_PAGES = 2**20
_TURN = threading.RLock()
_mine = threading.local()


class Refused(ValueError):
    """A file that is understood and not accepted; its message states the mend and gets the file's name in front.

    `fault` is a short word for what is wrong, by which `unet_jax.doctor` sorts its findings.
    """

    def __init__(self, message: str, *, fault: str = "unreadable"):
        """Keep the word beside the message."""
        super().__init__(message)
        self.fault = fault


@functools.cache
def memory() -> int:
    """Bytes of this machine's memory, or the part of it that a container is given."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, AttributeError, OSError):  # not on Windows
        total = 2**36
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # "max" is no number
            total = min(total, int(Path(limit).read_text()))
    return total


@contextmanager
def one_large_at_a_time() -> Iterator[None]:
    """Within, this thread waits before it decodes a large file until no other thread holds the pixels of one."""
    outer, _mine.turns = getattr(_mine, "turns", None), 0
    try:
        yield
    finally:
        for _ in range(_mine.turns):
            _TURN.release()
        _mine.turns = outer


def take(size: int) -> None:
    """Say that `size` bytes of pixels are about to be decoded; Refused when this machine cannot hold them."""
    if size * COPIES > memory():
        raise Refused(
            f"claims {size / 2**30:.1f} GiB of pixels, too much for this machine's {memory() / 2**30:.1f} GiB of "
            "memory: cut it into smaller images, or use a larger machine"
        )
    if size > LARGE and getattr(_mine, "turns", None) is not None:
        _TURN.acquire()
        _mine.turns += 1


def check_pages(count: int) -> None:
    """Refused for more pages than a list of them could hold."""
    if count > MOST_PAGES:
        raise Refused(f"claims {count:,} pages, more than the {MOST_PAGES:,} accepted: split it")


def foreign_character(name: str) -> str:
    """What in a file's name other systems cannot take, in words; "" for a good name.

    A backslash is a folder to Windows, and a line break, or bytes that are no text, end up in no table.
    """
    if "\\" in name:
        return "a backslash, which other systems read as a folder"
    if re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029]", name):
        return "a line break or another control character"
    return "bytes that are no UTF-8 text" if re.search("[\ud800-\udfff]", name) else ""
