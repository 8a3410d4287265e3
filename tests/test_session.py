"""A run that is gone on with must mean by its classes what the masks mean now."""

import pytest

from unet_jax.session import check_meaning

CARD = {"classes": ("road", "void"), "label_map": {"values": ((1,), (0,)), "threshold": None, "notes": ("a",)}}


def test_the_same_meaning_however_it_is_stored():
    check_meaning({"classes": ["road", "void"], "label_map": {"values": [[1], [0]], "threshold": None}}, CARD)
    check_meaning(CARD, CARD | {"label_map": {**CARD["label_map"], "background": 0, "notes": ()}})
    check_meaning({}, CARD | {"train_images": "ab"})
    check_meaning(CARD | {"train_images": "ab"}, CARD | {"train_images": "ab", "test_images": "cd"})


@pytest.mark.parametrize(
    "changes", [{"classes": ["void", "road"]}, {"label_map": {"values": ((1,), (0,)), "threshold": 128}}]
)
def test_another_meaning_is_refused(changes):
    with pytest.raises(ValueError, match=r"this run learnt the .* begin anew in another --workdir"):
        check_meaning(CARD, CARD | changes)


@pytest.mark.parametrize("part", ["train", "test"])
def test_other_images_are_refused(part):
    with pytest.raises(ValueError, match=rf"the {'training' if part == 'train' else 'test'} images are not those"):
        check_meaning(CARD | {f"{part}_images": "ab"}, CARD | {f"{part}_images": "cd"})
