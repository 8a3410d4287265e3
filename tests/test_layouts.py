"""Published sets as they are handed out: read without a flag, where their masks are not in masks/ beside images/."""

import warnings

import numpy as np
import pytest

from experiments import train_folder
from tests.folders import save, squares
from unet_jax.data import FolderSource
from unet_jax.data.pairs import find_pairs, match
from unet_jax.doctor import quick

GREY = np.full((24, 24), 90, np.uint8)


def fill(room, names, *, mask=False):
    for name in names:
        save(room / name, squares([255]) if mask else GREY)


def found(folder):
    """Names of masks by those of images, both below the folder; no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return {pair.image.name: pair.label.name for pair in find_pairs(folder)}


def told(read, *args):
    """What a function gives, and its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return read(*args), "\n".join(str(one.message) for one in caught)


def tiles(root, kinds=("MT_Blowhole", "MT_Crack", "MT_Free")):
    """Magnetic tiles: the same names in each kind."""
    for kind in kinds:
        fill(root / kind / "Imgs", [f"exp1_num_{n}.{e}" for n in (4727, 5) for e in ("jpg", "png")])
    return root


def test_magnetic_tiles_of_all_kinds(tmp_path):
    tiles(tmp_path)
    with pytest.warns(
        UserWarning, match=r"3 folders are read together \(MT_Blowhole, MT_Crack, MT_Free\): to read one"
    ):
        pairs = find_pairs(tmp_path)
    assert [pair.id for pair in pairs[:3]] == [
        "MT_Blowhole_exp1_num_4727", "MT_Blowhole_exp1_num_5", "MT_Crack_exp1_num_4727"
    ]  # fmt: skip
    assert len({pair.id for pair in pairs}) == 6
    assert {(pair.image.suffix, pair.label.suffix) for pair in pairs} == {(".jpg", ".png")}
    assert all(pair.image.parent == pair.label.parent for pair in pairs)


@pytest.mark.parametrize("inner", ["MT_Crack", "MT_Crack/Imgs"])
def test_magnetic_tiles_of_one_kind(tmp_path, inner):
    tiles(tmp_path)
    assert found(tmp_path / inner) == {f"exp1_num_{n}.jpg": f"exp1_num_{n}.png" for n in (4727, 5)}
    assert [pair.id for pair in find_pairs(tmp_path / inner)] == ["exp1_num_4727", "exp1_num_5"]


def test_a_mask_that_lacks_in_one_of_several_kinds_is_named(tmp_path):
    tiles(tmp_path)
    (tmp_path / "MT_Crack" / "Imgs" / "exp1_num_5.png").unlink()
    with pytest.raises(ValueError, match=r"1 image \(.*MT_Crack/Imgs/exp1_num_5.jpg\) without a mask"):
        find_pairs(tmp_path)


def test_kinds_whose_names_run_into_one_another(tmp_path):
    for room, name in (("a", "b_c"), ("a_b", "c")):
        fill(tmp_path / room, [f"{name}.jpg", f"{name}.png"])
    with pytest.raises(ValueError, match=r"a/b_c.jpg and .*a_b/c.jpg are both for b_c: rename"):
        find_pairs(tmp_path)


def test_roads_seen_by_satellite(tmp_path):
    fill(tmp_path, [f"{n}_{end}" for n in (104, 99) for end in ("sat.jpg", "mask.png")])
    assert found(tmp_path) == {"104_sat.jpg": "104_mask.png", "99_sat.jpg": "99_mask.png"}


def test_vessels_drawn_by_two_observers(tmp_path):
    eyes = [f"Image_01{side}" for side in "LR"]
    fill(tmp_path, [f"{eye}{end}" for eye in eyes for end in (".jpg", "_1stHO.png", "_2ndHO.png")])
    with pytest.warns(UserWarning, match=r"2 masks \(.*Image_01L_2ndHO.png.*\) of a second observer left out"):
        pairs = find_pairs(tmp_path)
    assert {p.image.name: p.label.name for p in pairs} == {f"{eye}.jpg": f"{eye}_1stHO.png" for eye in eyes}


ROOMS = [
    ("train_img", "train_lab"), ("train", "train_labels"), ("train", "train_masks"), ("sat", "map"),
    ("train_images", "train_masks"), ("TrainImages", "TrainGT"), ("images", "lab"),
]  # fmt: skip


@pytest.mark.parametrize(("images", "labels"), ROOMS)
def test_rooms_whose_names_are_alike(tmp_path, images, labels):
    for room in (images, labels):
        fill(tmp_path / room, ["a.png", "b.png"])
    assert found(tmp_path) == {"a.png": "a.png", "b.png": "b.png"}
    assert {pair.label.parent.name for pair in find_pairs(tmp_path)} == {labels}


