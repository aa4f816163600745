"""Tables that others have published, as data with their sources, to stand beside what is measured.

Each table is a TOML file: where it is from, what its figures are, what nobody has said about how
they were made, and its rows. A cell that could not be read anywhere is not there: nothing is made
up, and nothing is worked out from other cells.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from mobilellm_mlx import catalogue, published

About = Literal["choice", "chat", "calls", "further"]
"""What a table is a measure of; ``further`` is what this program does not measure."""
Kind = Literal["base", "instruct"]
NOT_FOUND = "-"
"""A cell of a row that no source gives."""

_KIND = re.compile(r"-(?:base|instruct|it)(?=-|$)")
_PACKED = re.compile(r"-(?:\d+bit|q\d(?:-[a-z0-9])*|g\d+|mlx|hf|fp16|fp32|bf16|awq|dwq|gptq)$")


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """A table.

    Attributes:
        name: of its file.
        title: what it is about, for people.
        about: what it is a measure of.
        models: whether they are base models or tuned to follow instructions.
        source: who published it where, with the number of the table where it has one.
        metric: what the figures are.
        shots: examples before a question; None where nobody says.
        unknown: what is not said of how they were made.
        is_released: whether its models are those that anybody can get. Others only share names.
        columns: names of the figures; those of tasks are this program's.
        rows: figures by the name of the model as published, then by column.
    """

    name: str
    title: str
    about: About
    models: Kind
    source: str
    metric: str
    shots: int | None
    unknown: tuple[str, ...]
    is_released: bool
    columns: tuple[str, ...]
    rows: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One model of a table.

    Attributes:
        table: that it is in.
        model: its name as published.
        values: its figures by column.
    """

    table: PublishedTable
    model: str
    values: Mapping[str, float]


@cache
def tables() -> tuple[PublishedTable, ...]:
    """All tables, by name."""
    return tuple(_read(path) for path in sorted(Path(__file__).parent.glob("*.toml")))


def table(name: str) -> PublishedTable:
    """A table by its name.

    Raises:
        KeyError: when there is none.
    """
    return {one.name: one for one in tables()}[name]


def rows_for(name: str, about: About | None = None) -> tuple[PublishedRow, ...]:
    """The published rows of the model that a measured one is, or is made from.

    How it was packed may follow in its name (``-4bit``), and whether it is the base or was tuned
    is left out of the comparison: the table says which it is of. Any other word in a name makes
    another model, which has no rows.

    Args:
        name: of the measured model.
        about: only of tables of this.
    """
    for key in _keys(_key(name)):
        found = [
            PublishedRow(one, model, values)
            for one in tables()
            if one.is_released
            for model, values in one.rows.items()
            if _key(model) == key
        ]
        if found:
            return tuple(row for row in found if about in (None, row.table.about))
    return ()


def kind_of(name: str) -> Kind | None:
    """Whether a measured model was tuned to follow instructions; None where its name is unknown."""
    known = catalogue.CATALOGUE.get(name)
    words = re.split(r"[\s_-]", (known.title if known else name).lower())
    if {"instruct", "it"} & set(words):
        return "instruct"
    for key in _keys(_full(name)):
        if model := published.find(key):
            return "base" if model.purpose.startswith("completes") else "instruct"
    return None


def _keys(key: str) -> Iterator[str]:
    """A name, and what is left of it without the words for how it was packed."""
    yield key
    while (shorter := _PACKED.sub("", key)) != key:
        key = shorter
        yield key


def _key(name: str) -> str:
    """What names of one model have in common."""
    # The repositories have it at the end, the tables in the middle.
    return re.sub(r"^mobilellm-(\d+m)-layer-share", r"mobilellm-ls-\1", _KIND.sub("", _full(name)))


def _full(name: str) -> str:
    """A name without its owner, and with its family."""
    title = name.strip().lower().rpartition("/")[2].replace("_", "-")
    return f"mobilellm-{title}" if re.match(r"(?:r1|pro|paretoq|ls)-", title) else title


def _read(path: Path) -> PublishedTable:
    values: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    columns = tuple(values.pop("columns"))
    rows = {model: _figures(row, columns) for model, row in values.pop("rows").items()}
    return PublishedTable(
        name=path.stem,
        shots=values.pop("shots", None),
        unknown=tuple(values.pop("unknown", ())),
        is_released=values.pop("is_released", True),
        columns=columns,
        rows=rows,
        **values,
    )


def _figures(row: list[Any] | dict[str, Any], columns: tuple[str, ...]) -> dict[str, float]:
    """The figures of a row that are there."""
    named = row if isinstance(row, dict) else dict(zip(columns, row, strict=True))
    if unknown := set(named) - set(columns):
        raise ValueError(f"a row has the columns {sorted(unknown)}, which its table has not")
    return {name: float(value) for name, value in named.items() if value != NOT_FOUND}
