"""One answer after another: what is said, why it ends, what is reused, what it cost."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import ScriptModel, script_loaded, write_byte_tokenizer

import mobilellm_mlx.decoding.generator as generator_module
from mobilellm_mlx.backend import BACKENDS
from mobilellm_mlx.decoding import Generator
from mobilellm_mlx.errors import (
    ContextOverflow,
    InsufficientMemory,
    InvalidInput,
    TemplateError,
    TokenizerError,
)
from mobilellm_mlx.events import Event, GenerationSummary, PrefillProgress, TextDelta
from mobilellm_mlx.loading import LoadedModel, load_model
from mobilellm_mlx.messages import Message
from mobilellm_mlx.options import GenerationOptions, LoadOptions
from mobilellm_mlx.tokenizer import load_tokenizer

GREEDY = GenerationOptions(max_tokens=24)
PROMPT = list(b"Say it.")


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts are read 16 tokens at a time."""
    small = replace(BACKENDS["cpu"], prefill_chunk=16)
    monkeypatch.setattr(generator_module, "backend", lambda: small)


@pytest.fixture(scope="module")
def loaded(tiny_dir: Path) -> LoadedModel:
    return load_model(tiny_dir)


def summary_of(events: list[Event]) -> GenerationSummary:
    assert isinstance(events[-1], GenerationSummary)
    assert not any(isinstance(event, GenerationSummary) for event in events[:-1])
    return events[-1]


def answer(
    generator: Generator,
    prompt: list[int],
    options: GenerationOptions = GREEDY,
    cancel: threading.Event | None = None,
) -> GenerationSummary:
    return summary_of(list(generator.generate(prompt, options, cancel)))


def cancel_when(
    generator: Generator,
    prompt: list[int],
    options: GenerationOptions,
    moment: Callable[[Any], bool],
) -> list[Event]:
    """The events of an answer that is cancelled at the first event for which ``moment`` is true."""
    cancel, events = threading.Event(), []
    for event in generator.generate(prompt, options, cancel):
        events.append(event)
        if moment(event):
            cancel.set()
    assert cancel.is_set()
    return events


def script_of(generator: Generator) -> ScriptModel:
    model = generator._loaded.model
    assert isinstance(model, ScriptModel)
    return model


# What is said, and why it ends


def test_an_answer_is_the_text_before_the_stop_token() -> None:
    summary = answer(Generator(script_loaded("Hello, world!")), PROMPT)
    assert (summary.text, summary.stop_reason, summary.status) == ("Hello, world!", "stop", "ok")
    assert summary.generated_tokens == len("Hello, world!") + 1  # the stop token was generated too


def test_the_deltas_joined_are_the_answer() -> None:
    events = list(Generator(script_loaded("Grüße 😀!")).generate(PROMPT, GREEDY))
    deltas = [event.text for event in events if isinstance(event, TextDelta)]
    assert "".join(deltas) == summary_of(events).text == "Grüße 😀!"
    assert "" not in deltas


def test_an_answer_is_cut_after_max_tokens() -> None:
    summary = answer(Generator(script_loaded("Hello")), PROMPT, GenerationOptions(max_tokens=3))
    assert (summary.text, summary.stop_reason, summary.generated_tokens) == ("Hel", "length", 3)


def test_an_answer_cut_inside_a_character_ends_before_it() -> None:
    summary = answer(Generator(script_loaded("aé")), PROMPT, GenerationOptions(max_tokens=2))
    assert (summary.text, summary.generated_tokens) == ("a", 2)


def test_an_answer_that_the_model_ends_inside_a_character_shows_that() -> None:
    assert answer(Generator(script_loaded(b"a\xc3")), PROMPT).text == "a\ufffd"


@pytest.mark.parametrize("max_tokens", [None, 13, 14, 1000])
def test_an_answer_ends_where_the_context_does(max_tokens: int | None) -> None:
    generator = Generator(script_loaded("x" * 500, context_limit=20))
    summary = answer(generator, PROMPT, GenerationOptions(max_tokens=max_tokens))
    assert (summary.stop_reason, summary.generated_tokens) == ("context", 13)
    assert summary.context_used == summary.context_limit == 20


