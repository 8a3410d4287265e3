"""The labels of a dataset.json in both forms, and what would lose a class."""

import pytest

from unet_jax.data.volume_labels import names_of


def test_the_decathlons_form_and_nnunets():
    assert names_of({"0": "background", "1": "oedema", "255": "ignore"}) == (
        {0: "background", 1: "oedema", 255: "ignore"},
        {},
    )
    assert names_of({"background": 0, "oedema": "1"}) == ({0: "background", 1: "oedema"}, {})  # a number as a string
    ignored = {"0": "background", "254": "ignore", "255": "Ignore"}
    assert names_of(ignored)[0] == {int(value): name for value, name in ignored.items()}


def test_regions_come_largest_first_however_they_are_listed():
    names, regions = names_of({"background": 0, "inner": 3, "core": [3, "2"], "whole": [1, 2, 3]})
    assert list(regions.items()) == [("whole", (1, 2, 3)), ("core", (2, 3)), ("inner", (3,))]
    assert names == {0: "background", 3: "inner", 1: "label 1", 2: "label 2"}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({}, '"labels" is empty: name every value'),
        ({"background": 0, "tumour": "one"}, "the label \"tumour\": 'one' is no whole number: give the value"),
        ({"background": 0, "tumour": None}, 'the label "tumour": None is no whole number'),
        ({"background": 0, "tumour": True}, 'the label "tumour": True is no whole number'),
        ({"0": "background", "tumour": 1}, "the label \"0\": 'background' is no whole number"),
        ({"background": 0, "a": 1, "b": 1}, "two labels have the value 1: give each a value and a name of its own"),
        ({"0": "background", "1": "a", "2": "a"}, "two labels have the name a"),
        ({"background": 0, "whole": []}, r'the region "whole": \[\] holds nothing'),
        ({"background": 0, "whole": [1, 4], "ignore": 4}, r'the region "whole": \[1, 4\] holds nothing, or "ignore"'),
        ({"background": 0, "whole": [1, 1.5]}, 'the label "whole": 1.5 is no whole number'),
    ],
)
def test_what_would_lose_a_class_is_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        names_of(labels)
