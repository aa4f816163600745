"""``mobilellm generate``: one prompt, one answer."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import click

from mobilellm_mlx.cli import console
from mobilellm_mlx.cli.shared import (
    debug_option,
    load_options,
    loading_options,
    require_text,
    resolve_model,
    sampling_options,
    sampling_overrides,
    show_reasoning_option,
)
from mobilellm_mlx.engine import Engine
from mobilellm_mlx.errors import InvalidInput, InvalidOption
from mobilellm_mlx.events import Event
from mobilellm_mlx.messages import Message
from mobilellm_mlx.options import GenerationOptions


@click.command()
@click.option("-m", "--model", metavar="MODEL", help="Name or directory; default smollm2-135m.")
@click.option(
    "-p",
    "--prompt",
    callback=require_text,
    required=True,
    metavar="TEXT",
    help="The prompt; `-` reads stdin.",
)
@click.option("--system", callback=require_text, metavar="TEXT", help="Instructions for the model.")
@click.option("--raw", is_flag=True, help="Continue the text as it is, without chat template.")
@sampling_options
@loading_options
@show_reasoning_option
@click.option("--json", "as_json", is_flag=True, help="Print events as JSON lines.")
@click.option("-v", "--verbose", is_flag=True, help="Say on stderr what it cost.")
@debug_option
def generate(
    model: str | None,
    prompt: str,
    system: str | None,
    raw: bool,
    show_reasoning: bool,
    as_json: bool,
    verbose: bool,
    context: int | None,
    compute: str,
    **sampling: Any,
) -> int:
    """Answer one prompt and exit.

    The answer goes to stdout as it is made, everything else to stderr. A model with a chat template
    is asked through it; --raw, or a model without one, continues the text.
    """
    if raw and system:
        raise click.UsageError("--system needs the chat template, which --raw leaves out.")
    overrides = sampling_overrides(sampling)

    def events() -> Iterator[Event]:
        GenerationOptions().merged(overrides)  # an impossible value is said before loading
        loading = load_options(context, compute)
        text = read_prompt(prompt)
        with Engine(resolve_model(model), loading) as engine:
            yield from answer_events(engine, text, system, raw, overrides)

    if as_json:
        return console.print_json(events(), "generate")
    summary = console.print_answer(events(), show_reasoning)
    if verbose and summary:
        click.echo(console.describe(summary), err=True)
    return console.EXIT_CODES[summary.status] if summary else 0


def answer_events(
    engine: Engine, text: str, system: str | None, raw: bool, overrides: dict[str, Any]
) -> Iterator[Event]:
    """Load, then answer or continue."""
    yield from engine.load()
    assert engine.info is not None
    options = engine.defaults.merged(overrides)
    cancel = threading.Event()
    if raw or not engine.info.chat:
        if system:
            raise InvalidOption(
                f"`{engine.info.model}` has no chat template, so it cannot take instructions",
                "leave out `--system`",
            )
        answer = engine.complete(text, options, cancel)
    else:
        instructions = [Message("system", system)] if system else []
        answer = engine.chat([*instructions, Message("user", text)], options, cancel)
    with console.interrupts(cancel):
        yield from answer


def read_prompt(prompt: str) -> str:
    """The prompt's text; ``-`` stands for stdin.

    Raises:
        InvalidInput: when it is empty or not text.
    """
    if prompt != "-":
        if not prompt:
            raise InvalidInput("the prompt is empty", "say something with `-p TEXT`")
        return prompt
    try:
        text = (sys.stdin.buffer.read() if sys.stdin else b"").decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"stdin is not UTF-8 text: {error.reason} at byte {error.start}"
        ) from None
    if not text:
        raise InvalidInput("stdin is empty", "pipe the prompt in, or give it with `-p TEXT`")
    return text