def test_max_tokens_below_the_room_is_no_matter_of_context() -> None:
    generator = Generator(script_loaded("x" * 500, context_limit=20))
    summary = answer(generator, PROMPT, GenerationOptions(max_tokens=12))
    assert (summary.stop_reason, summary.generated_tokens) == ("length", 12)


def test_a_real_network_fills_its_context_to_the_brim(tiny_dir: Path) -> None:
    generator = Generator(load_model(tiny_dir, LoadOptions(context=32)))
    summary = answer(generator, list(range(30)), GenerationOptions(max_tokens=None))
    assert (summary.stop_reason, summary.generated_tokens) == ("context", 2)


def test_a_prompt_that_leaves_room_for_one_token_is_answered() -> None:
    generator = Generator(script_loaded("xyz", context_limit=8))
    summary = answer(generator, PROMPT)
    assert (summary.text, summary.stop_reason) == ("x", "context")


@pytest.mark.parametrize("limit", [7, 6])
def test_a_prompt_without_room_for_an_answer_is_refused(limit: int) -> None:
    generator = Generator(script_loaded("xyz", context_limit=limit))
    with pytest.raises(ContextOverflow, match=f"7 tokens but the context is {limit}"):
        answer(generator, PROMPT)
    assert script_of(generator).fed == []


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(InvalidInput, match="empty"):
        answer(Generator(script_loaded("x")), [])


def test_a_token_outside_the_models_vocabulary_is_refused(loaded: LoadedModel) -> None:
    """MLX does not check: it would read whatever lies behind the embedding."""
    with pytest.raises(TokenizerError, match="token 258 is outside"):
        answer(Generator(loaded), [1, 258])


@pytest.mark.parametrize(
    ("stop", "text"),
    [(("END",), "one two "), (("two",), "one "), (("D", "tw"), "one "), (("o",), "")],
)
def test_a_stop_string_ends_an_answer_and_is_not_part_of_it(
    stop: tuple[str, ...], text: str
) -> None:
    generator = Generator(script_loaded("one two END three"))
    summary = answer(generator, PROMPT, replace(GREEDY, stop=stop))
    assert (summary.text, summary.stop_reason) == (text, "stop")


def test_the_beginning_of_a_stop_string_is_shown_when_the_answer_ends_there() -> None:
    summary = answer(Generator(script_loaded("one EN")), PROMPT, replace(GREEDY, stop=("END",)))
    assert (summary.text, summary.stop_reason) == ("one EN", "stop")


def test_a_chat_without_a_template_is_refused() -> None:
    generator = Generator(replace(script_loaded("x"), template=None))
    with pytest.raises(TemplateError, match="no chat template") as caught:
        generator.chat_prompt([Message("user", "hi")])
    assert caught.value.hint


def test_plain_text_has_the_tokenizers_prefix_and_a_chat_has_not() -> None:
    loaded = script_loaded("x")
    loaded.tokenizer.prefix = (256,)
    generator = Generator(loaded)
    assert generator.text_prompt("ab") == [256, *b"ab"]
    assert generator.chat_prompt([Message("user", "ab")]) == [*b"ab", 256]


def test_a_token_that_pads_the_models_vocabulary_is_no_text(tmp_path: Path) -> None:
    """Many checkpoints round their vocabulary up; sampling can hit such an id."""
    write_byte_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path, {})
    model = ScriptModel([0] * 6 + [33, 300, 33, 256], vocab_size=320)
    loaded = replace(script_loaded(""), model=model, tokenizer=tokenizer)  # type: ignore[arg-type]
    assert answer(Generator(loaded), PROMPT).stop_reason == "stop"


# Sampling


def test_the_seed_in_a_summary_makes_the_same_answer_again(loaded: LoadedModel) -> None:
    options = GenerationOptions(max_tokens=30, temperature=1.0)
    first = answer(Generator(loaded), PROMPT, options)
    assert isinstance(first.options["seed"], int)
    again = GenerationOptions(**{**first.options, "stop": tuple(first.options["stop"])})
    assert answer(Generator(loaded), PROMPT, again).text == first.text


