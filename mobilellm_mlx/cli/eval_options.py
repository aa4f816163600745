"""What several verbs of ``mobilellm eval`` have in common: options, an engine, an end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from mobilellm_mlx.cli import console
from mobilellm_mlx.cli.eval_progress import show_progress
from mobilellm_mlx.cli.shared import (
    adapter_options,
    debug_option,
    events_option,
    find_adapter,
    load_options,
    loading_options,
    require_text,
    resolve_model,
)
from mobilellm_mlx.events import EvalSummary, Event

if TYPE_CHECKING:
    from mobilellm_mlx.engine import Engine


@dataclass(frozen=True, slots=True)
class Loading:
    """What the command line says of how a model is loaded."""

    context: int | None
    compute: str
    adapter: str | None
    force_adapter: bool

    def make_engine(self, model: str | None) -> Engine:
        """An engine for a model, which is fetched first when it is not there; not loaded yet.

        Raises:
            MobileLLMError: one of its kinds, when there is no such model or adapter.
        """
        from mobilellm_mlx.engine import Engine

        directory = resolve_model(model)
        worn = find_adapter(self.adapter, directory, force=self.force_adapter)
        options = load_options(self.context, self.compute)
        return Engine(directory, options, adapter=worn, force_adapter=self.force_adapter)


def measuring_options(verb: Callable[..., int]) -> Callable[..., int]:
    """``--json``, the options of loading, as one ``loading``, and ``--debug``."""

    @wraps(verb)
    def gathered(
        context: int | None,
        compute: str,
        adapter: str | None,
        force_adapter: bool,
        **rest: Any,
    ) -> int:
        return verb(loading=Loading(context, compute, adapter, force_adapter), **rest)

    return events_option(loading_options(adapter_options(debug_option(gathered))))


def show(events: Iterable[Event], as_json: bool, tell: Callable[[EvalSummary], None]) -> int:
    """Run a measurement to its end; the exit code to leave with.

    Args:
        events: of it.
        as_json: print them as lines, for a program.
        tell: says to a person what was found.
    """
    if as_json:
        return console.print_json(events, "eval")
    summary = show_progress(events)
    if not isinstance(summary, EvalSummary):
        return 0
    tell(summary)
    return console.EXIT_CODES[summary.status]


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
