"""Tools: what a model may ask to be done, how it asks, and how it is kept within bounds.

Somebody who writes tools of their own needs only what is exported here::

    from mobilellm_mlx.tools import Limits, ToolError, tool
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mobilellm_mlx.errors import ToolError

# The module ``tool`` is imported by ``schema``, before its name here becomes the decorator's.
from mobilellm_mlx.tools.schema import tool
from mobilellm_mlx.tools.tool import Example

if TYPE_CHECKING:
    from mobilellm_mlx.tools.schema import Limits

__all__ = ["Example", "Limits", "ToolError", "tool"]


def __getattr__(name: str) -> Any:
    """``Limits``, when it is asked for: msgspec takes a while to import."""
    if name == "Limits":
        from mobilellm_mlx.tools import schema

        return schema.Limits
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
