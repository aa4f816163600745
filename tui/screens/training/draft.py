"""A training that is being thought up: what was chosen so far, as lines of a form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mobilellm_mlx.errors import ConfigError, InvalidInput
from mobilellm_mlx.training.config import TrainConfig, options

from ...shelf import ModelRow
from ...text import printable
from ...workshop import Order, Preset
from ..settings.lines import Line

MORE = "more"
OWN = ("base", "data", "preset", "name")
"""Lines that are no settings of the training."""
FIRST = ("method", "epochs", "learning_rate", "rank", "batch_size", "max_tokens")
"""Settings that matter most; the others are unfolded."""
TITLES = {
    "base": "model",
    "data": "data",
    "preset": "recipe",
    "name": "name of the run",
    "max_tokens": "longest example",
    "per_run": "adapter per run",
    "loss_on": "learn from",
    "valid_share": "set aside",
    "checkpoint_layers": "spare memory",
    MORE: "all settings",
}
HELP = {
    "base": "The model that learns: one of those that are here.",
    "data": "A JSONL file, or a folder with train, valid and test. m takes your chats.",
    "preset": "Values that suit a purpose; what you set yourself goes before them.",
    "name": "Of the run. Without one, it is made of model and method.",
    MORE: "Show or hide the other settings.",
}
ZERO = {
    "steps": "by epochs",
    "validate_every": "ten times",
    "save_every": "at validations",
    "patience": "off",
    "clip": "off",
}
"""What 0 stands for."""
_OPTIONS = {option.name: option for option in options()}


@dataclass(slots=True)
class Draft:
    """What was chosen.

    Attributes:
        bases: models that can be trained.
        presets: recipes.
        base: name of the model.
        data: where the examples are, as it was typed.
        from_chats: the file was made of the chats.
        preset: name of the recipe; empty: none.
        values: settings that the person chose.
        name: of the run.
        unfolded: all settings are shown.
    """

    bases: Sequence[ModelRow] = ()
    presets: Sequence[Preset] = ()
    base: str = ""
    data: str = ""
    from_chats: bool = False
    preset: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    unfolded: bool = False

    @property
    def recipe(self) -> Preset | None:
        """The recipe that was chosen."""
        return next((each for each in self.presets if each.name == self.preset), None)

    @property
    def model(self) -> ModelRow | None:
        """The model that was chosen."""
        return next((row for row in self.bases if row.name == self.base), None)

    @property
    def config(self) -> TrainConfig:
        """The settings.

        Raises:
            ConfigError: for values that cannot be together.
        """
        recipe = self.recipe.values if self.recipe else {}
        return TrainConfig().merged({**recipe, **self.values})

    def order(self, folder: Path) -> Order:
        """The training as it would be done.

        Args:
            folder: where relative paths begin.

        Raises:
            InvalidInput: when something is missing.
            ConfigError: for values that cannot be together.
        """
        if (model := self.model) is None:
            raise InvalidInput("no model is chosen", "Ctrl+L in the chat fetches one")
        if not self.data.strip():
            raise InvalidInput("no data is chosen", "name a file, or take your chats with m")
        data = folder / Path(self.data.strip()).expanduser()
        return Order(model.path, data, self.config, model.name, self.name)

    def lines(self) -> list[Line]:
        """The form."""
        recipe = self.recipe
        own = [
            self._line(
                "base", self.base or "none is here", choices=[row.name for row in self.bases]
            ),
            self._line(
                "data", "your chats" if self.from_chats else self.data, "a file or a folder"
            ),
            self._line(
                "preset",
                self.preset or "none",
                recipe.about if recipe else "",
                choices=["", *(each.name for each in self.presets)],
            ),
        ]
        rest = [name for name in _OPTIONS if name not in FIRST]
        lines = [
            *own,
            *map(self._option_line, FIRST),
            self._line("name", self.name, "chosen for you"),
        ]
        shown = "hide" if self.unfolded else f"{len(rest)} more"
        lines.append(self._line(MORE, shown))
        return [*lines, *map(self._option_line, rest)] if self.unfolded else lines

    def _line(self, key: str, shown: str, aside: str = "", choices: Sequence[str] = ()) -> Line:
        is_set = bool(getattr(self, key, "")) and key not in ("base",)
        is_unset = key in ("data", "name") and not shown
        return Line(
            key,
            TITLES[key],
            "choice" if choices else "text",
            printable(shown),
            printable(aside) if is_unset or key == "preset" else "",
            is_set,
            HELP[key],
            tuple(choices),
        )

    def _option_line(self, name: str) -> Line:
        option = _OPTIONS[name]
        recipe = self.recipe.values if self.recipe else {}
        usual = recipe.get(name, option.default)
        value = self.values.get(name, usual)
        choices = (True, False) if isinstance(option.default, bool) else option.metadata["choices"]
        aside = f"{'recipe' if name in recipe else 'usual'}: {self._said(name, usual)}"
        return Line(
            name,
            title(name),
            "choice" if choices else "text",
            self._said(name, value),
            aside if value != usual else "",
            name in self.values,
            option.metadata["help"],
            tuple(choices),
        )

    def _said(self, name: str, value: Any) -> str:
        """The value of a setting in words."""
        if name == "learning_rate" and value == 0:
            return shown_value(replace(self.config, learning_rate=0.0).rate)
        return ZERO[name] if value == 0 and name in ZERO else shown_value(value) or "none"

    def current(self, key: str) -> Any:
        """The value behind a line."""
        if key in OWN:
            return getattr(self, key)
        recipe = self.recipe.values if self.recipe else {}
        return self.values.get(key, recipe.get(key, _OPTIONS[key].default))

    def put(self, key: str, value: Any) -> None:
        """Choose a value; None takes a setting back.

        Raises:
            ConfigError: when it cannot have this value; everything is as before then.
        """
        if key in OWN:
            setattr(self, key, value or "")
            if key == "data":
                self.from_chats = False
            return
        before = dict(self.values)
        self.values.pop(key, None)
        if value is not None:
            self.values[key] = value
        try:
            _ = self.config
        except ConfigError:
            self.values = before
            raise

    def parse(self, key: str, text: str) -> Any:
        """The value that a text stands for.

        Raises:
            ConfigError: when it stands for none.
        """
        text = printable(text).strip()
        if key in OWN:
            return text
        default = _OPTIONS[key].default
        try:
            if isinstance(default, tuple):
                return tuple(text.replace(",", " ").split())
            if isinstance(default, int):
                return int(text.replace(",", "").replace("_", ""))
            if isinstance(default, float):
                return float(text)
        except ValueError:
            kind = "a whole number" if isinstance(default, int) else "a number"
            raise ConfigError(f"`{key}` is {text[:80]!r}, expected {kind}") from None
        return text


def title(name: str) -> str:
    """What the form calls a setting; empty when there is none of this name."""
    return TITLES.get(name, name.replace("_", " ")) if name in _OPTIONS else ""


def shown_value(value: Any) -> str:
    """A value as it is shown and typed."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (tuple, list)):
        return " ".join(str(each) for each in value)
    if isinstance(value, float):
        return f"{value:.10g}"
    return printable(str(value)).replace("\n", " ")
