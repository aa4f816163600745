"""Text that can go into any file and onto any terminal."""

from __future__ import annotations

import json
import re
from typing import Any

_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_TO_ESCAPE = re.compile(r"[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]")


def printable(text: str) -> str:
    """``text`` without what could steer a terminal; line breaks become ``\\n``, tabs stay."""
    text = _STEERING.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return text.encode("utf-8", "replace").decode()


def to_compact_json(value: Any) -> str:
    """JSON on one line that every reader takes for one line, letters of all scripts as they are."""
    text = json.dumps(value, ensure_ascii=False, separators=(", ", ": "))
    return _TO_ESCAPE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
