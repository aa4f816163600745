"""From a tool's schema to rules that bind its arguments, in Lark's notation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mobilellm_mlx.grammar import literal as literal
from mobilellm_mlx.tools.asking import Offered
from mobilellm_mlx.tools.bounds import bounded

LONGEST_TEXT = 160
"""Characters of a text that a model writes itself. A person may write more, and so may a model that
repeats what was said."""
COMPACT = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
"""White space that may be there or not is a choice, and every choice costs a forward pass."""


def _short(schema: Any) -> Any:
    """The same, its texts short enough for a call to end: small models seldom find the end."""
    if isinstance(schema, list):
        return [_short(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _short(value) for key, value in schema.items()}
    longest, least = made.get("maxLength"), made.get("minLength")
    if isinstance(longest, int) and longest > LONGEST_TEXT:
        made["maxLength"] = max(LONGEST_TEXT, least if isinstance(least, int) else 0)
    return made


def json_rule(schema: Mapping[str, Any], options: Mapping[str, Any] = COMPACT) -> str:
    """The right side of a rule for JSON values that a schema allows."""
    return "%json " + json.dumps({**schema, "x-guidance": dict(options)}, ensure_ascii=False)


def argument_schema(offered: Offered) -> dict[str, Any]:
    """The schema that a tool's arguments are bound to: an object, and one that ends.

    Tools of other programs often do not say so. What such a schema does not name is left out of a
    call; it may always be.

    Raises:
        ToolError: when the schema is nested too deep.
    """
    schema: dict[str, Any] = _short(bounded(offered.schema))
    schema["type"] = "object"
    if not {"$ref", "patternProperties", "anyOf", "oneOf", "allOf"} & set(schema):
        schema["additionalProperties"] = False
    return schema
