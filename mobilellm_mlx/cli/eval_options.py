"""Options that several verbs of ``mobilellm eval`` have."""

from __future__ import annotations

import click

from mobilellm_mlx.cli.shared import require_text


def _parse(context: click.Context, option: click.Parameter, text: str | None) -> int | None:
    from mobilellm_mlx.evals.budget import parse_memory

    require_text(context, option, text)
    return None if text is None else parse_memory(text)


max_memory_option = click.option(
    "--max-memory",
    callback=_parse,
    metavar="SIZE",
    help="What MLX may hold, weights included, as `2GB`; batches are made to fit.",
)
"""``--max-memory`` in bytes; None when it was not given."""
