"""The ``mobilellm`` command: a table of verbs, each imported only when it runs.

This module stays light (no MLX, no Textual, no rich): it is all that ``--help`` loads. Verbs live
in modules of their own; the faces ``tui`` and ``convert`` are named only in ``faces.py``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from io import TextIOWrapper
from typing import Any

import click

VERBS: dict[str, tuple[str, str]] = {
    "chat": ("mobilellm_mlx.cli.chat:chat", "Chat in the terminal (what no verb at all means)."),
    "generate": ("mobilellm_mlx.cli.generate:generate", "Answer one prompt and exit."),
    "history": (
        "mobilellm_mlx.cli.history:history",
        "List, read, search, export and import your chats.",
    ),
    "models": ("mobilellm_mlx.cli.models:models", "List, fetch, show and remove models."),
    "convert": ("mobilellm_mlx.cli.convert:convert", "Turn a checkpoint into a 4-bit model."),
    "export": ("mobilellm_mlx.cli.export:export", "Write a model for llama.cpp or Hugging Face."),
    "train": ("mobilellm_mlx.cli.train:train", "Fine-tune a model on your own examples."),
    "adapters": (
        "mobilellm_mlx.cli.adapters:adapters",
        "List, show, rename, remove and export adapters.",
    ),
    "fuse": ("mobilellm_mlx.cli.fuse:fuse", "Make one model of a model and an adapter."),
    "tools": ("mobilellm_mlx.cli.tools:tools", "List tools and use them by hand."),
    "demo": ("mobilellm_mlx.cli.demo:demo", "See eight small tasks done with tools."),
    "eval": (
        "mobilellm_mlx.cli.eval:eval_",
        "Measure a model: common sense, perplexity, calls of tools.",
    ),
    "bench": (
        "mobilellm_mlx.cli.bench:bench",
        "Measure how fast a model is, also beside other programs.",
    ),
    "kernels": (
        "mobilellm_mlx.cli.kernels:kernels",
        "Show or build what computes packed weights on a CPU.",
    ),
    "doctor": ("mobilellm_mlx.cli.doctor:doctor", "Check this machine and this installation."),
}
"""Verb to where it lives and its line in the help."""


class _ReaderGone(Exception):
    """The program that read our stdout (`head`, say) has left."""


@contextmanager
def _closed_pipes() -> Iterator[None]:
    """Nothing is wrong when the reader has gone, but click would leave with 1 for it."""
    try:
        yield
    except BrokenPipeError as error:
        raise _ReaderGone from error


class LazyGroup(click.Group):
    """A group that knows its verbs' names and help lines without importing them.

    Args:
        verbs: where each lives and its line in the help, by name.
    """

    def __init__(self, *args: Any, verbs: Mapping[str, tuple[str, str]], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._verbs = verbs

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _closed_pipes():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with _closed_pipes():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._verbs:
            return None
        module, _, attribute = self._verbs[cmd_name][0].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self._verbs.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            close = get_close_matches(args[0], self._verbs, n=1)
            if not close:
                raise
            raise click.UsageError(f"{error.message} Did you mean '{close[0]}'?", ctx) from None


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from mobilellm_mlx import __version__

        click.echo(f"mobilellm {__version__}")
        ctx.exit()


@click.command(
    cls=LazyGroup,
    verbs=VERBS,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version and exit.",
)
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks of errors.")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """A small language model that lives on your machine: chat, complete, all of it offline.

    Without a command it opens the chat with the default model.
    """
    if ctx.invoked_subcommand is None:
        command = ctx.command
        assert isinstance(command, click.Group)
        chat = command.get_command(ctx, "chat")
        assert chat is not None
        with chat.make_context("chat", [], parent=ctx) as chat_context:
            chat.invoke(chat_context)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code.

    0 done, 1 an error that was explained, 2 wrong usage, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if sys.stdout is None:  # closed by whoever started us: nobody reads, which is no mistake
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    if isinstance(sys.stdout, TextIOWrapper):  # an answer can hold what a Latin-1 terminal cannot
        sys.stdout.reconfigure(errors="replace")
    try:
        code = cli.main(arguments, prog_name="mobilellm", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show(sys.stdout)
        code = 2
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except _ReaderGone:
        code = 0
    except Exception as error:
        from mobilellm_mlx.cli.errors import report

        code = report(error, debug="--debug" in arguments)
    _drop_unwritten()
    sys.exit(code if isinstance(code, int) else 0)


def _drop_unwritten() -> None:
    """Forget output that cannot be written (full disk, reader gone).

    What went wrong has been said; Python would try again at exit and leave with 120.
    """
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):  # a test's stdout has no file behind it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
