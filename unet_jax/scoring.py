"""Pixels, objects and hard cases of labelled images, counted image by image, then summed up.

A label image is read in two ways, as classes of pixels and as objects with an id each; truth and prediction alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32, Int64, Integer, Shaped
from scipy import ndimage

from unet_jax import class_scores, hard_cases, matching, metrics, object_scores

RULES = {
    "pooled": "the counts of all images added, then one ratio",
    "mean": "one ratio an image, then the mean over the images",
    "pixels": "foreground is what belongs to an object; several classes weigh alike, the background, where there is "
    "one, left out; iou_foreground: of all classes but the background as one",
    "empty_pixels": metrics.EMPTY_RULE,
    "match": "objects are matched one to one at IoU >= the threshold: most matches, then most IoU (Hungarian method)",
    "empty_objects": object_scores.EMPTY_RULE,
    "touching": f"nearest pixels of two true objects at most {hard_cases.TOUCHING:g} pixels apart, centre to centre",
    "touching_pairs": "of two touching objects both are found, each by an object of its own",
    "pairs_apart": "two touching objects came out as two: more than half of either lies in a predicted object, and not "
    "both in the same",
    "low_contrast": f"objects of images whose separability is below {hard_cases.LOW_CONTRAST}: the probability that a "
    "pixel of an object is brighter (or darker) than one of its surroundings, from image and truth alone",
    "clear": "objects that neither touch another nor lie in an image of low contrast",
    "found": f"matched at IoU >= {hard_cases.FOUND}",
    "empty_cases": hard_cases.RULE,
    "ignored": "pixels of the ignore value belong to nothing, in truth and prediction",
}


@dataclass(frozen=True)
class Reading:
    """A label image (*S) read as `classes` of pixels and as `objects`, ids with 0 for the background."""

    classes: Integer[np.ndarray, "*s"]
    objects: Integer[np.ndarray, "*s"]


def read_as(
    label: Integer[np.ndarray, "*s"], kind: str, *, num_classes: int = 2, mask: Bool[np.ndarray, "*s"] | None = None
) -> Reading:
    """Read a label image of `kind` "instances", "binary" or "classes".

    Objects are the ids of instances, the connected pieces (by sides) of a binary label's foreground, and those of each
    class by itself. With two classes asked for, every number but 0 is class 1. Pixels outside the mask become 0.
    """
    if mask is not None and not mask.all():
        label = np.where(mask, label, 0).astype(label.dtype)
    classes = (label != 0).astype(np.uint8) if num_classes == 2 else label
    if kind == "instances":
        return Reading(classes, label)
    if kind == "binary" or num_classes == 2:
        return Reading(classes, ndimage.label(label != 0)[0])
    return Reading(classes, _pieces(label))


def _pieces(label: np.ndarray) -> Int32[np.ndarray, "..."]:
    from skimage.measure import label as connected

    return connected(label, background=0, connectivity=1).astype(np.int32)


@dataclass(frozen=True)
class Scores:
    """Counts of N images: `pixels` (N, K, K), rows truth and columns prediction, `objects`, and `cases` found."""

    pixels: Int64[np.ndarray, "n k k"]
    objects: object_scores.ObjectCounts
    cases: hard_cases.Rates

    def __getitem__(self, rows: slice | Sequence[int] | np.ndarray) -> "Scores":
        """The images at `rows`: a slice, indices or a mask."""
        return Scores(self.pixels[rows], self.objects[rows], self.cases[rows])


def concatenate(scores: Sequence[Scores]) -> Scores:
    """The images of all `scores`, in order. Raises ValueError for none, or for counts of different things."""
    return Scores(
        pixels=np.concatenate([part.pixels for part in scores]) if scores else np.zeros((0, 2, 2), np.int64),
        objects=object_scores.concatenate([part.objects for part in scores]),
        cases=hard_cases.concatenate([part.cases for part in scores]),
    )


@dataclass(frozen=True)
class Truth:
    """What an image is scored against, made once however often it is predicted."""

    reading: Reading
    mask: Bool[np.ndarray, "..."]
    cases: hard_cases.Cases
    num_classes: int

    @classmethod
    def of(cls, sample: dict[str, Any], kind: str, *, num_classes: int = 2) -> "Truth":
        """From a sample whose label is of `kind`."""
        image: Shaped[np.ndarray, ...] = sample["image"]
        mask = sample["mask"]
        reading = read_as(sample["label"], kind, num_classes=num_classes, mask=mask)
        return cls(reading, mask, hard_cases.find_cases(image, reading.objects, mask=mask), num_classes)

    def score(self, prediction: Integer[np.ndarray, "..."], kind: str) -> Scores:
        """Score a predicted label image of `kind`, as scores of one row.

        Raises:
            ValueError: sizes differ, ids or classes cannot be.
        """
        if prediction.shape != self.mask.shape:
            raise ValueError(
                f"the prediction is of {_size(prediction)} pixels, the image of {_size(self.mask)} (height x width): "
                "crop it back to the image, or predict this very image"
            )
        guess = read_as(prediction, kind, num_classes=self.num_classes, mask=self.mask)
        overlap = matching.overlap(self.reading.objects, guess.objects)
        pixels = metrics.count_pixels(self.reading.classes, guess.classes, num_classes=self.num_classes, mask=self.mask)
        return Scores(pixels[None], object_scores.count(overlap), self.cases.count(overlap))


def _size(array: np.ndarray) -> str:
    return "x".join(map(str, array.shape))


def summarise(
    scores: Scores, *, kinds: Sequence[str] = (), classes: Sequence[str] = (), background: int | None = 0
) -> dict[str, Any]:
    """The published numbers of N images, ready for JSON.

    Args:
        scores: of the images.
        kinds: N names, by which everything is given too; () for none.
        classes: names of the K classes; () numbers them.
        background: 0, the class that no mean over classes holds, or None where every class counts.

    Returns:
        `pixels` (`class_scores.summarise`, `by_class`, `by_kind`), `objects` (`object_scores.summarise`, `by_kind`),
        `cases` (`hard_cases.Rates.summarise`, `by_kind`) and `recall_by_area`, the same for objects by their size.
    """
    k = scores.pixels.shape[-1]
    names = list(classes) if len(classes) == k else [f"class {i}" for i in range(k)]
    areas = set(hard_cases.area_names(hard_cases.AREA_EDGES))

    def cases(part: hard_cases.Rates) -> dict[str, Any]:
        return {name: row for name, row in part.summarise().items() if name not in areas}

    groups = {str(name): np.asarray(kinds) == name for name in np.unique(np.asarray(kinds))} if len(kinds) else {}
    return {
        "pixels": {
            **class_scores.summarise(scores.pixels, names, background=background),
            "by_class": class_scores.by_class(scores.pixels, names),
            "by_kind": metrics.by_group(scores.pixels, kinds, background=background) if groups else {},
        },
        "objects": {
            **object_scores.summarise(scores.objects),
            "by_kind": object_scores.by_group(scores.objects, kinds) if groups else {},
        },
        "cases": {
            **cases(scores.cases),
            "by_kind": {name: cases(scores.cases[chosen]) for name, chosen in groups.items()},
        },
        "recall_by_area": {name: row for name, row in scores.cases.summarise().items() if name in areas},
    }


def per_image(scores: Scores, *, background: int | None = 0) -> dict[str, np.ndarray]:
    """Columns of a table with a row an image; scores of pixels are means over the classes that it holds."""
    counts, at = scores.objects, scores.objects.thresholds.index(hard_cases.FOUND)
    ap = object_scores.average_precision(counts)
    cases = {name: (scores.cases.found[:, i], scores.cases.total[:, i]) for i, name in enumerate(scores.cases.names)}
    return {
        **metrics.per_image(scores.pixels, background=background),
        "objects": counts.true,
        "predicted": counts.predicted,
        "matched": counts.tp[:, at],
        "missed": counts.fn[:, at],
        "false": counts.fp[:, at],
        **{f"ap_{threshold:.2f}": ap[:, i] for i, threshold in enumerate(counts.thresholds)},
        "ap_average": ap.mean(axis=-1),
        "f1": object_scores.f1(counts)[:, at],
        "pq": object_scores.panoptic_quality(counts)[:, at],
        "matched_iou": object_scores.matched_iou(counts)[:, at],
        "touching_objects": cases["touching"][1],
        "touching_found": cases["touching"][0],
        "touching_pairs": cases[hard_cases.PAIRS][1],
        "touching_pairs_found": cases[hard_cases.PAIRS][0],
        "touching_pairs_apart": cases[hard_cases.APART][0],
    }
