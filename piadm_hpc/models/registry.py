"""Finding models: a folder, or the name of a model that comes with the package."""

from __future__ import annotations

from pathlib import Path

CARD = "card.toml"


def find_model(folder: str | Path) -> Path:
    """Return an existing folder, or the folder of the shipped model of that name; ValueError listing the shipped names."""
    given = Path(folder)
    if given.is_dir():
        return given
    for shelf in _shelves():
        if given.name == str(folder) and (shelf / given.name / CARD).is_file():
            return shelf / given.name
    shipped = ", ".join(shipped_models()) or "none"
    raise ValueError(f"{folder}: no such model folder; models shipped with the package are {shipped}")


def shipped_models() -> list[str]:
    """Return the names of the models that come with the package."""
    return sorted({card.parent.name for shelf in _shelves() for card in shelf.glob(f"*/{CARD}")})


def _shelves() -> list[Path]:
    """Return the places of shipped models: inside an installed package, or beside it in a working copy."""
    package = Path(__file__).resolve().parent.parent
    return [package / "datasets", package.parent / "datasets"]
