"""Answers that belong to a grammar, whatever the model would rather say."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import GOLDEN, LLAMA, script_loaded, write_model

from mobilellm_mlx.backend import mx
from mobilellm_mlx.decoding import Generator
from mobilellm_mlx.decoding.generator import ChatPrompt
from mobilellm_mlx.decoding.grammar import GrammarCompiler
from mobilellm_mlx.errors import InvalidGrammar
from mobilellm_mlx.events import GenerationSummary, TextDelta
from mobilellm_mlx.grammar import (
    MAX_SOURCE,
    Grammar,
    choice_grammar,
    json_grammar,
    lark_grammar,
    regex_grammar,
)
from mobilellm_mlx.loading import LoadedModel, ReasoningMarkers, load_model
from mobilellm_mlx.models import KVCache, build_config
from mobilellm_mlx.options import GenerationOptions
from mobilellm_mlx.templates import ChatTemplate
from mobilellm_mlx.testing import SCRIPTED_MODEL, ByteTokenizer
from mobilellm_mlx.tokenizer import SentencePieceTokenizer, Tokenizer
from tests.convert import sentencepiece_writer as sp

PROMPT = list(b"Say it.")
GREEDY = GenerationOptions(max_tokens=400)
CITY = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Tokyo", "Paris", "New York"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}


class RandomModel:
    """A model that likes every token by chance, anew at every position."""

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size
        self.config = build_config({**LLAMA, "vocab_size": vocab_size})
        self.passes = 0
        self._key = mx.random.key(7)

    def make_cache(self, limit: int | None = None) -> list[KVCache]:
        return [KVCache(limit)]

    def hidden(self, tokens: mx.array, caches: Sequence[KVCache]) -> mx.array:
        self.passes += 1
        nothing = mx.zeros((1, 1, tokens.shape[1], 2))
        caches[0].update(nothing, nothing)
        return mx.zeros((1, tokens.shape[1], 1))

    def head(self, hidden: mx.array, rows: mx.array | None = None) -> mx.array:
        self._key, draw = mx.random.split(self._key)
        logits = mx.random.normal((*hidden.shape[:-1], self.vocab_size), key=draw) * 3
        return logits if rows is None else logits[..., rows]


def random_generator(tokenizer: Tokenizer, stops: frozenset[int], padding: int = 0) -> Generator:
    """A generator whose model knows ``padding`` tokens more than its tokenizer."""
    return Generator(
        LoadedModel(
            model=RandomModel(tokenizer.vocab_size + padding),  # type: ignore[arg-type]
            tokenizer=tokenizer,
            template=ChatTemplate("{{ messages[0].content }}"),
            stop_tokens=stops,
            defaults=GenerationOptions(),
            context_limit=4096,
            info=replace(SCRIPTED_MODEL, context_limit=4096),
        )
    )


def bound(
    generator: Generator,
    grammar: Grammar,
    options: GenerationOptions = GREEDY,
    prompt: Sequence[int] = PROMPT,
    **more: Any,
) -> GenerationSummary:
    *_, summary = generator.generate(prompt, options, grammar=grammar, **more)
    assert isinstance(summary, GenerationSummary)
    return summary


@pytest.fixture
def bytewise() -> Generator:
    return random_generator(ByteTokenizer(), frozenset({256}))


# ---------------------------------------------------------------- always inside

leaves = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(
        lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more},
        st.integers(-500, 500),
        st.integers(0, 300),
    ),
    st.builds(
        lambda low, more: {"type": "string", "minLength": low, "maxLength": low + more},
        st.integers(0, 3),
        st.integers(0, 6),
    ),
    st.builds(
        lambda values: {"enum": values},
        st.lists(st.text(max_size=6) | st.integers(-9, 99), min_size=1, max_size=4, unique=True),
    ),
)


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.lists(st.text("abcé_ ", min_size=1, max_size=5), max_size=3, unique=True)

    @st.composite
    def build(draw: st.DrawFn) -> dict[str, Any]:
        properties = {name: draw(inner) for name in draw(names)}
        required = [name for name in properties if draw(st.booleans())]
        return {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }

    arrays = st.builds(
        lambda items, low, more: {
            "type": "array", "items": items, "minItems": low, "maxItems": low + more,
        },
        inner, st.integers(0, 2), st.integers(0, 2),
    )  # fmt: skip
    return build() | arrays


schemas = st.recursive(leaves, objects, max_leaves=6)
RUNS = {"completed": 0}


@given(schema=schemas, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=500)
def test_whatever_the_model_likes_best_the_answer_validates(
    schema: dict[str, Any], seed: int
) -> None:
    generator = random_generator(ByteTokenizer(), frozenset({256}))
    sampled = GenerationOptions(max_tokens=600, temperature=1.5, top_p=0.9, seed=seed)
    for options in (replace(sampled, temperature=0.0), sampled):
        summary = bound(generator, json_grammar(schema), options)
        assert summary.stop_reason == "stop" and summary.is_whole
        jsonschema.validate(json.loads(summary.text), schema)
        compact = json.dumps(json.loads(summary.text), separators=(",", ":"), ensure_ascii=False)
        assert len(summary.text) >= len(compact) and ": " not in re.sub(
            r'"(?:[^"\\]|\\.)*"', "", summary.text
        )
        RUNS["completed"] += 1


def test_that_was_tried_a_thousand_times() -> None:
    """Of the test above; it counts what was completed and validated."""
    if RUNS["completed"]:  # not when this test runs alone
        assert RUNS["completed"] >= 1000


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_vocabulary_of_sentencepiece_is_bound_too(temperature: float, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(sp.train(**sp.LLAMA_LIKE))
    tokenizer = SentencePieceTokenizer(tmp_path / "tokenizer.model")
    generator = random_generator(tokenizer, frozenset({2}), padding=30)
    schema = {**CITY, "properties": {**CITY["properties"], "city": {"enum": ["a new", "the door"]}}}
    for seed in range(20):
        options = replace(GREEDY, temperature=temperature, seed=seed)
        summary = bound(generator, json_grammar(schema), options)
        jsonschema.validate(json.loads(summary.text), schema)
        assert summary.forced_tokens and max(summary.tokens) < tokenizer.vocab_size


# ---------------------------------------------------------------- forced tokens


def test_forced_tokens_are_read_in_one_pass_with_the_token_before_them(bytewise: Generator) -> None:
    summary = bound(bytewise, json_grammar(CITY))
    model: Any = bytewise._loaded.model
    assert (
        summary.forward_passes == model.passes == summary.generated_tokens - summary.forced_tokens
    )
    # One for the first letter of the city, one for the number.
    assert summary.forward_passes == 2
    assert json.loads(summary.text)["city"] in CITY["properties"]["city"]["enum"]  # type: ignore[index]


def test_an_answer_without_a_choice_costs_nothing(bytewise: Generator) -> None:
    summary = bound(bytewise, choice_grammar(["Yes."]))
    model: Any = bytewise._loaded.model
    assert (summary.text, summary.forward_passes, model.passes) == ("Yes.", 0, 0)
    assert summary.is_whole and summary.stop_reason == "stop"


def test_what_was_forced_is_known_to_the_next_prompt(tiny_dir: Path) -> None:
    generator = Generator(load_model(tiny_dir))
    first = bound(generator, json_grammar(CITY))
    longer = [*PROMPT, *first.tokens, *b" And?"]
    again = bound(generator, json_grammar(CITY), prompt=longer)
    fresh = bound(Generator(load_model(tiny_dir)), json_grammar(CITY), prompt=longer)
    assert again.tokens == fresh.tokens
    # All but the tail that was forced behind the last choice: nothing had to read that.
    assert len(PROMPT) < again.cached_tokens < len(PROMPT) + len(first.tokens)


def test_bound_is_free_where_the_model_agrees() -> None:
    text = '{"city":"Paris","days":7}'
    free = Generator(script_loaded(text))
    assert bound(free, json_grammar(CITY)).text == text


def test_speeds_are_of_what_the_model_had_a_part_in(bytewise: Generator) -> None:
    summary = bound(bytewise, json_grammar(CITY))
    first = len('{"city":"') + 1  # the first letter that was a choice ends the reading
    decoded = summary.generated_tokens - first
    assert summary.decode_tok_per_s * summary.decode_s == pytest.approx(decoded)
    assert summary.prefill_tok_per_s * summary.prefill_s == pytest.approx(len(PROMPT))


# ---------------------------------------------------------------- ends


def test_an_answer_that_was_cut_is_not_whole(bytewise: Generator) -> None:
    whole = bound(bytewise, json_grammar(CITY))
    for count in range(1, whole.generated_tokens):
        cut = bound(bytewise, json_grammar(CITY), replace(GREEDY, max_tokens=count))
        assert (cut.stop_reason, cut.is_whole, cut.generated_tokens) == ("length", False, count)
    just = bound(bytewise, json_grammar(CITY), replace(GREEDY, max_tokens=whole.generated_tokens))
    assert (just.stop_reason, just.is_whole) == ("stop", True)


def test_an_answer_that_was_stopped_is_not_whole(bytewise: Generator) -> None:
    cancel = threading.Event()
    events = []
    for event in bytewise.generate(PROMPT, GREEDY, cancel, grammar=json_grammar(CITY)):
        events.append(event)
        if isinstance(event, TextDelta):
            cancel.set()
    summary = events[-1]
    assert isinstance(summary, GenerationSummary)
    assert (summary.stop_reason, summary.is_whole) == ("cancelled", False)


def test_where_the_grammar_could_end_the_model_decides() -> None:
    for told, expected in (("aa", "aa"), ("aaaa", "aaaa")):
        generator = Generator(script_loaded(told))
        assert bound(generator, regex_grammar("a*")).text == expected


def test_a_text_that_may_go_on_is_whole_when_it_is_cut() -> None:
    generator = Generator(script_loaded("a" * 50))
    summary = bound(generator, regex_grammar("a*"), replace(GREEDY, max_tokens=9))
    assert (summary.text, summary.stop_reason, summary.is_whole) == ("a" * 9, "length", True)


def test_a_model_without_an_end_ends_where_the_grammar_does() -> None:
    loaded = replace(script_loaded("aaaaaa"), stop_tokens=frozenset())
    assert bound(Generator(loaded), regex_grammar("a{3}")).text == "aaa"


@pytest.mark.parametrize("stops", [{256, 300}, {300}, {-1}])
def test_an_end_that_the_tokenizer_lacks_binds_nobody(stops: set[int]) -> None:
    generator = random_generator(ByteTokenizer(), frozenset(stops), padding=50)
    assert bound(generator, regex_grammar("a{3}")).text == "aaa"


# ---------------------------------------------------------------- free text, then bound

COMPACT = json.dumps({**CITY, "x-guidance": {"whitespace_flexible": False}})
UNTIL_CALL = lark_grammar(
    "start: TEXT | said_and_call\n"
    f'said_and_call: opening %json {COMPACT} "</call>"\n'
    'opening[lazy]: TEXT "<call>"\n'
    "TEXT: /(.|\\n)*/\n"
)


def test_free_text_stays_free() -> None:
    text = "Nothing to call here: { } </call>"
    assert bound(Generator(script_loaded(text)), UNTIL_CALL).text == text


def test_from_where_a_call_begins_it_is_bound() -> None:
    generator = Generator(script_loaded("Well. <call>NONSENSE" + "x" * 80))
    summary = bound(generator, UNTIL_CALL)
    said, _, call = summary.text.partition("<call>")
    assert said == "Well. " and call.endswith("</call>")
    jsonschema.validate(json.loads(call.removesuffix("</call>")), CITY)


def test_signs_cannot_be_said_in_free_text() -> None:
    """Only the end can: a sign in the middle would be a message that nobody sent."""
    loaded = script_loaded([ord("a"), 257, ord("b")])
    tokenizer = ByteTokenizer()
    tokenizer.vocab_size, tokenizer.special = 258, {"<|end|>": 256, "<|start|>": 257}
    loaded = replace(loaded, tokenizer=tokenizer)
    loaded.model._vocab = mx.arange(258)  # type: ignore[attr-defined]
    assert 257 not in bound(Generator(loaded), UNTIL_CALL).tokens


# ---------------------------------------------------------------- beside the conversation


def test_a_question_aside_leaves_the_conversation_read(tiny_dir: Path) -> None:
    generator = Generator(load_model(tiny_dir))
    long = list(b"A conversation of some length. " * 4)
    first = bound(generator, regex_grammar("[a-z]{5}"), prompt=long)
    held = generator.nbytes
    bound(generator, choice_grammar(["yes", "no"]), prompt=list(b"Which tool?"), aside=True)
    assert generator.nbytes > held
    again = bound(generator, regex_grammar("[a-z]{5}"), prompt=[*long, *first.tokens, *b" Go on"])
    assert again.cached_tokens >= len(long)
    more = bound(generator, choice_grammar(["yes", "no"]), prompt=list(b"Which one?"), aside=True)
    assert more.cached_tokens == len("Which ")


def test_reasoning_is_left_out_of_a_bound_answer() -> None:
    loaded = replace(
        script_loaded("<think>hm</think>yes", prompt="say it<think></think>\n\n"),
        template=ChatTemplate("{{ messages[0].content }}<think>"),
        reasoning=ReasoningMarkers(),
    )
    from mobilellm_mlx.messages import Message

    generator = Generator(loaded)
    prompt = generator.chat_prompt([Message("user", "say it")])
    summary = bound(generator, choice_grammar(["yes", "no"]), prompt=prompt)
    assert (summary.text, summary.reasoning) in (("yes", ""), ("no", ""))
    assert summary.prompt_tokens == len("say it<think></think>\n\n")


def test_marks_of_reasoning_that_a_grammar_asks_for_are_answer() -> None:
    text = "<think>yes</think>"
    loaded = replace(script_loaded(text), reasoning=ReasoningMarkers())
    prompt = ChatPrompt(PROMPT)
    summary = bound(Generator(loaded), choice_grammar([text]), prompt=prompt)
    assert (summary.text, summary.reasoning) == (text, "")


# ---------------------------------------------------------------- bad grammars


@pytest.mark.parametrize(
    "grammar",
    [
        regex_grammar("(("),
        regex_grammar("a{1000000000}"),
        lark_grammar("start: nothing"),
        lark_grammar(""),
        lark_grammar("start: \x00"),
        json_grammar({"type": "wrong"}),
        json_grammar({"$ref": "https://example.org/schema.json"}),
        json_grammar({"$ref": "#/nowhere"}),
        json_grammar({"type": "string", "pattern": "(?<=a)b"}),
        json_grammar({"type": "object", "dependentRequired": {"a": ["b"]}}),
        json_grammar(False),
        Grammar("json", "{"),
        Grammar("json", "[" * 50_000),
        lark_grammar("start: " + "(" * 20_000 + '"a"' + ")" * 20_000),
    ],
)
def test_a_grammar_that_cannot_be_used_is_an_error_in_one_sentence(
    bytewise: Generator, grammar: Grammar
) -> None:
    with pytest.raises(InvalidGrammar) as caught:
        bound(bytewise, grammar)
    assert "\n" not in caught.value.message and len(caught.value.message) < 400
    assert bound(bytewise, choice_grammar(["a"])).text == "a"  # and the next one works


def test_a_schema_that_refers_to_itself_is_bound_or_cut(bytewise: Generator) -> None:
    schema = {
        "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2}},
        "$ref": "#/$defs/tree",
    }
    summary = bound(bytewise, json_grammar(schema), replace(GREEDY, max_tokens=100))
    if summary.stop_reason == "stop":
        jsonschema.validate(json.loads(summary.text), schema)
    else:
        assert not summary.is_whole


def test_a_vocabulary_that_cannot_write_the_grammar_is_an_error() -> None:
    botchan = SentencePieceTokenizer(GOLDEN / "botchan_en_bpe_1000.model")  # it has no braces
    generator = random_generator(botchan, frozenset({2}))
    with pytest.raises(InvalidGrammar):
        bound(generator, json_grammar(CITY))


def test_a_grammar_without_end_is_refused_before_it_is_compiled() -> None:
    with pytest.raises(InvalidGrammar):
        regex_grammar("a" * (MAX_SOURCE + 1))
    with pytest.raises(InvalidGrammar):
        choice_grammar([])
    with pytest.raises(InvalidGrammar):
        choice_grammar(["a", ""])


@given(
    texts=st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=6),
    seed=st.integers(0, 99),
)
@settings(max_examples=60)
def test_choices_are_taken_as_they_are(texts: list[str], seed: int) -> None:
    generator = random_generator(ByteTokenizer(), frozenset({256}))
    sampled = GenerationOptions(max_tokens=100, temperature=1.0, seed=seed)
    assert bound(generator, choice_grammar(texts), sampled).text in texts


def test_one_compiler_serves_many_grammars() -> None:
    compiler = GrammarCompiler(ByteTokenizer(), {256})
    one, other = (compiler.compile(choice_grammar([text])) for text in ("a", "b"))
    assert (one.forced, other.forced) == ([97], [98])


class Fond(RandomModel):
    """A model that likes one token above all others."""

    def __init__(self, vocab_size: int, token: int):
        super().__init__(vocab_size)
        self._token = token

    def head(self, hidden: mx.array, rows: mx.array | None = None) -> mx.array:
        rows = mx.arange(self.vocab_size) if rows is None else rows
        return mx.where(rows == self._token, 5.0, 0.0)[None]


def test_the_space_that_sentencepiece_puts_before_a_text_is_no_part_of_the_answer(
    tmp_path: Path,
) -> None:
    (tmp_path / "tokenizer.model").write_bytes(sp.train(**sp.LLAMA_LIKE))
    tokenizer = SentencePieceTokenizer(tmp_path / "tokenizer.model")
    first = tokenizer.encode("the")[0]
    assert tokenizer.token_bytes(first).startswith(b" ")
    generator = random_generator(tokenizer, frozenset({2}))
    generator._loaded = replace(
        generator._loaded,
        model=Fond(tokenizer.vocab_size, first),  # type: ignore[arg-type]
    )
    for grammar in (choice_grammar(["the door", "a door"]), regex_grammar("the door|a door")):
        *events, summary = generator.generate(PROMPT, GREEDY, grammar=grammar)
        assert isinstance(summary, GenerationSummary)
        assert summary.tokens[0] == first and summary.text == "the door"
        assert "".join(e.text for e in events if isinstance(e, TextDelta)) == "the door"


def test_a_long_question_aside_is_not_kept(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobilellm_mlx.decoding.generator.MOST_ASIDE", 20)
    generator = Generator(load_model(tiny_dir))
    before = generator.nbytes
    for prompt, kept in ((b"Which tool?", True), (b"Which tool is it that is meant?", False)):
        bound(generator, choice_grammar(["yes", "no"]), prompt=list(prompt), aside=True)
        assert (generator.nbytes > before) == kept


PLACE = json_grammar(
    {
        "type": "object",
        "properties": {
            "kind": {"enum": ["town", "tower", "river", "rift"]},
            "size": {"type": "integer", "minimum": 0, "maximum": 999},
            "names": {"type": "array", "items": {"type": "string", "maxLength": 6}, "maxItems": 2},
        },
        "required": ["kind", "size", "names"],
        "additionalProperties": False,
    }
)


@pytest.mark.parametrize(
    "options",
    [
        GREEDY,
        replace(GREEDY, temperature=1.0, seed=3),
        replace(GREEDY, temperature=0.7, top_p=0.9, top_k=4, repetition_penalty=1.5, seed=4),
    ],
    ids=["greedy", "sampled", "limited"],
)
@pytest.mark.parametrize("directory", ["dense", "packed"])
def test_the_head_rows_of_possible_tokens_alone_give_the_same_answer(
    directory: str, options: GenerationOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model(write_model(tmp_path / "tiny", packed=directory == "packed"))
    asked: list[int] = []
    head = type(loaded.model).head

    def watched(self: Any, hidden: mx.array, rows: mx.array | None = None) -> mx.array:
        asked.append(258 if rows is None else rows.size)
        return head(self, hidden, rows)

    monkeypatch.setattr(type(loaded.model), "head", watched)
    answers = []
    for few in (0, 32, 258):  # all rows for anything; rows of up to 258, 8 and 1 tokens
        monkeypatch.setattr("mobilellm_mlx.decoding.grammar.FEW", few)
        asked.clear()
        answers.append(bound(Generator(loaded), PLACE, options).tokens)
        if few == 32:
            assert min(asked) < 9 < max(asked) == 258
        else:
            assert (max(asked) < 258) == (few == 0)
    assert answers[0] == answers[1] == answers[2]


def test_tokens_that_only_a_padded_head_has_are_no_rows() -> None:
    constraint = GrammarCompiler(ByteTokenizer(), {256}).compile(regex_grammar("[a-d]"))
    rows = constraint.rows
    assert rows is not None and rows.tolist() == [97, 98, 99, 100]
    assert GrammarCompiler(ByteTokenizer(), {256}).compile(regex_grammar("[a-z]")).rows is None
