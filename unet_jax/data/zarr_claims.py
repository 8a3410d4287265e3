"""What a zarr array claims: how its chunks are packed, and how large they are, before one is read."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from unet_jax.claims import Refused

CHUNK_BYTES = 2**30
# Codecs of numbers. numcodecs also offers pickle, which would run what a stranger wrote.
_CODECS = {
    "adler32", "bitround", "blosc", "bytes", "bz2", "crc32", "crc32c", "delta", "fixedscaleoffset", "fletcher32",
    "gzip", "lz4", "lzma", "packbits", "quantize", "sharding_indexed", "shuffle", "transpose", "zlib", "zstd",
}  # fmt: skip


def check_array(array: Any) -> None:
    """Refused for codecs that do more than pack numbers, and for chunks too large to be read one at a time."""
    described = array.metadata.to_dict()
    foreign = sorted({name for name in _names(described) if name.removeprefix("numcodecs.") not in _CODECS})
    if foreign:
        raise Refused(f"is packed with {', '.join(foreign)}, which is not opened: save it with blosc, zstd or gzip")
    size = math.prod(array.chunks) * np.dtype(array.dtype).itemsize
    if size > CHUNK_BYTES:
        raise Refused(f"has chunks of {tuple(array.chunks)}, {size / 2**30:.1f} GiB each: save it in smaller ones")


def _names(described: Any) -> Iterator[str]:
    """Codecs of both versions' metadata, those within sharding too."""
    if isinstance(described, dict):
        for key, value in described.items():
            if key in ("filters", "compressor", "codecs", "index_codecs"):
                for codec in value if isinstance(value, list | tuple) else [value]:
                    if isinstance(codec, dict):
                        yield str(codec.get("name", codec.get("id")))
                        yield from _names(codec.get("configuration"))
