"""Guesses checked several at a time: the same tokens as one at a time."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import LLAMA, MOBILELLM, ScriptModel, make_model, script_loaded

from mobilellm_mlx.backend import BACKENDS, mx
from mobilellm_mlx.decoding import Generator, step
from mobilellm_mlx.decoding.sampling import make_sampler
from mobilellm_mlx.decoding.speculative import (
    LENGTHS,
    Guessing,
    Lookup,
    Pace,
    iter_speculated,
)
from mobilellm_mlx.decoding.step import iter_tokens
from mobilellm_mlx.events import GenerationSummary, TextDelta
from mobilellm_mlx.loading import LoadedModel
from mobilellm_mlx.models import LanguageModel
from mobilellm_mlx.options import GenerationOptions

GREEDY = GenerationOptions(speculation=True)
SAMPLED = GenerationOptions(speculation=True, temperature=0.8, top_p=0.95, seed=7)
PENALIZED = GenerationOptions(speculation=True, repetition_penalty=1.3, repetition_window=5)


class Bold(Pace):
    """Always as many guesses as there may be, or one number of them."""

    def __init__(self, length: int = LENGTHS[-1]):
        super().__init__()
        self.length = length

    def choose(self, rate: float, most: int) -> int:
        return min(self.length, most)

    def note(self, length: int, given: int, seconds: float) -> None:
        pass


class Copier(LanguageModel):
    """A tiny network that all but repeats what stood ``period`` tokens before, with some chance.

    Its logits come from the network; what was fed ``period`` tokens before gets a bonus. So
    guesses are right often, and wrong often enough.
    """

    def __init__(self, raw: dict[str, Any], period: int, bonus: float):
        super().__init__(make_model(raw).config)
        self.update(make_model(raw).parameters())
        self.period, self.bonus = period, bonus
        self.seen: list[int] = []

    def hidden(self, tokens: mx.array, caches: Any = None) -> mx.array:
        start = caches[0].offset
        self.seen = self.seen[:start] + tokens[0].tolist()
        self.start = start
        return super().hidden(tokens, caches)

    def head(self, hidden: mx.array, rows: mx.array | None = None) -> mx.array:
        logits = super().head(hidden)
        count = len(self.seen) - self.start
        first = count - logits.shape[1] if logits.ndim == 3 else count - 1
        likely = [self.seen[self.start + first + i + 1 - self.period] for i in range(count - first)]
        bonus = mx.arange(logits.shape[-1]) == mx.array(likely)[:, None]
        return logits + self.bonus * bonus


PROMPT = [random.Random(3).randrange(258) for _ in range(20)] * 2


def copier(raw: dict[str, Any] = LLAMA, bonus: float = 4.0) -> Copier:
    return Copier(raw, 20, bonus)


def plain(options: GenerationOptions, count: int, model: Any, begun: Sequence[int] = ()) -> Any:
    sampler = make_sampler(options, options.seed or 0, len(begun))
    prompt = [*PROMPT, *begun]
    return list(
        iter_tokens(model, model.make_cache(), prompt, sampler, count, options=options, begun=begun)
    )


def guessed(
    options: GenerationOptions,
    count: int,
    model: Any,
    pace: Pace | None = None,
    guessing: Guessing | None = None,
    caches: Any = None,
) -> list[int]:
    return list(
        iter_speculated(
            model,
            model.make_cache() if caches is None else caches,
            PROMPT,
            make_sampler(options, options.seed or 0),
            count,
            read=PROMPT,
            pace=pace or Bold(),
            guessing=guessing or Guessing(),
            options=options,
        )
    )


@pytest.mark.parametrize("length", [2, 3, 8, 16])
@pytest.mark.parametrize(
    "options", [GREEDY, SAMPLED, PENALIZED, replace(PENALIZED, temperature=1.0, top_k=20, seed=3)]
)
def test_tokens_are_those_of_one_at_a_time(options: GenerationOptions, length: int) -> None:
    found, model = Guessing(), copier()
    tokens = guessed(options, 60, model, Bold(length), found)
    assert tokens == plain(options, 60, copier())
    assert 0 < found.accepted < found.drafted  # some guesses were right, and some were not


def windowed() -> dict[str, Any]:
    """A configuration of which two blocks of three see the last 8 tokens only."""
    return {
        "model_type": "llama4_text",
        "vocab_size": 258,
        "hidden_size": 32,
        "intermediate_size": 64,
        "intermediate_size_mlp": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "sliding_window": 8,
        "no_rope_layers": [1, 1, 1],
        "moe_layers": [],
        "attn_temperature_tuning": False,
        "use_qk_norm": True,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
    }


@pytest.mark.parametrize("raw", [MOBILELLM, windowed()], ids=["shared blocks", "window"])
def test_caches_of_all_kinds_are_taken_back(raw: dict[str, Any]) -> None:
    model = copier(raw, 2.0)
    caches = model.make_cache()
    found = Guessing()
    assert guessed(GREEDY, 60, model, None, found, caches) == plain(GREEDY, 60, copier(raw, 2.0))
    assert 0 < found.accepted < found.drafted
    assert {cache.offset for cache in caches} == {len(PROMPT) + 59}  # the last is never fed


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_exactly_as_many_tokens_come_as_were_asked_for(count: int) -> None:
    model = ScriptModel([5])
    caches = model.make_cache(limit=len(PROMPT) + count - 1)  # to the brim
    assert guessed(GREEDY, count, model, None, None, caches) == [5] * count


def test_right_guesses_save_passes() -> None:
    model, found = ScriptModel([5]), Guessing()
    guessed(GREEDY, 100, model, None, found)
    assert (found.drafted, found.accepted) == (found.accepted, found.drafted)
    assert len(model.fed) == 100 - found.accepted < 15


class Dice(ScriptModel):
    """The same logits behind every token."""

    SHARES = (0.05, 0.4, 0.1, 0.25, 0.15, 0.05)

    def head(self, hidden: mx.array, rows: mx.array | None = None) -> mx.array:
        logits = mx.array([math.log(share) for share in self.SHARES])
        return mx.broadcast_to(logits, (*hidden.shape[:-1], len(self.SHARES)))


def test_sampled_tokens_keep_their_distribution() -> None:
    """3,000 tokens, guessed all the while; each count within six sigma: fails once in 10^8."""
    found = Guessing()
    tokens = guessed(
        GenerationOptions(speculation=True, temperature=1.0, seed=11),
        3000,
        Dice([0]),
        Bold(4),
        found,
    )
    counts = Counter(tokens)
    assert found.accepted > 300  # the draft had its say
    for token, share in enumerate(Dice.SHARES):
        assert abs(counts[token] - 3000 * share) < 6 * math.sqrt(3000 * share * (1 - share))
    pairs = Counter(pairwise(tokens))
    share = Dice.SHARES[1] ** 2  # what comes does not depend on what came, nor on the guess
    assert abs(pairs[1, 1] - 3000 * share) < 6 * math.sqrt(3000 * share * 2)


# A generator that guesses.


def answer(loaded: LoadedModel, options: GenerationOptions, *, pace: Pace | None = None) -> Any:
    made = Generator(loaded)
    made._pace = pace or Bold()
    *events, summary = made.generate(made.text_prompt("Say it."), options)
    assert isinstance(summary, GenerationSummary)
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == summary.text
    return made, summary


TALK = "the cat sat on the mat. " * 6


@pytest.mark.parametrize("stop", [(), ("mat. the cat sat",), ("sat on the mat. the cat",)])
def test_an_answer_is_the_same_with_guesses_and_ends_at_the_same_place(
    stop: tuple[str, ...],
) -> None:
    options = GenerationOptions(speculation=True, stop=stop)
    _, with_guesses = answer(script_loaded(TALK), options)
    _, without = answer(script_loaded(TALK), replace(options, speculation=False))
    assert with_guesses.tokens == without.tokens
    assert (with_guesses.text, with_guesses.stop_reason) == (without.text, "stop")
    assert with_guesses.accepted_tokens > 0 == without.drafted_tokens
    passes = with_guesses.generated_tokens - with_guesses.accepted_tokens
    assert with_guesses.forward_passes == passes < without.forward_passes


def test_what_was_checked_and_not_said_is_forgotten() -> None:
    """A stop string ends the answer in the middle of a pass; the next turn reads on from there."""
    made, summary = answer(
        script_loaded(TALK), GenerationOptions(speculation=True, stop=("cat sat on the mat. th",))
    )
    held = {cache.offset for cache in made._chat.caches}
    assert held == {len(made._chat.tokens)}
    said = [*made.text_prompt("Say it."), *summary.tokens]
    assert made._chat.tokens == said[: len(made._chat.tokens)]
    assert len(said) - 1 <= len(made._chat.tokens)


def test_an_answer_cut_anywhere_goes_on_as_if_it_had_not_been(tiny_dir: Any) -> None:
    from mobilellm_mlx.loading import load_model

    loaded = load_model(tiny_dir)
    options = GenerationOptions(speculation=True, temperature=0.9, top_k=3, seed=5, max_tokens=40)
    whole = answer(loaded, options)[1]
    assert whole.drafted_tokens > 0
    for cut in (1, 7, 23):
        made, first = answer(loaded, replace(options, max_tokens=cut))
        rest = replace(options, max_tokens=40 - cut)
        *_, second = made.generate(made.text_prompt("Say it."), rest, begun=first.tokens)
        assert first.tokens + second.tokens == whole.tokens


def test_a_budget_for_reasoning_and_a_gpu_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = script_loaded(TALK)
    assert answer(loaded, GenerationOptions(speculation=True))[1].drafted_tokens > 0
    assert (
        answer(loaded, GenerationOptions(speculation=True, thinking_budget=9))[1].drafted_tokens
        == 0
    )
    ahead = replace(BACKENDS["cpu"], look_ahead=True)
    monkeypatch.setattr(step, "backend", lambda: ahead)
    assert answer(loaded, GenerationOptions(speculation=True))[1].drafted_tokens == 0


# What is guessed.


def test_a_guess_is_what_followed_the_last_time() -> None:
    lookup = Lookup([1, 2, 3, 4, 1, 2, 9, 8, 7, 1, 2])
    assert lookup.guess(3) == [9, 8, 7]
    lookup.add(3)
    assert lookup.guess(3) == [4, 1, 2]


def test_a_longer_match_counts_more_than_a_later_one() -> None:
    lookup = Lookup([1, 2, 3, 4, 50, 6, 3, 4, 60, 7, 1, 2, 3, 4])
    assert lookup.guess(1) == [50]


def test_what_repeats_itself_is_guessed_to_go_on() -> None:
    assert Lookup([1, 2, 3, 1, 2, 3, 1]).guess(7) == [2, 3, 1, 2, 3, 1, 2]
    assert Lookup([5, 5, 5]).guess(4) == [5, 5, 5, 5]


@pytest.mark.parametrize("tokens", [[], [1], [1, 2], [1, 2, 3, 4, 5]])
def test_nothing_is_guessed_of_what_was_never_seen(tokens: list[int]) -> None:
    assert Lookup(tokens).guess(4) == []


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 20))
def test_guesses_are_those_of_a_search_from_the_end(tokens: list[int], count: int) -> None:
    """The slow twin looks at every earlier place, the last first."""

    def search() -> list[int]:
        for matched in (4, 2):
            for place in range(len(tokens) - 1, matched - 1, -1):
                if tokens[place - matched : place] == tokens[-matched:]:
                    period = tokens[place:]
                    return [period[i % len(period)] for i in range(count)]
        return []

    assert Lookup(tokens).guess(count) == search()


# How many.


def simulate(
    costs: dict[int, float], rate: float, count: int, seed: int = 1
) -> tuple[float, float, Counter[int]]:
    """Seconds for so many tokens with guesses and without, and the lengths of the passes."""
    chance, pace, guessing = random.Random(seed), Pace(), Guessing()
    seconds, said, lengths = 0.0, 0, Counter[int]()
    while said < count:
        length = pace.choose(guessing.rate, 16)
        right = 0
        while right < 15 and chance.random() < rate:
            right += 1
        given = min(length, right + 1)
        guessing.judge([1] * 15, [1] * (given - 1) + [1 if right >= given else 0])
        pace.note(length, given, costs[length])
        seconds += costs[length]
        said += given
        lengths[length] += 1
    return seconds, said * costs[1], lengths


LINEAR = {n: float(n) for n in (1, *LENGTHS)}
FLAT = {n: 1.0 + 0.05 * n for n in (1, *LENGTHS)}


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9, 0.98])
def test_where_tokens_cost_the_same_in_any_pass_nothing_is_lost(rate: float) -> None:
    """The bound is 2 % and the two tokens that the account begins with."""
    with_guesses, without, _ = simulate(LINEAR, rate, 400)
    assert with_guesses <= without * 1.02 + 2.0


def test_a_machine_where_a_pass_is_dearer_than_its_tokens_stops_guessing() -> None:
    dear = {n: 1.0 if n == 1 else 3.0 * n for n in LINEAR}
    with_guesses, without, lengths = simulate(dear, 0.9, 2000)
    assert with_guesses <= without * 1.03 + 6.0
    assert lengths[1] > 0.97 * sum(lengths.values())


def test_right_guesses_pay_where_a_pass_costs_hardly_more() -> None:
    with_guesses, without, lengths = simulate(FLAT, 0.95, 600)
    assert with_guesses < without / 3
    assert lengths[16] > lengths[4]


def test_what_one_answer_has_gained_is_not_lost_by_the_next() -> None:
    pace, flat = Pace(), FLAT[16]
    for _ in range(50):
        pace.note(1, 1, 1.0)
    for _ in range(50):
        pace.note(16, 16, flat)
    for _ in range(8):
        pace.note(16, 1, 10.0)  # something else has begun to run
    assert pace.choose(0.98, 16) == 8  # of which nothing is known: it may cost 8 tokens
    pace.begin()
    assert pace.choose(0.98, 16) == 3


@pytest.mark.parametrize("costs", [LINEAR, FLAT], ids=["linear", "flat"])
def test_wrong_guesses_are_given_up(costs: dict[int, float]) -> None:
    with_guesses, without, lengths = simulate(costs, 0.02, 600)
    assert with_guesses <= without * 1.03 + 2.0
    assert lengths[1] > 0.9 * sum(lengths.values())


def test_guesses_that_were_not_tried_are_judged_as_well() -> None:
    guessing = Guessing()
    for _ in range(10):
        guessing.judge([1, 2], [9])
    assert guessing.rate < 0.1
    for _ in range(10):
        guessing.judge([1, 2], [1])
    assert guessing.rate > 0.8
    assert (guessing.drafted, guessing.accepted) == (0, 0)
