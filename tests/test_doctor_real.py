"""The data doctor on real images: what is truly in them, and faults planted among them."""

import shutil

import nibabel
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


def test_planted_among_real_membranes(real_data, tmp_path):
    for room in ("images", "labels"):
        shutil.copytree(real_data / "isbi2012" / room, tmp_path / room, copy_function=shutil.copyfile)
    before = said(check_folder(tmp_path))
    found, touched = set(), set()

    def change(code, number, *, image=None, label=None):
        """Write what is not None in place of the files; the finding names the file that changed."""
        files = []
        for room, array in (("images", image), ("labels", label)):
            if array is not None:
                put(tmp_path / room / f"{number:02}.png", array)
                files.append(f"{room}/{number:02}.png")
        touched.add(f"labels/{number:02}.png")
        found.add((code, tuple(files)))

    def pixels(number):
        return read_image(tmp_path / "images" / f"{number:02}.png")

    mask = read_label(tmp_path / "labels" / "00.png")
    change("channels-differ", 0, image=pixels(0).repeat(3, axis=-1))
    change("alpha", 1, image=np.dstack([pixels(1), np.full_like(pixels(1), 255)]))
    change("flat-image", 2, image=np.full((512, 512), 99, np.uint8))
    change("saturated", 3, image=np.where(pixels(3)[..., 0] > np.quantile(pixels(3), 0.9), 255, pixels(3)[..., 0]))
    change("colour-mask", 4, label=mask[..., None] * np.array([1, 0, 0], np.uint8))
    change("anti-aliased", 5, label=np.round(ndimage.gaussian_filter(mask * 1.0, 0.7)).astype(np.uint8))
    change("empty-mask", 6, label=np.zeros_like(mask))
    change("full-mask", 7, label=np.full_like(mask, 255))
    change("dtypes-differ", 8, image=pixels(8)[..., 0].astype(np.uint16) * 257)
    (tmp_path / "labels" / "09.png").unlink()
    found.add(("no-mask", ("images/09.png",)))
    (tmp_path / "images" / "10.png").unlink()
    found.add(("no-image", ("labels/10.png",)))
    (tmp_path / "images" / "11.png").write_bytes((tmp_path / "images" / "11.png").read_bytes()[:9000])
    found.add(("unreadable", ("images/11.png",)))
    put(tmp_path / "labels" / "12.png", mask[:100])
    found.add(("size-differs", ("images/12.png", "labels/12.png")))
    shutil.copyfile(tmp_path / "images" / "13.png", tmp_path / "images" / "14.png")
    parts = {split_of("13"), split_of("14")}
    found.add(("duplicate-across-splits" if len(parts) > 1 else "duplicate", ("images/13.png", "images/14.png")))
    found.add(("contradiction", ("images/13.png", "images/14.png")))
    found.add(("foreign-mask", ("labels/14.png", "images/14.png")))
    (tmp_path / "index.csv").write_text("id,kind\n99,none\n")
    found.add(("index", ("index.csv",)))
    touched |= {f"labels/{number:02}.png" for number in range(9, 13)}
    kept = {(code, files) for code, files in before if not touched & set(files)}
    still = {("foreground-number", (f"labels/{n:02}.png",)) for n in (0, 1, 2, 3, 7, 8)}
    assert said(check_folder(tmp_path)) == kept | found | still


def volume_faults(image, label):
    """What is planted, by the rule that has to find it; each changes the first of two real scans."""
    values, classes = np.asarray(image.dataobj), np.asarray(label.dataobj)
    moved, strange, bad = image.affine + np.eye(4) * [5, 0, 0, 0], classes.copy(), values.astype(np.float32)
    strange[:9, :9, :9], bad[3, 3, 3] = 7, np.nan
    return {
        "affine-differs": (None, nibabel.Nifti1Image(classes, moved)),
        "undeclared-label": (None, nibabel.Nifti1Image(strange, image.affine)),
        "not-finite": (nibabel.Nifti1Image(bad, image.affine), None),
        "size-differs": (None, nibabel.Nifti1Image(classes[:-3], image.affine)),
        "channels-differ": (nibabel.Nifti1Image(values[..., :1], image.affine), None),
        "fraction-mask": (None, nibabel.Nifti1Image(classes + np.float32(0.5), image.affine)),
        "empty-mask": (None, nibabel.Nifti1Image(np.zeros_like(classes), image.affine)),
        "flat-image": (nibabel.Nifti1Image(np.full_like(values, 9), image.affine), None),
    }


def test_planted_among_real_volumes(real_data, tmp_path):
    source = real_data / "msd_brain_tumour"
    names = sorted(path.name for path in (source / "imagesTr").iterdir())
    shutil.copyfile(source / "dataset.json", tmp_path / "dataset.json")
    scans = {}
    for name in names:
        for room in ("imagesTr", "labelsTr"):
            (tmp_path / room).mkdir(exist_ok=True)
            scans[room, name] = nibabel.load(source / room / name).slicer[80:144, 100:164]
            nibabel.save(scans[room, name], tmp_path / room / name)
    before = said(check_folder(tmp_path))
    faults = volume_faults(scans["imagesTr", names[0]], scans["labelsTr", names[0]])
    for code, changed in faults.items():
        for room, scan in zip(("imagesTr", "labelsTr"), changed, strict=True):
            nibabel.save(scan or scans[room, names[0]], tmp_path / room / names[0])
        new = said(check_folder(tmp_path)) - before
        companions = {"dtypes-differ", "odd-size"} if code in ("not-finite", "channels-differ") else set()
        told = {found: files for found, files in new if found not in companions}
        assert told.keys() == {code}, told
        named = names if code == "channels-differ" else names[:1]  # of two files, either may be the odd one
        assert any(name in file for name in named for file in told[code]), told


def test_what_real_sets_hold(real_data):
    membranes = check_folder(real_data / "isbi2012")
    assert {code for code, _ in said(membranes)} == {"foreground-number"}
    tumours = check_folder(real_data / "msd_brain_tumour")
    assert {code for code, _ in said(tumours)} == {"odd-size"}
    assert set(tumours.facts()["classes"]) == {"0", "1", "2", "3"}
