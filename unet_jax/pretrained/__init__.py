"""Models that come with the package: a folder each, with card.json and params.npz (see `model_folder`)."""

from pathlib import Path

_HERE = Path(__file__).parent


def names() -> tuple[str, ...]:
    """The names of the models, in alphabetical order."""
    return tuple(sorted(path.parent.name for path in _HERE.glob("*/card.json")))


def resolve(model: str | Path) -> Path:
    """The folder of a packaged model by its name, any other path as it is; a folder of that name comes first."""
    packaged = _HERE / str(model)
    return packaged if str(model) in names() and not Path(model).exists() else Path(model)
