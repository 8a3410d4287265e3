"""What masks mean, and the masks that mean nothing certain."""

import re
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.folders import make, squares
from unet_jax.data import FolderSource
from unet_jax.data.labels import values_of


def kind_of(root, masks, **options):
    return FolderSource(make(root, masks), **options).label_kind


@pytest.mark.parametrize("value", [1, 255, 38])
def test_one_value_beside_0_is_binary_even_with_empty_and_full_masks(tmp_path, value):
    full = np.full((24, 24), value, np.uint8)
    source = FolderSource(make(tmp_path, [squares([value]), squares([]), full]))
    assert source.label_kind == "binary"
    assert [int(source[i]["label"].sum()) for i in range(3)] == [4, 0, 576]
    assert source.classes == 2


def test_16_bit_with_more_values_is_instances_and_keeps_ids(tmp_path):
    mask = squares([1, 2, 40000], dtype=np.uint16)
    source = FolderSource(make(tmp_path, [mask, squares([1, 2], dtype=np.uint16)]))
    assert source.label_kind == "instances"
    assert source[0]["label"].dtype == np.int32
    np.testing.assert_array_equal(source[0]["label"], mask)


def test_8_bit_numbers_that_differ_and_are_whole_objects_are_instances(tmp_path):
    assert kind_of(tmp_path, [squares(range(1, n)) for n in (5, 9, 3, 2)]) == "instances"


def test_a_single_8_bit_id_map_is_instances(tmp_path):
    assert kind_of(tmp_path, [squares(range(1, 28))]) == "instances"


def test_the_same_numbers_in_pieces_are_classes_though_one_image_lacks_one(tmp_path):
    masks = [squares([1, 2, 3], pieces=4)] * 3 + [squares([1, 3], pieces=4), squares([])]
    source = FolderSource(make(tmp_path, masks))
    assert (source.label_kind, source.classes) == ("classes", 4)


def test_two_objects_in_every_image_are_not_taken_for_classes(tmp_path):
    with pytest.raises(
        ValueError, match=r"labels: the same numbers \(0, 1, 2\) in 4 of 4 masks.*--label-kind instances"
    ):
        kind_of(tmp_path, [squares([1, 2])] * 4)
    assert FolderSource(tmp_path, label_kind="instances").preload().label_kind == "instances"


def test_a_few_of_many_classes_an_image_are_not_taken_for_objects(tmp_path):
    masks = [squares(values, pieces=3) for values in ([15], [7, 12], [1, 15], [3, 20])]
    with pytest.raises(ValueError, match=r"numbers 1, 3, 7, .*in 3 connected pieces.*--label-kind classes"):
        kind_of(tmp_path, masks)
    source = FolderSource(tmp_path, label_kind="classes")
    assert source.classes == 21
    assert FolderSource(tmp_path, label_kind="classes", classes=22).classes == 22


def test_masks_that_leave_it_open_ask(tmp_path):
    with pytest.raises(ValueError, match=r"all 2 masks are empty.*--label-kind"):
        kind_of(tmp_path / "empty", [squares([])] * 2)
    with pytest.raises(ValueError, match=r"not the same one \(1, 255\).*--label-kind binary"):
        kind_of(tmp_path / "mixed", [squares([1]), squares([255])])
    source = FolderSource(tmp_path / "mixed", label_kind="binary")
    assert [int(sample["label"].max()) for sample in source] == [1, 1]


def test_pieces_are_counted_a_value():
    # Value 1 in two pieces, 2 in two that touch at a corner (one piece): (2 + 1) / 2.
    label = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [2, 0, 0, 0], [0, 2, 0, 0]], np.uint8)
    assert values_of(label, measure_pieces=True) == ((0, 1, 2), (12, 2, 2), True, 1.5)
    assert values_of(label.astype(np.int64), ignore=0) == ((1, 2), (2, 2), False, None)


