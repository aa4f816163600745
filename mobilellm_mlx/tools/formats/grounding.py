"""Arguments that are bound to what the person said: a model that can only copy cannot invent."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from itertools import accumulate
from typing import Any

MAX_WORDS = 120
"""Words that can be copied from; of a longer text some of its beginning and more of its end."""
MAX_CHARACTERS = 60_000
"""Of all pieces together."""
_LONGEST = 24
"""Words of a piece that ends in the middle of a sentence; one may always go on to its end."""

_LONGEST_WORD = 200

_WORD = re.compile(r"\S+")
_EDGE = " \t\n,.;:!?…\"'“”‘’«»"
_SENTENCE_END = re.compile(r"[.!?…。！？]['\"”’)\]]*$")


def ground(schema: Mapping[str, Any], spoken: Collection[str], said: str) -> dict[str, Any]:
    """A schema whose spoken arguments are enums of the pieces of what was said.

    A piece is a run of whole words without the punctuation around it. An enum and no rule of its
    own, because it then holds in any schema, and where the arguments are checked too. Arguments
    for which nothing that was said would do stay as they are.

    Args:
        schema: of a tool's parameters.
        spoken: names of the arguments that can only be said.
        said: by the person.
    """
    properties = schema.get("properties")
    if not isinstance(properties, dict) or not spoken:
        return dict(schema)
    all_pieces = pieces(said)
    bound = {
        name: _ground(part, all_pieces) if name in spoken else part
        for name, part in properties.items()
    }
    return {**schema, "properties": bound}


def pieces(said: str) -> list[str]:
    """Runs of whole words of a text, each once, in the order in which they begin.

    Never more than ``MAX_CHARACTERS`` of them altogether: in long texts runs are shorter, unless
    they go on to the end of their sentence.
    """
    words = [word for word in _WORD.findall(said) if len(word) <= _LONGEST_WORD]
    parts = [words]
    if len(words) > MAX_WORDS:
        parts = [words[: MAX_WORDS // 4], words[MAX_WORDS // 4 - MAX_WORDS :]]
    longest = _LONGEST
    while True:
        found = [piece for part in parts for piece in _runs(part, longest)]
        if longest <= 1 or sum(map(len, found)) <= MAX_CHARACTERS:
            break
        longest //= 2
    sizes = accumulate(map(len, found))
    return [piece for piece, size in zip(found, sizes, strict=True) if size <= MAX_CHARACTERS]


def _runs(words: list[str], longest: int) -> list[str]:
    ends = [at + 1 for at, word in enumerate(words) if _SENTENCE_END.search(word)]
    ends.append(len(words))
    found: dict[str, None] = {}
    for start in range(len(words)):
        whole = next(end for end in ends if end > start)
        for end in (*range(start + 1, min(start + longest, len(words)) + 1), whole):
            if piece := _trimmed(" ".join(words[start:end])):
                found[piece] = None
    return list(found)


def _trimmed(text: str) -> str:
    """A text without the punctuation around it; ``.5``, ``5!`` and brackets in pairs stay whole."""
    kept = text.lstrip(_EDGE)
    if kept[:1].isdigit() and text.removesuffix(kept).endswith("."):
        kept = f".{kept}"
    text, kept = kept, kept.rstrip(_EDGE)
    if kept[-1:].isdigit() and text.removeprefix(kept).startswith("!"):
        kept += "!"
    opened, closed = (sum(map(kept.count, brackets)) for brackets in ("([{", ")]}"))
    return kept if opened == closed else kept.strip("()[]{}").strip()


def _ground(schema: Any, found: list[str]) -> Any:
    """A text's schema, or that of a list or choice with texts in it, bound to the pieces."""
    if not isinstance(schema, dict) or "enum" in schema or "const" in schema:
        return schema
    for key in ("anyOf", "oneOf"):
        if isinstance(branches := schema.get(key), list):
            return {**schema, key: [_ground(branch, found) for branch in branches]}
    if schema.get("type") == "array" and "items" in schema:
        return {**schema, "items": _ground(schema["items"], found)}
    if schema.get("type") != "string":
        return schema
    fitting = [piece for piece in found if _fits(piece, schema)]
    if not fitting:
        return schema
    kept = {key: value for key, value in schema.items() if key in ("title", "description")}
    return {**kept, "type": "string", "enum": fitting}


def _fits(piece: str, schema: Mapping[str, Any]) -> bool:
    if not schema.get("minLength", 0) <= len(piece) <= schema.get("maxLength", MAX_CHARACTERS):
        return False
    pattern = schema.get("pattern")
    try:
        return not isinstance(pattern, str) or re.search(pattern, piece) is not None
    except re.error:
        return False
