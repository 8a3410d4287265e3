"""Masks as people have them, and what they are taken for."""

from functools import partial

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage.draw import line_aa

from tests.folders import save, squares
from unet_jax.data.class_masks import decide, legend_of, survey
from unet_jax.data.legend import IGNORED
from unet_jax.data.palette import find_palette, parse_classes, parse_value, read_palette


def files(tmp_path, masks, ending="png"):
    paths = [tmp_path / f"m{i}.{ending}" for i in range(len(masks))]
    for path, mask in zip(paths, masks, strict=True):
        save(path, np.asarray(mask))
    return paths


def soft_edges(size=40, peak=255):
    """A disc of `peak` whose edge fades to 0 over a few pixels."""
    y, x = np.mgrid[:size, :size] - size / 2
    return np.clip((12 - np.hypot(y, x)) * peak / 3 + peak / 2, 0, peak).astype(np.uint8)


@pytest.mark.parametrize("value", [1, 255, 7])
def test_one_number_is_the_foreground(tmp_path, value):
    paths = files(tmp_path, [squares([value]), squares([])])
    legend = decide(survey(paths))
    assert legend.names == ("background", "foreground")
    assert legend.notes == ()
    np.testing.assert_array_equal(legend.read(paths[0]), squares([1]))


def test_soft_edges_are_cut_at_half_and_said(tmp_path):
    paths = files(tmp_path, [soft_edges()] * 3)
    legend = decide(survey(paths))
    np.testing.assert_array_equal(legend.read(paths[0]), soft_edges() >= 128)
    assert "greys between 0 and 255 (soft edges; " in legend.notes[0]
    assert "a pixel of 128 or more is foreground" in legend.notes[0]


def thin(seed, size=96):
    """Three anti-aliased lines of 1 px, any way: white only where one happens to cross the middle of a pixel."""
    mask, rng = np.zeros((size, size)), np.random.default_rng(seed)
    for ends in rng.integers(0, size, (3, 4)).tolist():
        rows, columns, cover = line_aa(*ends)
        mask[rows, columns] = np.maximum(mask[rows, columns], cover)
    return (255 * mask).astype(np.uint8)


