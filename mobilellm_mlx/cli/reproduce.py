"""``mobilellm history reproduce``: make a chat's answers again, and compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mobilellm_mlx.cli.errors import printable
from mobilellm_mlx.cli.shared import (
    debug_option,
    load_options,
    loading_options,
    our_model,
    resolve_model,
)
from mobilellm_mlx.errors import AdapterError, InvalidInput, ModelNotFound

if TYPE_CHECKING:
    from mobilellm_mlx.chat.records import StoredMessage
    from mobilellm_mlx.engine import ChatEngine

_SAME = "the same"


@click.command()
@click.argument("chat")
@click.option("--model", metavar="MODEL", help="Use this one instead of the one that answered.")
@loading_options
@debug_option
def reproduce(chat: str, model: str | None, context: int | None, compute: str) -> int:
    """Make the answers of CHAT again from what is kept of each, and compare their tokens.

    Nothing is changed. On the same machine with the same model they are the same; another backend,
    another packing or another version of MLX may round differently. Exit code 1 if one differs. An
    answer that differs because a turn above it was deleted, or whose adapter is gone, is said to be
    not comparable.
    """
    from mobilellm_mlx.chat import Session, tree
    from mobilellm_mlx.cli.history import find_chat, open_kept
    from mobilellm_mlx.engine import Engine

    with open_kept() as store:
        record = find_chat(store, chat)
        messages = store.messages(record.id)
        shown = tree.branch(messages, record.leaf_id)
        answers = [message for message in shown if message.made]
        if not answers:
            raise InvalidInput("nothing in this chat says how it was made")
        directory = resolve_model(model) if model else _model_of(answers[-1].made[-1].model_path)
        differ = 0
        with Engine(directory, load_options(context, compute)) as engine:
            session = Session(engine, store=store)
            session.open(record.id)
            for number, answer in enumerate(answers, 1):
                kept = [stretch.tokens for stretch in answer.made]
                note, verdict = "", _wear_again(engine, answer)
                if verdict is None:
                    again = [tuple(summary.tokens) for summary in session.reproduce(answer.id)]
                    made = engine.info.fingerprint if engine.info else ""
                    if answer.made[-1].fingerprint != made:
                        note = ", made by another model or form"
                    verdict = _compare(kept, again)
                    if verdict != _SAME and tree.has_gaps(messages, answer.parent_id):
                        verdict = "not comparable: something above it was deleted"
                    else:
                        differ += verdict != _SAME
                opening = " ".join(printable(answer.content[:200]).split())[:40]
                count = sum(map(len, kept))
                click.echo(f"{number:>3}  {count:>6,} tokens  {verdict}{note}  {opening}")
    return 1 if differ else 0


def _wear_again(engine: ChatEngine, answer: StoredMessage) -> str | None:
    """Put on what an answer was made with; the verdict where that cannot be done."""
    from mobilellm_mlx.adapters import Registry

    names = {stretch.adapter for stretch in answer.made}
    if len(names) > 1:
        return "not comparable: made with more than one adapter"
    name = names.pop()
    info = Registry().kept(name) if name else None
    if name and info is None:
        return f"not comparable: its adapter {printable(name[:40])} is gone"
    try:
        for _ in engine.adapt(info.path if info else None, force=True):
            pass
    except AdapterError as error:
        return f"not comparable: {printable(error.message)}"
    return None


def _compare(kept: Sequence[tuple[int, ...]], again: Sequence[tuple[int, ...]]) -> str:
    """In words, where two makings of an answer part."""
    if list(kept) == list(again):
        return _SAME
    before = [token for stretch in kept for token in stretch]
    now = [token for stretch in again for token in stretch]
    pairs = zip(before, now, strict=False)
    at = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(before), len(now)))
    return f"differs from token {at + 1:,} on"


def _model_of(path: str) -> Path:
    """The model that answered, if it is one of ours: the history may hold what others made."""
    if (directory := our_model(path)) is None:
        raise ModelNotFound(
            "the model that answered is not among the installed ones",
            "name one with `--model`",
        )
    return directory