def test_different_seeds_make_different_answers(loaded: LoadedModel) -> None:
    texts = {
        answer(
            Generator(loaded), PROMPT, GenerationOptions(max_tokens=30, temperature=1, seed=n)
        ).text
        for n in range(4)
    }
    assert len(texts) == 4  # thirty bytes each


def test_without_a_seed_each_answer_draws_another(loaded: LoadedModel) -> None:
    options = GenerationOptions(max_tokens=1, temperature=1)
    seeds = {answer(Generator(loaded), PROMPT, options).options["seed"] for _ in range(3)}
    assert len(seeds) == 3  # two equal ones: once in 10^9


# Cancelling


def test_cancelling_between_tokens_keeps_what_was_said() -> None:
    generator = Generator(script_loaded("Hello, world!"))
    events = cancel_when(generator, PROMPT, GREEDY, lambda e: getattr(e, "text", "") == "l")
    summary = summary_of(events)
    assert (summary.text, summary.stop_reason, summary.status) == ("Hel", "cancelled", "cancelled")
    assert summary.generated_tokens == 3


def test_cancelling_gives_out_what_was_held_back() -> None:
    generator = Generator(script_loaded("one EN..."))
    cancel, texts = threading.Event(), []
    options = replace(GREEDY, stop=("ENDE",))
    for event in generator.generate(PROMPT, options, cancel):
        if isinstance(event, TextDelta):
            texts.append(event.text)
            if len(script_of(generator).fed) >= 4:
                cancel.set()
    assert "".join(texts) in ("one ", "one E", "one EN", "one")


def test_cancelling_between_chunks_of_the_prompt_reads_no_more(small_chunks: None) -> None:
    generator = Generator(script_loaded("never said"))
    events = cancel_when(
        generator,
        list(range(100)),
        GREEDY,
        lambda e: isinstance(e, PrefillProgress) and e.done == 32,
    )
    summary = summary_of(events)
    assert [len(piece) for piece in script_of(generator).fed] == [16, 16]
    assert (summary.text, summary.stop_reason, summary.status) == ("", "cancelled", "cancelled")
    assert (summary.generated_tokens, summary.ttft_s, summary.decode_tok_per_s) == (0, 0, 0)


def test_a_prompt_cancelled_half_way_is_not_read_twice(small_chunks: None) -> None:
    generator = Generator(script_loaded("never said"))
    prompt = list(range(100))
    cancel_when(
        generator, prompt, GREEDY, lambda e: isinstance(e, PrefillProgress) and e.done == 32
    )
    assert answer(generator, prompt, GenerationOptions(max_tokens=1)).cached_tokens == 32


def test_a_job_cancelled_before_it_began_reads_nothing_of_a_short_prompt() -> None:
    generator, cancel = Generator(script_loaded("x")), threading.Event()
    cancel.set()
    summary = answer(generator, PROMPT, cancel=cancel)
    assert (summary.status, script_of(generator).fed) == ("cancelled", [])


def test_a_job_cancelled_before_it_began_reads_nothing_of_a_long_prompt(small_chunks: None) -> None:
    generator, cancel = Generator(script_loaded("x")), threading.Event()
    cancel.set()
    answer(generator, list(range(100)), cancel=cancel)
    assert script_of(generator).fed == []


@pytest.mark.parametrize("after", ["prefill", "tokens"])
def test_after_cancelling_the_answer_is_that_of_a_fresh_generator(
    loaded: LoadedModel, after: str, small_chunks: None, look_ahead: bool
) -> None:
    first, second = list(b"x" * 100), list(b"x" * 40 + b"another question")
    generator = Generator(loaded)
    if after == "prefill":
        events = cancel_when(
            generator, first, GREEDY, lambda e: isinstance(e, PrefillProgress) and e.done == 48
        )
    else:
        events = cancel_when(generator, first, GREEDY, lambda e: isinstance(e, TextDelta))
    assert summary_of(events).status == "cancelled"
    again = answer(generator, second)
    assert again.cached_tokens == 40
    assert again.text == answer(Generator(loaded), second).text


