"""Names of models on the hub: ``org/name``, ``org/name@revision``, ``org/name:file.gguf``."""

from __future__ import annotations

import re
from pathlib import Path

from mobilellm_mlx.errors import InvalidInput

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_REPO_ID = re.compile(f"{_PART}/{_PART}")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+/-]{0,200}")
_FILE_ENDINGS = (".gguf", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".zip", ".json")


def is_repo_id(text: str) -> bool:
    """Whether ``text`` names a model on the hub rather than a path.

    What exists on disk is a path, and so is what ends like a weight file: a mistyped path must not
    turn into a question to a server.
    """
    name, file = split_file(text)
    repo_id, separator, revision = name.partition("@")
    return (
        _is_id(repo_id)
        and not repo_id.lower().endswith(_FILE_ENDINGS)
        and (_is_revision(revision) if separator else True)
        and file != ""
        and not _exists(text)
    )


def split_file(text: str) -> tuple[str, str | None]:
    """``org/name:file`` in two; the second part is None without a file."""
    name, separator, file = text.partition(":")  # neither ids nor revisions can hold a colon
    return name, file if separator else None


def split_revision(text: str) -> tuple[str, str | None]:
    """``org/name@revision`` in two; the second part is None without a revision.

    Raises:
        InvalidInput: when it is not a name of that form.
    """
    repo_id, separator, revision = text.partition("@")
    check_name(repo_id, revision if separator else None)
    return repo_id, revision if separator else None


def check_name(repo_id: str, revision: str | None) -> None:
    """Refuse what cannot be a model on the hub, before it becomes part of a URL or a path.

    Raises:
        InvalidInput: naming the part that is wrong.
    """
    if not _is_id(repo_id):
        raise InvalidInput(
            f"{repo_id[:200]!r} is not a model on the hub",
            "expected `org/name`, `org/name@revision` or `org/name:file.gguf`",
        )
    if revision is not None and not _is_revision(revision):
        raise InvalidInput(
            f"{revision[:200]!r} is not a revision",
            f"expected a branch, a tag or a commit, as in `{repo_id}@main`",
        )


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # longer than a path can be
        return False


def _is_id(text: str) -> bool:
    within = not any(sign in text for sign in ("--", "..")) and not text.endswith(".git")
    return within and _REPO_ID.fullmatch(text) is not None


def _is_revision(text: str) -> bool:
    hops = any(part in ("", ".", "..") for part in text.split("/"))
    return not hops and ".." not in text and _REVISION.fullmatch(text) is not None
