"""Records to plain JSON values and back, guided by the records' own types.

Reading trusts nothing: every value must have exactly the type that its field says.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Collection
from dataclasses import MISSING, fields, is_dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mobilellm_mlx.errors import InvalidInput

Record = TypeVar("Record")

_DEEPEST = 40
"""Deeper than ``tools.checking`` lets the arguments of a call be nested."""
_WHOLE = 2**63
"""What SQLite's whole numbers end below."""


def encode(value: Any, leave_out: Collection[str] = ()) -> Any:
    """A record as what JSON can hold; fields that have their default are left out."""
    if is_dataclass(value):
        shown = (field for field in fields(value) if field.name not in leave_out)
        pairs = ((field, getattr(value, field.name)) for field in shown)
        return {field.name: encode(held) for field, held in pairs if held != _default(field)}
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, float) and not math.isfinite(value):
        return 0.0  # a speed that could not be measured; JSON has no word for it
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {str(key): encode(item) for key, item in value.items()}
    return value


def decode(kind: type[Record], value: Any, where: str, **given: Any) -> Record:
    """A record from what JSON held.

    Args:
        kind: the record's class.
        value: what should be an object with its fields.
        where: names the object in errors.
        given: fields whose values are known otherwise and may not be in the object.

    Raises:
        InvalidInput: a field is missing, unknown or of another type.
    """
    if not isinstance(value, dict):
        raise _wrong(where, value, "an object")
    known: Any = kind
    readers = {name: read for name, read in _readers(known).items() if name not in given}
    if unknown := sorted(set(value) - set(readers)):
        raise InvalidInput(f"`{where}` has a field `{unknown[0]:.40}`, which version 1 has not")
    for field in fields(known):
        if field.name in readers and field.name not in value and _default(field) is MISSING:
            raise InvalidInput(f"`{where}` has no `{field.name}`")
    held = {name: readers[name](item, f"{where}.{name}") for name, item in value.items()}
    return kind(**given, **held)


def _default(field: Any) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


@cache
def _readers(kind: Any) -> dict[str, Callable[[Any, str], Any]]:
    return {name: _reader(hint) for name, hint in get_type_hints(kind).items()}


def _reader(hint: Any) -> Callable[[Any, str], Any]:
    """A function that checks a value against a type."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):  # only "or None" is used in records
        read = _reader(next(part for part in inner if part is not type(None)))
        return lambda value, where: None if value is None else read(value, where)
    if origin is tuple:
        read_item = _reader(inner[0])
        return lambda value, where: tuple(
            read_item(item, f"{where}[{at}]") for at, item in enumerate(_list(value, where))
        )
    if origin is Literal:
        return lambda value, where: _one_of(inner, value, where)
    if origin is dict:
        return _arguments if inner[1] is object else _options
    if hint not in _PLAIN:  # a record within a record
        return lambda value, where: decode(hint, value, where)
    return _PLAIN[hint]


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong(where, value, "a list")
    return value


def _one_of(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    if not isinstance(value, str) or value not in choices:
        raise _wrong(where, value, f"one of {', '.join(choices)}")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong(where, value, "text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"`{where}` holds half a character, which no file can keep") from None
    return value


def _whole(value: Any, where: str) -> int:
    if type(value) is not int or not -_WHOLE <= value < _WHOLE:
        raise _wrong(where, value, "a whole number")
    return value


def _number(value: Any, where: str) -> float:
    if type(value) not in (int, float) or not abs(value) < _WHOLE:
        raise _wrong(where, value, "a number")
    return float(value)


def _switch(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(where, value, "true or false")
    return value


def _moment(value: Any, where: str) -> datetime:
    try:
        moment = datetime.fromisoformat(_text(value, where))
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise _wrong(where, value, "a time like 2026-03-01T12:00:00Z")


def _options(value: Any, where: str) -> dict[str, Any]:
    """Words and numbers by name; what they mean is checked where they are used."""
    if not isinstance(value, dict):
        raise _wrong(where, value, "an object")
    for name, item in value.items():
        for part in (_text(name, where), *(item if isinstance(item, list) else [item])):
            if isinstance(part, str):
                _text(part, where)
            elif isinstance(part, dict | list) or not abs(part or 0) <= 2 * _WHOLE:
                raise _wrong(f"{where}.{name:.40}", part, "text, a number or a list of such")
    return value


def _arguments(value: Any, where: str) -> dict[str, object]:
    """What a tool was given: values of any kind by name."""
    if not isinstance(value, dict):
        raise _wrong(where, value, "an object")
    _plain(value, where)
    return value


def _plain(value: Any, where: str, depth: int = 0) -> None:
    """Require text, a finite number, or lists and objects of such."""
    if isinstance(value, str):
        _text(value, where)
    elif isinstance(value, dict | list) and depth < _DEEPEST:
        for name in value if isinstance(value, dict) else ():
            _text(name, where)
        for part in value.values() if isinstance(value, dict) else value:
            _plain(part, where, depth + 1)
    elif isinstance(value, dict | list) or not abs(value or 0) < math.inf:
        raise _wrong(where, value, "text, a number, or lists of such")


_PLAIN: dict[Any, Callable[[Any, str], Any]] = {
    str: _text,
    int: _whole,
    float: _number,
    bool: _switch,
    datetime: _moment,
}


def _wrong(where: str, value: Any, expected: str) -> InvalidInput:
    said = repr(value) if isinstance(value, str | int | float | None) else type(value).__name__
    said = said if len(said) <= 40 else f"{said[:37]}..."
    return InvalidInput(f"`{where}` is {said}, expected {expected}")