def disc(blur):
    r = np.hypot(*np.mgrid[-20:20, -20:20])
    return np.uint8(255 * np.clip((12.3 - r) / blur + 0.5, 0, 1))


@pytest.mark.parametrize("kind", [None, "binary", "instances"])
def test_an_anti_aliased_mask_is_refused_with_a_command(tmp_path, kind):
    with pytest.raises(ValueError, match=r"n1.png: holds greys between 0 and 255 .*python -c .*>= 128"):
        FolderSource(make(tmp_path, [disc(0.01), disc(6)]), label_kind=kind).preload()


def test_the_command_in_the_message_mends(tmp_path):
    make(tmp_path, [disc(0.01), disc(6)])
    with pytest.raises(ValueError, match=r"n1.png: holds greys") as caught:
        FolderSource(tmp_path).preload()
    program = re.search('python -c "(.*)" FILES.png', str(caught.value)).group(1)
    subprocess.run([sys.executable, "-c", program, tmp_path / "labels" / "n1.png"], check=True)
    source = FolderSource(tmp_path).preload()
    np.testing.assert_array_equal(source[0]["label"], source[1]["label"])


def test_a_jpeg_saved_as_png_is_refused(tmp_path):
    make(tmp_path, [disc(0.01)])
    Image.fromarray(disc(0.01)).save(tmp_path / "mask.jpg", quality=70)
    Image.open(tmp_path / "mask.jpg").save(tmp_path / "labels" / "n0.png")
    with pytest.raises(ValueError, match=r"n0.png: holds greys"):
        FolderSource(tmp_path).preload()


def test_255_objects_in_8_bit_are_not_called_anti_aliased(tmp_path):
    assert kind_of(tmp_path, [squares(range(1, 256), size=60), squares(range(1, 200), size=60)]) == "instances"


def test_ignored_pixels_do_not_count(tmp_path):
    mask = np.array([[0, 1, 255], [2, 255, 1]], np.uint8)
    source = FolderSource(make(tmp_path, [mask]), label_kind="classes", ignore=255)
    np.testing.assert_array_equal(source[0]["label"], [[0, 1, 0], [2, 0, 1]])
    np.testing.assert_array_equal(source[0]["mask"], [[1, 1, 0], [1, 0, 1]])
    assert source.classes == 3


def test_values_outside_the_label_map(tmp_path):
    make(tmp_path, [squares([1, 2]), squares([1, 2, 255])])
    with pytest.raises(ValueError, match=r"n1.png: holds 255, outside the classes 0..31: give --ignore 255"):
        FolderSource(tmp_path, label_kind="classes").preload()
    with pytest.raises(ValueError, match=r"n0.png: holds 2, outside the classes 0..1: .*classes=K"):
        FolderSource(tmp_path, label_kind="classes", classes=2)[0]
    with pytest.raises(
        ValueError, match=r"n0.png: holds more than two values \(0, 1, 2\): give --label-kind instances"
    ):
        FolderSource(tmp_path, label_kind="binary")[0]
    with pytest.raises(ValueError, match="label_kind='objects': give one of instances, binary, classes"):
        FolderSource(tmp_path, label_kind="objects")


def test_negative_and_huge_ids(tmp_path):
    make(tmp_path, [squares([1])] * 2)
    tifffile.imwrite(tmp_path / "labels" / "n0.tif", squares([-1, 3], dtype=np.int16))
    (tmp_path / "labels" / "n0.png").unlink()
    with pytest.raises(ValueError, match=r"n0.tif: holds -1.*give --ignore -1"):
        FolderSource(tmp_path, label_kind="instances").preload()
    assert FolderSource(tmp_path, label_kind="instances", ignore=-1)[0]["mask"].sum() == 24 * 24 - 4
    tifffile.imwrite(tmp_path / "labels" / "n0.tif", squares([2**31], dtype=np.uint32))
    with pytest.raises(ValueError, match=r"n0.tif: holds 2147483648"):
        FolderSource(tmp_path, label_kind="instances")[0]
