"""An answer that was cut goes on as if it had never been: same tokens, same text."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import ScriptModel, script_loaded

from mobilellm_mlx.decoding import Generator
from mobilellm_mlx.decoding.text import Piece, ReasoningSplitter, TextStream
from mobilellm_mlx.errors import ContextOverflow, TokenizerError
from mobilellm_mlx.events import GenerationSummary, PrefillProgress, ReasoningDelta, TextDelta
from mobilellm_mlx.loading import LoadedModel, ReasoningMarkers, load_model
from mobilellm_mlx.messages import Message
from mobilellm_mlx.options import GenerationOptions
from mobilellm_mlx.testing import ByteTokenizer
from tests.decoding.test_reasoning import END, PROMPT, START, reasoning_model, sign_model

GREEDY = GenerationOptions(max_tokens=40)
HI = [Message("user", "Hello there, model")]
TALK = "<think>Grüße, why? </thin no</think>\n\nBecause 😀 of END it."


@pytest.fixture(scope="module")
def loaded(tiny_dir: Path) -> LoadedModel:
    return load_model(tiny_dir)


def answer(
    generator: Generator,
    options: GenerationOptions = GREEDY,
    begun: str | Sequence[int] = (),
    prompt: Sequence[int] | None = None,
) -> GenerationSummary:
    """One answer, its deltas checked against its summary."""
    prompt = generator.chat_prompt(HI) if prompt is None else prompt
    *events, summary = generator.generate(prompt, options, begun=begun)
    assert isinstance(summary, GenerationSummary)
    said = "".join(event.text for event in events if isinstance(event, TextDelta))
    thought = "".join(event.text for event in events if isinstance(event, ReasoningDelta))
    assert (said, thought) == (summary.text, summary.reasoning)
    return summary


def cut_and_continued(
    loaded: LoadedModel, options: GenerationOptions, cut: int, *, cold: bool
) -> tuple[GenerationSummary, GenerationSummary]:
    """The two halves of an answer cut after ``cut`` tokens; ``cold`` forgets the cache between."""
    generator = Generator(loaded)
    prompt = generator.chat_prompt(HI) if loaded.info.model == "tiny" else PROMPT
    first = answer(generator, replace(options, max_tokens=cut), prompt=prompt)
    generator = Generator(loaded) if cold else generator
    rest = replace(options, max_tokens=(options.max_tokens or 0) - cut)
    return first, answer(generator, rest, first.tokens, prompt)


@pytest.mark.parametrize("cold", [False, True], ids=["warm", "cold"])
@pytest.mark.parametrize("cut", [1, 2, 7, 39])
@pytest.mark.parametrize(
    "options",
    [
        GREEDY,
        replace(GREEDY, repetition_penalty=1e6),  # no token twice
        replace(GREEDY, temperature=1.0, top_k=50, seed=11),
    ],
    ids=["greedy", "penalty", "sampled"],
)
def test_a_cut_answer_continued_is_the_uncut_one(
    loaded: LoadedModel, options: GenerationOptions, cut: int, cold: bool, look_ahead: bool
) -> None:
    whole = answer(Generator(loaded), options)
    first, second = cut_and_continued(loaded, options, cut, cold=cold)
    assert first.tokens + second.tokens == whole.tokens
    assert first.text + second.text == whole.text
    assert (first.generated_tokens, second.generated_tokens) == (cut, 40 - cut)


@pytest.mark.parametrize("model", [reasoning_model(TALK), sign_model(START, "é?", END, "\n\nSö")])
def test_an_answer_is_continued_wherever_it_was_cut(model: LoadedModel) -> None:
    """In the middle of a character, of a marker, of reasoning, right before the end."""
    options = replace(GREEDY, max_tokens=200, stop=("END",))
    whole = answer(Generator(model), options, prompt=PROMPT)
    assert whole.stop_reason == "stop" and whole.reasoning
    for cut in range(1, whole.generated_tokens):
        first, second = cut_and_continued(model, options, cut, cold=False)
        assert first.tokens + second.tokens == whole.tokens, cut
        assert first.stop_reason == "length" and second.stop_reason == "stop"
        assert first.reasoning_tokens + second.reasoning_tokens <= whole.reasoning_tokens + 8
        # What could still have become a sign was shown when the answer was cut inside it.
        shown = (first.reasoning + second.reasoning, first.text + second.text)
        for wanted, signs, got in zip(
            (whole.reasoning, whole.text), ("</think>", "<think>END"), shown, strict=True
        ):
            assert got.replace(wanted, "", 1) in signs, cut
        assert "\ufffd" not in "".join(shown)


def test_what_was_shown_when_an_answer_was_cut_is_not_shown_again() -> None:
    options = replace(GREEDY, stop=("ENDE",))
    first, second = cut_and_continued(script_loaded("one ENDs."), options, 6, cold=False)
    assert (first.text, second.text) == ("one EN", "Ds.")


def test_a_stop_string_is_found_over_the_cut() -> None:
    options = replace(GREEDY, stop=("END",))
    first, second = cut_and_continued(script_loaded("one END two"), options, 6, cold=False)
    assert (first.text, second.text, second.stop_reason) == ("one EN", "", "stop")


def test_an_answer_that_a_stop_string_has_ended_does_not_go_on() -> None:
    generator = Generator(script_loaded("one END two"))
    options = replace(GREEDY, stop=("END",))
    first = answer(generator, options, prompt=PROMPT)
    again = answer(generator, options, first.tokens, PROMPT)
    assert (again.text, again.tokens, again.stop_reason, again.status) == ("", [], "stop", "ok")


def test_the_end_of_an_answer_is_no_part_of_what_is_continued(look_ahead: bool) -> None:
    """A longer script: the first model ends its turn where the second one goes on."""
    first = answer(Generator(script_loaded("Yes.")), prompt=PROMPT)
    assert first.tokens[-1] == 256
    more = Generator(script_loaded("Yes. And no."))
    assert answer(more, begun=first.tokens, prompt=PROMPT).text == " And no."


def test_the_beginning_counts_as_prompt_and_is_known_from_the_cache(loaded: LoadedModel) -> None:
    generator = Generator(loaded)
    prompt = generator.chat_prompt(HI)
    first = answer(generator, GenerationOptions(max_tokens=10))
    *events, _ = generator.generate(prompt, GREEDY, begun=first.tokens)
    progress = [event for event in events if isinstance(event, PrefillProgress)]
    length = len(prompt) + 10
    assert [(p.done, p.total) for p in progress] == [(length - 1, length), (length, length)]


def test_max_tokens_counts_only_what_is_new() -> None:
    generator = Generator(script_loaded("one two three"))
    second = answer(generator, GenerationOptions(max_tokens=4), "one ", PROMPT)
    assert (second.text, second.generated_tokens) == ("two ", 4)
    assert second.prompt_tokens == len(PROMPT) + 4


def test_a_text_is_continued_like_its_tokens(loaded: LoadedModel) -> None:
    by_text = answer(Generator(loaded), begun="Well, ")
    ids = loaded.tokenizer.encode("Well, ")
    assert by_text.tokens == answer(Generator(loaded), begun=ids).tokens
    assert by_text.tokens != answer(Generator(loaded)).tokens


def test_a_text_is_answer_where_the_prompt_has_opened_reasoning() -> None:
    model = sign_model("0123456789012345 and so", prompt="Say it.")
    generator = Generator(model)
    prompt = type(PROMPT)([*b"Say it.", START])
    second = answer(generator, begun="Because", prompt=prompt)
    assert isinstance(model.model, ScriptModel)
    assert model.model.fed[0] == [*b"Say it.", START, END, *b"\n\nBecause"]
    assert (second.reasoning, second.text) == ("", "12345 and so")


def test_a_special_token_s_name_in_a_text_stays_text(loaded: LoadedModel) -> None:
    second = answer(Generator(loaded), begun="<|im_end|>")
    assert second.prompt_tokens == len(Generator(loaded).chat_prompt(HI)) + len("<|im_end|>")


def test_reasoning_before_the_cut_is_part_of_the_budget(look_ahead: bool) -> None:
    options = replace(GREEDY, max_tokens=30, thinking_budget=5)
    model = sign_model(START, "thinking", END, "answer")
    whole = answer(Generator(model), options, prompt=PROMPT)
    for cut in range(1, 12):
        first, second = cut_and_continued(model, options, cut, cold=False)
        assert first.tokens + second.tokens == whole.tokens, cut
        assert first.reasoning_tokens + second.reasoning_tokens == 5


def test_a_smaller_budget_does_not_close_reasoning_that_is_over() -> None:
    model = sign_model(START, "thinking", END, "answer")
    first = answer(Generator(model), GenerationOptions(max_tokens=12), prompt=PROMPT)
    second = answer(Generator(model), replace(GREEDY, thinking_budget=2), first.tokens, PROMPT)
    assert (first.text, second.text) == ("an", "swer")


def test_a_beginning_that_fills_the_context_is_refused() -> None:
    generator = Generator(script_loaded("x" * 50, context_limit=20))
    with pytest.raises(ContextOverflow, match="20 tokens but the context is 20"):
        answer(generator, begun=[65] * 13, prompt=PROMPT)


@pytest.mark.parametrize("token", [-1, 258, 2**70])
def test_a_token_that_the_model_does_not_have_is_refused(loaded: LoadedModel, token: int) -> None:
    with pytest.raises(TokenizerError, match="is outside the model's 258 tokens"):
        answer(Generator(loaded), begun=[65, token])


@given(st.text("aé<think>/END\n ", max_size=40), st.integers(0, 60), st.booleans())
def test_two_streams_give_what_one_gives(text: str, cut: int, reasons: bool) -> None:
    """Only what was held back at the cut, and became part of a sign, may be there in addition."""

    def stream() -> TextStream:
        markers = ReasoningMarkers() if reasons else None
        return TextStream(ByteTokenizer(), {256}, ("END",), ReasoningSplitter(markers))

    def feed(into: TextStream, ids: Sequence[int]) -> list[Piece]:
        return [into.add(token) for token in ids if not into.stopped]

    def joined(pieces: list[Piece]) -> tuple[str, str]:
        return "".join(p.text for p in pieces), "".join(p.reasoning for p in pieces)

    whole, first, second, ids = stream(), stream(), stream(), list(text.encode())
    wanted = joined([*feed(whole, ids), whole.finish()])
    given_ = joined(feed(first, ids[:cut]))
    held = Piece() if first.stopped else first.finish(cut=True)
    second.resume(ids[:cut])
    rest = joined([*feed(second, ids[cut:]), second.finish()])
    assert (second.stopped, second.reasoning_tokens) == (whole.stopped, whole.reasoning_tokens)
    for before, between, after, want in zip(given_, held, rest, wanted, strict=True):
        assert want in (before + between + after, before + after)
