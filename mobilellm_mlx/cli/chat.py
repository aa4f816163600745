"""``mobilellm chat``: the interface on a terminal, line by line without one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mobilellm_mlx.chat import Session
from mobilellm_mlx.chat.context import ContextPolicy
from mobilellm_mlx.cli import console, faces
from mobilellm_mlx.cli.approval import ask_on_terminal
from mobilellm_mlx.cli.demo import Demo
from mobilellm_mlx.cli.errors import printable
from mobilellm_mlx.cli.shared import (
    adapter_options,
    debug_option,
    find_adapter,
    is_interactive,
    load_options,
    loading_options,
    our_model,
    require_text,
    resolve_model,
    sampling_options,
    sampling_overrides,
    show_reasoning_option,
)
from mobilellm_mlx.cli.toolbox import Workbench, make_kit
from mobilellm_mlx.engine import Engine
from mobilellm_mlx.errors import AdapterError, InvalidInput, StorageError
from mobilellm_mlx.options import GenerationOptions, LoadOptions

if TYPE_CHECKING:
    from mobilellm_mlx.chat.store import Store
    from mobilellm_mlx.chat.using import ToolKit
    from mobilellm_mlx.settings import Settings


@click.command()
@click.argument("model", required=False)
@click.option(
    "--resume",
    is_flag=False,
    flag_value="last",
    metavar="[CHAT]",
    help="Go on with a chat: the last one, or that of an id or a title.",
)
@click.option("--private", is_flag=True, help="Keep nothing of what is said.")
@click.option(
    "--tools",
    "files",
    callback=require_text,
    multiple=True,
    metavar="FILE",
    help="A Python file with tools of your own; repeatable.",
)
@click.option("--no-tools", is_flag=True, help="Offer the model no tools.")
@click.option("--system", callback=require_text, metavar="TEXT", help="Instructions for the model.")
@sampling_options
@loading_options
@adapter_options
@show_reasoning_option
@debug_option
def chat(
    model: str | None,
    resume: str | None,
    private: bool,
    files: tuple[str, ...],
    no_tools: bool,
    system: str | None,
    context: int | None,
    compute: str,
    adapter: str | None,
    force_adapter: bool,
    show_reasoning: bool,
    **sampling: Any,
) -> int:
    """Chat with MODEL, a name or a directory; the default is smollm2-135m.

    On a terminal this opens the interface and keeps the chats; `mobilellm history` finds them.
    Without one, each line of stdin is a turn, the answers go to stdout, and only a chat that was
    resumed is kept. The interface folds reasoning and needs no --show-reasoning.

    The model may use tools (`mobilellm tools list`). You are asked before anything is done; where
    there is no terminal to ask on, only what you allowed before is.
    """
    from mobilellm_mlx.settings import load_settings

    if resume is not None and private:
        raise click.UsageError("--resume goes on with what is kept, --private keeps nothing.")
    overrides = sampling_overrides(sampling)
    GenerationOptions().merged(overrides)
    loading = load_options(context, compute)
    settings, problems = load_settings()
    if no_tools:
        settings = settings.replaced("tools.use", False)
    talks = is_interactive()
    kept = (talks and settings.get("history.save") and not private) or resume is not None
    with _history(kept) as (store, note), _bench(settings, files, no_tools) as bench:
        chat_id, used, was_on = _resumed(store, resume)
        directory = _directory(model, used, settings)
        worn = find_adapter(adapter, directory, force=force_adapter)
        notes = [*problems, *([note] if note else []), *bench.problems]
        if talks:
            wanted = (adapter or "", force_adapter)
            return _interface(
                directory,
                loading,
                settings,
                store,
                notes,
                chat_id,
                system,
                overrides,
                bench,
                wanted,
            )
        if adapter is None:
            worn, note = _usual_adapter(directory, was_on, settings)
            notes += [note] if note else []
        for text in notes:
            click.echo(f"note: {printable(text)}", err=True)
        with Engine(directory, loading, adapter=worn, force_adapter=force_adapter) as engine:
            session = Session(
                engine,
                instructions=system or settings.instructions,
                overrides={**settings.sampling, **overrides},
                store=store,
                policy=ContextPolicy(
                    settings.get("chat.context_policy"), settings.get("chat.context_threshold")
                ),
                tools=_kit_for_lines(settings, bench),
            )
            if chat_id is not None:
                session.open(chat_id)
            return chat_in_lines(session, show_reasoning)


def _bench(settings: Settings, files: tuple[str, ...], no_tools: bool) -> Workbench:
    """The tools; without them nothing of the person's is run and no server started."""
    if no_tools:
        return Workbench(settings.replaced("tools.file", None), servers=False)
    return Workbench(settings, files)


