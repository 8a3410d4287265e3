"""A run that is gone on with must mean by its classes what the masks mean now."""

import pytest

from unet_jax.session import check_meaning

CARD = {"classes": ("road", "void"), "label_map": {"values": ((1,), (0,)), "threshold": None, "notes": ("a",)}}


def test_the_same_meaning_however_it_is_stored():
    check_meaning({"classes": ["road", "void"], "label_map": {"values": [[1], [0]], "threshold": None}}, CARD)
    check_meaning(CARD, CARD | {"label_map": {**CARD["label_map"], "background": 0, "notes": ()}})
    check_meaning({}, CARD)


@pytest.mark.parametrize(
    "changes", [{"classes": ["void", "road"]}, {"label_map": {"values": ((1,), (0,)), "threshold": 128}}]
)
def test_another_meaning_is_refused(changes):
    with pytest.raises(ValueError, match=r"this run learnt the .* begin anew in another --workdir"):
        check_meaning(CARD, CARD | changes)
