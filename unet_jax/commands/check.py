"""`unet-jax check`: the data doctor."""

import dataclasses
from pathlib import Path
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Check:
    """What is wrong with a folder of images and masks, file by file, and how to mend it.

    OUTPUT/check.json holds every finding and the histogram of every mask, OUTPUT/check.png an example of each. The
    exit code is 0 when a training can begin, 1 when it would go wrong or there is nothing to check.
    """

    data: Path
    """Folder with images/ and labels/ (or masks/), or NIfTI volumes in imagesTr/ and labelsTr/."""
    output: Path = Path("check")
    """Folder for check.json and check.png; older ones there are replaced."""
    fix_to: Path | None = None
    """Write a mended copy to this new folder: names paired, alpha dropped, 0/255 made 0/1 ..."""
    threshold: float | None = None
    """With --fix-to: masks with greys between black and white, JPEG ones, and fractions become 1 from this value
    upwards: 128 of greys to 255, 0.5 of probabilities."""
    label_kind: Literal["instances", "binary", "classes"] | None = None
    """What the numbers in the masks mean, where the masks of all images do not tell."""
    ignore: int | None = None
    """Value of mask pixels that do not count."""
    depth: int = 4
    """Down-samplings of the network to be trained; sides that 2**depth does not divide are noted."""
    patch: int = 256
    """Side of the training crop in pixels; smaller images are noted."""
    quick: bool = False
    """Only what takes milliseconds a file: names, index.csv, splits, first bytes, files equal byte for byte."""


def check(config: Check) -> int:
    """Run `unet-jax check`; the exit code is 1 when there is an error, else 0: warnings and notes stop no training."""
    from tqdm import tqdm

    from unet_jax.doctor import check_folder, draw, quick, write_mended

    if config.quick and config.fix_to is not None:
        raise ValueError("--quick reads no pixels, --fix-to needs them: leave one of the two out")
    if config.quick:
        report = quick(config.data)
    else:
        with tqdm(unit="image", disable=None, leave=False) as bar:  # None: only on a terminal
            report = check_folder(
                config.data, label_kind=config.label_kind, ignore=config.ignore, depth=config.depth, patch=config.patch,
                tick=bar.update,
            )  # fmt: skip
    print(report.text())
    report.write(config.output / "check.json")
    if not config.quick:
        draw(report, config.output / "check.png")
    print(f"report: {config.output / 'check.json'}" + ("" if config.quick else f", {config.output / 'check.png'}"))
    if config.fix_to is not None:
        mended = write_mended(report, config.fix_to, threshold=config.threshold, ignore=config.ignore)
        print(f"\nmended copy: {mended.pairs} pairs in {config.fix_to}")
        for head, rows in (("changed", mended.changed), ("left out", mended.left)):
            for file, what in rows:
                print(f"  {head}: {file}: {what}")
        print(f"look at it with: unet-jax check --data {config.fix_to}")
    return 0 if report.ok else 1
