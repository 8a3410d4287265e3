"""Folders with planted faults, and what a checkup has to find in them: {rule: {files}}."""

import json
import shutil

import numpy as np
import tifffile
from PIL import Image

SIDE = 32


def cells(seed, *, side=SIDE):
    """An image of noise with three bright squares apart, and their instance label."""
    rng = np.random.default_rng(seed)
    image = rng.integers(20, 60, (side, side), np.uint8)
    label = np.zeros((side, side), np.uint16)
    corners = rng.permutation([(1, 1), (1, 11), (1, 21), (11, 1), (11, 11), (11, 21), (21, 1), (21, 11), (21, 21)])
    for number, (r, c) in enumerate(corners[:3], start=1):
        h, w, r, c = *rng.integers(4, 8, 2), *(rng.integers(0, 3, 2) + np.array([r, c]))
        label[r : r + h, c : c + w] = number
        image[r : r + h, c : c + w] = rng.integers(150, 200, (h, w))
    return image, label


def put(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, array, photometric="rgb" if array.ndim == 3 else "minisblack")
    else:
        Image.fromarray(array).save(path)
    return path


def clean(folder, *, count=44, turn=lambda label: label):
    """A folder without any fault; names whose parts of the split are all there."""
    for i in range(count):
        image, label = cells(100 + i)
        put(folder / "images" / f"n{i:02}.png", image)
        put(folder / "labels" / f"n{i:02}.png", turn(label))
    return folder


def soft(label):
    """A black and white drawing with greys along its edges."""
    drawn = (label > 0) * 255.0
    shifts = ((0, 0), (1, 0), (0, 1), (-1, 0))
    blurred = sum(w * np.roll(drawn, by, axis=(0, 1)) for w, by in zip((0.5, 0.27, 0.15, 0.08), shifts, strict=True))
    return np.round(blurred).astype(np.uint8)


