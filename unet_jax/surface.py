"""How far two surfaces lie apart, in millimetres: Hausdorff distance, surface Dice, volumes. Host numpy, any rank.

The surface of a region is its voxels that share a face with a voxel outside it. The image's edge counts as outside; a
voxel that was not annotated counts neither as in nor as out, so that no surface arises where an annotation was cut.
Distances are between centres of voxels.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from unet_jax.shapes import bounding_box

Region = Bool[np.ndarray, "*s"]
EMPTY_RULE = (
    "a region that is empty in truth and prediction scores Dice 1, surface Dice 1 and a distance of 0 mm; one that is "
    "empty in only one of them scores 0, 0 and the diagonal of the whole image"
)


def surface(region: Region, valid: Region | None = None) -> Bool[np.ndarray, "*s"]:
    """Voxels of the region's surface; `valid` is False where nothing is known."""
    outside = ~region if valid is None else ~region & valid
    outside = np.pad(outside, 1, constant_values=True)
    near = ndimage.binary_dilation(outside, ndimage.generate_binary_structure(region.ndim, 1))
    return region & near[(slice(1, -1),) * region.ndim]


def surface_distances(
    truth: Region, prediction: Region, spacing: Sequence[float], *, valid: Region | None = None
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]] | None:
    """Millimetres from each voxel of the truth's surface to the prediction's, and the other way; None if one is empty.

    Args:
        truth: (*S).
        prediction: (*S).
        spacing: millimetres from voxel to voxel along each axis.
        valid: (*S), False where nothing was annotated; such voxels are taken out of both.

    Raises:
        ValueError: shapes that differ, a spacing that is not above 0 or not one an axis.
    """
    if truth.shape != prediction.shape or len(spacing) != truth.ndim or min(spacing) <= 0:
        raise ValueError(
            f"truth {truth.shape}, prediction {prediction.shape}, spacing {tuple(spacing)}: give two regions of one "
            "shape, and one spacing above 0 an axis"
        )
    if valid is not None:
        truth, prediction = truth & valid, prediction & valid
    if not (truth.any() and prediction.any()):
        return None
    first, second = surface(truth, valid), surface(prediction, valid)
    if not (first.any() and second.any()):  # all that is annotated: nothing is known of where it ends
        return None
    box = tuple(slice(a, b) for a, b in bounding_box(first | second))
    first, second = first[box], second[box]
    to_second = ndimage.distance_transform_edt(~second, sampling=tuple(spacing))[first]
    to_first = ndimage.distance_transform_edt(~first, sampling=tuple(spacing))[second]
    return to_second, to_first


def scores(
    truth: Region,
    prediction: Region,
    spacing: Sequence[float],
    *,
    valid: Region | None = None,
    tolerance: float = 1.0,
) -> dict[str, float]:
    """Dice, 95 % Hausdorff distance and surface Dice of one region of one case; see `EMPTY_RULE`.

    "dice": 2 |T ∩ P| / (|T| + |P|). "hd95_mm": the larger of the two 95th percentiles of the distances from surface to
    surface. "surface_dice": the share of both surfaces' voxels that lie within `tolerance` millimetres of the other.
    "truth_ml" and "prediction_ml": volumes.

    Args:
        truth: (*S).
        prediction: (*S).
        spacing: millimetres along each axis.
        valid: (*S), False where nothing was annotated.
        tolerance: in millimetres, what two readers may differ by.

    Source: Huttenlocher et al. 1993 (Hausdorff); Nikolov et al. 2018 (surface Dice, here with voxels for areas); Bakas
    et al. 2018, BraTS (the diagonal for a region that was missed).
    """
    if valid is not None:
        truth, prediction = truth & valid, prediction & valid
    sizes = int(truth.sum()), int(prediction.sum())
    both = int((truth & prediction).sum())
    litres = math.prod(spacing) / 1000
    found = surface_distances(truth, prediction, spacing, valid=valid)
    if found is not None:
        distances = max(float(np.percentile(d, 95)) for d in found)
        near = sum(int((d <= tolerance).sum()) for d in found) / sum(len(d) for d in found)
    else:
        same = np.array_equal(truth, prediction)
        diagonal = math.dist((0,) * truth.ndim, [n * s for n, s in zip(truth.shape, spacing, strict=True)])
        distances, near = (0.0, 1.0) if same else (diagonal, 0.0)
    return {
        "dice": 2 * both / sum(sizes) if sum(sizes) else 1.0,
        "hd95_mm": distances,
        "surface_dice": near,
        "truth_ml": sizes[0] * litres,
        "prediction_ml": sizes[1] * litres,
    }
