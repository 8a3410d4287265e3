"""The same image twice, exactly or nearly, and in which part of the data each lies.

Exact: the same pixels, whatever the file's format. Near: the means of 32 × 32 fields correlate with 0.95 or more
(`ALIKE`), as they are or under one of the eight flips and quarter turns, and the images have the same proportions. On
530 images of BBBC038 one pair reaches 0.95 and none but it 0.90; re-compression, noise, a change of brightness or of
size keep it above 0.98. Not found: overlapping crops of one field of view, and, in sets of more than `MOST_TURNED`
images, flipped and turned copies.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float32

from unet_jax.doctor.findings import Case
from unet_jax.doctor.look import Look

ALIKE = 0.95
MOST_TURNED = 5000
_ROWS = 512  # of the table of correlations held at a time


def duplicates(looks: Sequence[Look], names: Sequence[str], parts: Mapping[str, str]) -> Iterator[tuple[str, Case]]:
    """Cases of duplicate images and masks; `names` are the images' files, `parts` those of the data, by id."""
    where = [parts[seen.pair.id] for seen in looks]
    by_image: dict[str, list[int]] = defaultdict(list)
    by_label: dict[str, list[int]] = defaultdict(list)
    for i, seen in enumerate(looks):
        if seen.image_digest:
            by_image[seen.image_digest].append(i)
        if seen.label_digest:
            by_label[seen.label_digest].append(i)
    for same in by_image.values():
        if len(same) > 1:
            differ = len({looks[i].label_digest for i in same}) > 1
            if differ:
                yield "contradiction", Case(tuple(names[i] for i in same))
            yield _across("duplicate", same, where), _case(same, where, names)
    first = [same[0] for same in by_image.values() if (t := looks[same[0]].thumbnail) is not None and t.any()]
    alike_pairs = set()
    for i, j, alike, turned in near(first, looks):
        case = _case([i, j], where, names)
        how = f"{case.detail}; correlation {alike:.3f}{', turned or flipped' if turned else ''}"
        alike_pairs |= {(i, j), (j, i)}
        yield _across("near-duplicate", [i, j], where), case._replace(detail=how)
    for same in by_label.values():
        other = [i for i in same[1:] if looks[i].image_digest != looks[same[0]].image_digest]
        if any((same[0], i) not in alike_pairs for i in other):
            yield "same-mask", Case(tuple(names[i] for i in same))


def near(chosen: Sequence[int], looks: Sequence[Look]) -> Iterator[tuple[int, int, float, bool]]:
    """Pairs (i, j, correlation, turned) of nearly the same images, i before j."""
    if len(chosen) < 2:
        return
    thumbs: Float32[np.ndarray, "n 32 32"] = np.stack([looks[i].thumbnail for i in chosen])
    ratio = np.array([looks[i].shape[0] / looks[i].shape[1] for i in chosen])
    flat = thumbs.reshape(len(chosen), -1)
    turns = [(flip, k) for flip in (False, True) for k in range(4)] if len(chosen) <= MOST_TURNED else [(False, 0)]
    for start in range(0, len(chosen), _ROWS):
        rows = slice(start, start + _ROWS)
        best = np.full((len(flat[rows]), len(chosen)), -1.0, np.float32)
        turned = np.zeros(best.shape, bool)
        for flip, k in turns:
            view = np.rot90(thumbs[rows, :, ::-1] if flip else thumbs[rows], k, axes=(1, 2))
            alike = view.reshape(best.shape[0], -1) @ flat.T
            mine = ratio[rows, None] if k % 2 == 0 else 1 / ratio[rows, None]
            alike = np.where(np.abs(mine / ratio[None, :] - 1) < 0.02, alike, -1)
            better = alike > best + 1e-4
            best, turned = np.where(better, alike, best), np.where(better, flip or k > 0, turned)
        for r, j in np.argwhere(best >= ALIKE):
            if start + r < j:
                yield chosen[start + r], chosen[j], float(best[r, j]), bool(turned[r, j])


def _across(code: str, same: Sequence[int], where: Sequence[str]) -> str:
    return f"{code}-across-splits" if len({where[i] for i in same}) > 1 else code


def _case(same: Sequence[int], where: Sequence[str], names: Sequence[str]) -> Case:
    return Case(tuple(names[i] for i in same), " and ".join(where[i] for i in same[:4]))
