"""Made-up folders like those that people bring: roads, defects, vessels, cracks, cells, bands, colours, many classes.

Each function fills a folder with `count` pairs, named, sized and stored as in the sets that it stands for.
"""

import numpy as np
import tifffile
from PIL import Image
from scipy import ndimage

from unet_jax.data.textures import TexturedPatches


def soft(distance, width):
    """Share of a pixel that a line of `width` pixels covers."""
    return np.clip(width / 2 - distance + 0.5, 0, 1)


def curve(rng, shape, *, steps, bend):
    """Distance of every pixel from a path that begins anywhere and turns a little at every step."""
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, bend, steps))
    path = rng.uniform(0.2, 0.8, 2) * shape + np.cumsum(np.stack([np.sin(heading), np.cos(heading)], -1), 0)
    rows = np.rint(path).astype(int)
    rows = rows[((rows >= 0) & (rows < shape)).all(-1)]
    off = np.ones(shape, bool)
    off[tuple(rows.T)] = False
    return ndimage.distance_transform_edt(off)


def ground(rng, shape, scale, level=110.0, contrast=25.0):
    """A smooth background with grain."""
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), scale)
    return level + contrast * smooth / smooth.std() + rng.normal(0, 8, shape)


def blobs(rng, shape, *, count, radius):
    """Ids of round cells that touch but do not overlap."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    ids = np.zeros(shape, np.uint16)
    for number in range(1, count + 1):
        cy, cx = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        a, b = radius * rng.uniform(0.7, 1.3, 2)
        ids[(((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 < 1) & (ids == 0)] = number
    return ids


def to_bytes(array):
    return np.clip(array, 0, 255).astype(np.uint8)


def write(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, array, photometric="rgb" if array.shape[2:] == (3,) else "minisblack", **options)
    else:
        Image.fromarray(array).save(path, **options)


def roads(folder, count=12, *, size=400):
    """RGB, with grey masks whose edges are soft, in groundtruth/."""
    for i in range(count):
        rng = np.random.default_rng([1, i])
        cover = np.max([soft(curve(rng, (size, size), steps=2 * size, bend=0.01), 14) for _ in range(3)], 0)
        shade = ground(rng, (size, size), 6)[..., None] * rng.uniform(0.7, 1.1, 3)
        image = shade * (1 - cover[..., None]) + rng.uniform(120, 170) * cover[..., None]
        write(folder / "images" / f"satImage_{i + 1:03d}.png", to_bytes(image + rng.normal(0, 6, image.shape)))
        write(folder / "groundtruth" / f"satImage_{i + 1:03d}.png", to_bytes(255 * cover))


def defects(folder, count=40):
    """Grey JPEG of many sizes with masks of the same name in the same folder; most are empty."""
    for i in range(count):
        rng = np.random.default_rng([2, i])
        shape = tuple(rng.integers(60, 300, 2))
        image, mask = ground(rng, shape, 15, 120, 15), np.zeros(shape, np.uint8)
        if i % 10 < 3:
            y, x = np.mgrid[: shape[0], : shape[1]]
            cy, cx = rng.uniform(0.1, 0.9, 2) * shape
            hole = ((y - cy) / rng.uniform(3, 7)) ** 2 + ((x - cx) / rng.uniform(3, 7)) ** 2 < 1
            image[hole] -= rng.uniform(35, 60)
            mask[hole] = 255
        write(folder / f"exp{i}_num.jpg", to_bytes(image), quality=95)
        write(folder / f"exp{i}_num.png", mask)


def vessels(folder, count=8):
    """RGB TIFF of 584×565, GIF masks of other names, and a room of masks that are the field of view."""
    shape = (584, 565)
    y, x = np.mgrid[: shape[0], : shape[1]]
    view = np.hypot(y - 292, x - 282) < 265
    for i in range(21, 21 + count):
        rng = np.random.default_rng([3, i])
        lines = [soft(curve(rng, shape, steps=500, bend=0.06), w) for w in (2, 2, 2, 3, 3, 4, 4, 5, 6, 6, 7, 8)]
        cover = np.max(lines, 0) * view
        image = ground(rng, shape, 30, 1.0, 0.15)[..., None] * 0 + np.array([190.0, 100, 60])
        image = image * (ground(rng, shape, 40, 100, 10) / 100)[..., None]
        image *= (1 - cover[..., None] * np.array([0.15, 0.4, 0.3])) * view[..., None]
        write(folder / "images" / f"{i}_training.tif", to_bytes(image))
        write(folder / "1st_manual" / f"{i}_manual1.gif", 255 * (cover > 0.5).astype(np.uint8))
        write(folder / "mask" / f"{i}_training_mask.gif", 255 * view.astype(np.uint8))


def cracks(folder, count=20, *, size=448):
    """RGB JPEG, and masks that are JPEG too; a third of them empty."""
    for i in range(count):
        rng = np.random.default_rng([4, i])
        cover = soft(curve(rng, (size, size), steps=600, bend=0.25), rng.uniform(3, 6)) * (i % 3 > 0)
        image = ground(rng, (size, size), 2, 130, 12)[..., None] * np.array([1, 0.97, 0.92])
        write(folder / "images" / f"crack-{i}.jpg", to_bytes(image * (1 - 0.5 * cover[..., None])), quality=90)
        write(folder / "masks" / f"crack-{i}.jpg", to_bytes(255 * (cover > 0.5)), quality=90)


def cells(folder, count=10, *, shape=(520, 696), dark=False):
    """16-bit TIFF with ids of cells, numbered t000 and man_seg000: phase contrast (bright rims), or DIC when `dark`."""
    for i in range(count):
        rng = np.random.default_rng([5, i])
        ids = blobs(rng, shape, count=int(rng.integers(8, 25)), radius=28)
        inside = ndimage.gaussian_filter((ids > 0).astype(float), 2)
        rim = np.gradient(inside)[1] * 6 if dark else ndimage.gaussian_gradient_magnitude(inside, 2) * 10
        image = 3000 + 60 * ground(rng, shape, 40, 0, 4) + 6000 * rim - (0 if dark else 900) * inside
        write(folder / "images" / f"t{i:03d}.tif", np.clip(image, 0, 65535).astype(np.uint16))
        write(folder / "labels" / f"man_seg{i:03d}.tif", ids)


def bands(folder, count=10, *, size=256):
    """16-bit TIFF of five bands of very different range, masks of four numbers."""
    for i in range(count):
        rng = np.random.default_rng([6, i])
        field = ndimage.gaussian_filter(rng.normal(size=(size, size)), 12)
        label = np.digitize(field / field.std(), [-1, 0.3, 1.4]).astype(np.uint8)
        levels = np.array([[3, 5, 4, 6], [9, 3, 7, 5], [2, 6, 5, 9], [5, 5, 9, 3], [7, 2, 3, 8]], float)
        image = levels[:, label] + rng.normal(0, 0.6, (5, size, size))
        image *= np.array([8, 60, 400, 2000, 6000])[:, None, None]
        scene = np.clip(np.moveaxis(image, 0, -1), 0, 65535).astype(np.uint16)
        write(folder / "images" / f"scene_{i}.tif", scene, planarconfig="contig")
        write(folder / "annotations" / f"scene_{i}_label.tif", label)


PALETTE = {"Sky": (128, 128, 128), "Road": (128, 64, 128), "Pole": (192, 192, 128), "Void": (0, 0, 0)}


def colours(folder, count=12, *, shape=(180, 240)):
    """RGB images, masks in the colours of class_dict.csv."""
    table = np.array(list(PALETTE.values()), np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{name},{','.join(map(str, rgb))}" for name, rgb in PALETTE.items()]
    (folder / "class_dict.csv").write_text("\n".join(["name,r,g,b", *lines]))
    for i in range(count):
        rng = np.random.default_rng([7, i])
        label = np.zeros(shape, np.uint8)
        label[shape[0] // 2 + rng.integers(-20, 20) :] = 1
        for _ in range(3):
            left = rng.integers(0, shape[1] - 6)
            label[rng.integers(20, 60) : 120, left : left + 5] = 2
        label[-6:] = 3
        levels = np.array([[150, 180, 220], [90, 90, 95], [60, 50, 40], [30, 30, 30]], float)
        image = levels[label] + ground(rng, shape, 8, 0, 10)[..., None]
        write(folder / "images" / f"{i:04d}.png", to_bytes(image))
        write(folder / "labels" / f"{i:04d}_L.png", table[label])


def many_classes(folder, count=60, *, size=128):
    """32 classes and the background as numbers, the rarest in a few images only."""
    source = TexturedPatches(count=count, size=size)
    for i in range(count):
        write(folder / "images" / f"{i:05d}.png", source[i]["image"])
        write(folder / "labels" / f"{i:05d}.png", source[i]["label"].astype(np.uint8))
