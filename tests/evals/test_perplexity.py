"""Perplexity: what is judged after what, what is kept, and the figures of a whole corpus."""

from __future__ import annotations

import math
import threading
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import GOLDEN, LLAMA, make_model

from mobilellm_mlx.backend import mx
from mobilellm_mlx.decoding.likelihood import Row, judge_all
from mobilellm_mlx.errors import DataError, InvalidOption
from mobilellm_mlx.evals import corpora
from mobilellm_mlx.evals.corpora import Corpus
from mobilellm_mlx.evals.perplexity import (
    MIN_DOCUMENTS,
    Cut,
    Figure,
    PerplexityAnswerer,
    PerplexityTask,
    figures,
)
from mobilellm_mlx.evals.runner import run_task
from mobilellm_mlx.evals.task import Response, Subject
from mobilellm_mlx.events import EvalSummary, Event, Judged, Notice, Progress
from mobilellm_mlx.models.uncached import make_uncached
from mobilellm_mlx.testing import ByteTokenizer
from mobilellm_mlx.tokenizer import SentencePieceTokenizer, Tokenizer

WORDS = "Ice is frozen water, and süß is not: " * 8


@pytest.fixture(autouse=True)
def _short_passages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "PASSAGE", 40)


def corpus(*texts: str) -> Corpus:
    return Corpus("texts", "0" * 64, lambda: ([text] for text in texts))


class Prefixed(ByteTokenizer):
    """One that sees texts begin with a token of its own."""

    prefix = (256,)


