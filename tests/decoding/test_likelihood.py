"""How likely a network finds the ends of sequences, against each sequence read alone and whole."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import LLAMA, make_model, pack
from tolerances import FP32_REORDERED, as_float64

from mobilellm_mlx.backend import mx
from mobilellm_mlx.decoding import likelihood
from mobilellm_mlx.decoding.likelihood import Likelihood, Row, batches, judge, judge_all
from mobilellm_mlx.errors import TokenizerError
from mobilellm_mlx.models import LanguageModel
from tests.models.test_layer_kinds import NETWORKS
from tests.models.test_llama4 import build, read_case

FAMILIES: dict[str, Callable[[], LanguageModel]] = {
    "llama": lambda: make_model(LLAMA),
    "untied": lambda: make_model({**LLAMA, "tie_word_embeddings": False}),
    "r1": lambda: build(*read_case("r1")[:2]),
    "r1-chunked-and-warm": lambda: build(*read_case("wide")[:2]),
    "packed": lambda: pack(make_model(LLAMA)),
    "packed-everything": lambda: pack(NETWORKS["everything"]()[0]),
    **{
        name: lambda name=name: NETWORKS[name]()[0]  # type: ignore[misc]
        for name in (
            "layer-sharing",
            "pro",
            "pro-without-positions",
            "flash-that-begins-without",
            "only-windows",
            "window-of-one",
            "window-run-twice",
            "windows-and-chunks",
            "everything",
        )
    },
}
"""Windows and chunks are of 8, 5, 4, 3 and 1 tokens: shorter than what is read below."""
Group = list[Row]


@cache
def network(name: str) -> LanguageModel:
    return FAMILIES[name]()


@cache
def naive(name: str, row: Row) -> tuple[float, bool]:
    """A row alone, all of it at once: its log-likelihood, and whether it is greedy."""
    logits = as_float64(network(name)(mx.array([row.tokens[:-1]]))[0, -row.judged :])
    told = list(row.tokens[-row.judged :])
    shifted = logits - logits.max(axis=-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return float(logs[range(row.judged), told].sum()), logits.argmax(axis=-1).tolist() == told


def check(name: str, groups: Sequence[Group], found: Sequence[Sequence[Likelihood]]) -> None:
    """Fail unless all that was found is what each row is given alone."""
    assert [len(group) for group in found] == [len(group) for group in groups]
    for number, (rows, group) in enumerate(zip(groups, found, strict=True)):
        for at, (row, got) in enumerate(zip(rows, group, strict=True)):
            total, is_greedy = naive(name, row)
            close = pytest.approx(total, rel=0, abs=FP32_REORDERED * row.judged)
            assert got.log_likelihood == close, f"{name}, row {at} of group {number}: {row}"
            assert (got.is_greedy, got.tokens) == (is_greedy, row.judged)


def ids(length: int, seed: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(0, 72, length).tolist())


def choices(shared: int, *rests: int, judged: int | None = None, seed: int = 0) -> Group:
    """Rows that begin alike and go on for so many tokens; what they have of their own is judged."""
    begin = ids(shared, seed)
    tails = [((at + seed) % 72, *ids(rest - 1, seed + at + 1)) for at, rest in enumerate(rests)]
    rows = [(*begin, *tail) for tail in tails]
    return [
        Row(row, min(judged or len(tail), len(row) - 1))
        for row, tail in zip(rows, tails, strict=True)
    ]


KINDS: dict[str, Group] = {
    "a question and four answers": choices(20, 3, 1, 12, 2),
    "nothing shared": choices(0, 9, 4, 17, seed=1),
    "one token shared": choices(1, 3, 9, seed=2),
    "ends in a chunk": choices(13, 11, 2, seed=3),
    "ends with a window": choices(8, 9, 8, seed=4),
    "alone": choices(11, 4, seed=5),
    "alone and all of it judged": choices(0, 30, seed=6),
    "identical": choices(9, 4, seed=7) * 3,
    "two tokens": choices(1, 1, 1, 1, seed=8),
    "two tokens, nothing shared": choices(0, 2, 2, seed=9),
    "judged into what is shared": choices(12, 2, 5, 1, judged=9, seed=10),
    "all judged": choices(10, 3, 6, judged=99, seed=11),
    "only the last is judged": choices(10, 6, 14, judged=1, seed=12),
    "one is how another begins": [Row(ids(n, 13), n // 2) for n in (21, 7, 12, 8)],
    "as long as the context": choices(3, 60, 2, seed=14),
    "judged in what is shared only": [Row((*ids(9, 15), 1), 6), Row((*ids(9, 15), 2), 3)],
}


@pytest.mark.parametrize("name", FAMILIES)
def test_each_kind_of_group_is_judged_as_its_rows_are_alone(name: str) -> None:
    for group in KINDS.values():
        check(name, [group], judge(network(name), [group]))


@pytest.mark.parametrize("name", FAMILIES)
def test_groups_of_very_different_lengths_are_judged_at_once_as_alone(name: str) -> None:
    groups = list(KINDS.values())
    check(name, groups, judge(network(name), groups))


@st.composite
def groups(draw: st.DrawFn) -> Group:
    """Few different tokens, so that rows also agree by chance; 0 is what short rows are filled up
    with."""
    token = st.sampled_from([0, 1, 71])
    begin = draw(st.lists(token, max_size=18))
    rows = []
    for rest in draw(st.lists(st.lists(token, max_size=9), min_size=1, max_size=4)):
        tokens = (*begin, *rest) if len(begin) + len(rest) > 1 else (1, 0)
        rows.append(Row(tokens, draw(st.integers(1, len(tokens) - 1))))
    return rows


@given(name=st.sampled_from(sorted(FAMILIES)), some=st.lists(groups(), max_size=4), limit=st.data())
@settings(max_examples=60)
def test_whatever_the_groups_and_batches_each_row_is_judged_as_alone(
    name: str, some: list[Group], limit: st.DataObject
) -> None:
    model, tokens = network(name), limit.draw(st.sampled_from([1, 20, 60, None]), "batch_tokens")
    check(name, some, judge(model, some))
    found = list(judge_all(model, some, threading.Event(), tokens))
    assert sorted(one.group for one in found) == list(range(len(some)))
    for one in found:
        values = zip(one.log_likelihoods, one.greedy, one.tokens, strict=True)
        check(name, [some[one.group]], [[Likelihood(*value) for value in values]])


@pytest.mark.parametrize("shared", [0, 30])
def test_a_group_that_is_larger_than_a_batch_is_read_in_parts(shared: int) -> None:
    network_, read = network("llama"), []

    def hidden(tokens: mx.array, caches: Any) -> mx.array:
        read.append(tokens.size)
        return network_.hidden(tokens, caches)

    watched: Any = SimpleNamespace(config=network_.config, hidden=hidden, head=network_.head)
    group = [Row((*ids(shared, 1), *ids(20 + at % 3, at)), 9) for at in range(50)]
    (found,) = judge_all(watched, [group], threading.Event(), batch_tokens=60)
    assert max(read) <= 80
    values = zip(found.log_likelihoods, found.greedy, found.tokens, strict=True)
    check("llama", [group], [[Likelihood(*value) for value in values]])


def test_no_groups_are_no_events() -> None:
    assert judge(network("llama"), []) == []
    assert list(judge_all(network("llama"), [], threading.Event())) == []


# What is likeliest


@pytest.mark.parametrize("shared", [0, 4, 9])
@pytest.mark.parametrize("name", ["llama", "everything"])
def test_what_the_network_would_say_is_greedy_and_one_other_token_is_not(
    name: str, shared: int
) -> None:
    """Whether that token is read once for all, right behind, or of a row's own."""
    model, begin = network(name), ids(6, 20)
    said = list(begin)
    for _ in range(6):
        said.append(int(mx.argmax(model(mx.array([said]))[0, -1]).item()))
    greedy = Row(tuple(said), 6)
    assert naive(name, greedy)[1]
    others = [(*said[:at], (said[at] + 1) % 258, *said[at + 1 :]) for at in range(6, 12)]
    beside = Row((*said[:shared], (said[shared] + 2) % 258, 5), 1)  # so much is shared with it
    found = judge(model, [[row, beside] for row in (greedy, *(Row(other, 6) for other in others))])
    assert [rows[0].is_greedy for rows in found] == [True] + [False] * 6


