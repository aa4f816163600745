"""Which tokenizer files a converted model gets, and what they say.

The files of a checkpoint are data, nothing in them is executed, and only what we understand is
carried over: MobileLLM v1, for one, names its special tokens with empty strings and a tokenizer
class that other programs can no longer load.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mobilellm_mlx.added_tokens import (
    AddedToken,
    added_tokens,
    read_table,
    special_names,
    token_name,
)
from mobilellm_mlx.errors import ConvertError, TokenizerError
from mobilellm_mlx.tokenizer import ByteLevelTokenizer, JsonTokenizer, read_tokenizer_json

from ..files import is_own
from .sentencepiece_json import battery, compare, obstacle, tokenizer_json
from .sentencepiece_model import Kind, Piece, read_pieces

_MAX_BYTES = {"tokenizer.json": 64_000_000, "tokenizer.model": 32_000_000}
_MAX_SMALL_BYTES = 8_000_000
_ROLES = ("bos", "eos", "unk", "pad", "sep", "cls", "mask")
_MIXED_UP = "the directory mixes files of different models"


@dataclass(slots=True)
class TokenizerFiles:
    """What goes into the converted directory."""

    contents: dict[str, bytes] = field(default_factory=dict)
    """By file name."""
    notices: list[str] = field(default_factory=list)


def write_tokenizer(source: Path, target: Path, config: Mapping[str, Any]) -> list[str]:
    """Put a checkpoint's tokenizer into a model directory.

    Args:
        source: Hugging Face style directory.
        target: the model directory being made.
        config: the checkpoint's ``config.json``.

    Returns:
        What the person should know.

    Raises:
        TokenizerError, ConvertError: see ``plan_tokenizer``.
    """
    files = plan_tokenizer(source, config)
    for name, content in files.contents.items():
        (target / name).write_bytes(content)
    return files.notices


def plan_tokenizer(source: Path, config: Mapping[str, Any]) -> TokenizerFiles:
    """Decide which files the converted model gets.

    A byte-level ``tokenizer.json`` stays as it is. Sentencepiece's ``tokenizer.model`` stays too,
    with a ``tokenizer.json`` of ours beside it that gives the same ids. ``tokenizer_config.json``
    is written anew from the parts that describe the vocabulary.

    Args:
        source: Hugging Face style directory.
        config: the checkpoint's ``config.json``.

    Raises:
        TokenizerError: when the directory has no tokenizer that we can read.
        ConvertError: when ``tokenizer.model`` is damaged, or a file lies outside the directory.
    """
    files = TokenizerFiles()
    table = _read_config(source)
    path, model = _find(source, "tokenizer.json"), _find(source, "tokenizer.model")
    described: JsonTokenizer | None = None
    if path is not None:
        try:
            described = read_tokenizer_json(path)
        except TokenizerError as error:
            if model is None:
                raise
            files.notices.append(f"{error.message}; `tokenizer.model` is used instead")
    if model is not None and not isinstance(described, ByteLevelTokenizer):
        words = _from_pieces(source, model, described, table, config, files)
        if "tokenizer.json" not in files.contents and path is not None and described is not None:
            files.contents["tokenizer.json"] = path.read_bytes()
    elif path is not None and described is not None:
        files.contents["tokenizer.json"] = path.read_bytes()
        words = _from_json(described, table, config)
    else:
        raise TokenizerError(
            f"no tokenizer in `{source}`: expected `tokenizer.json` or `tokenizer.model`",
            "copy the tokenizer of the original checkpoint into the directory",
        )
    _check_size(words, config)
    written = _sane_config(words, table, config, files)
    files.contents["tokenizer_config.json"] = _dump(written)
    if (template := _find(source, "chat_template.jinja")) is not None:
        files.contents[template.name] = _template(template)
    return files


@dataclass(frozen=True, slots=True)
class _Words:
    """What has to be known of a vocabulary to describe it."""

    ids: Mapping[str, int]
    roles: Mapping[str, str]
    """The vocabulary's own idea of ``bos`` and so on, where the checkpoint names none."""
    add_bos: bool
    added: Mapping[int, AddedToken]
    """To be named in the configuration."""


