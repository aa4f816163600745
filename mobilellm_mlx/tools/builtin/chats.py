"""Search in what was said before."""

from __future__ import annotations

from typing import Annotated

from mobilellm_mlx.tools.builtin import Surroundings
from mobilellm_mlx.tools.builtin.hearing import topics
from mobilellm_mlx.tools.schema import Limits, tool_from
from mobilellm_mlx.tools.tool import Example, Tool

MAX_LINES = 20
Words = Annotated[str, Limits(min_length=1, max_length=100)]


def tools(around: Surroundings) -> list[Tool]:
    """``search_chats``."""

    def search_chats(words: Words) -> str:
        """Search earlier chats for words.

        Args:
            words: what to look for
        """
        lines = around.search_chats(words.strip()) if around.search_chats is not None else []
        if not lines:
            return f"No chat mentions {words!r}."
        more = len(lines) - MAX_LINES
        return "\n".join(lines[:MAX_LINES] + ([f"and {more} more"] if more > 0 else []))

    return [
        tool_from(
            search_chats,
            reads_only=True,
            spoken={"words"},
            heard={"words": topics},
            examples=(
                Example("What did we say about the garden fence?", {"words": "garden fence"}),
                Example("Find the chat where I asked about sourdough", {"words": "sourdough"}),
                Example("Search my chats for Lisbon", {"words": "Lisbon"}),
            ),
            keywords=(
                *("chat", "conversation", "history", "earlier"),
                *("did we say", "we said", "we talked", "we discussed", "did i ask", "did i tell"),
            ),
            describe=lambda arguments: f"Search earlier chats for {arguments['words']!r}",
            missing="" if around.search_chats is not None else "there are no chats to search here",
        )
    ]
