"""`unet-jax predict-volumes`: labels of MRI volumes in their files' own space, from a trained model."""

import dataclasses
import sys
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class PredictVolumes:
    """Labels, volumes in millilitres and pictures of NIfTI volumes, from a trained 3-D model.

    OUTPUT/labels/CASE.nii.gz lies voxel for voxel where the input lies, volumes.csv holds the millilitres of every
    region, pictures/CASE.png three planes with outlines.
    """

    model: Path
    """Folder of a training (its --workdir), or of an exported model."""
    input: tuple[Path, ...]
    """Files with all modalities (4-D), or folders: of such files, of CASE_0000.nii.gz ..., or of BraTS's cases."""
    output: Path
    """Folder of the results; what is in it already is kept."""
    overlap: float = 0.5
    """Share of a tile that its neighbour covers too."""
    batch: int = 2
    """Tiles the network sees at a time."""
    overwrite: bool = False
    """Make results anew that are there already."""


def predict_volumes(config: PredictVolumes) -> int:
    """Run the command; the exit code is 1 when a case failed."""
    from unet_jax import memory
    from unet_jax.data.volume_folders import find_images
    from unet_jax.volume_evaluation import predict_cases
    from unet_jax.volume_prediction import VolumePredictor

    predictor = VolumePredictor.load(config.model, overlap=config.overlap, batch=config.batch)
    cases = [case for path in config.input for case in find_images(path, predictor.modalities)]
    done, failed = predict_cases(predictor, cases, config.output, overwrite=config.overwrite, say=print)
    print(f"{len(done)} cases done; peak memory {memory.size(memory.peak_bytes() or 0)}; results in {config.output}")
    for reason in failed:
        print(f"failed: {reason}", file=sys.stderr)
    return 1 if failed else 0
