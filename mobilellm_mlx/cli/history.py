"""``mobilellm history``: the chats that were kept, listed, found, carried out and in."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mobilellm_mlx.cli.chat_files import (
    count_chats,
    read_file,
    text_of,
    write_chats,
    write_directory,
)
from mobilellm_mlx.cli.errors import printable
from mobilellm_mlx.cli.reproduce import reproduce
from mobilellm_mlx.cli.shared import debug_option
from mobilellm_mlx.errors import InvalidInput, StorageError, format_bytes

if TYPE_CHECKING:
    from mobilellm_mlx.chat.exchange import WholeChat
    from mobilellm_mlx.chat.records import ChatRecord, SearchHit
    from mobilellm_mlx.chat.store import Store

_SHORTEST_ID, _LONGEST_TITLE = 8, 60
_LIST_HINT = "`mobilellm history list` shows all chats with their ids"

_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_reasoning_option = click.option(
    "--reasoning", is_flag=True, help="Quote what the model thought before each answer."
)


@click.group(invoke_without_command=True)
@click.pass_context
def history(ctx: click.Context) -> None:
    """List, read, search, export and import the chats kept on this machine.

    CHAT is the beginning of an id, a part of a title, or `last`. Without a command the chats are
    listed.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_chats)


@history.command("list")
@click.option("-n", "--limit", type=click.IntRange(1), metavar="N", help="At most so many.")
@_json_option
@debug_option
def list_chats(limit: int | None = None, as_json: bool = False) -> None:
    """List the chats, the one that was used last first."""
    chats: list[ChatRecord] = []
    short: dict[str, str] = {}
    if there := _is_there():
        with open_kept() as store:
            known = store.chats()
            chats, short = known[:limit], _short_ids(known)
    if as_json:
        click.echo(json.dumps({"chats": [_described(chat) for chat in chats]}, indent=2))
        return
    if there and not chats:
        click.echo("the history is empty", err=True)
    for chat in chats:
        pinned = "  (pinned)" if chat.pinned else ""
        count = f"{_messages(chat):>14}"
        click.echo(f"{short[chat.id]}  {_time(chat.updated_at)} {count}  {_title(chat)}{pinned}")


@history.command("show")
@click.argument("chat")
@_reasoning_option
@debug_option
def show_chat(chat: str, reasoning: bool) -> None:
    """Print the CHAT as Markdown: the branch that was shown last."""
    from mobilellm_mlx.chat.exchange import to_markdown
    from mobilellm_mlx.chat.tree import branch

    with open_kept() as store:
        found = find_chat(store, chat)
        shown = branch(store.messages(found.id), found.leaf_id)
    click.echo(to_markdown(found, shown, reasoning=reasoning), nl=False)


@history.command("search")
@click.argument("words", nargs=-1, required=True)
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    metavar="N",
    help="At most so many finds.",
)
@_json_option
@debug_option
def search_chats(words: tuple[str, ...], limit: int, as_json: bool) -> None:
    """Find the messages and titles that hold all WORDS.

    The last word may be unfinished; words in double quotes are looked for as a phrase.
    """
    hits: list[SearchHit] = []
    short: dict[str, str] = {}
    if there := _is_there():
        with open_kept() as store:
            hits, short = store.search(" ".join(words), limit), _short_ids(store.chats())
    if as_json:
        click.echo(json.dumps({"hits": [_described_hit(hit) for hit in hits]}, indent=2))
        return
    if there and not hits:
        click.echo("nothing found", err=True)
    at = None
    for hit in hits:
        if hit.chat.id != at:
            at = hit.chat.id
            click.echo(f"{short.get(at, at)}  {_time(hit.created_at)}  {_title(hit.chat)}")
        if hit.excerpt != hit.chat.title:
            click.echo(f"    {_marked(hit)}")


