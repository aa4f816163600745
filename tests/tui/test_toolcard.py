"""A call as one line and opened: every state in words, bounded, and nothing that steers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from textual.app import App, ComposeResult

from mobilellm_mlx.chat.records import StoredMessage, ToolUse, now
from mobilellm_mlx.events import ToolAllowed, ToolEnded
from tests.tui.calls import ALLOWED, CALLED, ENDED, OFFERED, SUM, USE
from tui.widgets.calls import (
    RESULT_LINES,
    advance,
    describe,
    head_line,
    say_arguments,
    say_tokens_of,
    shown_result,
    state_of,
)
from tui.widgets.response import Response
from tui.widgets.said import Said
from tui.widgets.toolcard import ToolCard, ToolCards


def line(use, *, is_live=False, is_waiting=False, width=80):
    state = state_of(use, is_live=is_live, is_waiting=is_waiting)
    return head_line(use, state, False, width).plain.rstrip()


def test_a_call_that_succeeded_says_what_with_what_came_and_how_long():
    assert line(USE) == "▸ calculator  17*3 → 17*3 = 51 · 402 ms"


@pytest.mark.parametrize(
    ("status", "result", "words"),
    [
        ("denied", "you", "✗ denied"),
        ("invalid", "`n` is too large", "✗ wrong arguments `n` is too large"),
        ("failed", "the disk is full", "✗ failed the disk is full"),
        ("timeout", "it gave nothing", "✗ took too long"),
        ("cancelled", "it was stopped", "✗ stopped"),
        ("cut", "longer than it may be", "✗ cut off, not run"),
        ("repeated", "made before", "✗ not run again: it was the same call"),
        ("unavailable", "only on a Mac", "✗ not possible here only on a Mac"),
        ("", "", "✗ broken off"),
    ],
)
def test_a_call_without_a_result_says_why_in_words_and_with_a_sign(status, result, words):
    assert words in line(replace(USE, status=status, result=result))


def test_a_call_on_its_way_says_how_far_it_is():
    fresh = ToolUse("1", "calculator", {"expression": "17*3"})
    assert line(fresh, is_live=True) == "▸ calculator  17*3 …"
    assert line(fresh, is_live=True, is_waiting=True) == "▸ calculator  17*3 ? waiting for you"
    assert line(replace(fresh, allowed="you"), is_live=True) == "▸ calculator  17*3 running…"


@pytest.mark.parametrize("width", [10, 20, 38, 60, 78, 200])
def test_a_line_never_gets_wider_than_its_place_and_keeps_its_state(width):
    long = replace(USE, tool="a" * 64, arguments={"x": "y" * 500}, result="z" * 4000)
    assert head_line(long, "done", False, width).cell_length <= width
    denied = replace(long, status="denied")
    if width >= 20:
        assert "✗ denied" in line(denied, width=width)


def test_arguments_on_a_line_are_short_and_plain():
    assert say_arguments({}) == ""
    assert say_arguments({"text": "a\x1b[2J\nb"}) == "a[2J b"
    assert say_arguments({"value": 5, "to": "km"}) == "value 5, to km"
    assert len(say_arguments({"x": list(range(1000))})) <= 60


def test_what_the_grammar_saved_is_said_in_numbers():
    assert say_tokens_of(USE) == "12 of 16 tokens were forced: 5 forward passes"
    assert say_tokens_of(replace(USE, tokens=0)) == ""


def test_an_open_card_tells_all_of_it():
    told = {label: text.plain for label, text in describe(USE, "done") if label}
    assert told == {
        "call": "Calculate 17*3",
        "with": "expression = 17*3",
        "allowed": "not asked: it only reads",
        "result": "17*3 = 51",
        "time": "400 ms to choose, 2 ms to run",
        "tokens": "12 of 16 tokens were forced: 5 forward passes",
    }
    foreign = dict(describe(replace(USE, source="mcp:git", allowed="always"), "done"))
    assert foreign["from"].plain == "mcp:git"
    assert foreign["allowed"].plain == "by a rule of yours"


def test_a_long_result_is_bounded_until_all_of_it_is_wanted():
    text = "\n".join(f"line {n}" for n in range(40))
    shown, more = shown_result(text, whole=False)
    assert shown.count("\n") == RESULT_LINES - 1 and more == 40 - RESULT_LINES
    assert shown_result(text, whole=True) == (text, 0)
    assert len(shown_result("x" * 4000, whole=False)[0]) <= 1200


def test_what_could_steer_a_terminal_is_in_no_part_of_a_card():
    nasty = "a\x1b]0;evil\x07b\x9b31m\u202ec"
    use = ToolUse("1", nasty, {nasty: nasty}, nasty, nasty, "you", "ok", nasty)
    texts = [line(use), *(text.plain for _, text in describe(use, "done"))]
    assert len(texts) > 4
    assert not any(sign in text for text in texts for sign in "\x1b\x07\x9b\u202e")


def test_the_events_of_a_call_add_up_to_what_is_kept_of_it():
    uses = []
    assert [advance(uses, event) for event in SUM] == [None, 0, 0, 0]
    assert uses == [USE]


def test_a_call_that_never_was_whole_and_one_nobody_knows_do_no_harm():
    uses = []
    assert advance(uses, ToolAllowed("9", "you", {})) is None
    assert advance(uses, ToolEnded("9", "", "cut", "too long")) == 0
    assert "✗ cut off, not run" in line(uses[0])


class Cards(App[None]):
    CSS = "CardHead { height: 1; } CardBody, ToolCard, ToolCards { height: auto; }"

    def __init__(self, *uses):
        super().__init__()
        self.said = list(uses)
        self.cards = ToolCards(self.said, is_live=True)

    def compose(self) -> ComposeResult:
        yield self.cards

    def text(self):
        lines = self.screen._compositor.render_strips()
        return "\n".join("".join(part.text for part in row) for row in lines)


async def test_cards_follow_their_calls_and_keep_what_they_know_as_data():
    app = Cards()
    async with app.run_test() as pilot:
        assert not app.cards.display and not app.cards.is_busy
        await app.cards.take(OFFERED)
        await pilot.pause()
        assert "choosing… calculator, add_note, or none" in app.text() and app.cards.is_busy
        await app.cards.take(CALLED)
        app.cards.wait_for("1")
        await pilot.pause()
        assert "? waiting for you" in app.text() and "choosing" not in app.text()
        await app.cards.take(ALLOWED)
        await pilot.pause()
        assert "running…" in app.text()
        await app.cards.take(ENDED)
        await pilot.pause()
        assert "→ 17*3 = 51" in app.text() and not app.cards.is_busy
        assert app.said == [USE]


async def test_when_words_come_instead_no_tool_was_wanted():
    app = Cards()
    async with app.run_test():
        await app.cards.take(OFFERED)
        app.cards.end_choosing()
        assert not app.cards.display


async def test_a_call_whose_end_was_not_told_is_broken_off():
    app = Cards()
    async with app.run_test() as pilot:
        await app.cards.take(CALLED)
        app.cards.settle()
        await pilot.pause()
        assert "✗ broken off" in app.text()


async def test_a_click_opens_a_card_and_another_shows_all_of_a_long_result():
    text = "\n".join(f"line {n}" for n in range(14))
    app = Cards(replace(USE, result=text))
    async with app.run_test(size=(80, 40)) as pilot:
        await pilot.click("CardHead")
        await pilot.pause()
        assert "line 11" in app.text() and "line 12" not in app.text()
        row = next(n for n, said in enumerate(app.text().split("\n")) if "… 2 more lines" in said)
        await pilot.click(offset=(14, row))
        await pilot.pause()
        assert "line 13" in app.text()
        await pilot.click("CardHead")
        await pilot.pause()
        assert "line 1" not in app.text().split("\n", 1)[1]


def test_cards_come_back_with_the_history():
    message = StoredMessage("m", "c", None, "assistant", "It is 51.", now(), uses=(USE,))
    response = Response(Said.of(message))
    assert [card.use for card in response.cards.cards] == [USE]
    assert all(isinstance(card, ToolCard) and card.state == "done" for card in response.cards.cards)
