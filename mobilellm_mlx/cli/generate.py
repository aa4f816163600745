"""``mobilellm generate``: one prompt, one answer."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from mobilellm_mlx.cli import console
from mobilellm_mlx.cli.shared import (
    adapter_options,
    debug_option,
    find_adapter,
    load_options,
    loading_options,
    require_text,
    resolve_model,
    sampling_options,
    sampling_overrides,
    show_reasoning_option,
)
from mobilellm_mlx.engine import Engine
from mobilellm_mlx.errors import InvalidGrammar, InvalidInput, InvalidOption
from mobilellm_mlx.events import Event, GenerationSummary, TextDelta
from mobilellm_mlx.grammar import (
    MAX_SOURCE,
    Grammar,
    choice_grammar,
    json_grammar,
    lark_grammar,
    regex_grammar,
)
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
@click.option(
    "--schema", callback=require_text, metavar="FILE", help="Answer with JSON of this JSON Schema."
)
@click.option(
    "--regex", callback=require_text, metavar="R", help="Answer with a text that matches R."
)
@click.option(
    "--choice",
    "choices",
    callback=require_text,
    multiple=True,
    metavar="A,B,C",
    help="Answer with one of these; for texts with commas, give it once for each.",
)
@click.option(
    "--grammar",
    "lark",
    callback=require_text,
    metavar="FILE",
    help="Answer by a grammar in Lark's notation.",
)
@sampling_options
@click.option(
    "--speculate/--no-speculate",
    "speculation",
    default=None,
    help="Guess tokens from the prompt and the answer and check several at once (on a CPU): the "
    "same answer, sooner when it quotes or rewrites.",
)
@loading_options
@adapter_options
@show_reasoning_option
@click.option("--json", "as_json", is_flag=True, help="Print events as JSON lines.")
@click.option("-v", "--verbose", is_flag=True, help="Say on stderr what it cost.")
@debug_option
def generate(
    model: str | None,
    prompt: str,
    system: str | None,
    raw: bool,
    schema: str | None,
    regex: str | None,
    choices: tuple[str, ...],
    lark: str | None,
    show_reasoning: bool,
    as_json: bool,
    verbose: bool,
    context: int | None,
    compute: str,
    adapter: str | None,
    force_adapter: bool,
    **sampling: Any,
) -> int:
    """Answer one prompt and exit.

    The answer goes to stdout as it is made, everything else to stderr. A model with a chat template
    is asked through it; --raw, or a model without one, continues the text.

    --schema, --regex, --choice and --grammar bind the answer: it cannot be anything else, and is
    printed when it is whole. Without --temp it is then the likeliest one.
    """
    if raw and system:
        raise click.UsageError("--system needs the chat template, which --raw leaves out.")
    if sum(map(bool, (schema, regex is not None, choices, lark))) > 1:
        raise click.UsageError("Give one of --schema, --regex, --choice and --grammar.")
    overrides = sampling_overrides(sampling)

    def events() -> Iterator[Event]:
        GenerationOptions().merged(overrides)  # an impossible value is said before loading
        grammar = read_grammar(schema, regex, choices, lark)
        if grammar is not None:
            overrides.update({"temperature": 0.0, "repetition_penalty": 1.0} | overrides)
        loading = load_options(context, compute)
        text = read_prompt(prompt)
        directory = resolve_model(model)
        worn = find_adapter(adapter, directory, force=force_adapter)
        with Engine(directory, loading, adapter=worn, force_adapter=force_adapter) as engine:
            answer = answer_events(engine, text, system, raw, overrides, grammar)
            yield from answer if grammar is None else whole_or_nothing(answer)

    if as_json:
        return console.print_json(events(), "generate")
    summary = console.print_answer(events(), show_reasoning)
    if verbose and summary:
        click.echo(console.describe(summary), err=True)
    return console.EXIT_CODES[summary.status] if summary else 0


def answer_events(
    engine: Engine,
    text: str,
    system: str | None,
    raw: bool,
    overrides: dict[str, Any],
    grammar: Grammar | None = None,
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
        answer = engine.complete(text, options, cancel, grammar)
    else:
        instructions = [Message("system", system)] if system else []
        asked = [*instructions, Message("user", text)]
        answer = engine.chat(asked, options, cancel, grammar=grammar)
    with console.interrupts(cancel):
        yield from answer


def whole_or_nothing(answer: Iterator[Event]) -> Iterator[Event]:
    """The events of a bound answer, its text in one piece: half of it is of no use to a script.

    Raises:
        InvalidGrammar: when the answer was cut before it was whole.
    """
    for event in answer:
        if isinstance(event, TextDelta):
            continue
        if isinstance(event, GenerationSummary):
            if event.status == "ok" and not event.is_whole:
                raise InvalidGrammar(
                    f"the answer was cut at {event.generated_tokens:,} tokens, before it was whole",
                    "allow more with `--max-tokens`, or give texts and lists in the schema a "
                    "largest length",
                )
            if event.is_whole:
                yield TextDelta(event.text)
        yield event


def read_grammar(
    schema: str | None, regex: str | None, choices: tuple[str, ...], lark: str | None
) -> Grammar | None:
    """The grammar that the options name; None for none.

    Raises:
        InvalidInput: when a file cannot be read.
        InvalidGrammar: when it holds no schema, or there is nothing to choose from.
    """
    if schema is not None:
        text = _read_file(schema)
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidGrammar(f"`{schema}` is not JSON: {error}") from None
        if not isinstance(value, dict | bool):
            raise InvalidGrammar(f"`{schema}` holds no JSON Schema, which is an object")
        return json_grammar(value)
    if regex is not None:
        return regex_grammar(regex)
    if choices:
        return choice_grammar(_split(choices[0]) if len(choices) == 1 else choices)
    return None if lark is None else lark_grammar(_read_file(lark))


def _split(choices: str) -> list[str]:
    return [choice.strip() for choice in choices.split(",")]


def _read_file(name: str) -> str:
    try:
        if Path(name).stat().st_size > 4 * MAX_SOURCE:
            raise InvalidGrammar(f"`{name}` is too large for a grammar")
        return Path(name).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidInput(f"`{name}` cannot be read: {error.strerror}") from None
    except ValueError:
        raise InvalidInput(f"`{name}` is not UTF-8 text") from None


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
