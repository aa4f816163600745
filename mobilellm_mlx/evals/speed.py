"""How fast a model reads and writes, measured shortly: enough to tell recipes apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mobilellm_mlx.backend import mx
from mobilellm_mlx.decoding import Generator
from mobilellm_mlx.events import GenerationSummary
from mobilellm_mlx.loading import LoadedModel
from mobilellm_mlx.options import GenerationOptions

TIMES, NEW_TOKENS = 3, 32
"""How often the speeds of each model are measured, and tokens that are generated each time."""


def measure_speed(loaded: LoadedModel, prompt: Sequence[int]) -> tuple[float, float] | None:
    """Tokens a second of reading a prompt and of going on from it, once, after a warm-up.

    Args:
        loaded: the model.
        prompt: token ids; as many as leave room for an answer. None is given where that is none.
    """
    endless = replace(loaded, stop_tokens=frozenset())
    prompt = prompt[: loaded.context_limit - NEW_TOKENS - 1]
    if not prompt:
        return None
    options = GenerationOptions(max_tokens=NEW_TOKENS)
    for _ in range(2):
        # A new one each time: it would know the prompt again.
        *_, last = Generator(endless).generate(prompt, options)
    assert isinstance(last, GenerationSummary)
    mx.clear_cache()
    return last.prefill_tok_per_s, last.decode_tok_per_s