# What is reused


def test_a_second_turn_reads_only_what_is_new(look_ahead: bool) -> None:
    generator = Generator(script_loaded("answer"))
    first = answer(generator, PROMPT)
    second = [*PROMPT, *first.text.encode(), 256, *b"And now?"]
    script_of(generator).fed.clear()
    summary = answer(generator, second, GenerationOptions(max_tokens=1))
    known = len(PROMPT) + len("answer") + look_ahead  # the end sign, where it was fed ahead
    assert summary.cached_tokens == known
    assert script_of(generator).fed == [second[known:]]


def test_a_turn_cut_by_max_tokens_never_fed_its_last_token(look_ahead: bool) -> None:
    generator = Generator(script_loaded("answer"))
    first = answer(generator, PROMPT, GenerationOptions(max_tokens=3))
    second = [*PROMPT, *first.text.encode(), *b"..."]
    assert answer(generator, second).cached_tokens == len(PROMPT) + 2


def test_the_same_prompt_again_is_read_but_for_its_last_token() -> None:
    generator = Generator(script_loaded("answer"))
    answer(generator, PROMPT)
    assert answer(generator, PROMPT).cached_tokens == len(PROMPT) - 1


def test_a_prompt_that_is_the_beginning_of_the_last_one_reuses_that() -> None:
    generator = Generator(script_loaded("answer"))
    answer(generator, PROMPT)
    assert answer(generator, PROMPT[:4]).cached_tokens == 3


def test_a_wholly_different_prompt_reuses_nothing() -> None:
    generator = Generator(script_loaded("answer"))
    answer(generator, PROMPT)
    summary = answer(generator, list(b"else, far longer than the other one"))
    assert summary.cached_tokens == 0


def test_a_conversation_is_answered_as_without_a_cache(
    loaded: LoadedModel, look_ahead: bool
) -> None:
    """Three turns, one of them edited: exactly the answers of fresh generators."""
    generator, messages = Generator(loaded), []
    for turn, said in enumerate(["Hello there", "What else?", "And then?"]):
        messages.append(Message("user", said))
        prompt = generator.chat_prompt(messages)
        with_cache, fresh = answer(generator, prompt), answer(Generator(loaded), prompt)
        assert with_cache.text == fresh.text
        assert fresh.cached_tokens == 0
        assert (with_cache.cached_tokens > 20) == (turn > 0)
        messages.append(Message("assistant", with_cache.text))
    edited = generator.chat_prompt([Message("user", "Hello, you"), *messages[1:], messages[0]])
    with_cache, fresh = answer(generator, edited), answer(Generator(loaded), edited)
    assert 10 < with_cache.cached_tokens < 30
    assert with_cache.text == fresh.text


