"""Chats on their way into files and out of them, with what a person is told about it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mobilellm_mlx.cli.errors import printable
from mobilellm_mlx.errors import StorageError, format_bytes

if TYPE_CHECKING:
    from mobilellm_mlx.chat.exchange import WholeChat
    from mobilellm_mlx.chat.records import ChatRecord


def count_chats(count: int) -> str:
    """``2 chats``, but ``1 chat``."""
    return f"{count} chat{'s' * (count != 1)}"


def text_of(chats: Sequence[WholeChat], format_: str, reasoning: bool) -> str:
    """The chats in a format; what had to be left out is said on stderr."""
    from mobilellm_mlx.chat.exchange import files

    text, missing = files.as_text(chats, format_, reasoning=reasoning)
    if missing:
        click.echo(f"note: {count_chats(missing)} without a complete turn left out", err=True)
    return text


def write_chats(
    target: Path, chats: Sequence[WholeChat], format_: str, *, force: bool, reasoning: bool
) -> None:
    """Write chats as one file, whole or not at all.

    Raises:
        StorageError: something is there already and ``force`` does not say to replace it.
    """
    from mobilellm_mlx.chat.exchange import files

    _check(target, force)
    size = files.write_text(target, text_of(chats, format_, reasoning))
    click.echo(f"wrote {printable(str(target))}, {format_bytes(size)}", err=True)


def write_directory(
    target: Path, chats: Sequence[WholeChat], *, force: bool, reasoning: bool
) -> None:
    """Write one Markdown file for each chat; none if any of them is there already.

    Raises:
        StorageError: as of ``write_chats``.
    """
    from mobilellm_mlx.chat.exchange import files

    if os.path.lexists(target) and not target.is_dir():
        raise StorageError(f"`{target}` is not a directory", "choose another name with `-o`")
    named = {target / _file_name(whole.chat): whole for whole in chats}
    for path in named:
        _check(path, force)
    target.mkdir(parents=True, exist_ok=True)
    for path, whole in named.items():
        files.write_text(path, text_of([whole], "md", reasoning))
    click.echo(f"wrote {count_chats(len(named))} into {printable(str(target))}", err=True)


def read_file(name: str) -> bytes:
    """What a file holds, no more than is ever imported; - is stdin."""
    from mobilellm_mlx.chat.exchange import LARGEST_BYTES

    if name == "-":
        return sys.stdin.buffer.read(LARGEST_BYTES + 1)
    with Path(os.path.expanduser(name)).open("rb") as file:  # noqa: PTH111 (it raises nothing)
        return file.read(LARGEST_BYTES + 1)


def _check(target: Path, force: bool) -> None:
    from mobilellm_mlx.chat.exchange import files

    try:
        files.check_target(target, force=force)
    except StorageError as error:
        hint = "choose another name, or pass `--force`" if target.is_file() else error.hint
        raise StorageError(error.message, hint) from None


def _file_name(chat: ChatRecord) -> str:
    """The day, some letters of the title and the id, which any file system takes."""
    title = "".join(char if char.isalnum() else " " for char in chat.title)[:40].split()
    identity = "".join(char for char in chat.id if char.isalnum())
    return "-".join([f"{chat.created_at.astimezone():%Y-%m-%d}", *title, identity]) + ".md"
