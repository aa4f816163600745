"""How fast a model reads and writes, measured shortly: enough to tell recipes apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from mobilellm_mlx.backend import mx
from mobilellm_mlx.decoding import Generator
from mobilellm_mlx.events import GenerationSummary
from mobilellm_mlx.loading import LoadedModel
from mobilellm_mlx.options import GenerationOptions

TIMES, NEW_TOKENS = 3, 32
"""How often a speed is measured, and tokens that are generated each time."""

_Speed = tuple[float, float] | tuple[None, None]


def measure_speed(loaded: LoadedModel, prompt: Sequence[int]) -> _Speed:
    """Tokens a second of reading a prompt and of going on from it; medians, after a warm-up.

    Args:
        loaded: the model.
        prompt: token ids; as many as leave room for an answer.
    """
    endless = replace(loaded, stop_tokens=frozenset())
    prompt = prompt[: loaded.context_limit - NEW_TOKENS - 1]
    if not prompt:
        return None, None
    options = GenerationOptions(max_tokens=NEW_TOKENS)
    runs = []
    for _ in range(1 + TIMES):
        # A new one each time: it would know the prompt again.
        *_, last = Generator(endless).generate(prompt, options)
        assert isinstance(last, GenerationSummary)
        runs.append((last.prefill_tok_per_s, last.decode_tok_per_s))
    mx.clear_cache()
    prefill, decode = zip(*runs[1:], strict=True)
    return median(prefill), median(decode)