@history.command("export")
@click.argument("chat", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every chat.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["md", "json", "jsonl"]),
    help="Markdown to read, JSON to import again, JSON lines to train on. As the file is named, "
    "else md.",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Where to; a directory for several chats as Markdown. Without it on stdout.",
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@_reasoning_option
@debug_option
def export_chats(
    chat: tuple[str, ...],
    everything: bool,
    format_: str | None,
    output: str | None,
    force: bool,
    reasoning: bool,
) -> None:
    """Write each CHAT as a file.

    Markdown and JSON lines hold the branch that was shown last; JSON holds everything. For JSON
    lines only complete turns are taken, one chat a line.
    """
    from mobilellm_mlx.chat.exchange import format_of

    if bool(chat) == everything:
        raise click.UsageError("Name a CHAT, or pass --all.")
    target = None if output in (None, "-") else Path(os.path.expanduser(str(output)))  # noqa: PTH111
    format_ = format_ or format_of(target)
    with open_kept() as store:
        chosen = store.chats() if everything else [find_chat(store, name) for name in chat]
        whole = [
            _whole(store, record) for record in {record.id: record for record in chosen}.values()
        ]
    several = format_ == "md" and (everything or len(whole) > 1)
    if several and target is None:
        raise InvalidInput(
            "several chats as Markdown are several files", "name a directory for them with `-o`"
        )
    if target is None:
        click.echo(text_of(whole, format_, reasoning), nl=False)
    elif several:
        write_directory(target, whole, force=force, reasoning=reasoning)
    else:
        write_chats(target, whole, format_, force=force, reasoning=reasoning)


@history.command("import")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@debug_option
def import_chats(files: tuple[str, ...]) -> None:
    """Add the chats of each FILE; - is stdin.

    FILE is what `export --format json` wrote. The chats get new ids: nothing that is there is
    replaced, and importing twice gives two copies.
    """
    from mobilellm_mlx.chat.exchange import from_json, renew

    # All are read before any is added.
    fresh = [renew(whole) for name in files for whole in from_json(read_file(name))]
    with open_kept(writing=True, new=True) as store:
        for whole in fresh:
            store.add(whole.chat, whole.messages)
        short = _short_ids(store.chats())
    for whole in fresh:
        click.echo(f"{short.get(whole.chat.id, whole.chat.id)}  {_title(whole.chat)}")
    click.echo(f"{count_chats(len(fresh))} imported", err=True)
    if bring := sum(bool(whole.chat.instructions) for whole in fresh):
        click.echo(f"note: {count_chats(bring)} with a system prompt of the file's own", err=True)


@history.command("path")
@debug_option
def print_path() -> None:
    """Print where the chats are kept."""
    from mobilellm_mlx.chat.store import history_path

    click.echo(str(history_path()))


@history.command("backup")
@click.argument("file")
@debug_option
def back_up(file: str) -> None:
    """Copy the whole history to FILE.

    It may be in use meanwhile. A FILE that is there is not replaced.
    """
    target = Path(os.path.expanduser(file))  # noqa: PTH111 (it raises nothing)
    with open_kept() as store:
        store.backup(target)
    click.echo(f"wrote {printable(str(target))}, {format_bytes(target.stat().st_size)}", err=True)


@history.command("rm")
@click.argument("chat", nargs=-1, required=True)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@debug_option
def remove_chats(chat: tuple[str, ...], yes: bool) -> None:
    """Erase each CHAT for good."""
    from mobilellm_mlx.chat.snapshots import Snapshots

    with open_kept(writing=True) as store:
        found = list(
            {record.id: record for record in [find_chat(store, name) for name in chat]}.values()
        )
        for record in found:
            click.echo(f"{_title(record)}, {_messages(record)}", err=True)
        if not yes:
            _ask(f"Erase {count_chats(len(found))} for good?")
        # A deletion so long ago that no other one is erased with it: those can still be undone.
        long_ago = datetime.fromtimestamp(0, UTC)
        for record in found:
            store.delete_chat(record.id, long_ago)
        store.purge(long_ago + timedelta(seconds=1))
    for record in found:
        Snapshots().forget(record.id)
    click.echo(f"{count_chats(len(found))} erased", err=True)


history.add_command(reproduce)


# ---------------------------------------------------------------- the store


def _is_there() -> bool:
    """Whether there is a history; if not, that is said. Looking makes none."""
    from mobilellm_mlx.chat.store import history_path

    if os.path.lexists(history_path()):
        return True
    click.echo(f"there is no history yet; chats will be kept in {history_path()}", err=True)
    return False


