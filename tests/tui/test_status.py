"""The status line as a function of its state, and the words it is made of."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.cells import cell_len

from mobilellm_mlx.events import GenerationSummary
from mobilellm_mlx.testing import SCRIPTED_MODEL
from tui.text import format_count, format_key, format_seconds, meter, printable
from tui.widgets.response import describe_end
from tui.widgets.status import State, status_line

SUMMARY = GenerationSummary(
    text="x",
    prompt_tokens=200,
    generated_tokens=50,
    ttft_s=0.05,
    prefill_tok_per_s=1000,
    decode_tok_per_s=250,
    context_used=250,
    context_limit=2048,
    memory_bytes=120_000_000,
)
IDLE = State(phase="idle", info=replace(SCRIPTED_MODEL, model="SmolLM2-135M"), summary=SUMMARY)
FULL = replace(IDLE, summary=replace(SUMMARY, context_used=1700))
READING = replace(IDLE, phase="reading", read=(512, 1400), queued=2)
ANSWERING = replace(READING, phase="answering", tokens=9, tok_per_s=212.4)
STATES = [IDLE, FULL, READING, ANSWERING, State(name="a-model"), State(phase="failed")]


@pytest.mark.parametrize("state", STATES)
def test_the_line_never_gets_wider_than_the_window(state):
    for width in range(1, 160):
        assert cell_len(status_line(state, width).plain) <= width


def test_with_room_everything_is_there():
    line = status_line(IDLE, 116).plain
    for part in ("SmolLM2-135M", "packed fp16 metal", "━───── 250/2,048",
                 "ttft 50 ms", "prefill 1,000", "decode 250 tok/s", "120 MB"):  # fmt: skip
        assert part in line


def test_the_least_important_parts_go_first():
    line = status_line(IDLE, 76).plain
    for part in (
        "SmolLM2-135M",
        "ctx 250/2,048",
        "ttft 50 ms",
        "pre 1,000",
        "dec 250 tok/s",
        "120 MB",
    ):
        assert part in line
    for part in ("packed", "━"):
        assert part not in line
    assert status_line(IDLE, 40).plain.split() == ["ctx", "250/2,048", "dec", "250", "tok/s"]


def test_a_context_nearly_full_is_said_in_words():
    line = status_line(FULL, 76)
    assert "context 83 % full" in line.plain
    assert any("warning" in str(span.style) for span in line.spans)
    assert "full" not in status_line(IDLE, 76).plain


def test_reading_shows_how_far_it_is():
    line = status_line(READING, 76).plain
    assert "reading 512/1,400 tokens 37 %, 2 queued" in line


def test_answering_shows_a_running_rate_and_a_growing_context():
    line = status_line(ANSWERING, 76).plain
    assert "answering, 2 queued" in line
    assert "1,409/2,048" in line
    assert "decode 212 tok/s" in line


@pytest.mark.parametrize(
    ("reason", "text", "words"),
    [
        ("stop", "x", "50 tokens · 250 tok/s"),
        ("length", "x", "cut at 50 tokens · 250 tok/s"),
        ("context", "x", "cut: the context is full (Ctrl+N starts a new chat) · 50 tokens"),
        ("cancelled", "x", "stopped · 50 tokens"),
        ("stop", "", "the model said nothing"),
    ],
)
def test_the_line_under_an_answer_says_how_it_ended(reason, text, words):
    ended = replace(SUMMARY, stop_reason=reason, text=text)
    assert describe_end(ended, kept=bool(text)).startswith(words)


def test_words_for_values():
    assert [format_seconds(s) for s in (0.05, 1.25, 240)] == ["50 ms", "1.2 s", "4 min"]
    assert [format_count(n) for n in (950, 134_515_008, 1_080_000_000)] == ["950", "135M", "1.1B"]
    assert [format_key(k) for k in ("ctrl+q", "f1", "shift+pageup")] == [
        "Ctrl+Q",
        "F1",
        "Shift+PgUp",
    ]
    assert meter(0.001, 4).plain == "━───"
    assert meter(2, 4).plain == "━━━━"
    assert printable("a\r\nb\tc\x00\x9d") == "a\nb\tc"
