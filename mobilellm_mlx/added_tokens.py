"""Tokens that a fine-tune put on top of a vocabulary, and the roles that tokens are given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilellm_mlx.errors import TokenizerError

_MAX_TABLE_BYTES = 8_000_000


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that a fine-tune put on top of a vocabulary."""

    text: str
    special: bool
    """Whether it is a sign, such as ``[PAD]``, and not text."""


def added_tokens(directory: Path, config: Mapping[str, Any]) -> dict[int, AddedToken]:
    """What ``tokenizer_config.json`` and ``added_tokens.json`` put on top of a vocabulary, by id.

    Args:
        directory: may hold ``added_tokens.json``, the older way to say it.
        config: its ``tokenizer_config.json``.

    Raises:
        TokenizerError: when one of them is not what such files are.
    """
    tokens: dict[int, AddedToken] = {}
    path = directory / "added_tokens.json"
    if path.is_file():
        special = special_names(config)
        for name, token in read_table(path).items():
            _add_token(tokens, token, name, name in special, path.name)
    table = config.get("added_tokens_decoder") or {}
    if not isinstance(table, dict):
        raise TokenizerError(f"`added_tokens_decoder` is {type(table).__name__}, expected a table")
    for key, entry in table.items():
        number = int(key) if key.isdecimal() and len(key) < 10 else key
        flag = isinstance(entry, dict) and entry.get("special") is True
        _add_token(tokens, number, token_name(entry), flag, "tokenizer_config.json")
    return dict(sorted(tokens.items()))


def token_name(entry: object) -> str | None:
    """A token in ``tokenizer_config.json``, which is a string or a table with its ``content``."""
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else None


def special_names(config: Mapping[str, Any]) -> set[str]:
    """The tokens that ``tokenizer_config.json`` gives a role, whatever it is."""
    entries = [value for key, value in config.items() if key.endswith("_token")]
    for key in ("additional_special_tokens", "extra_special_tokens"):
        more = config.get(key)
        if isinstance(more, (dict, list)):
            entries += more.values() if isinstance(more, dict) else more
    return {name for entry in entries if (name := token_name(entry))}


def _add_token(
    tokens: dict[int, AddedToken], token: object, name: str | None, special: bool, file: str
) -> None:
    if type(token) is not int or not 0 <= token < 2**31 or not name:
        raise TokenizerError(
            f"`{file}` has an impossible added token: {name!r:.60} with id {token!r:.60}"
        )
    tokens[token] = AddedToken(name, special)


def read_table(path: Path) -> dict[str, Any]:
    """The JSON object in a small file.

    Raises:
        TokenizerError: when it is not one, is not Unicode, or is not small.
    """
    try:
        if path.stat().st_size > _MAX_TABLE_BYTES:
            raise TokenizerError(f"`{path}` is larger than {_MAX_TABLE_BYTES:,} bytes")
        table = json.loads(path.read_bytes())
        json.dumps(table, ensure_ascii=False).encode()  # escapes can hide half a character
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(f"`{path}` cannot be read: {error}") from error
    if not isinstance(table, dict):
        raise TokenizerError(f"`{path}` holds {type(table).__name__}, expected a JSON object")
    return table
