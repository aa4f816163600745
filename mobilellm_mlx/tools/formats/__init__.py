"""How calls are written: one parser, one renderer and one grammar for each manner of writing them.

Parser, renderer and grammar of a format agree: what is rendered is in the grammar's language, and
what the grammar allows is parsed into calls whose arguments fit the tools.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Protocol

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.grammar import Grammar
from mobilellm_mlx.tools.asking import Offered, Used
from mobilellm_mlx.tools.tool import Call

FORMATS = ("hermes", "smollm2", "llama3", "paper")
"""Names of all formats."""


class Format(Protocol):
    """A manner of writing calls.

    Attributes:
        name: one of ``FORMATS``.
        opening: what a call begins with, where it may stand behind speech; None where it begins
            with its own name.
        declines: whether "no call" is written too; otherwise a model without a call just speaks.
    """

    name: str
    opening: str | None
    declines: bool

    def render_tools(self, offered: Sequence[Offered]) -> str:
        """What the system prompt says about the tools."""

    def render_calls(self, calls: Sequence[Call]) -> str:
        """The calls as the model writes them. No calls are "no call" where the format has that."""

    def parse(self, text: str) -> tuple[str, list[Call]]:
        """The speech before the first call, and the calls; what comes behind them is dropped.

        Raises:
            ToolError: when a call is malformed, in one sentence.
        """

    def render_result(self, used: Used) -> str:
        """A result as data in a marked block, which nothing in it can end."""

    def grammar(self, offered: Sequence[Offered], *, free_text: bool) -> Grammar:
        """What an answer is bound to.

        Args:
            offered: at least one tool; its schema binds the arguments.
            free_text: whether the model may speak instead, and before the first call. Otherwise
                calls are all that it can write, or "no call" where the format has that.

        Raises:
            InvalidGrammar: when the schemas are too large.
        """


def find_format(name: str) -> Format:
    """A format by its name.

    Raises:
        ToolError: when there is none of that name.
    """
    from mobilellm_mlx.tools.formats.hermes import Hermes
    from mobilellm_mlx.tools.formats.llama3 import Llama3
    from mobilellm_mlx.tools.formats.paper import Paper
    from mobilellm_mlx.tools.formats.smollm2 import SmolLM2

    found: dict[str, type[Format]] = {
        "hermes": Hermes,
        "smollm2": SmolLM2,
        "llama3": Llama3,
        "paper": Paper,
    }
    if name not in found:
        close = get_close_matches(name, FORMATS, 1)
        raise ToolError(
            f"there is no format of calls named `{name[:80]}`",
            f"did you mean `{close[0]}`?" if close else f"there are {', '.join(FORMATS)}",
        )
    return found[name]()