def test_of_equals_the_first_is_the_likeliest() -> None:
    model = make_model(LLAMA)
    model.model.norm.weight = mx.zeros(32)  # all logits are 0
    [[first, last, both]] = judge(model, [[Row((5, 0), 1), Row((5, 257), 1), Row((5, 0, 0), 2)]])
    assert (first.is_greedy, last.is_greedy, both.is_greedy) == (True, False, True)
    assert first.log_likelihood == last.log_likelihood == pytest.approx(-math.log(258), rel=1e-6)
    assert both.log_likelihood == pytest.approx(-2 * math.log(258), rel=1e-6)


def test_a_network_that_gives_nan_finds_nothing_likely_and_nothing_greedy() -> None:
    model = make_model(LLAMA)
    model.model.norm.weight = mx.full(32, math.nan)
    [found] = judge(model, [[*choices(3, 2, 5), Row((7, 0), 1)]])
    assert all(math.isnan(one.log_likelihood) and not one.is_greedy for one in found)
    assert [one.tokens for one in found] == [2, 5, 1]


@pytest.mark.parametrize("damaged", [0, 200])
def test_nan_of_one_token_stays_in_its_rows(damaged: int) -> None:
    """Also when short rows could be filled up with it."""
    model = make_model({**LLAMA, "tie_word_embeddings": False})
    known = mx.arange(258)[:, None] != damaged
    model.model.embed_tokens.weight = mx.where(known, model.model.embed_tokens.weight, math.nan)
    good = [[Row((1, 2, 3, 4, 5), 2), Row((1, 2, 9), 1)], [Row((7, 8, 9, 1, 2, 3, 4, 6), 3)]]
    bad = [Row((1, 2, damaged, 4), 1), Row((1, damaged, 3), 2)]
    *found, [first, fine, last] = judge(model, [*good, [bad[0], good[0][0], bad[1]]])
    check("untied", [*good, good[0][:1]], [*found, [fine]])
    assert math.isnan(first.log_likelihood) and math.isnan(last.log_likelihood)


