"""Models that come with the package: a folder each, with card.json and params.npz (see `model_folder`).

`python -m scripts.package_model` makes them.
"""

import json
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent


def names() -> tuple[str, ...]:
    """The names of the models, in alphabetical order."""
    return tuple(sorted(path.parent.name for path in _HERE.glob("*/card.json")))


def resolve(model: str | Path) -> Path:
    """The folder of a packaged model by its name, any other path as it is; a folder with a model comes first."""
    given, packaged = Path(model), _HERE / str(model)
    own = any((given / name).exists() for name in ("card.json", "checkpoints", "config.json"))
    return packaged if str(model) in names() and not own else given


def card(name: str) -> dict[str, Any]:
    """What a packaged model says of itself; ValueError for a name that is none."""
    if name not in names():
        raise ValueError(f"no model {name!r} comes with the package: {', '.join(names()) or 'there is none'}")
    return json.loads((_HERE / name / "card.json").read_text(encoding="utf-8"))