def _from_pieces(
    source: Path,
    model: Path,
    described: JsonTokenizer | None,
    table: Mapping[str, Any],
    config: Mapping[str, Any],
    files: TokenizerFiles,
) -> _Words:
    """``tokenizer.model`` as it is, and a ``tokenizer.json`` with the same ids if there can be."""
    pieces, settings = read_pieces(model)
    files.contents["tokenizer.model"] = model.read_bytes()
    add_bos = table.get("add_bos_token") is not False
    _find(source, "added_tokens.json")  # only to refuse what is no file of the checkpoint
    listed = {**(described.added if described else {}), **added_tokens(source, table)}
    added = _on_top(len(pieces), listed, config, files)
    reason = obstacle(pieces, settings) or _unlike_a_list(pieces, added)
    if reason is None:
        text = tokenizer_json(pieces, settings, added=list(added.values()), add_bos=add_bos)
        files.contents["tokenizer.json"] = text.encode()
        bare = tokenizer_json(pieces, settings) if added else text
        _report_differences(bare, model, battery(pieces), files)
    else:
        files.notices.append(
            f"`tokenizer.model` cannot be written as `tokenizer.json`: {reason}; "
            "mobilellm reads it as it is, mlx-lm may not"
        )
    signs = {
        i: AddedToken(piece.text, True)
        for i, piece in enumerate(pieces)
        if piece.kind in (Kind.CONTROL, Kind.UNKNOWN)
    }
    named = {token.text for token in signs.values()}
    return _Words(
        ids={piece.text: i for i, piece in enumerate(pieces)}
        | {token.text: i for i, token in added.items()},
        roles={role: name for role, name in settings.names.items() if name in named},
        add_bos=add_bos,
        added=signs | added,
    )


def _on_top(
    pieces: int,
    listed: Mapping[int, AddedToken],
    config: Mapping[str, Any],
    files: TokenizerFiles,
) -> dict[int, AddedToken]:
    """The tokens after the last piece, without those that the model has no row for."""
    rows = config.get("vocab_size")
    added = {i: token for i, token in sorted(listed.items()) if i >= pieces}
    for i, token in list(added.items()):
        if type(rows) is int and i >= rows >= pieces:
            del added[i]
            files.notices.append(
                f"the token {token.text!r} is left out: its id is {i:,}, "
                f"the model has {rows:,} tokens"
            )
    return added


def _unlike_a_list(pieces: Sequence[Piece], added: Mapping[int, AddedToken]) -> str | None:
    """Why tokens cannot simply follow the pieces, one after the other."""
    texts = [token.text for token in added.values()]
    if list(added) != list(range(len(pieces), len(pieces) + len(added))):
        return "the ids of its added tokens leave gaps"
    if len({*texts, *(piece.text for piece in pieces)}) != len(texts) + len(pieces):
        return "an added token is in the vocabulary already"
    return None


def _report_differences(
    text: str, model: Path, texts: Sequence[str], files: TokenizerFiles
) -> None:
    if different := compare(text, model, texts):
        files.notices.append(
            f"`tokenizer.json` gives other tokens than `tokenizer.model` for {len(different):,} of "
            f"{len(texts):,} test texts, such as {different[0].text[:40]!r}: mobilellm reads "
            "`tokenizer.model`, mlx-lm reads the other"
        )


def _from_json(
    described: JsonTokenizer, table: Mapping[str, Any], config: Mapping[str, Any]
) -> _Words:
    names = {i: token.text for i, token in described.added.items()}
    roles = {}
    for role in _ROLES:
        token = config.get(f"{role}_token_id")
        token = token[0] if isinstance(token, list) and token else token
        if type(token) is int and token in names:
            roles[role] = names[token]
    adds = table.get("add_bos_token")
    if type(adds) is not bool:  # then the file itself says whether it does
        bos = described.special.get(token_name(table.get("bos_token")) or roles.get("bos", ""))
        adds = bos is not None and described.begins_with(bos)
    return _Words(ids=described.vocabulary(), roles=roles, add_bos=adds, added={})