@pytest.mark.parametrize("chunk", [1, 7, 16, 64, 256])
def test_the_answer_does_not_depend_on_how_the_prompt_is_chunked(
    loaded: LoadedModel, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = list(b"a longer prompt, which takes several chunks to be read, or one only")
    wanted = answer(Generator(loaded), prompt).text
    backend = replace(BACKENDS["cpu"], prefill_chunk=chunk)
    monkeypatch.setattr(generator_module, "backend", lambda: backend)
    assert answer(Generator(loaded), prompt).text == wanted


@pytest.mark.parametrize("fail_after", [0, 1, 4])
def test_after_a_failure_nothing_in_the_cache_is_trusted(fail_after: int, look_ahead: bool) -> None:
    generator = Generator(script_loaded("a longer answer"))
    answer(generator, PROMPT)
    model = script_of(generator)
    model.fail_after = len(model.fed) + fail_after
    with pytest.raises(InsufficientMemory, match="out of memory while generating"):
        answer(generator, [*PROMPT, *b"more"])
    model.fail_after = None
    model.fed.clear()
    summary = answer(generator, PROMPT)
    assert (summary.cached_tokens, model.fed[0]) == (0, PROMPT)
    assert summary.text == "a longer answer"


def test_after_a_reader_left_nothing_in_the_cache_is_trusted() -> None:
    generator = Generator(script_loaded("answer"))
    events: Iterator[Event] = generator.generate(PROMPT, GREEDY)
    while not isinstance(next(events), TextDelta):
        pass
    events.close()  # type: ignore[attr-defined]
    summary = answer(generator, PROMPT)
    assert (summary.cached_tokens, summary.text) == (0, "answer")


def test_a_refused_prompt_does_not_cost_the_cache() -> None:
    generator = Generator(script_loaded("answer", context_limit=64))
    answer(generator, PROMPT)
    with pytest.raises(ContextOverflow):
        answer(generator, [1] * 64)
    assert answer(generator, PROMPT).cached_tokens == len(PROMPT) - 1


# What is reported


def test_progress_goes_from_what_was_known_to_the_whole_prompt(small_chunks: None) -> None:
    generator = Generator(script_loaded("x"))
    prompt = list(range(50))
    for cached, steps in ((0, [0, 16, 32, 48, 50]), (49, [49, 50])):
        events = list(generator.generate(prompt, GenerationOptions(max_tokens=1)))
        progress = [event for event in events if isinstance(event, PrefillProgress)]
        assert [event.done for event in progress] == steps
        assert {(event.total, event.cached) for event in progress} == {(50, cached)}


def test_the_numbers_of_a_summary_add_up(loaded: LoadedModel) -> None:
    generator = Generator(loaded)
    answer(generator, PROMPT)
    summary = answer(generator, [*PROMPT, *b" And go on."], GenerationOptions(max_tokens=20))
    assert (summary.job, summary.model, summary.error) == ("generate", "tiny", None)
    assert (summary.prompt_tokens, summary.generated_tokens) == (len(PROMPT) + 11, 20)
    assert summary.cached_tokens == len(PROMPT)
    assert summary.context_used == summary.prompt_tokens + summary.generated_tokens
    assert summary.context_limit == 1024
    assert 0 < summary.prefill_s <= summary.ttft_s <= summary.elapsed_s
    assert 0 < summary.decode_s < summary.elapsed_s
    assert summary.ttft_s + summary.decode_s <= summary.elapsed_s
    assert summary.prefill_tok_per_s == pytest.approx(11 / summary.prefill_s)
    assert summary.decode_tok_per_s == pytest.approx(19 / summary.decode_s)
    assert 0 < summary.memory_bytes <= summary.peak_memory_bytes
    assert loaded.info.weight_bytes <= summary.memory_bytes


def test_one_token_has_no_rate_of_decoding(loaded: LoadedModel) -> None:
    summary = answer(Generator(loaded), PROMPT, GenerationOptions(max_tokens=1))
    assert (summary.decode_s, summary.decode_tok_per_s) == (0, 0)


def test_the_options_in_force_are_reported_as_they_come_back_from_json() -> None:
    import json

    options = GenerationOptions(max_tokens=5, top_k=3, temperature=0.5, seed=7, stop=("a", "b"))
    reported = answer(Generator(script_loaded("x")), PROMPT, options).options
    assert reported == json.loads(json.dumps(reported))
    assert GenerationOptions(**{**reported, "stop": tuple(reported["stop"])}) == options


def test_the_repetition_penalty_leaves_the_words_of_the_question_alone(loaded: LoadedModel) -> None:
    """The penalty forbids what it touches; so it must not touch the words of these prompts."""
    forbidding = replace(GREEDY, repetition_penalty=1e6, repetition_window=1000, max_tokens=1)
    tried = 0
    for first in range(40):
        prompt = [first, *range(65, 91), *range(97, 123)]
        plain = answer(Generator(loaded), prompt, replace(GREEDY, max_tokens=1)).text
        if plain and ord(plain[0]) in prompt:
            tried += 1
            assert answer(Generator(loaded), prompt, forbidding).text == plain
    assert tried
