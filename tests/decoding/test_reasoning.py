"""Reasoning is kept apart from the answer, and ends when its budget is spent."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import CHATML, LLAMA, ScriptModel, make_model, script_loaded, write_model

from mobilellm_mlx.decoding import Generator
from mobilellm_mlx.decoding.generator import ChatPrompt
from mobilellm_mlx.decoding.text import ReasoningSplitter, TextStream, ends_with
from mobilellm_mlx.events import Event, GenerationSummary, ReasoningDelta, TextDelta
from mobilellm_mlx.loading import LoadedModel, ReasoningMarkers, find_reasoning, load_model
from mobilellm_mlx.messages import Message
from mobilellm_mlx.options import GenerationOptions
from mobilellm_mlx.testing import ByteTokenizer

MARKERS = ReasoningMarkers()
START, END = 257, 258
"""Ids of the markers in the tokenizer below."""
GREEDY = GenerationOptions(max_tokens=200)
PROMPT = ChatPrompt(b"Say it.")


class SignTokenizer(ByteTokenizer):
    """The byte tokenizer with special tokens for the markers."""

    def __init__(self) -> None:
        super().__init__()
        self.vocab_size = 259
        self.special = {**self.special, MARKERS.start: START, MARKERS.end: END}


def reasoning_model(answer: str | Sequence[int], prompt: str = "Say it.") -> LoadedModel:
    """A scripted model whose markers are plain text."""
    script = answer.encode() if isinstance(answer, str) else answer
    return replace(script_loaded(script, prompt=prompt), reasoning=MARKERS)


def sign_model(*parts: str | int, prompt: str = "Say it.") -> LoadedModel:
    """A scripted model whose markers are special tokens."""
    script = [id_ for part in parts for id_ in (part.encode() if isinstance(part, str) else [part])]
    loaded = reasoning_model(script, prompt)
    model = ScriptModel([0] * (len(prompt.encode()) - 1) + script + [256], vocab_size=259)
    return replace(loaded, model=model, tokenizer=SignTokenizer())  # type: ignore[arg-type]


def ask(
    loaded: LoadedModel,
    options: GenerationOptions = GREEDY,
    prompt: Sequence[int] = PROMPT,
    cancel_at: type[Event] | None = None,
) -> GenerationSummary:
    """One answer, its deltas checked against its summary."""
    cancel = threading.Event()
    events = []
    for event in Generator(loaded).generate(prompt, options, cancel):
        events.append(event)
        if cancel_at is not None and isinstance(event, cancel_at):
            cancel.set()
    summary = events[-1]
    assert isinstance(summary, GenerationSummary)
    said = [event.text for event in events if isinstance(event, TextDelta)]
    thought = [event.text for event in events if isinstance(event, ReasoningDelta)]
    assert all(said) and all(thought)
    assert ("".join(said), "".join(thought)) == (summary.text, summary.reasoning)
    return summary


def parts(summary: GenerationSummary) -> tuple[str, str, int]:
    return summary.reasoning, summary.text, summary.reasoning_tokens


# The splitter


def split(pieces: Sequence[str], *, opened: bool = False) -> tuple[str, str]:
    splitter = ReasoningSplitter(MARKERS, opened=opened)
    given_ = [*map(splitter.add, pieces), splitter.finish()]
    return "".join(piece.reasoning for piece in given_), "".join(piece.text for piece in given_)


@pytest.mark.parametrize(
    ("text", "opened", "expected"),
    [
        ("<think>why</think>so", False, ("why", "so")),
        ("\n <think>\nwhy\n</think>\n\nso\n", False, ("why\n", "so\n")),
        ("why</think>so", True, ("why", "so")),
        ("<think>why", False, ("why", "")),
        ("why</thi", True, ("why</thi", "")),
        ("<think></think>so", False, ("", "so")),
        ("</think>so", True, ("", "so")),
        ("so", False, ("", "so")),
        (" <thin ice>", False, ("", " <thin ice>")),
        ("<thi", False, ("", "<thi")),
        ("  ", False, ("", "  ")),
        ("it is called <think>a</think>", False, ("", "it is called <think>a</think>")),
        ("<think>a</think>b<think>c</think>d", False, ("a", "b<think>c</think>d")),
        ("<think>a <think> b</think>c", False, ("a <think> b", "c")),
        ("</think>so", False, ("", "</think>so")),
        ("", True, ("", "")),
    ],
)
def test_reasoning_is_what_stands_between_the_markers_at_the_beginning(
    text: str, opened: bool, expected: tuple[str, str]
) -> None:
    assert split([text], opened=opened) == expected
    assert split(list(text), opened=opened) == expected


@given(
    st.text("<think>/ \na", max_size=20),
    st.text("<think>/ \na", max_size=20),
    st.lists(st.integers(1, 6), max_size=20),
)
def test_where_the_pieces_are_cut_makes_no_difference(
    before: str, after: str, sizes: list[int]
) -> None:
    text, pieces, at = f"<think>{before}</think>{after}", [], 0
    for size in sizes:
        pieces.append(text[at : at + size])
        at += size
    assert split([*pieces, text[at:]]) == split([text])


def test_nothing_of_a_marker_is_shown_and_nothing_else_is_held_back() -> None:
    splitter = ReasoningSplitter(MARKERS)
    given_ = [splitter.add(piece) for piece in ["<th", "ink>", "a </", "b <", "/think>", "c"]]
    assert [piece.reasoning for piece in given_] == ["", "", "a ", "</b ", "", ""]
    assert [piece.text for piece in given_] == ["", "", "", "", "", "c"]


@given(st.text(max_size=20), st.sampled_from(["", "END"]))
def test_without_markers_every_piece_passes_as_it_comes(text: str, stop: str) -> None:
    stops = (stop,) if stop else ()
    plain = TextStream(ByteTokenizer(), {256}, stops)
    never = TextStream(ByteTokenizer(), {256}, stops, ReasoningSplitter(None))
    for byte in f"<think>{text}</think>".encode():
        assert plain.add(byte) == never.add(byte)
    assert "" == plain.finish().reasoning == never.finish().reasoning


# Whole answers


def test_an_answer_comes_without_its_reasoning() -> None:
    summary = ask(reasoning_model("<think>\nwhy?\n</think>\n\nBecause."))
    assert parts(summary) == ("why?\n", "Because.", len("\nwhy?\n"))
    assert summary.stop_reason == "stop"
    assert summary.generated_tokens == len("<think>\nwhy?\n</think>\n\nBecause.") + 1


def test_markers_that_are_special_tokens_are_known_by_their_ids() -> None:
    summary = ask(sign_model(START, "why", END, "so ", START, END, "it is"))
    assert parts(summary) == ("why", "so it is", 3)


def test_characters_cut_over_tokens_survive_the_split() -> None:
    assert parts(ask(sign_model(START, "é😀", END, "ü")))[:2] == ("é😀", "ü")


def test_half_a_character_before_a_marker_stays_on_its_side() -> None:
    assert parts(ask(sign_model(START, 0xC3, END, "so")))[:2] == ("\ufffd", "so")


@pytest.mark.parametrize("opening", [b"<think>\n", b" <think>"])
def test_a_prompt_that_opens_the_reasoning_is_noticed(opening: bytes) -> None:
    prompt = f"Say it.{opening.decode()}"
    summary = ask(reasoning_model("why</think>so", prompt), prompt=ChatPrompt(prompt.encode()))
    assert parts(summary) == ("why", "so", 3)


@pytest.mark.parametrize(
    ("ids", "opens"),
    [
        ([*b"Hi", START], True),
        ([*b"Hi", START, *b"\n \n"], True),
        ([*b"Hi", START, *b"x"], False),
        ([*b"Hi", START, *b"\n\n", END, *b"\n\n"], False),
        ([*b"Hi", START, 256], False),
        ([*b"Hi<think>"], True),
        ([*b"Hi<think>", 256], False),
        ([*b"Hi<think>\n\n</think>\n"], False),
        ([*b"think>"], False),
        ([], False),
    ],
)
def test_only_a_marker_at_the_very_end_of_a_prompt_opens_reasoning(
    ids: list[int], opens: bool
) -> None:
    assert ends_with(ids, MARKERS.start, SignTokenizer()) is opens


def test_only_an_answer_in_a_chat_has_reasoning() -> None:
    text = "<think>why</think>so"
    assert parts(ask(reasoning_model(text), prompt=list(PROMPT))) == ("", text, 0)
    assert parts(ask(script_loaded(text))) == ("", text, 0)


def test_a_conversation_s_prompt_is_one_of_a_chat() -> None:
    prompt = Generator(reasoning_model("x")).chat_prompt([Message("user", "hi")])
    assert isinstance(prompt, ChatPrompt)


def test_reasoning_that_is_never_closed_is_no_answer() -> None:
    summary = ask(reasoning_model("<think>why</th"))
    assert parts(summary) == ("why</th", "", 7)
    assert summary.stop_reason == "stop"


def test_stop_strings_end_the_answer_and_not_the_reasoning() -> None:
    loaded = reasoning_model("<think>one END two</think>three END four")
    summary = ask(loaded, replace(GREEDY, stop=("END",)))
    assert parts(summary)[:2] == ("one END two", "three ")
    assert summary.stop_reason == "stop"


def test_a_stop_string_that_contains_the_end_marker_is_not_looked_for() -> None:
    loaded = reasoning_model("<think>why</think>so")
    assert parts(ask(loaded, replace(GREEDY, stop=("</think>",))))[:2] == ("why", "so")


def test_cancelling_in_the_middle_of_reasoning_leaves_no_answer() -> None:
    summary = ask(reasoning_model("<think>why</think>so"), cancel_at=ReasoningDelta)
    assert parts(summary) == ("w", "", 1)
    assert (summary.status, summary.stop_reason) == ("cancelled", "cancelled")


def test_max_tokens_counts_reasoning_too() -> None:
    summary = ask(reasoning_model("<think>why</think>so"), GenerationOptions(max_tokens=9))
    assert parts(summary) == ("wh", "", 2)
    assert summary.stop_reason == "length"


# The budget


def fed(loaded: LoadedModel) -> list[int]:
    """Every token that the model was given, in order."""
    assert isinstance(loaded.model, ScriptModel)
    return [token for piece in loaded.model.fed for token in piece]


@pytest.mark.parametrize("budget", [0, 1, 2, 5])
def test_the_end_marker_is_forced_when_the_budget_is_spent(look_ahead: bool, budget: int) -> None:
    """The scripted model goes by position: what it says next shows that the marker took a place."""
    loaded = sign_model(START, "thinking", END, "answer")
    summary = ask(loaded, replace(GREEDY, thinking_budget=budget))
    thought, rest = "thinking"[:budget], "thinking"[budget + 1 :]
    assert parts(summary) == (thought, f"{rest}answer", budget)
    given_ = [*PROMPT, START, *thought.encode(), END, *f"{rest}".encode(), END, *b"answer"]
    assert fed(loaded)[: len(given_)] == given_


def test_a_marker_of_several_tokens_is_forced_whole(look_ahead: bool) -> None:
    loaded = reasoning_model("<think>" + "x" * 50)
    summary = ask(loaded, replace(GREEDY, thinking_budget=4))
    assert parts(summary) == ("xxxx", "x" * (50 - 4 - len("</think>")), 4)
    given_ = [*PROMPT, *b"<think>xxxx</think>x"]
    assert fed(loaded)[: len(given_)] == given_


def test_no_budget_at_all_closes_what_the_prompt_has_opened(look_ahead: bool) -> None:
    prompt = "Say it.<think>\n"
    loaded = reasoning_model("thinking", prompt)
    options = replace(GREEDY, thinking_budget=0)
    summary = ask(loaded, options, ChatPrompt(prompt.encode()))
    assert parts(summary) == ("", "", 0)  # as long as the marker that took its place
    given_ = f"{prompt}</think>".encode()[:-1]  # the last token of an answer need not be fed
    assert fed(loaded)[: len(given_)] == list(given_)


@pytest.mark.parametrize("budget", [3, 4, 100, None])
def test_reasoning_within_its_budget_is_left_alone(look_ahead: bool, budget: int | None) -> None:
    told = "<think>why</think>so"
    summary = ask(reasoning_model(told), replace(GREEDY, thinking_budget=budget))
    assert summary.text == "so"
    assert summary.generated_tokens == len(told) + 1


def test_a_budget_is_nothing_to_a_model_without_markers() -> None:
    text = "<think>why</think>so"
    assert ask(script_loaded(text), replace(GREEDY, thinking_budget=0)).text == text


def test_a_marker_that_brings_no_end_is_forced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = reasoning_model("<think>" + "x" * 30)
    monkeypatch.setattr(loaded.tokenizer, "encode", lambda text: list(b"?"))
    summary = ask(loaded, replace(GREEDY, thinking_budget=2))
    assert parts(summary) == ("xx?" + "x" * 27, "", 30)


def test_the_length_limit_holds_in_the_middle_of_a_forced_marker(look_ahead: bool) -> None:
    options = GenerationOptions(max_tokens=12, thinking_budget=2)
    summary = ask(reasoning_model("<think>" + "x" * 50), options)
    assert (summary.generated_tokens, summary.stop_reason) == (12, "length")
    assert summary.text == "" and summary.reasoning == "xx</t"[: len(summary.reasoning)]


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_forced_tokens_go_through_the_caches_like_generated_ones(
    look_ahead: bool, penalty: float
) -> None:
    """A real network, once with caches, and once reading the whole text for every token."""
    network = make_model(LLAMA)
    prompt = ChatPrompt(b"Say it.<think>")
    loaded = replace(reasoning_model("x"), model=network, stop_tokens=frozenset())
    options = GenerationOptions(max_tokens=24, thinking_budget=5, repetition_penalty=penalty)
    generator, marker = Generator(loaded), list(b"</think>")
    list(generator.generate(prompt, options))
    held = generator._chat.tokens
    answer = held[len(prompt) :]
    assert answer[5:13] == marker and len(answer) >= 23
    assert answer == uncached(network, prompt, 5, marker, penalty)[: len(answer)]


def uncached(
    network: object, prompt: list[int], budget: int, marker: list[int], penalty: float
) -> list[int]:
    """The same answer without caches and look-ahead: the slow twin."""
    from mobilellm_mlx.backend import mx

    said: list[int] = []
    while len(said) < 24:
        at = len(said) - budget
        if 0 <= at < len(marker):
            said.append(marker[at])
            continue
        logits = network(mx.array([[*prompt, *said]]))[0, -1][:257].tolist()  # type: ignore[operator]
        for token in set(said[-64:]):
            logits[token] = (
                logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
            )
        said.append(max(range(len(logits)), key=logits.__getitem__))
    return said


def test_the_same_seed_gives_the_same_answer_on_both_ways_of_decoding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import mobilellm_mlx.decoding.step as step
    from mobilellm_mlx.backend import BACKENDS

    options = GenerationOptions(max_tokens=30, temperature=1.0, seed=3, thinking_budget=4)
    said = []
    for ahead in (False, True):
        backend = replace(BACKENDS["cpu"], look_ahead=ahead)
        monkeypatch.setattr(step, "backend", lambda backend=backend: backend)
        loaded = replace(reasoning_model("x"), model=make_model(LLAMA))
        summary = ask(loaded, options, ChatPrompt(b"Say it.<think>"))
        said.append(parts(summary))
    assert said[0] == said[1]
    assert said[0][1]
    assert said[0][2] in (4, 5)  # a character that the marker broke off counts with the marker


# What a checkpoint says


@pytest.mark.parametrize(
    ("template", "tokenizer", "found"),
    [
        (CHATML, ByteTokenizer(), False),
        (CHATML + "<think>\n", ByteTokenizer(), True),
        ("{{ content.split('</think>')[-1] }}", ByteTokenizer(), True),
        (CHATML, SignTokenizer(), True),
        (None, SignTokenizer(), False),
    ],
)
def test_markers_are_found_in_the_template_or_among_the_tokens(
    template: str | None, tokenizer: ByteTokenizer, found: bool
) -> None:
    assert find_reasoning(template, tokenizer) == (MARKERS if found else None)


def test_a_token_that_is_no_sign_counts_as_a_marker_when_it_is_exactly_that() -> None:
    class Unknown(ByteTokenizer):
        def encode(self, text: str) -> list[int]:
            return [257]

        def token_bytes(self, token: int) -> bytes:
            return b"<unk>"

    class Exact(ByteTokenizer):
        ids = {"<think>": 257, "</think>": 258}  # noqa: RUF012

        def encode(self, text: str) -> list[int]:
            return [self.ids[text]] if text in self.ids else super().encode(text)

        def token_bytes(self, token: int) -> bytes:
            names = {id_: name.encode() for name, id_ in self.ids.items()}
            return names.get(token) or super().token_bytes(token)

    assert find_reasoning(CHATML, Unknown()) is None
    assert find_reasoning(CHATML, Exact()) == MARKERS


def test_a_loaded_model_knows_its_markers(tmp_path: Path, tiny_dir: Path) -> None:
    opens = CHATML.replace("assistant\\n", "assistant\\n<think>\\n")
    assert load_model(write_model(tmp_path / "r", template=opens)).reasoning == MARKERS
    assert load_model(tiny_dir).reasoning is None


def test_the_next_turn_s_prompt_reuses_what_is_the_same_before_the_reasoning() -> None:
    """Templates leave earlier reasoning out, so the caches fit up to where it began."""
    loaded = reasoning_model("<think>why</think>so")
    generator = Generator(loaded)
    list(generator.generate(PROMPT, GREEDY))
    *_, summary = generator.generate(ChatPrompt([*PROMPT, *b"so", *b"Next."]), GREEDY)
    assert isinstance(summary, GenerationSummary)
    assert summary.cached_tokens == len(PROMPT)


def test_an_end_marker_that_has_begun_by_itself_is_not_forced_again() -> None:
    """A token of several letters can be the last of the budget and the first of the marker."""

    class Pairs(ByteTokenizer):
        def token_bytes(self, token: int) -> bytes:
            return b"y<" if token == ord("!") else super().token_bytes(token)

    loaded = replace(reasoning_model("<think>wh!/think>so"), tokenizer=Pairs())
    summary = ask(loaded, replace(GREEDY, thinking_budget=3))
    assert parts(summary) == ("why", "so", 3)
