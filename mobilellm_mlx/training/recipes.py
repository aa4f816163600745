"""Recipes: settings of a training that were tried, as small TOML files.

A recipe holds settings of ``TrainConfig`` by their names, and ``description``, a line for lists::

    description = "Short answers in your own style"
    method = "lora"
    learning_rate = 1e-3

Options on the command line stand before a recipe, a recipe before the defaults.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mobilellm_mlx import paths
from mobilellm_mlx.errors import ConfigError, StorageError, TrainingError
from mobilellm_mlx.training.config import TrainConfig
from mobilellm_mlx.training.files import read_bounded

_LARGEST_BYTES = 100_000
_MOST_DOTS = 500
"""In a line: the time that a dotted key takes grows with the square of its parts."""
_LIST_HINT = "`mobilellm train recipes` shows all recipes"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings that go together.

    Attributes:
        name: of its file.
        path: the file; its first lines say how to use it.
        description: what it is for, in a line.
        values: settings of ``TrainConfig``, those alone that it names.
    """

    name: str
    path: Path
    description: str
    values: dict[str, Any]

    @property
    def method(self) -> str | None:
        """What it is for: ``lora``, ``dora`` or ``full``; None when it names none."""
        return self.values.get("method")

    @property
    def config(self) -> TrainConfig:
        """The settings, with defaults for what it does not name."""
        return TrainConfig().merged(self.values)


def recipes_dir() -> Path:
    """Where the recipes of this program lie: in the package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def list_recipes() -> list[Recipe]:
    """All recipes of this program, by name."""
    return [_read(path) for path in sorted(recipes_dir().glob("*.toml"))]


def load_recipe(name: str) -> Recipe:
    """A recipe of this program, or a file.

    Args:
        name: as ``list_recipes`` has it, or a path.

    Raises:
        TrainingError: there is none (with a did-you-mean), or it is not a sound one.
        StorageError: it cannot be read.
    """
    known = {path.stem: path for path in sorted(recipes_dir().glob("*.toml"))}
    if name in known:
        return _read(known[name])
    path = paths.existing(name)
    if path and path.is_file():
        return _read(path)
    close = get_close_matches(name.lower(), known, 1)
    raise TrainingError(
        f"there is no recipe `{name[:200]}`, and no such file",
        f"did you mean `{close[0]}`?" if close else _LIST_HINT,
    )


def _read(path: Path) -> Recipe:
    try:
        text = read_bounded(path, _LARGEST_BYTES).decode("utf-8-sig")
        if any(line.count(".") > _MOST_DOTS for line in text.splitlines()):
            raise ValueError(f"a line of it has more than {_MOST_DOTS} dots")
        values = tomllib.loads(text)
    except StorageError as error:
        raise StorageError(error.message, error.hint or _LIST_HINT) from error
    except (ValueError, RecursionError) as error:  # not UTF-8, or not TOML
        raise TrainingError(f"the recipe {path} cannot be read: {error}") from error
    description = values.pop("description", "")
    if not isinstance(description, str):
        raise TrainingError(f"`description` in the recipe {path} is not a text")
    recipe = Recipe(path.stem, path, " ".join(description.split()), values)
    try:
        _ = recipe.config
    except ConfigError as error:
        raise TrainingError(f"{error.message}, in the recipe {path}", error.hint) from error
    return recipe
