"""The real cells: BBBC038 stage1_train (Data Science Bowl 2018), 670 microscope images with every nucleus outlined.

Source: Caicedo et al., Nature Methods 16 (2019); image set BBBC038v1 of the Broad Bioimage Benchmark Collection, CC0.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import requests
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import Image

from unet_jax.data.tfds import TfdsSource, quiet
from unet_jax.datasets.stage1 import URL, fingerprint, is_stage1_train, read_stage1

__all__ = ["Dsb2018", "build_dsb2018", "guess_kind", "is_stage1_train"]

_MEND = (
    f"Fetch {URL} with another machine or a browser and name the zip, or the folder it unpacks to: "
    "`--data /path/to/stage1_train.zip`, or build_dsb2018(source=...) in Python"
)


@dataclass(eq=False, kw_only=True)
class Dsb2018Config(tfds.core.BuilderConfig):
    """A zip or unpacked folder to read in place of the download."""

    source: str | None = None


class Dsb2018(tfds.core.GeneratorBasedBuilder):
    """Builder of BBBC038 stage1_train: image, instance label, id and a guess of the kind of image; one split, train."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = (Dsb2018Config(name="stage1_train", description="the whole training set, downloaded"),)
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"Optional, for a machine without network: put {URL} here."

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features
        return self.dataset_info_from_configs(
            features=features.FeaturesDict(
                {
                    "image": features.Image(shape=(None, None, 3), encoding_format="png"),
                    "label": features.Tensor(shape=(None, None), dtype=np.int32, encoding=features.Encoding.ZLIB),
                    "id": features.Text(),
                    "kind": features.Text(),
                }
            ),
            description=__doc__,
            homepage="https://bbbc.broadinstitute.org/BBBC038",
            license="CC0",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {"train": self._generate_examples(self._find(dl_manager))}

    def _find(self, dl_manager: tfds.download.DownloadManager) -> Path:
        if self.builder_config.source:
            return Path(self.builder_config.source)
        try:
            by_hand = Path(dl_manager.manual_dir) / "stage1_train.zip"
            if by_hand.exists():
                return by_hand
        except AssertionError:  # no such folder
            pass
        try:
            if not any(Path(dl_manager.download_dir).rglob("*stage1_train*.zip")):
                requests.head(URL, timeout=20)  # without a network, tfds would try again for minutes
            return Path(dl_manager.download(URL))
        except Exception as error:  # requests' errors, tfds' own, the disk's: one mend serves them all
            raise OSError(f"{URL}: the download failed ({error}). {_MEND}") from error

    def _generate_examples(self, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, image, label in read_stage1(path):
            yield name, {"image": _as_png(image), "label": label, "id": name, "kind": guess_kind(image)}


def build_dsb2018(data_dir: str | Path | None = None, source: str | Path | None = None) -> TfdsSource:
    """Prepare BBBC038 stage1_train once, and open it: 670 images, 256 x 256 to 1388 x 1040, RGB, instance labels.

    Args:
        data_dir: where the prepared set lives; $TFDS_DATA_DIR or ~/tensorflow_datasets by default.
        source: a zip or an unpacked folder in the set's layout that serves in place of the download (80 MB). Prepared
            again when its files change.

    Returns:
        A source with the column "kind" (`guess_kind`).

    Raises:
        OSError: the download failed.
        FileNotFoundError, ValueError: `source` or the download is not the set, or is damaged; see `read_stage1`.
    """
    config = None
    if source is not None:
        source = Path(source).expanduser().resolve()
        config = Dsb2018Config(name=f"local-{fingerprint(source)}", source=str(source))
    with quiet():
        builder = Dsb2018(data_dir=data_dir, config=config, file_format="array_record")
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    return TfdsSource(builder, columns=("kind",))


def guess_kind(image: UInt8[np.ndarray, "h w 3"]) -> str:
    """Name the microscopy by colour: "fluorescence", "brightfield_gray", "purple" or "pink_purple".

    Mean saturation (max - min of the channels) below 4: grey, and dark or light by the median. Else stained: mean
    saturation below 27 is pink-purple, more is purple. Agrees with the hand-made kinds of 526 of the 530 images of the
    set that carry one (all 445 unstained ones, 81 of 85 stained ones), from which the thresholds were chosen.
    """
    image = image[::2, ::2].astype(np.int16)
    saturation = float((image.max(-1) - image.min(-1)).mean())
    if saturation < 4:
        return "fluorescence" if np.median(image) < 128 else "brightfield_gray"
    return "pink_purple" if saturation < 27 else "purple"


def _as_png(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    buffer = io.BytesIO()  # bytes, because tfds encodes arrays with TensorFlow
    Image.fromarray(image).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