def test_the_part_for_training_is_read_and_the_others_by_their_name(tmp_path):
    for part in ("train", "test"):
        fill(tmp_path / f"{part}_img", [f"{part}1.jpg"])
        fill(tmp_path / f"{part}_lab", [f"{part}1.png"])
    with pytest.warns(UserWarning, match=r"left out is .*/test_img: to read that, name it with --data"):
        assert [pair.id for pair in find_pairs(tmp_path)] == ["train1"]
    assert found(tmp_path / "test_img") == {"test1.jpg": "test1.png"}
    with pytest.raises(ValueError, match=rf"did you mean {tmp_path}\?"):
        find_pairs(tmp_path / "test_lab")


def test_pairs_of_rooms_that_may_be_meant_all(tmp_path):
    for room in ("roads", "roads_gt", "houses", "houses_gt"):
        fill(tmp_path / room, ["a.png"])
    with pytest.raises(ValueError, match=r"houses, .*roads have masks each: name one of them, as in --data .*houses"):
        find_pairs(tmp_path)
    assert found(tmp_path / "roads") == {"a.png": "a.png"}
    fill(tmp_path / "roads_mask", ["a.png"])
    (tmp_path / "houses").rename(tmp_path / "other")
    with pytest.raises(ValueError, match="both roads_mask and roads_gt in it: rename"):
        find_pairs(tmp_path)


def sequences(root):
    """Two of the Cell Tracking Challenge: one with a mask for every image, one with two for four."""
    for number, seen in (("01", 3), ("02", 4)):
        fill(root / number, [f"t{n:03d}.tif" for n in range(seen)])
        fill(root / f"{number}_GT" / "SEG", [f"man_seg{n:03d}.tif" for n in (0, 2)], mask=True)
        fill(root / f"{number}_GT" / "TRA", [f"man_track{n:03d}.tif" for n in range(seen)])
    fill(root / "01_ST" / "SEG", [f"man_seg{n:03d}.tif" for n in range(3)], mask=True)
    return root


def test_cells_through_time(tmp_path):
    pairs, text = told(find_pairs, sequences(tmp_path))
    assert [pair.id for pair in pairs] == ["01_t000", "01_t001", "01_t002", "02_t000", "02_t002"]
    assert [pair.label.relative_to(tmp_path).as_posix() for pair in pairs[2:4]] == [
        "01_ST/SEG/man_seg002.tif", "02_GT/SEG/man_seg000.tif"
    ]  # fmt: skip
    assert "2 folders are read together (01, 02)" in text
    assert "man_seg000.tif is taken for the mask of t000.tif" in text
    assert "02: 2 of 4 images have no mask and are left out" in text


def test_one_sequence_of_cells(tmp_path):
    sequences(tmp_path)
    pairs, text = told(find_pairs, tmp_path / "02")
    assert [pair.id for pair in pairs] == ["t000", "t002"]
    assert "2 of 4 images have no mask" in text
    for label in (tmp_path / "02_GT" / "SEG").iterdir():
        label.rename(label.with_name(f"x{label.name[-7]}y.tif"))  # names that fit no image
    with pytest.raises(ValueError, match=r"4 images .* without a mask in .*02_GT/SEG"):
        find_pairs(tmp_path / "02")


def test_a_root_of_parts_gives_the_one_for_training(tmp_path):
    for part in ("test", "training"):
        fill(tmp_path / part / "images", [f"{part}.png"])
        fill(tmp_path / part / "1st_manual", [f"{part}.png"])
        fill(tmp_path / part / "mask", [f"{part}_mask.gif"])
    with pytest.warns(UserWarning, match=rf"/training is read, and left out is {tmp_path}/test: to read that, name it"):
        assert [pair.id for pair in find_pairs(tmp_path)] == ["training"]
    assert found(tmp_path / "test") == {"test.png": "test.png"}
    for crop in ("traincrop", "testcrop"):
        fill(tmp_path / "cracks" / crop, ["a.jpg", "a.png"])
    with pytest.warns(UserWarning, match="traincrop is read"):
        assert [pair.label.name for pair in find_pairs(tmp_path / "cracks")] == ["a.png"]
    fill(tmp_path / "cracks" / "train2", ["a.jpg", "a.png"])  # which of the two?
    with pytest.raises(ValueError, match=r"did you mean .*train2\? Or .*traincrop, .*testcrop\?"):
        find_pairs(tmp_path / "cracks")


def beside(room, names=("1",)):
    """Photographs beside masks."""
    fill(room, [f"{name}.{ending}" for name in names for ending in ("jpg", "png")])


def test_training_goes_before_a_pair_of_folders_for_test(tmp_path):
    for room in ("train/images", "train/labels", "test", "test_labels"):
        fill(tmp_path / room, ["a.png"])
    with pytest.warns(UserWarning, match=rf"^{tmp_path}/train is read, and left out is {tmp_path}/test: to read that"):
        assert [pair.image.parent.parent.name for pair in find_pairs(tmp_path)] == ["train"]
    assert len(found(tmp_path / "test")) == 1


def test_training_goes_before_a_pair_of_folders_for_validation(tmp_path):
    beside(tmp_path / "train")
    for room in ("val", "val_labels"):
        fill(tmp_path / room, ["2.png"])
    with pytest.warns(UserWarning, match=rf"/train is read, and left out is {tmp_path}/val: to read that"):
        assert [pair.id for pair in find_pairs(tmp_path)] == ["1"]


