"""Chats in files: whole or not at all, nothing replaced that nobody said to replace."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mobilellm_mlx.chat.exchange.document import LARGEST_BYTES, WholeChat, to_json
from mobilellm_mlx.chat.exchange.markdown import to_markdown
from mobilellm_mlx.chat.exchange.training import to_jsonl
from mobilellm_mlx.chat.tree import branch
from mobilellm_mlx.errors import StorageError

FORMATS = ("md", "json", "jsonl")


def format_of(target: Path | None) -> str:
    """The format that a file's name tells; Markdown where it tells none."""
    suffix = target.suffix[1:].lower() if target else ""
    return suffix if suffix in FORMATS else "md"


def as_text(
    chats: Sequence[WholeChat], format_: str, *, reasoning: bool = False
) -> tuple[str, int]:
    """Chats in a format of ``FORMATS``, and how many are not in it.

    Those are chats without a complete turn, from which nothing can be learned: they have no place
    in ``jsonl``.
    """
    if format_ == "json":
        return to_json(chats), 0
    shown = [(whole.chat, branch(whole.messages, whole.chat.leaf_id)) for whole in chats]
    if format_ == "md":
        return "".join(to_markdown(chat, way, reasoning=reasoning) for chat, way in shown), 0
    lines = [to_jsonl(chat, way) for chat, way in shown]
    return "".join(lines), lines.count("")


def check_target(target: Path, *, force: bool = False) -> None:
    """See whether a file may be written.

    Args:
        target: the file.
        force: whether a file that is there may be replaced.

    Raises:
        StorageError: it may not.
    """
    if not os.path.lexists(target):
        return
    if not target.is_file() and not target.is_symlink():
        raise StorageError(f"`{target}` is not a file", "choose another name")
    if not force:
        raise StorageError(f"`{target}` is there already", "choose another name")


def write_text(target: Path, text: str) -> int:
    """Write a file as a whole; its size in bytes.

    Raises:
        StorageError: when the disk refuses; nothing is left behind.
    """
    if not target.parent.is_dir():
        raise StorageError(f"there is no directory `{target.parent}`", "make it first")
    data = text.encode("utf-8", "replace")
    scratch: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=".history-", dir=target.parent)
        scratch = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(target)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full" if full else error.strerror
        raise StorageError(
            f"cannot write {target}: {reason}", "choose another place for the file"
        ) from error
    finally:
        if scratch is not None:
            scratch.unlink(missing_ok=True)
    return len(data)


def read_bytes(source: Path) -> bytes:
    """What a file holds, no more than is ever imported.

    Raises:
        StorageError: when it cannot be read.
    """
    try:
        if not source.is_file():  # a pipe would be waited for
            raise StorageError(f"there is no file `{source}`", "name a file that was exported")
        with source.open("rb") as file:
            return file.read(LARGEST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StorageError(f"cannot read {source}: {reason}") from error