def resized(seed, by, size=192):
    """Three lines of 3 px, any way, scaled down."""
    mask, rng = np.zeros((size, size), bool), np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - size / 2
    for turn, away in zip(rng.uniform(0, np.pi, 3), rng.uniform(-60, 60, 3), strict=True):
        mask |= abs(y * np.cos(turn) + x * np.sin(turn) - away) <= 1.5
    small = Image.fromarray(255 * mask.astype(np.uint8)).resize((size // by, size // by), Image.Resampling.BILINEAR)
    return np.asarray(small)


@pytest.mark.parametrize("draw", [thin, *(partial(resized, by=by) for by in (2, 3, 4))])
def test_lines_so_thin_that_white_is_rare_are_soft(tmp_path, draw):
    masks = [draw(seed) for seed in range(3)]
    paths = files(tmp_path, masks)
    legend = decide(survey(paths))
    half = (int(np.max(masks)) + 1) // 2
    assert 60 < half <= legend.threshold == half
    assert f"a pixel of {half} or more is foreground (if they are classes: --classes NAME=VALUE" in legend.notes[0]
    np.testing.assert_array_equal(legend.read(paths[0]), masks[0] >= half)


def test_a_jpeg_mask_saved_as_png_is_cut_at_half(tmp_path):
    (path,) = files(tmp_path, [squares([255] * 30)], ending="jpg")
    paths = files(tmp_path, [np.asarray(Image.open(path))])
    np.testing.assert_array_equal(decide(survey(paths)).read(paths[0]), squares([1] * 30))


@pytest.mark.parametrize("greys", [[128], [85, 170]])
def test_few_greys_between_0_and_255_are_classes_however_rare(tmp_path, greys):
    legend = decide(survey(files(tmp_path, [squares([255] * 20 + greys)] * 2)))
    assert legend.names == ("background", *(f"class {v}" for v in greys), "class 255")
    assert "soft edges of one class: --classes NAME=255" in legend.notes[1]


def test_greys_among_their_like_are_classes(tmp_path):
    """Five kinds of crack, a pixel thin: no grey is between two others."""
    mask = np.zeros((48, 48), np.uint8)
    mask[4:44:8, 4:44] = np.array([50, 100, 150, 200, 250])[:, None]
    assert len(decide(survey(files(tmp_path, [mask]))).names) == 6


def test_jpeg_masks_are_cut_at_half_and_said(tmp_path):
    paths = files(tmp_path, [squares([255] * 9)] * 2, ending="jpg")
    Image.fromarray(squares([255] * 9)).convert("RGB").save(paths[1], quality=95)
    legend = decide(survey(paths))
    assert "2 masks are JPEG" in legend.notes[0]
    assert (legend.read(paths[0]) == squares([1] * 9)).mean() > 0.98
    assert (legend.read(paths[1]) == squares([1] * 9)).mean() > 0.98


def test_jpeg_class_numbers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="1 masks are JPEG, which alters the numbers of classes"):
        decide(survey(files(tmp_path, [squares([20, 60, 120], pieces=4)], ending="jpg")))


def test_numbers_are_classes_in_their_order(tmp_path):
    masks = [squares([1, 2, 5], pieces=3), squares([2, 5], pieces=3), squares([1], pieces=3)]
    paths = files(tmp_path, masks)
    legend = decide(survey(paths))
    assert legend.names == ("background", "class 1", "class 2", "class 5")
    np.testing.assert_array_equal(legend.read(paths[0]), squares([1, 2, 3], pieces=3))
    assert "4 values in the masks, a class each" in legend.notes[0]


def test_255_beside_counting_numbers_is_not_annotated(tmp_path):
    paths = files(tmp_path, [squares([1, 2, 255], pieces=3)] * 3)
    legend = decide(survey(paths))
    assert legend.names == ("background", "class 1", "class 2")
    assert "value 255 beside 0..2 is taken as not annotated" in legend.notes[0]
    assert set(np.unique(legend.read(paths[0]))) == {0, 1, 2, IGNORED}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_objects_are_one_class_and_said(tmp_path, dtype):
    masks = [squares(range(1, n), dtype=dtype) for n in (12, 9, 14, 5)]
    paths = files(tmp_path, masks, ending="tif")
    legend = decide(survey(paths))
    assert legend.names == ("background", "foreground")
    assert "masks hold up to 13 numbers each, one an object" in legend.notes[0]
    np.testing.assert_array_equal(legend.read(paths[0]), masks[0] > 0)


def test_few_classes_of_one_piece_each_are_no_objects(tmp_path):
    """Organs, or kinds of defect: one file holds 3 alone, another 2 and 5; objects would be counted through."""
    masks = [squares(numbers, dtype=np.uint8) for numbers in ([3], [2, 5], [1], [1, 4], [])]
    legend = decide(survey(files(tmp_path, masks)))
    assert legend.names == ("background", *(f"class {i}" for i in range(1, 6)))


@pytest.mark.parametrize(
    "held",
    [[1, 1, 2, 1, 1, 2], [5, 3, 4, 5, 2], [9, 9, 9]],
    ids=["liver and tumour", "organs, from the first on", "nine in every slice"],
)
def test_organs_are_classes_though_each_lies_in_one_piece(tmp_path, held):
    legend = decide(survey(files(tmp_path, [squares(range(1, n + 1)) for n in held])))
    assert legend.names == ("background", *(f"class {i}" for i in range(1, max(held) + 1)))
    if max(held) < 9:  # which cells of small images could be too
        assert "if they are objects, not classes, python -m experiments.train_cells" in legend.notes[1]


@pytest.mark.parametrize(("dtype", "names"), [(np.uint16, 2), (np.uint8, 8)])
def test_few_numbers_of_one_piece_each_are_objects_in_16_bits(tmp_path, dtype, names):
    masks = [squares(held).astype(dtype) for held in ([1, 2, 3, 5], [1, 2, 3, 5, 6], [1, 3, 4, 5, 6, 7])]
    legend = decide(survey(files(tmp_path, masks)))
    assert len(legend.names) == names
    assert legend.objects == (names == 2)


def test_many_numbers_with_gaps_are_objects(tmp_path):
    """Crops of one large label image: none is counted through."""
    legend = decide(survey(files(tmp_path, [squares(range(20, 60)), squares(range(50, 80))])))
    assert legend.objects
    assert "if they are classes: --classes NAME=VALUE" in legend.notes[0]


def colours(values, table):
    return np.array(table, np.uint8)[squares(values, pieces=3)]


def test_colours_are_classes(tmp_path):
    table = [(0, 0, 0), (255, 0, 0), (0, 128, 0)]
    paths = files(tmp_path, [colours([1, 2], table), colours([], table)])
    legend = decide(survey(paths))
    assert legend.names == ("background", "#008000", "#ff0000")
    np.testing.assert_array_equal(legend.read(paths[0]), squares([2, 1], pieces=3))
    assert not legend.read(paths[1]).any()


def test_opacity_that_a_file_does_not_call_so_is_no_colour(tmp_path):
    mask = np.zeros((8, 8, 4), np.uint8)
    mask[2:5, 2:5, 0], mask[..., 3] = 200, 255
    tifffile.imwrite(tmp_path / "m.tif", mask, photometric="rgb", extrasamples=["unspecified"])
    assert decide(survey([tmp_path / "m.tif"])).names == ("background", "#c80000")


def test_a_palette_names_colours_and_misses_none(tmp_path):
    palette = tmp_path / "palette.txt"
    palette.write_text("name r g b\n# streets\nvoid 0 0 0\nlow house 255, 0, 0\ntree;#008000\n")
    given = read_palette(palette)
    assert given == {"void": 0, "low house": 255 << 16, "tree": 128 << 8}
    table = [(0, 0, 0), (255, 0, 0), (0, 128, 0), (1, 2, 3)]
    paths = files(tmp_path, [colours([1, 2], table), colours([3], table)])
    legend = legend_of(given, survey(paths, colours=True))
    assert legend.names == ("void", "low house", "tree")
    np.testing.assert_array_equal(legend.read(paths[0]), squares([1, 2], pieces=3))
    with pytest.raises(ValueError, match=r"m1.png: holds #010203, which no class has: give --ignore"):
        legend.read(paths[1])
    ignoring = legend_of(given, survey(paths, colours=True), ignore=parse_value("1,2,3"))
    assert (ignoring.read(paths[1]) == IGNORED).sum() == 12


def test_a_palette_that_begins_with_the_colours_is_found_by_its_name(tmp_path):
    assert find_palette(tmp_path) is None
    (tmp_path / "label_colors.txt").write_text("0 0 0\tvoid\n255 0 0\tlow house\n0 128 0 tree\n")
    assert read_palette(find_palette(tmp_path)) == {"void": 0, "low house": 255 << 16, "tree": 128 << 8}


def test_classes_of_the_user_keep_their_names_order_and_background(tmp_path):
    paths = files(tmp_path, [squares([3, 9, 4])])
    legend = legend_of(parse_classes(["car=9", "road=3"]), survey(paths), ignore=4)
    assert legend.names == ("background", "car", "road")
    np.testing.assert_array_equal(legend.read(paths[0]), squares([2, 1, IGNORED], dtype=np.uint16))
    own = legend_of(parse_classes(["car=9", "road=3", "rest=0"]), survey(paths), ignore=4)
    assert own.names == ("rest", "car", "road")


@pytest.mark.parametrize(
    ("given", "names", "background"),
    [
        ({"road": 1}, ("background", "road"), 0),
        ({"road": 1, "Void": 0}, ("Void", "road"), 0),
        ({"road": 1, "__BG__": 0}, ("__BG__", "road"), 0),
        ({"road": 1, "field": 0}, ("field", "road"), None),
        ({"road": 0, "Background": 1}, ("Background", "road"), 0),
        ({"road": 1, "void": 2}, ("background", "road", "void"), 0),
    ],
)
def test_what_the_user_calls_background_is_first(tmp_path, given, names, background):
    legend = legend_of(given, survey(files(tmp_path, [squares([1, 2])])))
    assert (legend.names, legend.background) == (names, background)


def test_masks_without_a_0_have_no_background(tmp_path):
    full = squares([2]) + 1 - squares([1])  # 1 around a square of 2
    assert decide(survey(files(tmp_path, [full]))).background is None
    red_and_blue = np.array([(255, 0, 0), (0, 0, 255)], np.uint8)[squares([1])]
    assert decide(survey(files(tmp_path, [red_and_blue]))).background is None
    assert decide(survey(files(tmp_path, [squares([1, 2], pieces=3)]))).background == 0


def test_a_dark_class_with_soft_edges_before_a_bright_background(tmp_path):
    paths = files(tmp_path, [soft_edges()])
    legend = legend_of({"crack": 0, "background": 255}, survey(paths))
    np.testing.assert_array_equal(legend.read(paths[0]), soft_edges() < 128)
    assert "a pixel of 128 or more is background" in legend.notes[0]


def test_one_class_of_the_user_with_soft_edges(tmp_path):
    paths = files(tmp_path, [soft_edges()])
    legend = legend_of({"road": 255}, survey(paths))
    np.testing.assert_array_equal(legend.read(paths[0]), soft_edges() >= 128)
    assert "a pixel of 128 or more is road" in legend.notes[0]


def test_what_cannot_be_is_named(tmp_path):
    with pytest.raises(ValueError, match="all 2 masks are empty"):
        decide(survey(files(tmp_path, [squares([])] * 2)))
    noise = np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8)
    with pytest.raises(ValueError, match=r"masks hold 5\d\d colours: with up to 256 classes"):
        decide(survey(files(tmp_path, [noise])))
    for wrong in ("road", "road=x", "=3", "road=1,2", "road=1,2,300"):
        with pytest.raises(ValueError, match="give NAME=VALUE, each name once"):
            parse_classes([wrong])
    with pytest.raises(ValueError, match="give up to 256 names, each a value of its own"):
        legend_of({"a": 1, "b": 1}, survey(files(tmp_path, [squares([1])])))
    (tmp_path / "p.txt").write_text("road 1\nhouse two\n")
    with pytest.raises(ValueError, match=r"p.txt, line 2: 'house two': write NAME VALUE"):
        read_palette(tmp_path / "p.txt")
    (tmp_path / "m0.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"m0.png: is empty"):
        survey([tmp_path / "m0.png"])


def test_classes_of_16_bits_are_classes_in_many_pieces(tmp_path):
    codes = np.array([0, 111, 112, 211, 311, 512], np.uint16)  # of land cover
    rng = np.random.default_rng(0)
    masks = [codes[rng.integers(0, 6, (8, 8)).repeat(8, 0).repeat(8, 1)] for _ in range(4)]
    legend = decide(survey(files(tmp_path, masks)))
    assert len(legend.names) == 6
    cells = [squares(held, dtype=np.uint16) for held in ([301, 302, 303], [301, 302, 303, 404], [302, 303, 500])]
    (tmp_path / "cells").mkdir()
    assert decide(survey(files(tmp_path / "cells", cells))).objects


def test_a_rim_of_one_grey_is_soft_and_a_broad_one_a_class(tmp_path):
    mask = np.zeros((80, 80), np.uint8)
    mask[20:60, 20:60] = 255
    halved = mask.copy()
    halved[20:60, 19] = 127
    legend = decide(survey(files(tmp_path, [halved] * 2)))
    assert legend.threshold == 128
    halved[20:60, 16:20] = 127
    (tmp_path / "broad").mkdir()
    assert len(decide(survey(files(tmp_path / "broad", [halved] * 2))).names) == 3