@contextmanager
def open_kept(*, writing: bool = False, new: bool = False) -> Iterator[Store]:
    """The history. What happened to a damaged one is said; one that is not ours is an error.

    Args:
        writing: what is done to it must last, so a copy in memory will not do.
        new: make one if there is none.
    """
    from mobilellm_mlx.chat.store import (
        DamagedStore,
        ForeignStore,
        NewerStore,
        Store,
        history_path,
        open_history,
    )

    path = history_path()
    if not new and not os.path.lexists(path):
        raise InvalidInput("there is no history yet", f"chats will be kept in {path}")
    try:
        store, note = Store(path), None
    except (NewerStore, ForeignStore):
        raise
    except StorageError as error:
        if writing and not isinstance(error, DamagedStore):
            raise
        store, note = open_history(path)
        if writing and store.path is None:
            raise
    if note:
        click.echo(f"note: {printable(note)}", err=True)
    with closing(store):
        yield store


def find_chat(store: Store, name: str) -> ChatRecord:
    """The chat that a person means.

    Raises:
        InvalidInput: none, or more than one.
    """
    if not name.strip():
        raise InvalidInput("the name of the chat is empty", _LIST_HINT)
    chats = store.chats()
    if name == "last" and chats:
        return chats[0]
    wanted = name.casefold()
    ways = (
        lambda chat: len(wanted) > 3 and chat.id.startswith(wanted),
        lambda chat: chat.title.casefold() == wanted,
        lambda chat: wanted in chat.title.casefold(),
    )
    for way in ways:
        if found := [chat for chat in chats if way(chat)]:
            break
    if len(found) == 1:
        return found[0]
    if not found:
        raise InvalidInput(f"there is no chat `{name}`", _LIST_HINT)
    short = _short_ids(chats)
    some = ", ".join(f"{short[chat.id]} ({_title(chat)})" for chat in found[:3])
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    raise InvalidInput(f"`{name}` means {len(found)} chats", f"name one by its id: {some}{more}")


def _whole(store: Store, chat: ChatRecord) -> WholeChat:
    from mobilellm_mlx.chat.exchange import WholeChat

    return WholeChat(chat, store.messages(chat.id))


# ---------------------------------------------------------------- words


def _short_ids(chats: Sequence[ChatRecord]) -> dict[str, str]:
    """The beginning of each id by which it can be told from all others, all of one length."""
    ids = sorted(chat.id for chat in chats)
    longest = max((_shared(one, other) for one, other in pairwise(ids)), default=0)
    return {chat_id: printable(chat_id[: max(_SHORTEST_ID, longest + 1)]) for chat_id in ids}


def _shared(one: str, other: str) -> int:
    """With how many equal characters two texts begin."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _title(chat: ChatRecord) -> str:
    title = printable(chat.title) or "(no title)"
    return title if len(title) <= _LONGEST_TITLE else f"{title[: _LONGEST_TITLE - 1]}…"


def _messages(chat: ChatRecord) -> str:
    return f"{chat.messages} message{'s' * (chat.messages != 1)}"


def _time(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")


def _described(chat: ChatRecord) -> dict[str, Any]:
    return {
        "id": chat.id,
        "title": chat.title,
        "created_at": chat.created_at.isoformat(),
        "updated_at": chat.updated_at.isoformat(),
        "pinned": chat.pinned,
        "messages": chat.messages,
        "model": chat.model,
    }


def _described_hit(hit: SearchHit) -> dict[str, Any]:
    return {
        "chat": _described(hit.chat),
        "message_id": hit.message_id,
        "role": hit.role,
        "created_at": hit.created_at.isoformat(),
        "excerpt": hit.excerpt,
        "marks": [list(mark) for mark in hit.marks],
    }


def _marked(hit: SearchHit) -> str:
    """The excerpt with the found words in bold, which a pipe does not see."""
    text, at, parts = printable(hit.excerpt), 0, []
    for start, end in hit.marks:
        parts += [text[at:start], click.style(text[start:end], bold=True)]
        at = end
    return "".join([*parts, text[at:]])


def _ask(question: str) -> None:
    if not sys.stdin.isatty():
        raise InvalidInput("nobody is there to be asked", "pass `--yes` to erase without asking")
    click.confirm(question, abort=True, err=True)
