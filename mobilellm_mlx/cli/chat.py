"""``mobilellm chat``: the interface on a terminal, line by line without one."""

from __future__ import annotations

import sys
from typing import Any

import click

from mobilellm_mlx.chat import Session
from mobilellm_mlx.cli import console, faces
from mobilellm_mlx.cli.shared import (
    debug_option,
    is_interactive,
    load_options,
    loading_options,
    require_text,
    resolve_model,
    sampling_options,
    sampling_overrides,
    show_reasoning_option,
)
from mobilellm_mlx.engine import Engine
from mobilellm_mlx.errors import InvalidInput
from mobilellm_mlx.options import GenerationOptions


@click.command()
@click.argument("model", required=False)
@click.option("--system", callback=require_text, metavar="TEXT", help="Instructions for the model.")
@sampling_options
@loading_options
@show_reasoning_option
@debug_option
def chat(
    model: str | None,
    system: str | None,
    context: int | None,
    compute: str,
    show_reasoning: bool,
    **sampling: Any,
) -> int:
    """Chat with MODEL, a name or a directory; the default is smollm2-135m.

    On a terminal this opens the interface. Without one, each line of stdin is a turn and the
    answers go to stdout. The interface folds reasoning and needs no --show-reasoning.
    """
    overrides = sampling_overrides(sampling)
    GenerationOptions().merged(overrides)
    loading = load_options(context, compute)
    directory = resolve_model(model)
    with Engine(directory, loading) as engine:
        if is_interactive():
            faces.tui().run_chat(
                engine, instructions=system, overrides=overrides, title=directory.name
            )
            return 0
        session = Session(engine, instructions=system, overrides=overrides)
        return chat_in_lines(session, show_reasoning)


def chat_in_lines(session: Session, show_reasoning: bool = False) -> int:
    """Each line of stdin is a turn; empty lines are not.

    Args:
        session: takes the turns.
        show_reasoning: print on stderr what the model thinks before it answers.

    Raises:
        InvalidInput: when a line is not text.
    """
    for number, line in enumerate(sys.stdin.buffer if sys.stdin else (), 1):
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise InvalidInput(
                f"line {number} of stdin is not UTF-8 text: {error.reason} at byte {error.start}",
                "convert it first, for example with `iconv -t UTF-8`",
            ) from None
        if text:
            console.print_answer(session.send(text), show_reasoning)
    return 0
