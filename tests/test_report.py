import os
import sys

import numpy as np
import pytest
from PIL import Image

from unet_jax import pictures, report


@pytest.fixture(autouse=True)
def no_pyplot(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it fails: global state is not ours


def disc(size: int, centre: tuple[int, int], radius: int) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


def item(group: str = "best", *, size: int = 200, **changes: object) -> dict[str, object]:
    truth = disc(size, (60, 70), 14) + np.int32(2) * disc(size, (60, 120), 10)
    image = np.random.default_rng(0).integers(0, 30, (size, size, 3), np.uint8) + np.uint8(40) * (truth > 0)[..., None]
    prediction = disc(size, (62, 70), 14)
    made = {"image": image.astype(np.uint8), "label": truth, "prediction": prediction, "id": "0123456789abcdef"}
    return {**made, "kind": "some_kind", "iou": 0.5, "dice": 2 / 3, "group": group, **changes}


def read(path) -> np.ndarray:
    with Image.open(path) as png:
        assert png.info["dpi"] == pytest.approx((150, 150), abs=0.1)
        return np.asarray(png.convert("RGB"))


@pytest.mark.parametrize(
    ("count", "best", "median", "worst"),
    [
        (0, [], [], []),
        (1, [], [0], []),
        (2, [0], [], [1]),
        (3, [0], [1], [2]),
        (5, [0, 1], [2], [4, 3]),
        (7, [0, 1], [2, 3, 4], [6, 5]),
        (9, [0, 1, 2], [3, 4, 5], [8, 7, 6]),
        (101, [0, 1, 2], [49, 50, 51], [100, 99, 98]),  # 50 is the median
    ],
)
def test_choice_of_examples(count, best, median, worst):
    falling = [1 - i / 200 for i in range(count)]
    assert report.choose_examples(falling) == {"best": best, "median": median, "worst": worst}


def test_choice_ignores_order_of_images_and_scores_that_are_none():
    iou = np.array([0.2, np.nan, 0.9, 0.5, np.inf])
    assert report.choose_examples(iou, each=1) == {"best": [2], "median": [3], "worst": [0]}
    assert report.choose_examples([0.5] * 4, each=1) == {"best": [0], "median": [1], "worst": [3]}


def test_field_of_view_is_where_most_pixels_disagree():
    truth = disc(1000, (700, 300), 10).astype(np.int32) + 2 * disc(1000, (100, 900), 10)
    rows, columns, zoom = pictures.field_of_view(truth, truth == 2, panel=288)
    # area 317, so 17.8 pixels across: seven need 125, and 288 / 125 is above 2, below 3
    assert zoom == 2
    assert (rows.stop - rows.start, columns.stop - columns.start) == (144, 144)
    assert rows.start <= 690
    assert rows.stop > 710
    assert columns.start <= 290
    assert columns.stop > 310


@pytest.mark.parametrize(
    ("shape", "radius", "zoom", "shown"),
    [
        ((1040, 1388), 60, 0.5, (576, 576)),  # 106 across: seven need 745, more than half size can give
        ((360, 360), 60, 1, (288, 288)),  # half size would not fill the panel
        ((256, 256), 20, 2, (144, 144)),  # 35 across: the whole at 1 leaves a rim, four fit at 2
        ((256, 256), 60, 1, (256, 256)),  # four do not: the whole image
        ((40, 60), 4, 4, (40, 60)),  # as large as it goes
        ((40, 2000), 4, 3, (40, 96)),
    ],
)
def test_magnification(shape, radius, zoom, shown):
    y, x = np.indices(shape)
    truth = ((y - shape[0] // 2) ** 2 + (x - shape[1] // 2) ** 2 <= radius**2).astype(np.int32)
    rows, columns, found = pictures.field_of_view(truth, truth, panel=288)
    assert (found, (rows.stop - rows.start, columns.stop - columns.start)) == (zoom, shown)


def test_field_of_view_of_an_empty_image_is_the_upper_left():
    nothing = np.zeros((300, 300), bool)
    rows, columns, _ = pictures.field_of_view(nothing, nothing, panel=288)
    assert (rows.start, columns.start) == (0, 0)


def test_examples_sheet_holds_the_panels_pixel_for_pixel(tmp_path):
    items = [item(group) for group in ("worst", "best", "median", "best")]
    report.examples(items, tmp_path / "report" / "examples.png", title="Title with $ and $")
    sheet = read(tmp_path / "report" / "examples.png")
    # four columns: margin 52, 4 * 252, one gap of 6 within best, two of 30 between groups, 8 at the right
    assert sheet.shape[1] == 52 + 4 * 252 + 6 + 2 * 30 + 8
    squares, _ = pictures.panels(items[0]["image"], items[0]["label"], items[0]["prediction"], side=252)
    for i, square in enumerate(squares):
        top = 100 + i * 258
        np.testing.assert_array_equal(sheet[top : top + 252, -260:-8], square)
    assert os.path.getsize(tmp_path / "report" / "examples.png") < 3e6
    assert os.listdir(tmp_path / "report") == ["examples.png"]


def test_examples_of_every_size_channel_and_label_type(tmp_path):
    odd = [
        item("best", image=np.zeros((200, 200, 1), np.uint8), prediction=np.zeros((200, 200), np.int32), kind=""),
        item("median", size=700, dice=np.float32("nan"), id="häßlich, und lang_" * 9, kind="a_long_kind " * 9),
    ]
    report.examples(odd, tmp_path / "odd.png")
    report.examples(odd[:1], tmp_path / "one.png")
    assert read(tmp_path / "one.png").shape[1] == 52 + 2 * 252  # room for the words under a single column
    assert (read(tmp_path / "odd.png") < 128).any()


def test_what_nobody_annotated_is_hatched_and_no_error(tmp_path):
    truth, prediction, mask = np.zeros((3, 252, 252), np.int32)
    truth[20:60, 20:60], prediction[20:60, 20:60], mask[:, :126] = 1, 1, 1
    prediction[20:60, 180:220] = 1  # where nobody looked
    image = np.full((252, 252, 1), 100, np.uint8)
    squares, _ = pictures.panels(image, truth, prediction, side=252, mask=mask.astype(bool))
    np.testing.assert_array_equal(squares[0], 100)
    for square in squares[1:]:
        assert (square[:, 126:] == pictures.HATCH).all(-1).mean() == pytest.approx(0.25, abs=0.01)
        assert not (square[:, :126] == pictures.HATCH).all(-1).any()
    colours = {tuple(colour) for colour in squares[3].reshape(-1, 3).tolist()}
    assert colours == {pictures.NOTHING, pictures.AGREED, pictures.HATCH}  # the wrong piece is no error
    part = {"image": image, "label": truth, "prediction": prediction, "mask": mask > 0, "id": "a", "iou": 1, "dice": 1}
    sheets = []
    for name, items in (("part.png", part), ("whole.png", part | {"mask": mask >= 0})):
        report.examples([items | {"group": "best"}], tmp_path / name)
        sheets.append(read(tmp_path / name))
    assert (sheets[0][-30:] != sheets[1][-30:]).any()  # the last line says what the hatching is


def test_the_same_examples_give_the_same_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        report.examples([item()], tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "no examples"),
        ([item("good")], "unknown group good: use one of best, median, worst"),
        ([item(label=np.zeros((9, 200), np.int32))], r"0123456789abcdef: sizes differ .*label \(9, 200\)"),
    ],
)
def test_bad_items_are_named_and_nothing_is_written(tmp_path, items, message):
    with pytest.raises(ValueError, match=message):
        report.examples(items, tmp_path / "examples.png")
    assert os.listdir(tmp_path) == []


def row(epoch: int, **changes: object) -> dict[str, object]:
    loss = 1 / epoch
    made = {"epoch": epoch, "step": epoch, "train_loss": loss, "val_loss": loss + 0.1, "val_iou": 0.9 - loss / 2}
    return {**made, "val_dice": 0.95 - loss / 2, **changes}


@pytest.mark.parametrize(
    "rows",
    [
        [row(1)],
        [row(epoch) for epoch in range(1, 1001)],
        [row(1), row(2, val_iou=None, val_loss=float("nan")), row(3, val_dice=float("inf")), {"epoch": 4}],
        [row(e, val_loss=500.0 if e == 3 else 0.2) for e in range(1, 9)],
        [row(1, train_loss=None, val_loss=None, val_iou=None, val_dice=None)],
        [row(1, val_dice=None), row(2, val_dice=None)],
    ],
    ids=["one", "thousand", "gaps", "burst", "nothing", "no dice"],
)
def test_curves_of_any_rows(tmp_path, rows):
    path = tmp_path / "report" / "curves.png"
    report.curves(rows, path, title="A run")
    picture = read(path)
    assert picture.shape == (525, 1260, 3)
    assert (picture < 100).any()
    assert os.path.getsize(path) < 3e5


def test_curves_mark_the_epoch_of_the_best_iou(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(report, "save_figure", lambda figure, path: kept.append(figure))
    report.curves([row(1), row(2, val_iou=0.88, val_dice=0.93), row(3)], tmp_path / "curves.png")
    left, right = kept[0].axes
    assert [text.get_text() for text in left.texts] == ["train", "validation"]
    assert [text.get_text() for text in right.texts] == ["best: epoch 2", "IoU 0.880", "Dice 0.930", "IoU", "Dice"]
    dots = [
        tuple(map(float, (*line.get_xdata(), *line.get_ydata()))) for line in right.lines if line.get_mec() == "white"
    ]
    assert dots == [(2, 0.88), (2, 0.93)]


def test_names_of_lines_that_end_together_do_not_overlap(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(report, "save_figure", lambda figure, path: kept.append(figure))
    report.curves([row(1), row(2, train_loss=0.5, val_loss=0.5)], tmp_path / "curves.png")
    train, validation = (text.get_position()[1] for text in kept[0].axes[0].texts)
    assert validation - train == pytest.approx(0.075) or train - validation == pytest.approx(0.075)


def test_no_rows_is_an_error_and_a_failed_drawing_keeps_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "curves.png"
    with pytest.raises(ValueError, match="no epochs"):
        report.curves([], path)
    assert os.listdir(tmp_path) == []
    report.curves([row(1)], path)
    before = path.read_bytes()

    def fail(picture, scratch, **_):
        scratch.write_bytes(b"half a picture")
        raise OSError("disk full")

    monkeypatch.setattr("PIL.Image.Image.save", fail)
    with pytest.raises(OSError, match="disk full"):
        report.curves([row(1), row(2)], path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["curves.png"]


def test_classes_are_drawn_with_the_pixels_whose_class_is_another(tmp_path):
    truth = np.zeros((40, 40), np.int32)
    truth[:20], truth[20:, :20] = 1, 2
    grey, prediction = np.full((40, 40, 3), 100, np.uint8), np.where(truth == 2, 1, truth)
    item = {"image": grey, "label": truth, "prediction": prediction, "id": "a", "iou": 0.5, "dice": 0.6}
    names = ["ground", "road", "house"]
    report.examples([item | {"group": "median"}], tmp_path / "a.png", title="Two classes", classes=names)
    with Image.open(tmp_path / "a.png") as image:
        drawn = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert (drawn == pictures.CONFUSED).all(-1).sum() > 20 * 20
