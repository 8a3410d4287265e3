"""Folders of made-up volumes for the tests, in every layout."""

import json

import nibabel
import numpy as np

from unet_jax.data.phantom import phantom, write_phantoms
from unet_jax.data.volume_folders import MODALITIES, TUMOUR

SHAPE = (20, 24, 16)
BRATS = ("flair", "t1", "t1ce", "t2")


def save(path, values, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine), path)
    return path


def decathlon(root, count=1):
    return write_phantoms(root, count, shape=SHAPE)


def one_file_a_modality(root):
    """The same, as nnU-Net has it: CASE_0000.nii.gz and so on, labels by name."""
    image, label = phantom(0, SHAPE)
    for channel in range(4):
        save(root / "imagesTr" / f"a_{channel:04d}.nii.gz", image[..., channel])
    save(root / "labelsTr" / "a.nii.gz", label)
    facts = {
        "channel_names": {str(i): name for i, name in enumerate(MODALITIES)},
        "labels": {name: i for i, name in enumerate(TUMOUR)},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(facts))
    return root


def brats(root, *, values=(0, 2, 1, 4), names=BRATS, join="_"):
    """BraTS's own: oedema is 2, non-enhancing 1, enhancing 4."""
    image, label = phantom(0, SHAPE)
    for channel, name in enumerate(names):
        save(root / "case1" / f"case1{join}{name}.nii.gz", image[..., channel])
    save(root / "case1" / f"case1{join}seg.nii.gz", np.array(values, np.uint8)[label])
    return root
