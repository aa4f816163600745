"""Forced runs through every kind of cache: read at once they mean what they mean one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mobilellm_mlx.decoding import Generator
from mobilellm_mlx.decoding.grammar import Constraint
from mobilellm_mlx.grammar import regex_grammar
from mobilellm_mlx.loading import LoadedModel
from mobilellm_mlx.models import LanguageModel
from mobilellm_mlx.models.config import LayerConfig
from mobilellm_mlx.options import GenerationOptions
from mobilellm_mlx.templates import ChatTemplate
from mobilellm_mlx.testing import SCRIPTED_MODEL, ByteTokenizer
from tests.decoding.test_grammar import GREEDY, bound
from tests.models.test_layer_kinds import SLIDING, network

GRAMMAR = regex_grammar(f"[a-z]{{3}}{'<long>' * 8}[a-z]{{5}}{'!' * 30}[a-z]{{5}}end")


def generator(model: LanguageModel) -> Generator:
    return Generator(
        LoadedModel(
            model=model,
            tokenizer=ByteTokenizer(),
            template=ChatTemplate("{{ messages[0].content }}"),
            stop_tokens=frozenset({256}),
            defaults=GenerationOptions(),
            context_limit=2048,
            info=replace(SCRIPTED_MODEL, context_limit=2048),
        )
    )


@pytest.mark.parametrize("layers", [(LayerConfig(),), (SLIDING, LayerConfig())])
def test_forced_runs_read_at_once_are_the_same_as_one_by_one(
    layers: tuple[LayerConfig, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = network(*layers)
    quick = generator(model)
    options = replace(GREEDY, max_tokens=200, repetition_penalty=1.3)
    fast = bound(quick, GRAMMAR, options)
    follow_up = [*b"Say it.", *fast.tokens, *b" And?"]
    fast_more = bound(quick, GRAMMAR, options, prompt=follow_up)
    monkeypatch.setattr(Constraint, "forced", property(lambda _: []))
    assert bound(generator(model), GRAMMAR, options).tokens == fast.tokens
    assert bound(generator(model), GRAMMAR, options, prompt=follow_up).tokens == fast_more.tokens
    assert fast.forward_passes == 13 and fast.forced_tokens == 8 * 6 + 30 + 3
