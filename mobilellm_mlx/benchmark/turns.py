"""Time to the first token, turn by turn: does a long conversation answer as soon as a short one?

The same text is said in every turn and every reply has the same length, so what differs between two
turns is the history alone. Ours is a session as the interface holds it, its chat kept in a file;
beside it, where wanted, the loop of ``mlx_lm.chat``, with the same BLAS and, on a CPU, the same
weights as float32. Each conversation is a process of its own; the two take turns.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from mobilellm_mlx.benchmark.child import run_child
from mobilellm_mlx.benchmark.spread import spread
from mobilellm_mlx.benchmark.twins import write_dense, write_endless
from mobilellm_mlx.errors import EngineError, InvalidInput

TARGET = 1.5
"""What the last turn may take of the second one's time, at most."""
TURNS, REPLY_TOKENS, LIMIT_S = 20, 16, 600.0
TEXT = (
    "Please write another paragraph of the long story about the lighthouse keeper, the storm that "
    "came from the west, and the ship that nobody in the village had expected to see again."
)
"""Said in every turn. Its answers are longer than the reply may be, so none ends early."""

Talker = Literal["mobilellm", "mlx-lm"]


@dataclass(frozen=True, slots=True)
class TurnTimes:
    """One turn of one conversation."""

    engine: Talker
    repeat: int
    """Which conversation of this engine, from 1."""
    turn: int
    ttft_s: float
    """From the text to the first token of the reply."""
    network_s: float | None
    """What of that the network took; the rest is templates, tokens and files. None: not known."""
    read_tokens: int
    """Tokens that had to be read: the new text, and what of the history was not known any more."""
    context_tokens: int
    """Tokens in the context after the reply."""


@dataclass(frozen=True, slots=True)
class TurnsResult:
    """What all conversations say together."""

    turns: int
    reply_tokens: int
    target: float = TARGET
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Each with ``engine``, ``what``, ``median``, ``min``, ``max`` and ``repeats``."""

    @property
    def ratio(self) -> float:
        """Of ours: the last turn's time over the second one's, the median of all conversations."""
        return float(next(row["median"] for row in self.rows if row["what"] == "ratio"))

    @property
    def is_met(self) -> bool:
        """Whether the time to the first token is as good as independent of the history."""
        return self.ratio <= self.target


def iter_turns(
    directory: Path,
    *,
    turns: int = TURNS,
    reply_tokens: int = REPLY_TOKENS,
    repeats: int = 3,
    with_mlx_lm: bool = False,
    text: str = TEXT,
    limit_s: float = LIMIT_S,
) -> Iterator[TurnTimes | TurnsResult]:
    """Hold conversations; gives every turn as it ends, and a ``TurnsResult`` last.

    Args:
        directory: of a model that chats.
        turns: of a conversation, at least 2: the first one reads the instructions too and warms up.
        reply_tokens: of each reply.
        repeats: conversations with each engine.
        with_mlx_lm: also time ``mlx_lm.chat``'s loop.
        text: what is said in every turn.
        limit_s: a conversation that takes longer is stopped.

    Raises:
        InvalidInput: when the model does not chat, or so much does not fit into its context.
        EngineError: when a conversation fails or takes too long.
    """
    if turns < 2 or repeats < 1 or reply_tokens < 1:
        raise InvalidInput(
            f"{turns} turns of {reply_tokens} tokens, {repeats} times, are too few to compare",
            "take two turns or more",
        )
    _require_room(directory, turns, reply_tokens, text)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="mobilellm-bench-")))
        talkers: dict[Talker, Path] = {"mobilellm": write_endless(directory, scratch / "endless")}
        if with_mlx_lm:
            talkers["mlx-lm"] = _theirs(directory, scratch / "mlx-lm")
        times: list[TurnTimes] = []
        for repeat in range(1, repeats + 1):
            for engine, place in talkers.items():
                arguments = [engine, str(place), str(turns), str(reply_tokens), text]
                with closing(_iter_lines(arguments, limit_s, scratch)) as lines:
                    for turn, said in enumerate(lines, 1):
                        times.append(TurnTimes(engine, repeat, turn, **said))
                        yield times[-1]
    yield TurnsResult(turns, reply_tokens, rows=list(_rows(times, turns)))


def _require_room(directory: Path, turns: int, reply_tokens: int, text: str) -> None:
    """A chat that fills its context drops turns and reads the others anew: another measurement."""
    from mobilellm_mlx.chat.context import ContextPolicy
    from mobilellm_mlx.loading import load_words
    from mobilellm_mlx.messages import Message

    words = load_words(directory)
    if words.template is None:
        raise InvalidInput(
            f"`{directory.name}` has no chat template: it cannot hold a conversation",
            "take a model that chats",
        )
    # No token is much less than a word of one letter.
    said = [Message("user", text), Message("assistant", " a" * reply_tokens)] * turns
    needed = len(words.template.encode(words.tokenizer, said))
    room = int(ContextPolicy().threshold * words.context_limit)
    if needed > room:
        raise InvalidInput(
            f"{turns} turns are up to {needed:,} tokens, more than the {room:,} that a chat with "
            f"`{directory.name}` holds before it drops its oldest turns",
            "take fewer turns or shorter replies",
        )


def _theirs(directory: Path, to: Path) -> Path:
    """What mlx-lm is given: on a CPU its kernels for packed weights would take minutes a turn."""
    from mobilellm_mlx.backend import backend

    return directory if backend().half_precision else write_dense(directory, to)


def _iter_lines(
    arguments: Sequence[str], limit_s: float, scratch: Path
) -> Generator[dict[str, Any], None, None]:
    """What a child prints, as it comes."""
    command = [sys.executable, "-m", "mobilellm_mlx.benchmark.turns_child", *arguments]
    env = {**os.environ, "TMPDIR": str(scratch)}  # one that is ended removes nothing itself
    with run_child(command, f"a conversation with {arguments[0]}", limit_s, env) as lines:
        for line in lines:
            yield _read_line(line)


def _read_line(line: bytes) -> dict[str, Any]:
    names = {"ttft_s", "network_s", "read_tokens", "context_tokens"}
    try:
        said = json.loads(line)
    except ValueError:
        said = None
    if not isinstance(said, dict) or set(said) != names:
        raise EngineError(f"a conversation said what is no measurement: {_shown(line)}")
    return said


def _shown(line: bytes) -> str:
    return repr(line.decode("utf-8", "replace").strip()[:80])


def _rows(times: Sequence[TurnTimes], turns: int) -> Iterator[dict[str, Any]]:
    """Ours first: times of the second and the last turn, their ratio, and what has to do with it.

    The ratio is one of each conversation, and only then its median.
    """
    for engine in dict.fromkeys(time.engine for time in times):
        ours = [time for time in times if time.engine == engine]
        second = [time for time in ours if time.turn == 2]
        last = [time for time in ours if time.turn == turns]

        def row(what: str, values: Sequence[float]) -> dict[str, Any]:
            return {"engine": engine, "what": what, **spread(values)}  # noqa: B023

        yield row("ratio", [b.ttft_s / a.ttft_s for a, b in zip(second, last, strict=True)])
        for label, of_turn in (("turn 2", second), (f"turn {turns}", last)):
            yield row(f"{label}, ttft_s", [time.ttft_s for time in of_turn])
            besides = [t.ttft_s - t.network_s for t in of_turn if t.network_s is not None]
            if besides:
                yield row(f"{label}, besides the network, s", besides)
            yield row(f"{label}, tokens read", [time.read_tokens for time in of_turn])
