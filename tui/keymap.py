"""Which keys do what, and whether other keys may do it instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from textual.app import App
from textual.binding import Binding
from textual.dom import DOMNode
from textual.keys import Keys, key_to_character
from textual.screen import ModalScreen, Screen

from .text import format_key

Level = Literal["app", "screen", "modal", "widget"]

_MODIFIERS = {"ctrl", "alt", "shift", "super", "meta", "hyper"}
_NAMED = {key.value.rpartition("+")[2] for key in Keys}


@dataclass(frozen=True, slots=True)
class Action:
    """Something that keys do.

    Attributes:
        id: of the binding; the name in the settings.
        keys: those it has when nobody has chosen others.
        what: its tooltip.
        owner: the class that binds it.
        level: where that stands, which says what it may collide with.
        types: whether its owner takes plain letters as commands, because nothing is written there.
    """

    id: str
    keys: tuple[str, ...]
    what: str
    owner: str
    level: Level
    types: bool = False


def list_actions(owners: Iterable[type[DOMNode]]) -> list[Action]:
    """What can be given other keys: the bindings with an id and a tooltip that each class declares.

    One id may stand in several bindings, and a class may be named twice.
    """
    found: dict[str, Action] = {}
    for owner in dict.fromkeys(owners):
        declared = [b for b in owner.__dict__.get("BINDINGS", ()) if isinstance(b, Binding)]
        keys: dict[str, list[str]] = {}
        for binding in declared:
            if binding.id and binding.tooltip:
                keys.setdefault(binding.id, []).extend(split(binding.key))
        types = any(is_typed(key) for own in keys.values() for key in own)
        for binding in declared:
            if (id := binding.id) in keys and id not in found:
                own = tuple(keys[id])
                level = _level(owner)
                found[id] = Action(id, own, binding.tooltip, owner.__name__, level, types)
    return list(found.values())


def _level(owner: type[DOMNode]) -> Level:
    if issubclass(owner, App):
        return "app"
    if issubclass(owner, ModalScreen):
        return "modal"
    return "screen" if issubclass(owner, Screen) else "widget"


def split(keys: str) -> list[str]:
    """The keys of ``ctrl+x, f5``."""
    return [key.strip() for key in keys.split(",") if key.strip()]


def keys_of(action: Action, keymap: Mapping[str, str]) -> tuple[str, ...]:
    """The keys that do it now."""
    return tuple(split(keymap[action.id])) if action.id in keymap else action.keys


def describe(keys: Iterable[str]) -> str:
    """Keys as a person reads them."""
    return " or ".join(format_key(key) for key in keys)


def is_typed(key: str) -> bool:
    """Whether pressing it writes something."""
    return key == "space" or (len(key) == 1 and key.isprintable()) or bool(_character(key))


def _character(key: str) -> str | None:
    character = None if "+" in key or key in _NAMED else key_to_character(key)
    return character if character and character.isprintable() else None


def is_key(key: str) -> bool:
    """Whether there is such a key."""
    *modifiers, last = key.split("+")
    known = last in _NAMED or len(last) == 1 or bool(_character(last))
    return known and set(modifiers) <= _MODIFIERS


def _meet(one: Action, other: Action) -> bool:
    """Whether both can be waiting for a key at the same time."""
    if "app" in (one.level, other.level) or one.owner == other.owner:
        return True
    return {one.level, other.level} == {"screen", "widget"}


def clash(
    action: Action, key: str, actions: Sequence[Action], keymap: Mapping[str, str]
) -> Action | None:
    """What already has ``key`` where ``action`` is; None if nothing does.

    A key that both have from the start is theirs on purpose: the inner one goes first.
    """
    for other in actions:
        meets = other.id != action.id and _meet(action, other)
        on_purpose = key in action.keys and key in other.keys
        if meets and not on_purpose and key in keys_of(other, keymap):
            return other
    return None


def objection(
    action: Action, key: str, actions: Sequence[Action], keymap: Mapping[str, str]
) -> str | None:
    """Why ``key`` cannot do ``action``, as a sentence; None if it can."""
    if not is_key(key):
        return f"there is no key called `{key[:30]}`"
    if is_typed(key) and not action.types:
        return f"{format_key(key)} is for writing; take one with Ctrl or Alt, or F2 to F12"
    if other := clash(action, key, actions, keymap):
        return f"{format_key(key)} is taken: {other.what} ({other.id})"
    return None


def usable(
    keymap: Mapping[str, str], actions: Sequence[Action]
) -> tuple[dict[str, str], list[str]]:
    """What of a keymap can be given to ``App.set_keymap``, and what is wrong with the rest.

    An action whose keys are all refused keeps the ones it has from the start.
    """
    known = {action.id: action for action in actions}
    good: dict[str, str] = {}
    problems: list[str] = []
    # What is wanted elsewhere counts only as far as it is wanted of something that exists.
    wanted = {id: keys for id, keys in keymap.items() if id in known}
    for id, keys in keymap.items():
        if (action := known.get(id)) is None:
            close = get_close_matches(id, known, n=1)
            hint = f"; did you mean `{close[0]}`?" if close else ""
            problems.append(f"there is no action `{id}` to give keys to{hint}")
            continue
        kept = []
        for key in split(keys):
            if why := objection(action, key, actions, wanted):
                problems.append(f"`keys.{id}`: {why}")
            else:
                kept.append(key)
        if kept:
            good[id] = ",".join(kept)
        wanted[id] = good.get(id, ",".join(action.keys))
    return good, problems
