"""Names and values of classes as a user gives them: on the command line, or in a palette file.

A colour is the number 65536 red + 256 green + blue.
"""

import re
from collections.abc import Sequence
from pathlib import Path

FILES = ("palette.txt", "palette.csv", "class_dict.csv", "label_colors.txt")


def parse_classes(pairs: Sequence[str]) -> dict[str, int]:
    """Names and values of `--classes road=1 "car=0,0,142" tree=#6b8e23`; ValueError for what is not NAME=VALUE."""
    found: dict[str, int] = {}
    for pair in pairs:
        name, _, value = pair.rpartition("=")
        number = parse_value(value)
        if not name or number is None or name in found:
            raise ValueError(f"--classes {pair}: give NAME=VALUE, each name once, such as road=1 or road=0,0,142")
        found[name] = number
    return found


def find_palette(folder: Path) -> Path | None:
    """The palette file of a data set, by the names in `FILES`; None where there is none."""
    return next((path for name in FILES if (path := folder / name).is_file()), None)


def read_palette(path: Path) -> dict[str, int]:
    """Names and values of a palette file, one class a line: NAME VALUE, NAME RED GREEN BLUE or NAME #RRGGBB.

    RED GREEN BLUE NAME serves too. Blanks, commas, semicolons or tabs between them; lines that begin with # and a
    heading without numbers are left out. Raises ValueError for any other line.
    """
    found: dict[str, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        words = [word for word in re.split(r"[\s,;]+", line.strip()) if word]
        if not words or line.startswith("#"):
            continue
        if len(words) > 3 and all(word.isdigit() for word in words[:3]) and not words[-1].isdigit():
            words = words[3:] + words[:3]
        colour = len(words) > 3 and all(word.isdigit() for word in words[-3:])
        name = " ".join(words[: -3 if colour else -1])
        value = parse_value(",".join(words[-3:]) if colour else words[-1])
        if value is None and not found:
            continue  # a heading
        if value is None or not name or name in found:
            raise ValueError(
                f"{path}, line {number}: {line!r}: write NAME VALUE or NAME RED GREEN BLUE, each name once"
            )
        found[name] = value
    if not found:
        raise ValueError(f"{path}: no class in it: write a line NAME VALUE or NAME RED GREEN BLUE for each")
    return found


def parse_value(text: str) -> int | None:
    """A number, or the colour R,G,B or #RRGGBB as one; None for anything else."""
    if re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        return int(text[1:], 16)
    parts = [int(part) for part in text.split(",") if re.fullmatch(r"\s*\d+\s*", part)]
    if len(parts) != text.count(",") + 1 or len(parts) not in (1, 3) or (len(parts) == 3 and max(parts) > 255):
        return None
    return parts[0] if len(parts) == 1 else 65_536 * parts[0] + 256 * parts[1] + parts[2]


def parse_ignore(text: str | None) -> int | None:
    """What `--ignore` says, as `parse_value` does; ValueError, with the mend, for what is neither number nor colour."""
    if text is None:
        return None
    value = parse_value(text)
    if value is None:
        raise ValueError(f"--ignore {text}: give a number, or a colour such as 0,0,0 or #000000")
    return value
