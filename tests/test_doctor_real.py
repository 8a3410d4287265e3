"""The data doctor on real images: what is truly in them, and faults planted among them."""

import shutil

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from tests.sick import put
from unet_jax.data.images import read_image, read_label
from unet_jax.data.source import split_of
from unet_jax.doctor import check_folder

pytestmark = pytest.mark.slow


def said(report):
    return {(finding.code, case.files) for finding in report.findings for case in finding.cases}


def plant(folder, ids):
    """One fault a pair, beginning with the first id; the findings they have to give."""
    images, labels = folder / "images", folder / "labels"
    found, rest = set(), iter(ids)

    def take():
        id = next(rest)
        return images / f"{id}.png", labels / f"{id}.png", (f"images/{id}.png",), (f"labels/{id}.png",)

    _, label, name, _ = take()
    label.unlink()
    found.add(("no-mask", name))
    image, _, _, name = take()
    image.unlink()
    found.add(("no-image", name))
    (images / "notes.txt").touch()
    found.add(("ignored-file", ("images/notes.txt",)))
    image, _, name, _ = take()
    image.write_bytes(image.read_bytes()[:4000])
    found.add(("unreadable", name))
    _, label, name, other = take()
    put(label, read_label(label)[:100])
    found.add(("size-differs", name + other))
    image, _, name, _ = take()
    put(image, read_image(image)[..., 0])
    found.add(("channels-differ", name))
    image, _, name, _ = take()
    put(image, np.dstack([read_image(image), np.full(read_image(image).shape[:2], 255, np.uint8)]))
    found.add(("alpha", name))
    image, _, name, _ = take()
    put(image, np.full_like(read_image(image), 9))
    found.add(("flat-image", name))
    image, _, name, _ = take()
    bright = read_image(image)
    put(image, np.where(bright >= np.quantile(bright, 0.93), 255, bright).astype(np.uint8))
    found.add(("saturated", name))
    _, label, _, name = take()
    mask = read_label(label)
    label.unlink()
    Image.fromarray((mask > 0).astype(np.uint8) * 255).save(label.with_suffix(".jpg"))
    found.add(("lossy-mask", (name[0].replace(".png", ".jpg"),)))
    _, label, _, name = take()
    put(label, (read_label(label)[..., None] % 200 * np.array([1, 0, 0])).astype(np.uint8))
    found.add(("colour-mask", name))
    _, label, _, name = take()
    soft = ndimage.gaussian_filter((read_label(label) > 0) * 255.0, 0.7)
    put(label, np.round(soft).astype(np.uint8))
    found.add(("anti-aliased", name))
    _, label, _, name = take()
    put(label, np.zeros_like(read_label(label)))
    found.add(("empty-mask", name))
    _, label, _, name = take()
    put(label, np.ones_like(read_label(label)))
    found.add(("full-mask", name))
    _, label, _, name = take()
    mask = read_label(label).copy()
    mask[mask == mask.max()] = mask[mask > 0].min()
    put(label, mask)
    found.add(("split-object", name))
    _, label, _, name = take()
    mask = read_label(label).copy()
    r, c = np.argwhere(ndimage.distance_transform_edt(mask == 0) > 4)[0]
    mask[r, c] = mask.max() + 1
    put(label, mask)
    found.add(("specks", name))
    image, label, name, other = take()
    put(label, read_label(label)[::-1, ::-1].copy())
    found.add(("foreign-mask", other + name))
    pairs = [take() for _ in range(4)]
    for (one, mask, name, _), (copy, copied, other, _), code in zip(
        pairs[::2], pairs[1::2], ("duplicate", "near-duplicate"), strict=True
    ):
        same = split_of(one.stem) == split_of(copy.stem)
        pixels = read_image(one)
        put(copy, pixels if code == "duplicate" else np.clip(pixels[:, ::-1] * 0.8 + 5, 0, 255).astype(np.uint8))
        put(copied, read_label(mask) if code == "duplicate" else np.ascontiguousarray(read_label(mask)[:, ::-1]))
        found.add((code if same else f"{code}-across-splits", tuple(sorted(name + other))))
    return found


def test_planted_among_real_cells(real_data, tmp_path):
    rows = (real_data / "dsb2018" / "index.csv").read_text().splitlines()[1:]
    ids = [id for id, height, width, kind, n in (row.split(",") for row in rows)
           if kind == "fluorescence" and (height, width) == ("256", "256") and int(n) > 8][:70]  # fmt: skip
    for room in ("images", "labels"):
        (tmp_path / room).mkdir()
        for id in ids:
            shutil.copyfile(real_data / "dsb2018" / room / f"{id}.png", tmp_path / room / f"{id}.png")
    before = said(check_folder(tmp_path))
    planted = plant(tmp_path, ids)
    assert len({code for code, _ in planted}) >= 15
    assert said(check_folder(tmp_path)) == before | planted


def test_what_real_sets_hold(real_data):
    membranes = check_folder(real_data / "isbi2012")
    assert {code for code, _ in said(membranes)} == {"foreground-number"}
    tumours = check_folder(real_data / "msd_brain_tumour")
    assert {code for code, _ in said(tumours)} == {"odd-size"}
    assert set(tumours.facts()["classes"]) == {"0", "1", "2", "3"}
