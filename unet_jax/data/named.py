"""The images that a `--data` option names."""

from collections.abc import Callable
from pathlib import Path

from unet_jax import doctor, processes, remote
from unet_jax.data.folder import FolderSource
from unet_jax.data.legend import Legend, open_by
from unet_jax.data.source import Source
from unet_jax.datasets.stage1 import is_stage1_train


def open_named(
    data: str,
    *,
    label_kind: str | None = None,
    ignore: int | None = None,
    legend: Legend | None = None,
    say: Callable[[str], object] | None = None,
) -> Source:
    """Source of "synthetic", "textures", "dsb2018", a stage1_train (zip or folder), or a folder, all read.

    `label_kind` and `ignore` are those of `FolderSource`; a `legend` reads the masks of a folder in their place. `say`
    is told what the user should know before a training, the findings of the data doctor's quick part among it; without
    it the doctor is not asked. What must be drawn, downloaded or built first is so by the first of several processes,
    where they share a disk. A folder or zip in a bucket (gs://) is copied to this host.

    Raises FileNotFoundError when `data` is no folder, ValueError for what the doctor or the source finds wrong with it.
    """
    if remote.is_remote(data):
        data = str(remote.fetched(data))
    return processes.in_turn(lambda: _open(data, label_kind, ignore, legend, say))


def _open(
    data: str,
    label_kind: str | None,
    ignore: int | None,
    legend: Legend | None,
    say: Callable[[str], object] | None,
) -> Source:
    if data == "synthetic":
        from unet_jax.data.synthetic import SyntheticCells

        if say is not None:
            say(
                "Made-up cells: 670 rendered images with exact labels. For real ones: --data dsb2018 (downloads "
                "BBBC038), or --data FOLDER with your images/ and labels/"
            )
        return SyntheticCells()
    if data == "textures":
        from unet_jax.data.textures import TexturedPatches

        return TexturedPatches()
    if data == "dsb2018" or is_stage1_train(Path(data)):
        from unet_jax.datasets.dsb2018 import build_dsb2018

        return build_dsb2018(source=None if data == "dsb2018" else Path(data))
    if not Path(data).is_dir():
        kind = "is a file" if Path(data).exists() else "does not exist"
        raise FileNotFoundError(
            f"--data {data}: this {kind}; give a folder that holds images/ and labels/ (or masks/), a BBBC038 "
            "stage1_train.zip, synthetic, or dsb2018"
        )
    if say is not None:
        doctor.announce(Path(data), say)
    if legend is not None:
        return open_by(legend, data, ignore=ignore)
    return FolderSource(Path(data), label_kind=label_kind, ignore=ignore).preload()
