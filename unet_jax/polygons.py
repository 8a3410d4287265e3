"""Outlines of objects along the edges of their pixels: exact, so that a polygon's area is its object's pixel count."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, Integer

Ring = list[tuple[int, int]]  # closed: the first point (x, y) again at the end
Polygon = list[Ring]  # the outline, counterclockwise as GeoJSON counts, then the holes, clockwise


class Edges(NamedTuple):
    """Sides of pixels between an object and what is not the object, which lies on their right (y points down).

    `way` is 0 to the right, 1 down, 2 to the left, 3 up; `x` and `y` where the side begins.
    """

    id: Int64[np.ndarray, " n"]
    x: Int64[np.ndarray, " n"]
    y: Int64[np.ndarray, " n"]
    way: Int64[np.ndarray, " n"]


def edges(label: Integer[np.ndarray, "h w"], *, above: Integer[np.ndarray, " w"], top: int = 0) -> Edges:
    """Sides of the pixels of some rows of a label image that begin at row `top`, the sides at their lower end left out.

    `above` is the row before (zeros before the first). A last call with one row of zeros closes the image.
    """
    rows = np.vstack([above[None], label])
    y, x = np.nonzero(rows[1:] != rows[:-1])
    upper, lower = rows[y, x], rows[y + 1, x]
    sides = np.pad(label, ((0, 0), (1, 1)))
    v, u = np.nonzero(sides[:, 1:] != sides[:, :-1])
    left, right = sides[v, u], sides[v, u + 1]
    found = [(lower, x, y, 0), (left, u, v, 1), (upper, x + 1, y, 2), (right, u, v + 1, 3)]
    parts = [(ids[ids > 0], x[ids > 0], y[ids > 0] + top, np.full((ids > 0).sum(), way)) for ids, x, y, way in found]
    return Edges(*(np.concatenate(column).astype(np.int64) for column in zip(*parts, strict=True)))


def select(sides: Edges, where: np.ndarray) -> Edges:
    """The sides at these places."""
    return Edges(*(column[where] for column in sides))


def join(parts: list[Edges]) -> Edges:
    """The sides of all parts."""
    return Edges(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def polygons(sides: Edges) -> dict[int, list[Polygon]]:
    """Polygons of each object, by id in rising order, from all of its sides.

    An object in pieces, or one whose pixels touch at corners only, gives several. No ring touches itself, as
    OGC's simple features (and QuPath) ask.
    """
    rings: dict[int, list[Ring]] = {}
    for ring, number in _rings(sides):
        rings.setdefault(number, []).extend(_simple(ring))
    return {number: _nest(rings[number]) for number in sorted(rings)}


def trace(label: Integer[np.ndarray, "h w"]) -> dict[int, list[Polygon]]:
    """Polygons of each object of a whole label image, by id."""
    blank = np.zeros((1, label.shape[1]), label.dtype)
    return polygons(edges(np.vstack([label, blank]), above=blank[0]))


def _rings(sides: Edges) -> list[tuple[Ring, int]]:
    """Closed walks along the sides, corners only and not yet closed, and their ids."""
    dx, dy = np.array([1, 0, -1, 0]), np.array([0, 1, 0, -1])
    width = int(sides.x.max(initial=0)) + 2
    place = (sides.y * width + sides.x) * 4  # of a side's start; a side is known by it and its way
    order = np.argsort(place + sides.way)
    known = (place + sides.way)[order]
    end = ((sides.y + dy[sides.way]) * width + sides.x + dx[sides.way]) * 4
    following = np.full(len(known), -1)
    for turn in (3, 0, 1):  # left, straight on, right: a right turn, which stays with the pixel, wins
        candidate = end + (sides.way + turn) % 4
        at = np.minimum(np.searchsorted(known, candidate), len(known) - 1)
        side = order[at]
        fits = (known[at] == candidate) & (sides.id[side] == sides.id)
        following[fits] = side[fits]
    corners, succ = _corners(following, sides.way)
    points = list(zip(sides.x[corners].tolist(), sides.y[corners].tolist(), strict=True))
    seen, found = bytearray(len(succ)), []
    for first, number in enumerate(sides.id[corners].tolist()):
        ring, corner = [], first
        while not seen[corner]:
            seen[corner] = True
            corner = succ[corner]
            ring.append(points[corner])
        if ring:
            found.append((ring, number))
    return found


def _corners(following: np.ndarray, way: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """The sides that begin where a walk turns, and for each the place among them of the next one."""
    turns = way[following] != way
    corners = np.sort(following[turns])
    last = np.where(turns, np.arange(len(way)), following)  # of the straight line that a side is in
    while not turns[last].all():
        last = last[last]
    return corners, np.searchsorted(corners, following[last[corners]]).tolist()


def _simple(ring: Ring) -> list[Ring]:
    """Cut a walk that comes to a corner twice into walks that do not, and close them."""
    if len(set(ring)) == len(ring):
        return [[*ring, ring[0]]]
    done, path, at = [], [], {}
    for point in ring:
        if point in at:
            loop = path[at[point] :]
            done.append([*loop, point])
            for passed in loop:
                del at[passed]
            del path[len(path) - len(loop) :]
        at[point] = len(path)
        path.append(point)
    return [*done, [*path, path[0]]]


def area(ring: Ring) -> float:
    """Signed area in pixels: positive for outlines, negative for holes."""
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise(ring)) / 2


def _nest(rings: list[Ring]) -> list[Polygon]:
    """Give each hole to the smallest outline around it."""
    if len(rings) == 1:
        return [rings]
    sized = sorted(((area(ring), ring) for ring in rings), key=lambda item: item[0])
    found: list[Polygon] = [[ring] for size, ring in sized if size > 0]
    for hole in (ring for size, ring in sized if size < 0):
        owner = 0 if len(found) == 1 else next(i for i, polygon in enumerate(found) if _around(polygon[0], hole))
        found[owner].append(hole)
    return found


def _around(outline: Ring, hole: Ring) -> bool:
    """Whether the object's pixel beside a side of the hole lies within the outline (even-odd rule)."""
    (x0, y0), (x1, y1) = hole[0], hole[1]
    dx, dy = np.sign(x1 - x0), np.sign(y1 - y0)
    x, y = x0 + (dx - dy) / 2, y0 + (dy + dx) / 2  # half a pixel on, half a pixel to the right
    crossed = False
    for (ax, ay), (_, by) in pairwise(outline):
        if (ay > y) != (by > y) and ax > x:  # an upright side, to the right of the pixel
            crossed = not crossed
    return crossed
