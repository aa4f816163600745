"""Text that can go into any file and onto any terminal."""

from __future__ import annotations

import json
import re
from typing import Any

from mobilellm_mlx import plain

_TO_ESCAPE = re.compile(r"[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]")


def printable(text: str) -> str:
    """``text`` without what could steer a terminal; line breaks become ``\\n``, tabs stay."""
    return plain.printable(text).encode("utf-8", "replace").decode()


def to_compact_json(value: Any) -> str:
    """JSON on one line that every reader takes for one line, letters of all scripts as they are."""
    text = json.dumps(value, ensure_ascii=False, separators=(", ", ": "))
    return _TO_ESCAPE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