class Judge:
    """Finds a token the less likely the larger its id; counts what it is asked."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.rows: list[Row] = []
        self._stop_after = stop_after

    def __call__(self, groups: Sequence[Sequence[Row]], cancel: threading.Event) -> Iterator[Event]:
        yield Notice("reading")
        for number, (row,) in reversed(list(enumerate(groups))):
            if self._stop_after is not None and len(self.rows) >= self._stop_after:
                cancel.set()
                return
            self.rows.append(row)
            nats = sum(row.tokens[-row.judged :]) / 100
            yield Judged(number, [-nats], [False], [row.judged])


def answers(
    texts: Iterable[str],
    judge: Any = None,
    tokenizer: Tokenizer | None = None,
    cut: Cut | None = None,
    open_: Callable[[str], bool] = lambda id: True,
) -> dict[str, dict[str, Any]]:
    """The responses to the passages of some texts, in the order of passages."""
    whole, tokenizer, cut = corpus(*texts), tokenizer or ByteTokenizer(), cut or Cut(16, 6)
    requests = [
        one for one in PerplexityTask(whole, cut, tokenizer).requests(None, 0) if open_(one.id)
    ]
    answer = PerplexityAnswerer(
        judge or Judge(), tokenizer, whole, cut, threading.Event(), at_once=100
    )
    found = {one.id: one.values for one in answer(requests) if isinstance(one, Response)}
    return {request.id: found[request.id] for request in requests}


def judged_tokens(judge: Judge) -> list[int]:
    """In order of the text: rows of a batch came the last one first."""
    return sorted(token for row in judge.rows for token in row.tokens[-row.judged :])


# What is judged after what


@pytest.mark.parametrize("stride", [1, 5, 8, 15])
@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 60])
def test_every_token_but_the_first_is_judged_once_with_enough_before_it(
    stride: int, length: int
) -> None:
    tokens = list(range(length))
    rows = Cut(16, stride).rows((), [], tokens)
    judged = [token for row in rows for token in row.tokens[-row.judged :]]
    assert judged == tokens[1:]
    for row in rows:
        assert row.tokens == tuple(range(row.tokens[0], row.tokens[-1] + 1))
        assert len(row.tokens) <= 16
        first = row.tokens[-row.judged]
        assert first - row.tokens[0] >= min(first, 16 - stride)


def test_the_windows_of_a_text_are_those_of_the_strided_loop_that_others_use() -> None:
    rows = Cut(8, 3).rows((), [], range(16))
    spans = [(row.tokens[0], row.tokens[-1] + 1, row.judged) for row in rows]
    assert spans == [(0, 8, 7), (3, 11, 3), (6, 14, 3), (9, 16, 2)]


@pytest.mark.parametrize("stride", [1, 8, 15])
def test_every_window_begins_with_what_texts_begin_with_and_the_first_token_is_judged(
    stride: int,
) -> None:
    rows = Cut(16, stride).rows((99,), [], range(40))
    assert [token for row in rows for token in row.tokens[-row.judged :]] == list(range(40))
    assert all(row.tokens[0] == 99 and len(row.tokens) <= 16 for row in rows)


@pytest.mark.parametrize(("window", "stride"), [(7, 3), (16, 0), (16, 16), (16, -1)])
def test_windows_that_cannot_be_are_refused(window: int, stride: int) -> None:
    with pytest.raises(InvalidOption, match=r"--window` is 7|--stride` is"):
        Cut(window, stride)


def test_a_passage_goes_on_from_those_before_it_and_a_document_from_none() -> None:
    judge = Judge()
    answers([WORDS, "Fire is hot."], judge)
    data = [WORDS.encode(), b"Fire is hot."]
    assert judged_tokens(judge) == sorted(data[0][1:] + data[1][1:])
    for row in judge.rows:
        assert any(bytes(row.tokens) in one for one in data)
        assert len(row.tokens) - row.judged >= 10 or any(
            one.startswith(bytes(row.tokens)) for one in data
        )


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), Prefixed()])
def test_passages_add_up_to_the_whole_text(tokenizer: Tokenizer) -> None:
    found = answers([WORDS], tokenizer=tokenizer).values()
    skipped = 0 if tokenizer.prefix else 1
    total = {name: sum(one[name] for one in found) for name in next(iter(found))}
    assert len(found) > 3
    assert total["tokens"] == total["bytes"] == len(WORDS.encode()) - skipped
    assert total["characters"] == len(WORDS) - skipped
    assert total["words"] == len(WORDS.split())
    assert total["nats"] == pytest.approx(sum(WORDS.encode()[skipped:]) / 100)


def test_a_passage_is_judged_the_same_whoever_was_asked_before() -> None:
    whole = answers([WORDS, WORDS[::-1]], first := Judge())
    for chosen in ("0.0", "0.3", "1.2"):
        alone = answers([WORDS, WORDS[::-1]], judge := Judge(), open_=lambda id, c=chosen: id == c)
        assert alone == {chosen: whole[chosen]}
        assert set(judge.rows) <= set(first.rows)


def test_of_passages_that_nobody_asks_about_only_the_last_tokens_are_read() -> None:
    class Counting(ByteTokenizer):
        texts = 0

        def encode(self, text: str) -> list[int]:
            self.texts += 1
            return super().encode(text)

    tokenizer = Counting()
    answers([WORDS * 9], tokenizer=tokenizer, open_=lambda id: id == "0.50")
    assert tokenizer.texts == 3  # one of them to see whether it puts a space before texts


def test_a_document_of_one_token_has_nothing_to_judge() -> None:
    found = answers(["x", "two"])
    assert found["0.0"] == {
        "nats": 0.0, "tokens": 0, "windows": 0, "bytes": 0, "characters": 0, "words": 1
    }  # fmt: skip
    task = PerplexityTask(corpus("x"), Cut(16, 8), ByteTokenizer())
    assert task.score(task.requests(None, 0)[0], Response("0.0", found["0.0"])) == {}
    assert answers(["x"], tokenizer=Prefixed())["0.0"]["tokens"] == 1


@pytest.mark.parametrize("prefix", [(), (1,)])
def test_the_space_that_sentencepiece_puts_before_a_text_is_not_put_into_the_middle(
    prefix: tuple[int, ...],
) -> None:
    tokenizer = SentencePieceTokenizer(GOLDEN / "botchan_en_bpe_1000.model")
    tokenizer.prefix = prefix
    text = "It was a fine day and the old man went to town. " * 9
    tokens = tokenizer.encode(text)
    skipped = 0 if prefix else 1
    found = answers([text], judge := Judge(), tokenizer, Cut(500, 250))
    assert len(found) > 3
    assert judged_tokens(judge) == sorted(tokens[skipped:])
    first = len(tokenizer.token_bytes(tokens[0]).lstrip())
    assert sum(one["bytes"] for one in found.values()) == len(text) - skipped * first


def test_a_text_that_changed_while_it_was_read_is_said() -> None:
    texts = [[WORDS], ["Ice."]]
    whole = Corpus("texts", "0" * 64, lambda: iter([texts.pop(0)]))
    task = PerplexityTask(whole, Cut(16, 6), ByteTokenizer())
    answer = PerplexityAnswerer(Judge(), ByteTokenizer(), whole, Cut(16, 6), threading.Event())
    with pytest.raises(DataError, match="changed while it was read"):
        list(answer(task.requests(None, 0)))


def test_of_few_passages_tokens_are_counted_and_of_many_they_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = corpus(WORDS)
    task = PerplexityTask(whole, Cut(16, 6), ByteTokenizer())
    answer = PerplexityAnswerer(Judge(), ByteTokenizer(), whole, Cut(16, 6), threading.Event())
    told = [one for one in answer(task.requests(None, 0)) if isinstance(one, Progress)]
    assert {(one.task, one.total, one.unit) for one in told} == {
        (task.name, len(WORDS.encode()) - 1, "tokens")
    }
    done = [one.done for one in told]
    assert done == sorted(done) and done[-1] == len(WORDS.encode()) - 1 and len(done) > 3
    monkeypatch.setattr("mobilellm_mlx.evals.perplexity.FEW", 1)
    many = PerplexityAnswerer(Judge(), ByteTokenizer(), whole, Cut(16, 6), threading.Event())
    assert not any(isinstance(one, Progress) for one in many(task.requests(None, 0)))


# Against a computation that shares nothing


def naive(model: Any, tokens: Sequence[int], cut: Cut) -> float:
    """Nats of all tokens but the first, each window read on its own, in float64."""
    nats, end, begin = 0.0, 1, 0
    while end < len(tokens):
        last = min(begin + cut.window, len(tokens))
        window = mx.array([list(tokens[begin:last])])
        logits = model.head(model.hidden(window, make_uncached(model.config)))
        values = np.array(logits[0].astype(mx.float32)).astype(np.float64)
        for at in range(end, last):
            one = values[at - 1 - begin]
            most = one.max()
            nats += most + math.log(np.exp(one - most).sum()) - one[tokens[at]]
        begin, end = begin + cut.stride, last
    return nats


@pytest.mark.parametrize(("window", "stride"), [(64, 32), (64, 63), (32, 5), (512, 256)])
def test_a_tiny_model_is_as_surprised_as_when_every_window_is_computed_alone(
    monkeypatch: pytest.MonkeyPatch, window: int, stride: int
) -> None:
    monkeypatch.setattr(corpora, "PASSAGE", 8192)
    model, cut = make_model(LLAMA), Cut(window, stride)
    found = answers(
        [WORDS, WORDS[::-1][:70]], lambda groups, cancel: judge_all(model, groups, cancel), cut=cut
    )
    for id, text in (("0.0", WORDS), ("1.0", WORDS[::-1][:70])):
        expected = naive(model, text.encode(), cut)
        assert found[id]["nats"] == pytest.approx(expected, rel=1e-5)


# The figures


def response(id: str, nats: float, tokens: int = 10, bytes: int = 40, words: int = 8) -> Response:
    sizes = {"bytes": bytes, "characters": bytes, "words": words}
    return Response(id, {"nats": nats, "tokens": tokens, "windows": 1, **sizes})


def test_figures_are_of_sums_and_not_means_of_means() -> None:
    found = figures([response("0.0", 10.0), response("0.1", 50.0, 30, 60, 12)])
    assert found.perplexity == Figure(pytest.approx(math.exp(60 / 40)), None)
    assert found.word_perplexity == Figure(pytest.approx(math.exp(60 / 20)), None)
    assert found.bits_per_byte == Figure(pytest.approx(60 / 100 / math.log(2)), None)
    assert found.bits_per_character == found.bits_per_byte
    assert (found.tokens, found.bytes, found.words) == (40, 100, 20)
    assert (found.documents, found.passages, found.nonfinite) == (1, 2, 0)


def test_standard_errors_are_over_documents_where_there_are_enough() -> None:
    # Within a document all passages are alike, so it counts as one.
    one = [response(f"{n}.{m}", 10.0 + n % 2) for n in range(MIN_DOCUMENTS) for m in range(4)]
    found = figures(one)
    assert found.errors_over == "documents"
    assert found.perplexity is not None and found.perplexity.stderr is not None
    expected = 0.05 / math.sqrt(MIN_DOCUMENTS)  # half of the documents on either side of 1.05
    assert found.perplexity.stderr == pytest.approx(math.exp(1.05) * expected)
    few = figures([response(f"0.{n}", 10.0 + n % 2) for n in range(MIN_DOCUMENTS)])
    assert few.errors_over == "passages"
    assert few.perplexity is not None
    assert few.perplexity.stderr == pytest.approx(math.exp(1.05) * expected)


def test_what_is_nan_is_counted_and_in_no_figure() -> None:
    found = figures([response("0.0", 10.0), response("0.1", math.nan), response("1.0", math.inf)])
    assert found.nonfinite == 2
    assert found.perplexity == Figure(pytest.approx(math.e), None)
    assert (found.tokens, found.passages, found.documents) == (10, 1, 1)


def test_where_nothing_was_judged_there_is_no_figure() -> None:
    nothing = response("0.0", 0.0, tokens=0)
    found = figures([nothing])
    assert found.perplexity is found.bits_per_byte is found.word_perplexity is None
    assert figures([nothing, response("1.0", 10.0)]).words == 8


def test_a_hopeless_model_has_a_perplexity_that_is_a_number() -> None:
    found = figures([response("0.0", 1e9)])
    assert found.perplexity is not None and 1e300 < found.perplexity.value < math.inf


# As a task


def run(judge: Any, max_tokens: int | None = None) -> tuple[list[Event], EvalSummary]:
    whole, cut, cancel = corpus(WORDS, "Fire is hot."), Cut(16, 6), threading.Event()
    task = PerplexityTask(whole, cut, ByteTokenizer(), max_tokens)
    answer = PerplexityAnswerer(judge, ByteTokenizer(), whole, cut, cancel, at_once=100)
    subject = Subject("m", "f" * 16)
    *events, summary = run_task(task, subject, answer, cancel=cancel)
    assert isinstance(summary, EvalSummary)
    return events, summary


def test_a_run_that_was_stopped_asks_only_what_is_left() -> None:
    _, stopped = run(Judge(stop_after=30))
    assert stopped.status == "cancelled"
    done = stopped.results[0]["requests"]
    assert done >= 2
    events, whole = run(second := Judge())
    assert whole.status == "ok"
    assert any(isinstance(one, Notice) and f"{done} of " in one.text for one in events)
    first_judge = Judge()
    assert answers([WORDS, "Fire is hot."], first_judge)
    assert len(second.rows) < len(first_judge.rows)
    again = run(Judge(stop_after=0))[1]  # nothing is open
    assert again.results[0]["metrics"] == whole.results[0]["metrics"]


def test_a_limit_ends_with_the_passage_that_reaches_it_and_a_longer_run_goes_on() -> None:
    _, first = run(Judge(), max_tokens=45)
    assert first.results[0]["requests"] == 2
    _, second = run(judge := Judge())
    ids = PerplexityTask(corpus(WORDS, "Fire is hot."), Cut(16, 6), ByteTokenizer())
    assert second.results[0]["requests"] == len(ids.requests(None, 0))
    assert not any(bytes(row.tokens) == WORDS.encode()[:16] for row in judge.rows)


def test_a_run_is_of_its_windows() -> None:
    task = PerplexityTask(corpus(WORDS), Cut(16, 6), ByteTokenizer())
    assert (task.name, task.settings) == ("ppl-texts", {"window": 16, "stride": 6})


def test_scores_and_weights_make_the_figures_of_the_whole() -> None:
    task = PerplexityTask(corpus(WORDS), Cut(16, 6), ByteTokenizer())
    requests = task.requests(None, 0)
    responses = [Response(id, values) for id, values in answers([WORDS]).items()]
    pairs = list(zip(requests, responses, strict=True))
    above = sum(
        task.score(*pair)["bits_per_byte"] * task.weights(*pair)["bits_per_byte"] for pair in pairs
    )
    below = sum(task.weights(*pair)["bits_per_byte"] for pair in pairs)
    whole = figures(responses).bits_per_byte
    assert whole is not None
    assert above / below == pytest.approx(whole.value)
    assert set(task.score(*pairs[0])) == {
        "bits_per_byte", "bits_per_character", "bits_per_token", "bits_per_word"
    }  # fmt: skip


def test_nan_is_named() -> None:
    def broken(groups: Sequence[Any], cancel: threading.Event) -> Iterator[Event]:
        for number in range(len(groups)):
            yield Judged(number, [math.nan], [False], [1])

    events, summary = run(broken)
    said = [one.text for one in events if isinstance(one, Notice)]
    assert any("`bits_per_byte` are NaN or infinite" in text for text in said)
    assert summary.results[0]["metrics"]["bits_per_byte"]["mean"] is None


def test_a_text_of_any_length_is_read_in_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora, "PASSAGE", 8192)
    monkeypatch.setattr(corpora, "_PIECE", 1 << 16)
    path = tmp_path / "long.txt"
    path.write_text("all work and no play " * 100_000, encoding="utf-8")  # 2 MB

    class Short(ByteTokenizer):
        def encode(self, text: str) -> list[int]:
            return [1] * max(1, len(text) // 100)

    whole, cut, most = corpora.LocalCorpus(path).open(), Cut(64, 32), 0
    tracemalloc.start()
    try:
        requests = PerplexityTask(whole, cut, Short()).requests(None, 0)
        judge: Any = lambda groups, cancel: (  # noqa: E731
            Judged(n, [-1.0], [False], [1]) for n in range(len(groups))
        )
        answer = PerplexityAnswerer(judge, Short(), whole, cut, threading.Event())
        assert sum(isinstance(one, Response) for one in answer(requests)) == len(requests) > 200
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 1_500_000
