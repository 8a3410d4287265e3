"""What the values of a label file mean: the "labels" of a dataset.json, in the Decathlon's form or in nnU-Net's."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

_NUMBER = re.compile(r"-?\d+")


def names_of(labels: Mapping[str, Any]) -> tuple[dict[int, str], dict[str, tuple[int, ...]]]:
    """Name of every value, and the regions (lists of values) that nnU-Net's form may give, largest first.

    The Decathlon's form is {"1": "oedema"}; nnU-Net's is {"oedema": 1, "whole tumour": [1, 2, 3]}, its numbers perhaps
    written as strings.

    Raises ValueError where a class would be lost: no label at all, what is no whole number, two labels of one value or
    name, a region of nothing or of what was not annotated.
    """
    if not labels:
        raise ValueError('"labels" is empty: name every value that the label files hold')
    if all(_NUMBER.fullmatch(key) for key in labels):
        return _distinct([(int(value), str(name)) for value, name in labels.items()]), {}
    lists = {name: members for name, members in labels.items() if isinstance(members, list)}
    names = _distinct([(_value(name, value), name) for name, value in labels.items() if name not in lists])
    single = {name: (value,) for value, name in names.items() if value != 0 and not is_ignored(name)}
    regions = {name: tuple(sorted({_value(name, v) for v in members})) for name, members in lists.items()}
    for name, members in regions.items():
        if not members or any(is_ignored(names.get(value, "")) for value in members):
            raise ValueError(f'the region "{name}": {lists[name]} holds nothing, or "ignore": list its classes alone')
    for value in sorted({v for members in regions.values() for v in members} - set(names)):
        names[value] = f"label {value}"
    by_size = sorted({**regions, **single}.items(), key=lambda region: -len(region[1]))
    return names, dict(by_size) if lists else {}


def is_ignored(name: str) -> bool:
    """Whether that is what a value is called where nothing was annotated."""
    return name.strip().lower() == "ignore"


def _value(name: str, value: Any) -> int:
    if not _NUMBER.fullmatch(str(value)):  # nor is True one
        raise ValueError(f'the label "{name}": {value!r} is no whole number: give the value it has in the label files')
    return int(value)


def _distinct(pairs: Sequence[tuple[int, str]]) -> dict[int, str]:
    """The same as a dictionary, out of which nothing fell; several values may be ignored."""
    kinds = {"value": [value for value, _ in pairs], "name": [name for _, name in pairs if not is_ignored(name)]}
    for kind, found in kinds.items():
        if twice := [str(one) for one, count in Counter(found).items() if count > 1]:
            raise ValueError(f"two labels have the {kind} {twice[0]}: give each a value and a name of its own")
    return dict(pairs)
