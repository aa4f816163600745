"""The token loop on its own."""

from typing import Any

import pytest
from tiny import LLAMA, ScriptModel, make_model
from tolerances import FP32_REORDERED, assert_close

from mobilellm_mlx.backend import mx
from mobilellm_mlx.decoding.sampling import make_sampler
from mobilellm_mlx.decoding.step import iter_prefill, iter_tokens
from mobilellm_mlx.models import KVCache
from mobilellm_mlx.options import GenerationOptions

pytestmark = pytest.mark.usefixtures("look_ahead")

GREEDY = make_sampler(GenerationOptions(), 0)


def naive(model: Any, prompt: list[int], count: int) -> list[int]:
    """Greedy continuation without caches, the whole text at every step: the slow twin."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(mx.argmax(model(mx.array([ids]))[0, -1]).item()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("chunk", [1, 3, 8, 64])
def test_prefill_and_steps_give_what_whole_forwards_give(chunk: int) -> None:
    model, prompt = make_model(LLAMA), [5, 77, 3, 200, 41, 9, 130, 8, 8, 61]
    caches = model.make_cache()
    list(iter_prefill(model, caches, prompt, chunk))
    rest = prompt[caches[0].offset :]
    assert 1 <= len(rest) <= chunk
    assert list(iter_tokens(model, caches, rest, GREEDY, 12)) == naive(model, prompt, 12)


def test_the_twin_above_says_more_than_one_token() -> None:
    assert len(set(naive(make_model(LLAMA), [5, 77, 3, 200, 41, 9, 130, 8, 8, 61], 12))) > 3


@pytest.mark.parametrize(
    ("length", "chunk", "done", "pieces"),
    [
        (10, 4, [4, 8], [4, 4]),
        (8, 4, [4], [4]),
        (9, 4, [4, 8], [4, 4]),
        (4, 4, [], []),
        (3, 4, [], []),
        (1, 4, [], []),
    ],
)
def test_prefill_leaves_at_most_a_chunk_to_the_first_step(
    length: int, chunk: int, done: list[int], pieces: list[int]
) -> None:
    model = ScriptModel([0])
    caches = model.make_cache()
    assert list(iter_prefill(model, caches, list(range(length)), chunk)) == done  # type: ignore[arg-type]
    assert [len(piece) for piece in model.fed] == pieces
    assert 1 <= length - caches[0].offset <= chunk


def test_stopping_between_chunks_reads_no_more() -> None:
    model = ScriptModel([0])
    chunks = iter_prefill(model, model.make_cache(), list(range(20)), 4)  # type: ignore[arg-type]
    next(chunks)
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    assert model.fed == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_exactly_as_many_tokens_come_as_were_asked_for(count: int) -> None:
    model = ScriptModel(list(range(100)))
    tokens = list(iter_tokens(model, model.make_cache(), [7], GREEDY, count))  # type: ignore[arg-type]
    assert tokens == list(range(count))


@pytest.mark.parametrize("count", [1, 2, 9])
def test_the_look_ahead_stays_within_the_cache(count: int) -> None:
    """The last token is never fed: prompt and answer may fill the context to the brim."""
    model, caches = ScriptModel(list(range(100))), [KVCache(limit=3 + count - 1)]
    assert len(list(iter_tokens(model, caches, [7, 7, 7], GREEDY, count))) == count  # type: ignore[arg-type]
    assert caches[0].offset == 3 + count - 1


def test_at_most_one_step_is_computed_ahead(look_ahead: bool) -> None:
    model = ScriptModel(list(range(100)))
    tokens = iter_tokens(model, model.make_cache(), [9], GREEDY, 50)  # type: ignore[arg-type]
    assert [next(tokens), model.fed] == [0, [[9]]]  # nobody waits longer for the first token
    assert [next(tokens), model.fed] == [1, [[9], [0], [1]] if look_ahead else [[9], [0]]]
    assert [next(tokens), model.fed[2:]] == [2, [[1], [2]] if look_ahead else [[1]]]


def test_the_caches_hold_the_tokens_given_out_the_last_one_only_with_look_ahead(
    look_ahead: bool,
) -> None:
    model = ScriptModel(list(range(100)))
    caches = model.make_cache()
    tokens = iter_tokens(model, caches, [9], GREEDY, 50)  # type: ignore[arg-type]
    given = [next(tokens) for _ in range(5)]
    tokens.close()  # type: ignore[attr-defined]
    held = [9, *given] if look_ahead else [9, *given[:-1]]
    assert [piece[0] for piece in model.fed] == held
    assert caches[0].offset == len(held)


class ConstantModel(ScriptModel):
    """Always the same logits."""

    LOGITS = (5.0, 4.5, 4.0, -1.0, 3.0, 2.0)

    def head(self, hidden: mx.array) -> mx.array:
        return mx.broadcast_to(mx.array(self.LOGITS), (*hidden.shape[:-1], len(self.LOGITS)))


def penalized_twin(penalty: float, window: int, count: int) -> list[int]:
    """Greedy choice with a repetition penalty over the answer, in plain Python."""
    ids: list[int] = []
    for _ in range(count):
        logits = list(ConstantModel.LOGITS)
        for token in set(ids[-window:]):
            logits[token] = (
                logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
            )
        ids.append(max(range(len(logits)), key=logits.__getitem__))
    return ids


@pytest.mark.parametrize("penalty", [1.0, 1.05, 1.3, 3.0, 0.5])
@pytest.mark.parametrize("window", [1, 2, 3, 64])
@pytest.mark.parametrize("prompt", [[0], [3, 1, 0, 0, 2]])
def test_the_penalty_looks_at_the_last_tokens_of_the_answer_and_not_at_the_prompt(
    penalty: float, window: int, prompt: list[int]
) -> None:
    model = ConstantModel([0])
    options = GenerationOptions(repetition_penalty=penalty, repetition_window=window)
    tokens = iter_tokens(
        model,  # type: ignore[arg-type]
        model.make_cache(),
        prompt,
        GREEDY,
        12,
        options=options,
    )
    assert list(tokens) == penalized_twin(penalty, window, 12)


def test_the_twin_above_depends_on_penalty_and_window() -> None:
    runs = {tuple(penalized_twin(p, w, 12)) for p in (1.0, 1.3, 3.0) for w in (1, 3, 64)}
    assert len(runs) > 4


def test_logits_of_the_first_step_are_those_of_a_whole_forward() -> None:
    model, prompt, seen = make_model(LLAMA), [5, 77, 3, 200, 41], []

    def spy(logits: mx.array) -> mx.array:
        seen.append(logits)
        return mx.argmax(logits)

    caches = model.make_cache()
    list(iter_prefill(model, caches, prompt, 2))
    next(iter(iter_tokens(model, caches, prompt[caches[0].offset :], spy, 1)))
    assert_close(seen[0], model(mx.array([prompt]))[0, -1], FP32_REORDERED, "first step")
