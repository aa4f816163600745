"""Manners of asking a model for calls, from one that knows nothing of tools to those trained on it.

A style turns a conversation and the tools on offer into questions with grammars.
"""

from __future__ import annotations

from difflib import get_close_matches

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.tools.asking import Style
from mobilellm_mlx.tools.formats import FORMATS, find_format
from mobilellm_mlx.tools.styles.one_step import OneStep
from mobilellm_mlx.tools.styles.two_step import TwoStep

STYLES = ("two-step", *FORMATS)
"""Names of all styles: the manner that suits any model, and one for each format of calls."""


def find_style(name: str, *, bound: bool = True) -> Style:
    """A style by its name.

    Args:
        name: one of ``STYLES``.
        bound: whether grammars bind the calls; a style without them shows what a model would write
            by itself. Two steps are always bound.

    Raises:
        ToolError: when there is none of that name.
    """
    if name == "two-step":
        return TwoStep()
    if name not in FORMATS:
        close = get_close_matches(name, STYLES, 1)
        raise ToolError(
            f"there is no style of calls named `{name[:80]}`",
            f"did you mean `{close[0]}`?" if close else f"there are {', '.join(STYLES)}",
        )
    return OneStep(find_format(name), bound=bound)


def style_for(template: str | None) -> Style:
    """The manner that a chat template shows its model to be trained on; two steps if none.

    SmolLM2's own format is not told from its template, which the untrained small sizes share.

    Args:
        template: Jinja source of the model's chat template.
    """
    if not template:
        return find_style("two-step")
    # Qwen 3.5 puts another language between the same tags.
    if "<tool_call>" in template and "<function=" not in template:
        return find_style("hermes")
    if "<|eot_id|>" in template and '"parameters"' in template:
        return find_style("llama3")
    return find_style("two-step")