def test_masks_beside_a_folder_for_training_count_where_it_may_have_its_own(tmp_path):
    beside(tmp_path / "train")
    fill(tmp_path / "train_labels", ["1.png"])
    with pytest.raises(ValueError, match=r"1.jpg and .*1.png are both for 1"):
        find_pairs(tmp_path)


@pytest.mark.parametrize("part", ["val", "test", "Validation"])
def test_what_is_not_for_training_is_not_taken_for_it(tmp_path, part):
    for room in ("train", part, f"{part}_labels"):
        fill(tmp_path / room, ["a.png"])
    with pytest.raises(ValueError, match=rf"of train, .* no masks are found, only of {part}: .* --data .*/{part}"):
        find_pairs(tmp_path)
    assert len(found(tmp_path / part)) == 1
    fill(tmp_path / "train_labels", ["a.png"])
    with pytest.warns(UserWarning, match=rf"/train is read, and left out is {tmp_path}/{part}:"):
        assert find_pairs(tmp_path)[0].image.parent == tmp_path / "train"


def test_only_what_is_for_test_is_read_where_nothing_is_for_training(tmp_path):
    for room in ("test", "test_labels"):
        fill(tmp_path / room, ["a.png"])
    assert found(tmp_path) == {"a.png": "a.png"}


def test_images_for_test_without_masks_are_said_to_be_left_out(tmp_path):
    for room in ("train", "train_labels", "test"):
        fill(tmp_path / room, ["a.png"])
    with pytest.warns(UserWarning, match=rf"/train is read, and left out is {tmp_path}/test: to read that"):
        assert find_pairs(tmp_path)[0].label.parent.name == "train_labels"


def test_a_category_without_masks_is_said_to_be_left_out(tmp_path):
    for kind in ("def1", "def2"):
        beside(tmp_path / kind)
    fill(tmp_path / "good", ["2.jpg"])
    pairs, text = told(find_pairs, tmp_path)
    assert [pair.id for pair in pairs] == ["def1_1", "def2_1"]
    assert "(def1, def2)" in text
    assert f"{tmp_path}: left out is {tmp_path}/good: to read that" in text


def test_a_sequence_without_masks_is_said_to_be_left_out(tmp_path):
    for room in ("01", "01_ST/SEG", "01_GT/TRA", "02"):
        fill(tmp_path / room, ["t000.png"])
    pairs, text = told(find_pairs, tmp_path)
    assert [pair.image.parent.name for pair in pairs] == ["01"]
    assert text == f"{tmp_path}/01 is read, and left out is {tmp_path}/02: to read that, name it with --data"


def test_pictures_beside_images_and_masks_are_said_to_be_left_out(tmp_path):
    for room in ("images", "masks", "gt_old/2020", ".thumbs", "notes"):
        fill(tmp_path / room, ["a.png"])
    (tmp_path / "notes" / "a.png").rename(tmp_path / "notes" / "a.txt")
    with pytest.warns(UserWarning, match=rf"left out is {tmp_path}/gt_old: to read that"):
        assert len(find_pairs(tmp_path)) == 1


@pytest.mark.parametrize("inner", ["train", "train/Imgs", "train/images"])
def test_a_table_and_a_palette_of_the_part_that_is_read(tmp_path, inner):
    if inner.endswith("images"):
        fill(tmp_path / inner, ["1.png"])
        fill(tmp_path / "train" / "labels", ["1.png"], mask=True)
    else:
        fill(tmp_path / inner, ["1.jpg"])
        fill(tmp_path / inner, ["1.png"], mask=True)
    for part in ("", "train"):
        (tmp_path / part / "index.csv").write_text(f"id,plate\n1,{part or 'root'}\n")
        (tmp_path / part / "palette.txt").write_text(f"{part or 'root'} 255\n")
    config = train_folder.Config(data=str(tmp_path))
    for part in ("train", "root"):
        source, legend = train_folder.open_source(config)
        assert source.columns == {"plate": (part,)}
        assert legend.names[1:] == (part,)
        for name in ("index.csv", "palette.txt"):
            (tmp_path / "train" / name).unlink(missing_ok=True)


def test_a_folder_further_down_is_proposed(tmp_path):
    for room in ("train", "train_labels"):
        fill(tmp_path / "roads" / "tiff" / room, ["a.tif"])
    with pytest.raises(ValueError, match=r"did you mean .*roads/tiff\?"):
        find_pairs(tmp_path / "roads")


def test_what_is_read_can_be_checked_and_decoded(tmp_path):
    sequences(tmp_path)
    codes = {finding.code for finding in quick(tmp_path).findings}
    assert not codes & {"no-mask", "no-image", "two-files"}
    assert len(match(tmp_path).pairs) == 5
    source = told(FolderSource, tmp_path)[0].preload()
    assert source[3]["id"] == "02_t000"
    assert source[3]["label"].sum() == 4  # one square of 2x2, which is 255 in the file