def test_infinite_logits_are_no_likelihood_and_no_crash() -> None:
    model = make_model({**LLAMA, "tie_word_embeddings": False})
    head, state = mx.zeros((258, 32)), model.hidden(mx.array([[3]]))[0, 0]
    head[9] = mx.where(state > 0, 1, -1) * 3e38  # its logit overflows
    model.lm_head.weight = head
    [[over, under]] = judge(model, [[Row((3, 9), 1), Row((3, 8), 1)]])
    assert math.isnan(over.log_likelihood) and not over.is_greedy
    assert under.log_likelihood == -math.inf and not under.is_greedy


def test_logits_of_half_precision_are_summed_in_float32() -> None:
    model, row = make_model(LLAMA), Row(ids(40, 30), 39)
    model.set_dtype(mx.float16)
    logits = as_float64(model(mx.array([row.tokens[:-1]]))[0])
    sizes = np.log(np.exp(logits).sum(axis=-1))
    wanted = (logits[range(39), list(row.tokens[1:])] - sizes).sum()
    [[found]] = judge(model, [[row]])
    assert found.log_likelihood == pytest.approx(wanted, rel=0, abs=FP32_REORDERED)


# What is computed


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Shapes of the tokens that were read, and how many states passed the head at once."""
    spy = SimpleNamespace(read=[], headed=[])
    hidden, head = LanguageModel.hidden, LanguageModel.head

    def spied_hidden(model: LanguageModel, tokens: mx.array, caches: Any = None) -> mx.array:
        spy.read.append(tuple(tokens.shape))
        return hidden(model, tokens, caches)

    def spied_head(model: LanguageModel, states: mx.array) -> mx.array:
        spy.headed.append(math.prod(states.shape[:-1]))
        return head(model, states)

    monkeypatch.setattr(LanguageModel, "hidden", spied_hidden)
    monkeypatch.setattr(LanguageModel, "head", spied_head)
    return spy


@pytest.mark.parametrize(
    ("group", "read", "headed"),
    [
        # The last token of a row is never read, and the first one of an answer is foretold by
        # what is shared: one state for all.
        (choices(10, 4, 4, 4), [(1, 10), (3, 3)], [1, 9]),
        (choices(10, 4, 4, 4, judged=1), [(1, 10), (3, 3)], [3]),
        (choices(10, 4, 4, 4, judged=7), [(1, 10), (3, 3)], [4, 9]),
        (choices(10, 1, 1, 1), [(1, 10)], [1]),
        (choices(10, 1, 4, 1), [(1, 10), (1, 3)], [1, 3]),
        (choices(0, 4, 4), [(2, 3)], [6]),
        (choices(10, 4), [(1, 13)], [4]),
        (choices(10, 4) * 3, [(1, 13)], [4]),
    ],
)
def test_what_is_shared_is_read_once_and_only_what_is_asked_passes_the_head(
    group: Group, read: list[tuple[int, int]], headed: list[int], seen: SimpleNamespace
) -> None:
    judge(network("llama"), [group])
    assert (seen.read, seen.headed) == (read, headed)


def test_beginnings_of_several_groups_are_read_together(seen: SimpleNamespace) -> None:
    judge(network("llama"), [choices(10, 4, 4), choices(6, 4, 4, seed=1), choices(0, 4, 5, seed=2)])
    assert seen.read == [(3, 10), (6, 4)]


def test_at_most_a_quarter_of_what_is_read_behind_beginnings_is_filling(
    seen: SimpleNamespace,
) -> None:
    lengths = [1, 2, 2, 3, 5, 8, 9, 10, 11, 30, 40, 47, 50]
    judge(network("llama"), [choices(4, *(length + 1 for length in lengths))])
    first, *rest = seen.read
    assert first == (1, 4)
    assert sum(rows for rows, _ in rest) == len(lengths)
    assert sum(rows * length for rows, length in rest) * 0.75 <= sum(lengths)
    assert len(rest) < len(lengths) / 2  # or reading each alone would do


def test_logits_never_take_more_than_their_share(
    seen: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = [KINDS["all judged"], KINDS["judged into what is shared"], KINDS["identical"]]
    whole = judge(network("llama"), some)
    assert max(seen.headed) > 9
    total, seen.headed = sum(seen.headed), []
    monkeypatch.setattr(likelihood, "HEAD_BYTES", 4 * 258 * 4 + 3)  # of four states
    check("llama", some, judge(network("llama"), some))
    assert max(seen.headed) == 4 and sum(seen.headed) == total
    monkeypatch.setattr(likelihood, "HEAD_BYTES", 1)
    assert judge(network("llama"), some[:1])[0][0].tokens == whole[0][0].tokens


# Batches


@given(some=st.lists(groups(), max_size=9), tokens=st.integers(1, 120))
@settings(max_examples=40)
def test_a_batch_reads_no_more_than_it_may_unless_one_group_does(
    some: list[Group], tokens: int
) -> None:
    found = list(batches(some, tokens))
    assert sorted(number for batch in found for number in batch) == list(range(len(some)))
    spy = SimpleNamespace(cells=0)

    def hidden(given: mx.array, caches: Any) -> mx.array:
        spy.cells += given.size
        for one in caches:
            one.update(*[mx.zeros((*given.shape[:1], 1, given.shape[1], 1))] * 2)
        return mx.zeros((*given.shape, 1))

    config = network("llama").config
    model: Any = SimpleNamespace(
        config=config, hidden=hidden, head=lambda states: mx.zeros((len(states), 72))
    )
    for batch in found:
        spy.cells = 0
        judge(model, [some[number] for number in batch])
        assert spy.cells <= tokens / 0.75 or len(batch) == 1


def test_a_group_too_long_for_a_batch_is_judged_alone() -> None:
    long, short = choices(30, 9, 9), [choices(4, 2, 2, seed=n) for n in range(1, 4)]
    assert list(batches([short[0], long, *short[1:]], 30)) == [[1], [0, 2, 3]]


def test_groups_of_similar_lengths_are_judged_at_once() -> None:
    some = [choices(shared, 3, 3, seed=shared) for shared in (4, 30, 5, 31, 6, 29)]
    found = [sorted(batch) for batch in batches(some, 110)]
    assert found == [[1, 3, 5], [0, 2, 4]]


def test_cancelling_stops_after_the_present_batch(seen: SimpleNamespace) -> None:
    some, cancel = [choices(6, 2, 2, seed=n) for n in range(6)], threading.Event()
    events = judge_all(network("llama"), some, cancel, batch_tokens=16)
    found = [next(events).group]
    cancel.set()
    found += [event.group for event in events]
    assert found == [0, 1]  # of two groups, read before
    assert len(seen.read) == 2


def test_what_is_cancelled_beforehand_reads_nothing(seen: SimpleNamespace) -> None:
    cancel = threading.Event()
    cancel.set()
    assert list(judge_all(network("llama"), [choices(6, 2, 2)], cancel)) == []
    assert not seen.read


# Rows


@pytest.mark.parametrize(
    ("tokens", "judged"), [((), 1), ((5,), 1), ((5,), 0), ((5, 6), 0), ((5, 6), 2), ((5, 6), -1)]
)
def test_a_row_judges_at_least_one_token_and_never_its_first(
    tokens: tuple[int, ...], judged: int
) -> None:
    with pytest.raises(ValueError, match=f"{judged} of {len(tokens)} tokens cannot be judged"):
        Row(tokens, judged)


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        (100, Row((1, 2, 3, 4, 5, 6), 3)),
        (5, Row((1, 2, 3, 4, 5, 6), 3)),  # the last one is not read
        (4, Row((2, 3, 4, 5, 6), 3)),
        (3, Row((3, 4, 5, 6), 3)),
        (2, Row((4, 5, 6), 2)),
        (1, Row((5, 6), 1)),
    ],
)
def test_a_row_that_is_too_long_keeps_its_end(limit: int, kept: Row) -> None:
    assert Row((1, 2, 3, 4, 5, 6), 3).cut(limit) == kept


@pytest.mark.parametrize("row", [Row((1, 2, 258), 1), Row((258, 2), 1), Row((1, -1, 2), 1)])
def test_a_token_that_the_network_does_not_have_is_an_error(row: Row) -> None:
    with pytest.raises(TokenizerError, match="is outside the model's 258 tokens"):
        judge(network("llama"), [choices(3, 2, 2), [Row((1, 2, 3), 1), row]])