@contextmanager
def _history(kept: bool) -> Iterator[tuple[Store | None, str | None]]:
    """The store of the chats and what is to say about it; none when nothing is kept."""
    if not kept:
        yield None, None
        return
    from mobilellm_mlx.chat.store import open_history

    try:
        store, note = open_history()
    except StorageError as error:  # an SQLite without full-text search, say
        yield None, f"Chats are not kept: {error.message}."
        return
    try:
        yield store, note
    finally:
        store.close()


def _resumed(store: Store | None, name: str | None) -> tuple[str | None, Path | None, str | None]:
    """The chat to go on with, the model that answered in it last, if that is still here, and the
    name of the adapter that was on; empty when none was.

    Raises:
        InvalidInput: when there is no such chat.
    """
    if store is None or name is None:
        return None, None, None
    from mobilellm_mlx.cli.history import find_chat

    found = find_chat(store, name)
    made = [g for m in reversed(store.messages(found.id)) for g in reversed(m.made)]
    if not made:
        return found.id, None, None
    return found.id, our_model(made[0].model_path), made[0].adapter or ""


def _directory(model: str | None, used: Path | None, settings: Settings) -> Path:
    """What was asked for, or what the chat was held with, or what the settings name."""
    if model is None and used is not None:
        return used
    return resolve_model(model or settings.get("model.default"))


def _usual_adapter(
    directory: Path, used: str | None, settings: Settings
) -> tuple[Path | None, str | None]:
    """The adapter that the chat was held with, or that the settings name, and what to say of it."""
    from mobilellm_mlx.adapters import Registry

    name = settings.get("model.adapter") if used is None else used
    if not name:
        return None, None
    if used and Registry().kept(used) is None:  # a file of somebody else may name it: no path
        return None, f"The adapter {name} is not here any more; the model answers without it."
    try:
        return find_adapter(name, directory), None
    except AdapterError as error:
        return None, f"The model answers without an adapter: {error.message}."


def _kit_for_lines(settings: Settings, bench: Workbench) -> ToolKit | None:
    """Tools for a chat that may have nobody to ask; none when nothing could be allowed."""
    kit = make_kit(settings, bench.toolbox(), ask_on_terminal)
    somebody = sys.stderr is not None and sys.stderr.isatty()
    return kit if somebody or kit.reads_freely or kit.approvals.rules else None


def _interface(
    directory: Path,
    loading: LoadOptions,
    settings: Settings,
    store: Store | None,
    notes: list[str],
    chat_id: str | None,
    system: str | None,
    overrides: dict[str, Any],
    bench: Workbench,
    adapter: tuple[str, bool],
) -> int:
    """Chat in the terminal until the person leaves; ``adapter`` is a name, and whether it may be
    another model's."""
    from mobilellm_mlx import paths
    from mobilellm_mlx.adapters import Registry
    from mobilellm_mlx.chat.snapshots import Snapshots
    from mobilellm_mlx.cli.shelf import Shelf
    from mobilellm_mlx.cli.workshop import Workshop
    from mobilellm_mlx.settings import save_setting
    from mobilellm_mlx.tools.builtin.timers import FILE as TIMERS
    from mobilellm_mlx.tools.builtin.timers import Timers

    wanted = settings.get("cache.snapshots")
    limit = int(settings.get("cache.limit_gb") * 1e9) if wanted else 0
    snapshots = Snapshots(limit_bytes=limit)
    snapshots.sweep()  # switched off, nothing of them stays
    is_kept = store is not None and store.path is not None  # in memory, nothing may stay
    tui = faces.tui()
    with Engine(directory, loading) as engine:
        house: Any = tui.make_house(
            store=store,
            settings=settings,
            save_setting=save_setting,
            shelf=Shelf(loading),
            snapshots=snapshots if is_kept and wanted else None,
            notices=tuple(notes),
            resume=chat_id,
            # The interface's own thread asks: servers that are still starting must not hold it up.
            tools=make_kit(settings, bench.toolbox(wait_s=0)),
            toolbox=lambda: bench.toolbox(settings=house.settings, wait_s=0),
            tool_problems=lambda: bench.problems,
            timers=Timers(paths.data_dir() / TIMERS, _local_now),
            demo=lambda: Demo(engine),
            workshop=Workshop(store),
            adapters=Registry(),
            adapter=adapter[0],
            force_adapter=adapter[1],
        )
        tui.run_chat(
            engine, house=house, instructions=system, overrides=overrides, title=directory.name
        )
    return 0


def _local_now() -> datetime:
    return datetime.now().astimezone()


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
