"""Made-up cells under a made-up microscope: one seeded image with exact instance labels.

The physics is a camera's. Cells are star-shaped outlines (an ellipse whose radius is modulated by a few harmonics)
painted into one density plane, the front one over those behind; the plane is blurred by the point spread function,
turned into light by emission (dark field: background + density) or by Beer-Lambert absorption (bright field:
background * exp(-density * colour)), shaded by an uneven lamp, and counted with shot noise and read noise.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32, UInt8
from scipy import ndimage

VERSION = 1  # raise when the same state of the generator begins to give another image: caches are named after it
KINDS = ("clear", "overlapping", "low_contrast")
VISIBLE = 0.62  # share of a cell's pixels inside the image that no other cell may hide
_MARGIN = 7  # pixels drawn around an outline for its soft edge and its halo


@dataclass(frozen=True)
class _Look:
    """How one microscope shows a cell: shares of the density in its body."""

    dome: float  # denser in the middle, where it is thicker
    rim: float  # membrane
    halo: float  # bright ring outside, from diffraction
    texture: float  # standard deviation of the smooth inner noise
    nucleoli: float  # small inner spots
    nucleus: float  # one large inner body
    density: tuple[float, float]  # of the body, drawn per image: light emitted, or optical density


_LOOKS = {
    "fluorescence": _Look(0.45, 0.0, 0.0, 0.10, 0.35, 0.0, (0.15, 0.65)),
    "stained": _Look(0.15, 0.20, 0.08, 0.14, 0.40, 0.0, (0.7, 1.4)),
    "grey": _Look(0.10, 0.40, 0.35, 0.12, 0.20, 0.9, (0.22, 0.50)),
}


@dataclass(frozen=True)
class _Cell:
    window: tuple[slice, slice]  # bounding box in the image, margin included
    signed: Float32[np.ndarray, "h w"]  # pixels from the outline along the ray from the centre, negative inside
    depth: Float32[np.ndarray, "h w"]  # 0 at the centre, 1 on the outline
    centre: np.ndarray
    radius: float
    area: int  # pixels inside the image, hidden ones included


def _cell(rng: np.random.Generator, centre: np.ndarray, radius: float, stretch: float, size: int) -> _Cell:
    half = radius * stretch * 1.3 + _MARGIN
    low, high = np.maximum(centre - half, 0).astype(int), np.minimum(centre + half + 2, size).astype(int)
    y = np.arange(low[0], high[0], dtype=np.float32)[:, None] - np.float32(centre[0])
    x = np.arange(low[1], high[1], dtype=np.float32)[None, :] - np.float32(centre[1])
    turn = rng.uniform(0, np.pi)
    cos, sin, stretch = np.float32(np.cos(turn)), np.float32(np.sin(turn)), np.float32(stretch)
    u, v = (cos * x + sin * y) / stretch, (cos * y - sin * x) * stretch
    angle = np.arctan2(v, u)
    bend = np.ones_like(u)
    for order in range(2, 6):
        size_of, phase = rng.normal(0, 0.11) / (order - 1), rng.uniform(0, 2 * np.pi)
        bend += np.float32(size_of) * np.cos(np.float32(order) * angle + np.float32(phase))
    depth = np.hypot(u, v) / (np.float32(radius) * np.clip(bend, 0.7, 1.3)) + np.float32(1e-3)
    reach = np.hypot(x, y)
    signed = reach - reach / depth
    window = (slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1])))
    return _Cell(window, signed, depth, centre, radius, int((signed < 0).sum()))


def _paint(label: Int32[np.ndarray, "h w"], cells: list[_Cell], new: _Cell, gap: float) -> bool:
    """Put `new` in front, unless it comes within `gap` of another, hides too much of one, or cuts one in two."""
    view, inside = label[new.window], new.signed < 0
    if new.area < 30 or ndimage.label(inside)[1] != 1 or (gap > 0 and view[new.signed < gap].any()):
        return False
    before = view.copy()
    view[inside] = len(cells) + 1
    for number in np.unique(before[inside]):
        if number:
            old = cells[number - 1]
            seen = label[old.window] == number
            if seen.sum() < VISIBLE * old.area or ndimage.label(seen)[1] != 1:
                view[...] = before
                return False
    cells.append(new)
    return True


def _place(rng: np.random.Generator, kind: str, size: int) -> tuple[list[_Cell], Int32[np.ndarray, "h w"]]:
    mean, elongation, spread = rng.uniform(8, 17), rng.uniform(0.02, 0.35), rng.uniform(0.05, 0.25)
    cover = rng.uniform(0.12, 0.28) if kind != "overlapping" else rng.uniform(0.22, 0.40)
    share = (size / 256) ** 2
    wanted = int(np.clip(cover * 256**2 / (np.pi * mean**2), 10, 60) * share) + 1
    gap = rng.uniform(2.0, 4.0) if kind != "overlapping" else 0.0
    label, cells = np.zeros((size, size), np.int32), []
    for _ in range(wanted * 12):
        if len(cells) == wanted:
            break
        radius = mean * np.exp(rng.normal(0, spread))
        radius = float(np.clip(radius, 6.5, 26))
        centre = rng.uniform(0, size, 2)
        if kind == "overlapping" and cells and rng.random() < 0.8:
            near, angle = cells[rng.integers(len(cells))], rng.uniform(0, 2 * np.pi)
            apart = rng.uniform(0.75, 1.05) * (radius + near.radius)
            centre = near.centre + apart * np.array([np.sin(angle), np.cos(angle)])
        if centre.min() < 0 or centre.max() >= size:
            continue
        if gap and any(np.hypot(*(centre - c.centre)) < 0.8 * (radius + c.radius) for c in cells):
            continue
        stretch = float(np.exp(np.clip(abs(rng.normal(0, elongation)), 0, 0.45)))
        _paint(label, cells, _cell(rng, centre, radius, stretch, size), gap)
    return cells, label


def _body(rng: np.random.Generator, look: _Look, cell: _Cell, texture: Float32[np.ndarray, "h w"]) -> np.ndarray:
    """Density of one cell, about 1 inside, in its window."""
    f = np.float32
    body = f(1 - look.dome / 2) + f(look.dome) * np.sqrt(np.clip(1 - cell.depth**2, 0, 1))
    body *= 1 + f(look.texture * rng.uniform(0.5, 1.5)) * texture[cell.window]
    y, x = (np.arange(s.start, s.stop, dtype=np.float32) - f(c) for s, c in zip(cell.window, cell.centre, strict=True))
    spots = [(look.nucleoli * rng.uniform(0.4, 1.2), rng.uniform(0.07, 0.16), 0.5) for _ in range(rng.integers(1, 5))]
    if look.nucleus:
        spots.append((look.nucleus * rng.uniform(0.7, 1.2), rng.uniform(0.2, 0.3), 0.15))
    for height, width, far in spots:
        angle, reach = rng.uniform(0, 2 * np.pi), cell.radius * far * np.sqrt(rng.random())
        down, right, sharp = f(reach * np.sin(angle)), f(reach * np.cos(angle)), f(-0.5 / (width * cell.radius) ** 2)
        body += f(height) * np.outer(np.exp(sharp * (y - down) ** 2), np.exp(sharp * (x - right) ** 2))
    return body + f(look.rim) * np.exp(-(((cell.signed + f(1.2)) / f(1.3)) ** 2))


def _density(rng: np.random.Generator, look: _Look, cells: list[_Cell], kind: str, size: int) -> np.ndarray:
    """Plane of all cells, 1 = the mean cell's body, then debris, then the blur of the optics."""
    f = np.float32
    texture = ndimage.gaussian_filter(rng.standard_normal((size, size), np.float32), rng.uniform(1.2, 2.2))
    texture /= texture.std()
    plane = np.zeros((size, size), np.float32)
    spread = 0.08 if kind == "low_contrast" else 0.2
    through = rng.uniform(0.25, 0.6)  # how much of the cell behind shines through the one in front
    for cell in cells:
        view = plane[cell.window]
        cover = np.clip(f(0.5) - cell.signed / f(1.5), 0, 1)
        level = f(np.exp(rng.normal(0, spread)))
        view *= 1 - cover * f(1 - through)
        view += cover * level * _body(rng, look, cell, texture)
        if look.halo:
            view -= (1 - cover) * f(look.halo) * np.exp(-(((cell.signed - f(2.5)) / f(1.8)) ** 2))
    rows = np.arange(size, dtype=np.float32)
    for _ in range(rng.integers(0, 4)):  # out of focus: wide and faint, hence no cell
        centre, width = rng.uniform(0, size, 2), rng.uniform(12, 28)
        bump = np.exp(f(-0.5 / width**2) * (rows[:, None] - centre.astype(np.float32)) ** 2)
        plane += f(rng.uniform(0.08, 0.3)) * np.outer(bump[:, 0], bump[:, 1])
    for y, x in rng.integers(0, size - 3, (int(rng.integers(2, 16) * (size / 256) ** 2) + 1, 2)):  # dust and grains
        plane[y : y + rng.integers(1, 5), x : x + rng.integers(1, 5)] += f(rng.uniform(0.6, 2.0))
    return ndimage.gaussian_filter(plane, rng.uniform(0.6, 1.4))


