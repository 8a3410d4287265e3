"""A made-up head with a tumour of known regions: what the volume code is tested on, and tried without any data."""

import json
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int16, UInt8
from scipy import ndimage

from unet_jax.data.volume_folders import MODALITIES, TUMOUR

# Grey level of brain, oedema, non-enhancing and enhancing tumour in FLAIR, T1w, T1gd and T2w.
_LEVELS = np.array([[400, 600, 620, 420], [760, 520, 560, 700], [560, 400, 430, 650], [640, 560, 900, 600]], np.float32)


def phantom(
    seed: int, shape: tuple[int, int, int] = (48, 56, 40)
) -> tuple[Int16[np.ndarray, "x y z 4"], UInt8[np.ndarray, "x y z"]]:
    """A head (ellipsoid in air of value 0) with oedema around a core, part of which takes up the contrast agent.

    Noise is 6 % of the brain's level; the outlines are bent by smooth noise. The four modalities are `MODALITIES`, the
    classes `TUMOUR`; as in a brain, no modality alone tells them apart.
    """
    rng = np.random.default_rng(seed)
    place = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"), axis=-1).astype(np.float32)
    head = (place**2 / np.array([0.85, 0.9, 0.95], np.float32) ** 2).sum(axis=-1) < 1
    centre = rng.uniform(-0.35, 0.35, 3).astype(np.float32)
    stretch = rng.uniform(0.85, 1.2, 3).astype(np.float32)
    reach = np.sqrt((((place - centre) / stretch) ** 2).sum(axis=-1)) + 0.08 * _smooth(rng, shape, 4)
    label = np.zeros(shape, np.uint8)
    for radius, number in ((0.45, 1), (0.30, 3), (0.18, 2)):
        label[(reach < radius) & head] = number
    image = _LEVELS[label] + rng.normal(0, 25, (*shape, 4)).astype(np.float32)
    image *= (1 + 0.1 * _smooth(rng, shape, 12))[..., None]  # the coil's uneven field
    image[~head] = 0
    return np.maximum(np.rint(image), head[..., None]).astype(np.int16), label


def _smooth(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> Float32[np.ndarray, "x y z"]:
    """Noise of mean 0 and deviation 1 that varies over `sigma` voxels."""
    noise = ndimage.gaussian_filter(rng.normal(size=shape), sigma)
    return ((noise - noise.mean()) / noise.std()).astype(np.float32)


def write_phantoms(folder: str | Path, count: int, *, shape: tuple[int, int, int] = (48, 56, 40)) -> Path:
    """Write phantoms 0 to count - 1 in the Decathlon's layout (dataset.json, imagesTr/, labelsTr/); give the folder."""
    import nibabel

    folder, affine = Path(folder), np.eye(4)
    rows = []
    for seed in range(count):
        row = {"image": f"./imagesTr/phantom_{seed:03d}.nii.gz", "label": f"./labelsTr/phantom_{seed:03d}.nii.gz"}
        for name, values in zip(row.values(), phantom(seed, shape), strict=True):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(values, affine), folder / name)
        rows.append(row)
    facts = {
        "modality": {str(i): name for i, name in enumerate(MODALITIES)},
        "labels": {str(i): name for i, name in enumerate(TUMOUR)},
        "training": rows,
    }
    (folder / "dataset.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    return folder
