"""What a server answered, as text."""

from __future__ import annotations

import json
from typing import Any

import mcp_types as types

from mobilellm_mlx.errors import ToolError, format_bytes
from mobilellm_mlx.plain import printable
from mobilellm_mlx.tools.mcp.wording import one_line, sentence

MAX_TEXT = 20_000
"""Characters; what a model is shown is far less, but a tool's end may say that it was more."""


def text_of(server: str, result: types.CallToolResult) -> str:
    """The result in words. Pictures and the like are named: the models here cannot see them.

    Raises:
        ToolError: when the server says that the call failed.
    """
    parts = [_part(content) for content in result.content[:100]]
    text = printable("\n".join(part[:MAX_TEXT] for part in parts if part))[:MAX_TEXT].strip()
    if result.is_error:
        raise ToolError(f"the server `{server}` says: {sentence(text, 500) or 'it failed'}")
    if result.structured_content is not None and (not text or _is_same(text, result)):
        # The text is mostly the same with white space in it, of which small models have none left.
        compact = json.dumps(
            result.structured_content, ensure_ascii=False, separators=(",", ":"), default=str
        )
        text = printable(compact)[:MAX_TEXT]
    return text or "(nothing)"


def _is_same(text: str, result: types.CallToolResult) -> bool:
    try:
        said: Any = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return bool(said == result.structured_content)


def _part(content: types.ContentBlock) -> str:
    match content:
        case types.TextContent():
            return content.text
        case types.ImageContent():
            return _thing("an image", content.mime_type, content.data)
        case types.AudioContent():
            return _thing("a sound", content.mime_type, content.data)
        case types.ResourceLink():
            return f"(a link: {one_line(content.name, 80)}, {one_line(str(content.uri), 200)})"
        case types.EmbeddedResource(resource=types.TextResourceContents() as held):
            return f"({one_line(str(held.uri), 200)})\n{held.text}"
        case types.EmbeddedResource(resource=types.BlobResourceContents() as held):
            return _thing("a file", held.mime_type or "of no kind", held.blob)
    return "(something that cannot be shown)"


def _thing(what: str, kind: str, data: str) -> str:
    return f"({what}: {one_line(kind, 60)}, {format_bytes(len(data) * 3 // 4)})"
