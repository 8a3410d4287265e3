"""Run in a mount namespace of its own by test_disk.py: predictions onto a disk of 128 KiB, and again with more room."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from unet_jax import cli
from unet_jax.data.images import read_image, read_label

disk, run, images = map(Path, sys.argv[1:])
config = cli.Predict(input=(str(images),), model=(run,), output=disk / "out", batch=4)
names = sorted(path.stem for path in images.iterdir())
with pytest.raises(OSError, match="No space left") as error:
    cli.predict(config)
print(f"said: {error.value}")


def check():
    """What has its final name is whole; the number of label images."""
    out = disk / "out"
    assert not [path for path in out.rglob("*") if path.name.endswith(".tmp")]
    for path in (out / "polygons").iterdir():
        assert len(json.loads(path.read_text())["features"]) == 1
    for path in (out / "objects").iterdir():
        assert path.read_text().count("\n") == 2
    for path in (out / "labels").iterdir():
        np.testing.assert_array_equal(read_label(path) > 0, read_image(images / f"{path.stem}.png")[..., 0] > 100)
    return len(list((out / "labels").iterdir()))


print(f"before: {check()} of {len(names)}")
subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
print(f"code: {cli.predict(config)}")
print(f"after: {check()} of {len(names)}", flush=True)