def sick_objects(folder):
    """Instance masks; one file or pair a fault, and images that only the fault makes differ from clean ones."""
    clean(folder)
    images, labels = folder / "images", folder / "labels"
    found = {}

    def plant(code, *names):
        found.setdefault(code, set()).add(names)

    def image(i):
        return images / f"n{i:02}.png"

    def label(i):
        return labels / f"n{i:02}.png"

    def name(path):
        return f"{path.parent.name}/{path.name}"

    label(0).unlink()
    plant("no-mask", name(image(0)))
    image(1).unlink()
    plant("no-image", name(label(1)))
    label(2).rename(labels / "Mask_N02.png")
    plant("almost-paired", name(image(2)), "labels/Mask_N02.png")
    shutil.copy(image(3), images / "n03.tif")
    plant("two-files", name(image(3)), "images/n03.tif")
    put(images / "a\\b.png", cells(1)[0])
    plant("bad-name", "images/a\\b.png")
    (labels / "notes.txt").write_text("seen")
    plant("ignored-file", "labels/notes.txt")
    image(4).rename(images / "N05.png")
    label(4).rename(labels / "N05.png")
    plant("case-clash", "images/N05.png", name(image(5)))
    (folder / "index.csv").write_text("id,kind\nn06,bright\n")
    plant("index", "index.csv")

    image(7).write_bytes(image(7).read_bytes()[:200])
    plant("unreadable", name(image(7)))
    label(8).write_bytes(b"")
    plant("unreadable", name(label(8)))
    put(label(9), np.zeros((SIDE, SIDE // 2), np.uint8))
    plant("size-differs", name(image(9)), name(label(9)))
    put(image(10), np.repeat(cells(110)[0][..., None], 3, axis=-1))
    plant("channels-differ", name(image(10)))
    image(11).unlink()
    put(images / "n11.tif", np.where(cells(111)[0] > 190, np.nan, cells(111)[0]).astype(np.float32))
    plant("not-finite", "images/n11.tif")
    plant("dtypes-differ", "images/n11.tif")
    alpha = np.stack([cells(112)[0], np.full((SIDE, SIDE), 255, np.uint8)], axis=-1)
    Image.fromarray(alpha, mode="LA").save(image(12))
    plant("alpha", name(image(12)))
    put(image(13), np.full((SIDE, SIDE), 77, np.uint8))
    plant("flat-image", name(image(13)))
    put(image(14), (cells(114)[0] // 64 + 40).astype(np.uint8))
    plant("low-contrast", name(image(14)))
    put(image(15), np.where(cells(115)[1] > 0, 255, cells(115)[0]).astype(np.uint8))
    plant("saturated", name(image(15)))
    big = [np.pad(a, ((0, 2), (0, 0))) for a in cells(116)]
    put(image(16), np.where(big[0] == 0, 30, big[0]).astype(np.uint8))
    put(label(16), big[1])
    plant("odd-size", name(image(16)))
    for part, room in zip(cells(117), (image(17), label(17)), strict=True):
        put(room, part[:16])
    plant("small-image", name(image(17)))

    label(18).unlink()
    Image.fromarray((cells(118)[1] > 0).astype(np.uint8) * 255).save(labels / "n18.jpg")
    plant("lossy-mask", "labels/n18.jpg")
    put(label(19), (cells(119)[1][..., None] * np.array([60, 20, 0])).astype(np.uint8))
    plant("colour-mask", name(label(19)))
    drawn = np.zeros((SIDE, SIDE, 4), np.uint8)
    drawn[..., 3] = 255 * (cells(120)[1] > 0)
    put(label(20), drawn)
    plant("alpha-mask", name(label(20)))
    label(21).unlink()
    put(labels / "n21.tif", (cells(121)[1] > 0) * np.float32(0.7))
    plant("fraction-mask", "labels/n21.tif")
    put(label(22), soft(np.pad(np.ones((20, 20)), 6)))
    plant("anti-aliased", name(label(22)))
    label(23).unlink()
    put(labels / "n23.tif", np.where(cells(123)[1] == 0, -1, cells(123)[1]).astype(np.int16))
    plant("label-range", "labels/n23.tif")
    put(label(24), np.zeros((SIDE, SIDE), np.uint16))
    plant("empty-mask", name(label(24)))
    put(label(25), np.full((SIDE, SIDE), 3, np.uint16))
    plant("full-mask", name(label(25)))
    merged = cells(126)[1]
    put(label(26), np.where(merged == 2, 1, merged))
    plant("split-object", name(label(26)))
    speck = cells(127)[1]
    speck[0, 0] = 9
    put(label(27), speck)
    plant("specks", name(label(27)))
    put(label(28), np.roll(cells(128)[1][::-1], 5, axis=1))
    plant("foreign-mask", name(label(28)), name(image(28)))

    put(label(29), cells(130)[1])
    plant("same-mask", name(image(29)), name(image(30)))
    put(image(29), np.where(cells(130)[1] > 0, 160, cells(129)[0] % 40 + 20).astype(np.uint8))

    # By the hash of their names n33 and n40 are for validation, the others for training.
    for one, other, code in ((31, 32, "duplicate"), (33, 34, "duplicate-across-splits")):
        shutil.copy(image(one), image(other))
        shutil.copy(label(one), label(other))
        plant(code, name(image(one)), name(image(other)))
    shutil.copy(image(35), image(36))
    put(label(36), cells(135)[1] % 3)
    plant("duplicate", name(image(35)), name(image(36)))
    plant("contradiction", name(image(35)), name(image(36)))
    brighter = cells(137)[0] + np.random.default_rng(0).integers(10, 20, (SIDE, SIDE)).astype(np.uint8)
    put(image(38), brighter)
    put(label(38), cells(137)[1])
    plant("near-duplicate", name(image(37)), name(image(38)))
    for part, room in zip(cells(140), (image(41), label(41)), strict=True):
        put(room, np.rot90(part)[:, ::-1].copy())
    plant("near-duplicate-across-splits", name(image(40)), name(image(41)))
    return found


def volumes(folder, *, count=2):
    """NIfTI volumes, two classes and a label to be ignored; the second lies elsewhere and holds a strange value."""
    import nibabel

    rng = np.random.default_rng(3)
    for room in ("imagesTr", "labelsTr"):
        (folder / room).mkdir(parents=True)
    for i in range(count):
        label = np.zeros((16, 16, 16), np.uint8)
        y = (3, 9, 6)[i]
        label[3:9, y : y + 6, 3:9], label[10:13, 13 - y : 16 - y, 4:9], label[0] = 1, 2, 255
        image = np.stack([label % 255 * 50 + rng.normal(0, 5, label.shape)] * 2, axis=-1).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), folder / "imagesTr" / f"v{i}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(label, np.eye(4)), folder / "labelsTr" / f"v{i}.nii.gz")
    names = {"0": "background", "1": "oedema", "2": "tumour", "255": "ignore"}
    (folder / "dataset.json").write_text(json.dumps({"labels": names}))
    return folder


def sick_volumes(folder):
    """The second volume lies elsewhere than its labels, the third holds a value without a name."""
    import nibabel

    volumes(folder, count=3)
    files = [[folder / room / f"v{i}.nii.gz" for room in ("imagesTr", "labelsTr")] for i in range(3)]
    moved = nibabel.load(files[1][1])
    nibabel.save(nibabel.Nifti1Image(np.asarray(moved.dataobj), np.diag([2, 1, 1, 1])), files[1][1])
    strange = np.asarray(nibabel.load(files[2][1]).dataobj).copy()
    strange[strange == 2] = 4
    nibabel.save(nibabel.Nifti1Image(strange, np.eye(4)), files[2][1])
    return {
        "affine-differs": {("imagesTr/v1.nii.gz", "labelsTr/v1.nii.gz")},
        "undeclared-label": {("labelsTr/v2.nii.gz",)},
    }


def black_and_white(label):
    return (label > 0).astype(np.uint8) * 255


def sick_foreground(folder):
    """0/255 in all files but one, which has 0/1."""
    clean(folder, turn=black_and_white)
    put(folder / "labels" / "n05.png", black_and_white(cells(105)[1]) // 255)
    return {"mixed-foreground": {("labels/",)}}


def sick_classes(folder):
    """Three classes, of which the last is in one image."""
    clean(folder, turn=lambda label: (label % 3 > 0).astype(np.uint8) + (label == 2))
    for i in range(44):
        label = (cells(100 + i)[1] == 2) * np.uint8(2) + (cells(100 + i)[1] % 2).astype(np.uint8)
        put(folder / "labels" / f"n{i:02}.png", label)
    label[0:4, 28:32], label[28:32, 0:4] = 3, 3
    put(folder / "labels" / "n43.png", label)
    return {"rare-class": {("n43",)}}


def sick_few(folder):
    """Three images; all masks with the same two numbers, in one piece each; and hardly any foreground."""
    for i in range(3):
        image, label = cells(100 + i, side=128)
        put(folder / "images" / f"n{i}.png", image)
        put(folder / "labels" / f"n{i}.png", np.where((label == 1) | (label == 2), label, 0).astype(np.uint8))
    return {"kind-open": {("labels/",)}, "little-foreground": {()}}


def sick_pair(folder):
    """Two images: none is left for the test."""
    clean(folder, count=2)
    return {"empty-split": {()}}
