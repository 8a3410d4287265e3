"""Splitting and taking parts of a source."""

import numpy as np
import pytest

from unet_jax.data.source import Source, Subset, count_kinds, fewer, is_few, lend, split, split_any, split_of
from unet_jax.evaluating import part_of


class Numbers:
    """Image i is i everywhere."""

    channels = 1
    label_kind = "binary"

    def __init__(self, ids, kinds=None):
        self.ids = tuple(ids)
        self.columns = {"kind": tuple(kinds)} if kinds else {}

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        i = range(len(self))[index]
        shape = (2, 2)
        return {
            "image": np.full((*shape, 1), i, np.uint8),
            "label": np.zeros(shape, np.int32),
            "mask": np.ones(shape, bool),
            "id": self.ids[i],
        }


def test_split_of_follows_the_stated_formula_and_proportions():
    # The parts must not move between versions. First bytes of sha256, by sha256sum, over 256: "b" 3e -> 0.24 train,
    # "h" aa -> 0.67 train, "a" ca -> 0.79 val, "2" d4 -> 0.83 val, "i" de -> 0.87 test, "5" ef -> 0.93 test.
    assert [split_of(c) for c in "bha2i5"] == ["train", "train", "val", "val", "test", "test"]
    parts = [split_of(str(i)) for i in range(20_000)]
    # Binomial: sqrt(0.7 * 0.3 / 20000) = 0.0032, and four of them are 0.013.
    assert parts.count("train") / 20_000 == pytest.approx(0.70, abs=0.013)
    assert parts.count("val") / 20_000 == pytest.approx(0.15, abs=0.013)


def test_a_name_that_is_not_utf8_has_a_part_too():
    assert split_of(b"caf\xe9".decode("utf-8", "surrogateescape")) in ("train", "val", "test")


def test_adding_an_image_moves_no_other():
    ids = [f"image{i}" for i in range(60)]
    few, many = split(Numbers(ids[:50])), split(Numbers(ids))
    for part, subset in few.items():
        assert set(subset.ids) <= set(many[part].ids)
    assert sorted(sum((subset.ids for subset in many.values()), ())) == sorted(ids)


def test_split_refuses_an_empty_part_and_says_what_to_do():
    with pytest.raises(
        ValueError, match=r"1 images .* train 1, val 0, test 0: .*Add images.*Subset\(source, indices\)"
    ):
        split(Numbers(["b"]))


def test_a_small_set_is_split_too_and_evaluated_by_the_same_parts():
    """Of 100 sets of 8 images the hash leaves a part empty in about half; of 40 in hardly any."""
    few = 0
    for k in range(100):
        source = Numbers([f"{k}-{i}" for i in range(8)])
        parts = split_any(source)
        assert sorted(sum((part.ids for part in parts.values()), ())) == sorted(source.ids)
        assert all(len(part) for part in parts.values())
        assert {name: part_of(source, name).ids for name in parts} == {name: part.ids for name, part in parts.items()}
        few += is_few(source.ids)
    assert 30 < few < 70
    with pytest.raises(ValueError, match="no part may be empty"):
        split_any(Numbers(["a", "b"]))


def test_subset_is_a_source_in_the_given_order():
    source = Numbers("abcd", ["x", "y", "x", "z"])
    part = Subset(source, [3, np.int64(0), -2])
    assert isinstance(part, Source)
    assert part.ids == ("d", "a", "c")
    assert part.columns == {"kind": ("z", "x", "x")}
    assert (part.channels, part.label_kind, len(part)) == (1, "binary", 3)
    assert [sample["id"] for sample in part] == ["d", "a", "c"]  # iteration ends, so IndexError is raised at 3
    assert Subset(part, [1])[-1]["image"].max() == 0
    with pytest.raises(IndexError):
        Subset(source, [4])


def test_count_kinds():
    source = Numbers("abcd", ["x", "y", "y", "y"])
    assert list(count_kinds(source).items()) == [("y", 3), ("x", 1)]
    assert count_kinds(Subset(source, [0, 1])) == {"x": 1, "y": 1}
    assert count_kinds(source, "stain") == {}


def test_fewer_images_are_a_part_of_more():
    source = Numbers(map(str, range(40)))
    few, more = (set(fewer(source, count).ids) for count in (5, 16))
    assert few < more < set(source.ids)
    assert fewer(source, 40).ids != source.ids, "in the hashes' order"
    with pytest.raises(ValueError, match="41 of 40 images"):
        fewer(source, 41)


def test_parts_without_foreground_are_lent_some():
    """Images 0 to 3 train, 4 and 5 validate, 6 tests; of images of foreground training keeps one."""

    def parts():
        source = Numbers("abcdefg")
        return {"train": Subset(source, range(4)), "val": Subset(source, (4, 5)), "test": Subset(source, (6,))}

    def of(*numbers):
        exchanged, moved = lend(parts(), lambda sample: int(sample["image"][0, 0, 0]) in numbers)
        return {name: part.indices for name, part in exchanged.items()}, moved

    whole = {name: part.indices for name, part in parts().items()}
    assert of(0, 5, 6) == (whole, [])
    assert of(0) == of() == (whole, [])  # none to spare
    lent, moved = of(0, 2, 3, 6)
    assert lent == {"train": (0, 1, 2, 4), "val": (3, 5), "test": (6,)}
    assert moved == ["d was taken from training for val, which had no such image"]
    assert of(0, 2, 3)[0] == {"train": (0, 1, 4, 6), "val": (3, 5), "test": (2,)}