def _check_size(words: _Words, config: Mapping[str, Any]) -> None:
    rows, count = config.get("vocab_size"), max(words.ids.values(), default=-1) + 1
    if type(rows) is int and count > rows:
        raise TokenizerError(
            f"the tokenizer has {count:,} tokens, the model only {rows:,}", _MIXED_UP
        )


def _read_config(source: Path) -> dict[str, Any]:
    """``tokenizer_config.json``, with what only ``special_tokens_map.json`` says."""
    path, older = (
        _find(source, name) for name in ("tokenizer_config.json", "special_tokens_map.json")
    )
    table = read_table(path) if path else {}
    for name, entry in (read_table(older) if older else {}).items():
        if not table.get(name):
            table[name] = entry
    return table


def _sane_config(
    words: _Words,
    table: Mapping[str, Any],
    config: Mapping[str, Any],
    files: TokenizerFiles,
) -> dict[str, Any]:
    """The parts of ``tokenizer_config.json`` that are about the vocabulary, made consistent."""
    written: dict[str, Any] = {}
    if "tokenizer.json" in files.contents:
        written["tokenizer_class"] = "PreTrainedTokenizerFast"
    for role in _ROLES:
        name = token_name(table.get(f"{role}_token"))
        if name and name not in words.ids:
            files.notices.append(f"the {role} token {name!r} is not in the vocabulary: left out")
            name = None
        if name := name or words.roles.get(role):
            written[f"{role}_token"] = name
    taken = set(written.values())
    if more := sorted((special_names(table) & words.ids.keys()) - taken, key=words.ids.__getitem__):
        written["additional_special_tokens"] = more
    written |= {
        "add_bos_token": words.add_bos and "bos_token" in written,
        "clean_up_tokenization_spaces": False,
        "model_max_length": _max_length(table, config),
    }
    if table.get("padding_side") in ("left", "right"):
        written["padding_side"] = table["padding_side"]
    if _is_template(template := table.get("chat_template")):
        written["chat_template"] = template
    if words.added:
        written["added_tokens_decoder"] = {
            str(i): _entry(token) for i, token in sorted(words.added.items())
        }
    return written


def _is_template(value: object) -> bool:
    """Whether it is a chat template, or a list of several with names."""
    if isinstance(value, list):
        return all(
            isinstance(entry, dict)
            and entry.keys() == {"name", "template"}
            and all(isinstance(text, str) for text in entry.values())
            for entry in value
        )
    return isinstance(value, str) and bool(value.strip())


def _max_length(table: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """Hugging Face writes 10^30 where nobody said anything."""
    for value in (table.get("model_max_length"), config.get("max_position_embeddings")):
        if type(value) is int and 0 < value <= 10_000_000:
            return value
    return 2048


def _entry(token: AddedToken) -> dict[str, Any]:
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {"content": token.text, **flags, "special": token.special}


def _dump(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _find(source: Path, name: str) -> Path | None:
    """A file of the checkpoint, if it is there.

    Raises:
        ConvertError: when it is no regular file, too large, or such a link.
    """
    path = source / name
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConvertError(f"`{path}` cannot be read: {error}") from error
    limit = _MAX_BYTES.get(name, _MAX_SMALL_BYTES)
    if not path.is_file() or size > limit:
        what = f"has {size:,} bytes" if path.is_file() else "is not a regular file"
        raise ConvertError(f"`{path}` {what}, expected at most {limit:,} bytes of data")
    if not is_own(source, path):
        raise ConvertError(
            f"`{path}` is a link to a file outside of the checkpoint",
            f"put a copy of `{name}` there",
        )
    return path


def _template(path: Path) -> bytes:
    content = path.read_bytes()
    try:
        content.decode()
    except UnicodeDecodeError as error:
        raise ConvertError(f"`{path}` is not UTF-8 at byte {error.start:,}") from error
    return content