def _lamp(rng: np.random.Generator, size: int) -> np.ndarray:
    """Smooth second-order field around 1."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    a, b, c, d, e = rng.uniform(-1, 1, 5).astype(np.float32) * np.float32(rng.uniform(0.02, 0.12))
    y, x = axis[:, None], axis[None, :]
    return 1 + a * y + b * x + c * x * y + d * (x**2 - np.float32(0.33)) + e * (y**2 - np.float32(0.33))


def _photograph(rng: np.random.Generator, name: str, plane: Float32[np.ndarray, "h w"], low: bool) -> np.ndarray:
    """Light through the microscope `name`, and its noisy count by the camera, `(h, w, 3)` uint8."""
    dark, size = name == "fluorescence", len(plane)
    photons, read = np.exp(rng.uniform(*np.log((80, 300) if low else (400, 4000)))), rng.uniform(0.002, 0.008)
    ground = (rng.uniform(0.10, 0.30) if low else rng.uniform(0.02, 0.12)) if dark else rng.uniform(0.75, 0.92)
    strength = rng.uniform(*_LOOKS[name].density)
    if low:  # so many standard deviations of one pixel's noise
        strength = rng.uniform(1.5, 3.0) * np.hypot(np.sqrt(ground / photons), read) / (1 if dark else ground)
    if dark:  # the exposure a microscopist would choose: nothing burnt out
        strength = min(strength, 0.9 / float(plane.max()))
    colour = np.ones(1)
    if name == "stained":
        colour = np.array([rng.uniform(0.4, 0.7), 1.0, rng.uniform(0.15, 0.4)])
        ground = ground * rng.uniform(0.93, 1.0, 3)
    plane = plane[..., None] * np.float32(strength)
    light = ground + plane if dark else ground * np.exp(-plane * colour)
    light = np.clip(light * _lamp(rng, size)[..., None], 0, 1.5)
    seen = rng.poisson(light * photons) / photons + rng.normal(0, read, light.shape)
    image = np.clip(np.rint(255 * seen), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(image, (size, size, 3)))


def render_cells(
    rng: np.random.Generator, *, kind: str, size: int = 256
) -> tuple[UInt8[np.ndarray, "h w 3"], Int32[np.ndarray, "h w"]]:
    """Draw one square microscope image of cells, and the label of every pixel.

    Half of the images are fluorescent nuclei on a dark ground, a quarter stained (purple) cells and a quarter grey
    cells on a light ground. In `overlapping` the front cell owns the shared pixels; in `low_contrast` a cell differs
    from its ground by 1.5 to 3 standard deviations of one pixel's noise.

    Args:
        rng: source of every choice; the same state gives the same image.
        kind: "clear" (apart, good contrast), "overlapping" (clusters) or "low_contrast" (apart, near the noise).
        size: edge in pixels, at least 64; the number of cells grows with the area, about 10 to 60 for 256.

    Returns:
        image `(size, size, 3)` uint8, and label `(size, size)` int32: 0 ground, 1..n cells. Each cell is one
        4-connected piece that shows at least 60 % of its pixels.

    Raises:
        ValueError: for another kind or a smaller size.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}: choose one of {', '.join(KINDS)}")
    if size < 64:
        raise ValueError(f"size {size}: cells are up to 50 pixels wide, so choose a size of 64 or more")
    name = str(rng.choice(list(_LOOKS), p=(0.5, 0.27, 0.23)))
    cells, label = _place(rng, kind, size)
    plane = _density(rng, _LOOKS[name], cells, kind, size)
    return _photograph(rng, name, plane, kind == "low_contrast"), label
