"""What the settings screen says on every line: plain values out of plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mobilellm_mlx.settings import SCHEMA, Kind, Setting, Settings, find

from ...keymap import Action, clash, describe, keys_of
from ...text import printable

PageKind = Literal["values", "presets", "keys"]

NEW_PRESET = "presets."
"""The key of the line that makes one."""
THEME_PREFIX = "mobilellm-"
_UNSET = {
    "max_tokens": "as many as fit",
    "thinking_budget": "no limit",
    "seed": "a new one each time",
}


@dataclass(frozen=True, slots=True)
class Page:
    """One page of settings: the tables of the file it shows."""

    title: str
    kind: PageKind
    groups: tuple[str, ...] = ()


PAGES = (
    Page("Sampling", "values", ("sampling",)),
    Page("Chat", "values", ("chat", "model")),
    Page("Prompts", "presets"),
    Page("Interface", "values", ("interface",)),
    Page("Tools", "values", ("tools",)),
    Page("Storage", "values", ("history", "cache")),
    Page("Keys", "keys"),
)


@dataclass(frozen=True, slots=True)
class Line:
    """A setting as it is shown.

    Attributes:
        key: of the setting.
        shown: its value in words.
        aside: what else is worth knowing beside it.
        is_set: whether the person chose it.
        help: what it is for.
        choices: what the left and right keys go through; None stands for "not set".
    """

    key: str
    title: str
    kind: Kind
    shown: str
    aside: str = ""
    is_set: bool = False
    help: str = ""
    choices: tuple[Any, ...] = ()


def lines_of(
    page: Page,
    settings: Settings,
    recommended: Mapping[str, Any],
    actions: Sequence[Action],
) -> list[Line]:
    """Every line of a page.

    Args:
        page: one of ``PAGES``.
        settings: as they are now.
        recommended: fields of ``GenerationOptions`` as the loaded model's makers set them.
        actions: what keys can be given to.
    """
    if page.kind == "presets":
        return _preset_lines(settings)
    if page.kind == "keys":
        return [_key_line(action, actions, settings) for action in actions]
    return [
        _value_line(setting, settings, recommended)
        for setting in SCHEMA
        if setting.group in page.groups
    ]


def words(value: Any) -> str:
    """A value as it is shown: one line, whatever is in it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if not isinstance(value, str):
        return f"{value:,}" if isinstance(value, int) and value >= 10_000 else f"{value:.10g}"
    first, *more = printable(value).strip().split("\n")
    return f"{first} … {len(more) + 1} lines" if more else first


def _value_line(setting: Setting, settings: Settings, recommended: Mapping[str, Any]) -> Line:
    value = settings.values.get(setting.key)
    choices: tuple[Any, ...] = setting.choices
    if setting.kind == "switch":
        choices = (True, False)
    elif setting.key == "chat.preset":
        choices = (None, *settings.presets)
    unset, default = _when_unset(setting, recommended), setting.default
    if setting.key == "interface.theme":
        value = value and value.removeprefix(THEME_PREFIX)
        default = default.removeprefix(THEME_PREFIX)
    shown = words(value if value is not None else default if default is not None else "")
    if default is not None:
        unset = f"default {words(default)}" if value not in (None, default) else ""
    elif value is not None and setting.group != "sampling":
        unset = ""
    return Line(
        setting.key,
        setting.title,
        setting.kind,
        shown,
        unset,
        value is not None,
        setting.help,
        choices,
    )


def _when_unset(setting: Setting, recommended: Mapping[str, Any]) -> str:
    """What holds without a value, where the program has no default of its own."""
    if setting.group == "sampling":
        if (value := recommended.get(setting.name)) is not None:
            return f"model recommends {words(value)}"
        return _UNSET.get(setting.name, "as the model recommends")
    if setting.group == "tools":
        return "none"
    return {"model.default": "the usual one", "model.adapter": "none", "chat.preset": "none"}.get(
        setting.key, "the model's own"
    )


def _preset_lines(settings: Settings) -> list[Line]:
    chosen = settings.get("chat.preset")
    lines = [
        Line(
            f"presets.{name}",
            name,
            "lines",
            "in use" if name == chosen else "",
            words(text) or "(empty)",
            name == chosen,
            "A system prompt. The one in use opens every new chat.",
        )
        for name, text in settings.presets.items()
    ]
    help = "Write a system prompt to choose in a chat: a name first, then the text."
    return [*lines, Line(NEW_PRESET, "New prompt …", "lines", "", help=help)]


def _key_line(action: Action, actions: Sequence[Action], settings: Settings) -> Line:
    keymap = settings.keymap
    keys = keys_of(action, keymap)
    taken = [other for key in keys if (other := clash(action, key, actions, keymap))]
    changed = action.id in keymap
    aside = f"default {describe(action.keys)}" if changed else ""
    if taken:
        aside = f"conflict: {taken[0].id}"
    return Line(
        f"keys.{action.id}",
        action.what,
        "keys",
        describe(keys),
        aside,
        changed,
        f"{action.what}. In the file: keys.{action.id}",
    )


def setting_of(line: Line) -> Setting:
    """What checks the values of a line."""
    return find(line.key)
