"""The last stop of an exception: one sentence and a hint on stderr."""

from __future__ import annotations

import errno
import sys

from mobilellm_mlx.errors import InvalidOption, MobileLLMError, StorageError


def report(error: Exception, *, debug: bool) -> int:
    """Say what went wrong; the exit code to leave with.

    Args:
        error: what reached the door.
        debug: show the traceback as well.
    """
    if debug:
        import traceback

        traceback.print_exception(error)
    known = explain(error)
    print_error(known.message, known.hint)
    return exit_code(known)


def exit_code(error: Exception) -> int:
    """2 for an option that can never be right, 1 for everything else."""
    return 2 if isinstance(error, InvalidOption) else 1


def explain(error: Exception) -> MobileLLMError:
    """The error as one of ours, whatever it was."""
    if isinstance(error, MobileLLMError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            "the disk is full",
            "free some space where the output goes, or where the model cache is",
        )
    if isinstance(error, OSError) and error.filename:
        return StorageError(
            f"`{error.filename}`: {error.strerror}", "check the path and its rights"
        )
    return MobileLLMError(
        f"internal error: {type(error).__name__}: {error}",
        "this is a defect of the program; run again with `--debug` and report what it prints",
    )


def printable(text: str) -> str:
    """``text`` without what could steer a terminal: names from foreign files may be in it."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


def print_error(message: str, hint: str | None) -> None:
    """``error:`` and ``hint:`` lines on stderr."""
    for line in [f"error: {message}", *([f"hint: {hint}"] if hint else [])]:
        sys.stderr.write(f"{printable(line)}\n")
