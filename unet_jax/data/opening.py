"""Images with labels, from what a command line names."""

from pathlib import Path

from unet_jax.data.folder import FolderSource
from unet_jax.data.source import Source


def open_labelled(data: str, *, label_kind: str | None = None, ignore: int | None = None) -> Source:
    """The source that `--data` names: "dsb2018" (BBBC038, downloaded), its zip or unpacked folder, or a user's folder.

    All files of a folder are read and checked; `label_kind` and `ignore` are those of `FolderSource`.

    Raises FileNotFoundError when there is nothing of that name, and what the sources raise.
    """
    from unet_jax.datasets.stage1 import is_stage1_train

    if data == "dsb2018" or is_stage1_train(Path(data)):
        from unet_jax.datasets.dsb2018 import build_dsb2018

        return build_dsb2018(source=None if data == "dsb2018" else Path(data))
    if not Path(data).is_dir():
        kind = "is a file" if Path(data).exists() else "does not exist"
        raise FileNotFoundError(
            f"--data {data}: this {kind}; give a folder that holds images/ and labels/ (or masks/), a BBBC038 "
            "stage1_train.zip, or dsb2018"
        )
    return FolderSource(Path(data), label_kind=label_kind, ignore=ignore).preload()
