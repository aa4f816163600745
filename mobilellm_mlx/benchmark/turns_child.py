"""One conversation, timed: what ``turns`` runs in processes of their own.

    python -m mobilellm_mlx.benchmark.turns_child mobilellm DIRECTORY 20 16 'Some text.'
    python -m mobilellm_mlx.benchmark.turns_child mlx-lm DIRECTORY 20 16 'Some text.'

The arguments are who talks, the model, the turns, the tokens of a reply and what is said in every
turn. Prints one line of JSON a turn: the seconds from the text to the first token, the seconds of
them that the network took where that is known, the tokens read, and those that the context holds.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

Turn = dict[str, float | int | None]


def main(arguments: list[str]) -> None:
    """Hold a conversation and print its turns."""
    who, directory, turns, reply, text = arguments
    talk = {"mobilellm": talk_to_ours, "mlx-lm": talk_to_mlx_lm}[who]
    for turn in talk(Path(directory), int(turns), int(reply), text):
        sys.stdout.write(json.dumps(turn) + "\n")
        sys.stdout.flush()


def talk_to_ours(directory: Path, turns: int, reply: int, text: str) -> Iterator[Turn]:
    """The turns of a session as the interface holds it: chats are kept, in a file."""
    from mobilellm_mlx.chat.session import Session
    from mobilellm_mlx.chat.store import Store
    from mobilellm_mlx.engine import Engine

    plain = {"temperature": 0.0, "repetition_penalty": 1.0, "thinking_budget": 0}
    with (
        TemporaryDirectory(prefix="mobilellm-bench-") as scratch,
        Engine(directory) as engine,
        closing(Store(Path(scratch) / "chats.db")) as store,
    ):
        for _ in engine.load():
            pass
        session = Session(engine, store=store, overrides={**plain, "max_tokens": reply})
        for _ in range(turns):
            yield _time_ours(session, text)


def _time_ours(session: Any, text: str) -> Turn:
    from mobilellm_mlx.events import GenerationSummary, PrefillProgress

    started, first = time.perf_counter(), None
    summary = GenerationSummary()
    for event in session.send(text):
        # The last of them comes with the first token; a piece of text may need several tokens.
        if first is None and isinstance(event, PrefillProgress) and event.done == event.total:
            first = time.perf_counter() - started
        if isinstance(event, GenerationSummary):
            summary = event
    return {
        "ttft_s": first,
        "network_s": summary.prefill_s,
        "read_tokens": summary.prompt_tokens - summary.cached_tokens,
        "context_tokens": summary.context_used,
    }


def talk_to_mlx_lm(directory: Path, turns: int, reply: int, text: str) -> Iterator[Turn]:
    """The turns of ``mlx_lm.chat``'s loop: one cache, and a template around each new text alone.

    Its answers are not put into the next prompt: they are in the cache as they were generated,
    without the end of a turn where ``max_tokens`` cut them.
    """
    import mobilellm_mlx.backend  # noqa: F401  (the same BLAS for both)

    # isort: split
    from mlx_lm.generate import stream_generate
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.utils import load

    model, tokenizer, *_ = cast("tuple[Any, Any]", load(str(directory)))
    tokenizer.eos_token_ids = []  # as for ours, nothing but the limit ends a reply
    cache = make_prompt_cache(model)
    for _ in range(turns):
        started, first, read = time.perf_counter(), None, 0
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True
        )
        for response in stream_generate(model, tokenizer, prompt, reply, prompt_cache=cache):
            if first is None:
                first, read = time.perf_counter() - started, response.prompt_tokens
        yield {
            "ttft_s": first,
            "network_s": None,
            "read_tokens": read,
            "context_tokens": cache[0].offset,
        }


if __name__ == "__main__":
    main(sys.argv[1:])
