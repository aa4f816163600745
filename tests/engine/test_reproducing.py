"""What a summary says is enough to make its answer again, token for token, from a cold start."""

import json
from pathlib import Path

import pytest

from mobilellm_mlx.engine import Engine
from mobilellm_mlx.events import GenerationSummary, from_dict
from mobilellm_mlx.messages import Message
from mobilellm_mlx.options import GenerationOptions
from tests.engine.test_engine import summary_of

TALK = [Message("user", "Hello"), Message("assistant", "Yes?"), Message("user", "Tell me more")]
SAMPLED = GenerationOptions(
    max_tokens=40, temperature=0.9, top_k=60, top_p=0.95, min_p=0.01, repetition_penalty=1.1
)


def again(summary: GenerationSummary) -> GenerationOptions:
    """The options as they come back from where they were kept."""
    kept = from_dict(json.loads(summary.to_json()))
    assert isinstance(kept, GenerationSummary)
    return GenerationOptions(**{**kept.options, "stop": tuple(kept.options["stop"])})


@pytest.mark.parametrize("options", [GenerationOptions(max_tokens=40), SAMPLED])
def test_an_answer_is_made_again_by_a_cold_engine(
    tiny_dir: Path, options: GenerationOptions
) -> None:
    with Engine(tiny_dir) as engine:
        summary_of(engine.chat(TALK[:1], options))  # so that the second turn is read from a cache
        first = summary_of(engine.chat(TALK, options))
    assert first.cached_tokens > 0
    with Engine(tiny_dir) as engine:
        second = summary_of(engine.chat(TALK, again(first)))
    assert second.cached_tokens == 0
    assert second.tokens == first.tokens
    assert (second.text, second.options) == (first.text, first.options)


def test_a_continued_answer_is_made_again_stretch_by_stretch(tiny_dir: Path) -> None:
    stretches: list[GenerationSummary] = []
    begun: list[int] = []
    with Engine(tiny_dir) as engine:
        for _ in range(3):
            stretches.append(summary_of(engine.chat(TALK, SAMPLED, None, begun)))
            begun = [*begun, *stretches[-1].tokens]
    assert len({summary.options["seed"] for summary in stretches}) == 3  # each drew its own
    begun = []
    with Engine(tiny_dir) as engine:
        for wanted in stretches:
            got = summary_of(engine.chat(TALK, again(wanted), None, begun))
            assert (got.tokens, got.text) == (wanted.tokens, wanted.text)
            begun = [*begun, *got.tokens]
