"""The transcript: what is drawn of a long chat, and that nothing of it gets lost."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from textual.app import App, ComposeResult
from textual.selection import Selection
from textual.widgets import Markdown

from mobilellm_mlx.chat.records import StoredMessage
from mobilellm_mlx.events import GenerationSummary
from tui.widgets.actions import Actions
from tui.widgets.pieces import BREAK_AT, SEAL_AT, Cutter, split
from tui.widgets.rows import TableBlock, share_width
from tui.widgets.said import MessageAction
from tui.widgets.transcript import Transcript
from tui.widgets.window import Divider, Earlier, Gap

SECTION = "## Part {n}\n\nSome *words* about it, a line or so.\n\n- one\n- two\n\n"
LONG = "".join(SECTION.format(n=n) for n in range(300))
NOW = datetime(2026, 1, 2, tzinfo=UTC)


class Harness(App[None]):
    """A transcript and somewhere to write."""

    CSS = """
    Transcript { height: 1fr; } Response, UserMessage { height: auto; margin: 0 0 1 0; }
    UserMessage.-active, Response.-active { margin-bottom: 0; } Actions { height: 1; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, str]] = []

    def compose(self) -> ComposeResult:
        yield Transcript()

    @property
    def transcript(self) -> Transcript:
        return self.query_one(Transcript)

    def on_message_action(self, event: MessageAction) -> None:
        self.asked.append((event.message_id, event.action))


def chat(turns, answer="Answer {n}.\n\n- a\n- b", **fields):
    messages = []
    for n in range(turns):
        for role, text in (("user", f"Question {n}?"), ("assistant", answer.format(n=n))):
            parent = messages[-1].id if messages else None
            kind = fields if role == "assistant" else {}
            messages.append(StoredMessage(f"{role[0]}{n}", "c", parent, role, text, NOW, **kind))
    return messages


async def until(pilot, predicate):
    for _ in range(400):
        if predicate():
            return
        await pilot.pause(0.01)
    pytest.fail("still not so")


def screen_text(app):
    """What is drawn, without the scrollbar."""
    return "\n".join(
        "".join(segment.text for segment in line)[:-2]
        for line in app.screen._compositor.render_strips()
    )


# -------------------------------------------------------------------- cutting


@pytest.mark.parametrize(
    "text",
    [
        LONG,
        "```python\n" + "x = [1, 2]  # a line\n" * 600 + "```\nend\n",
        "".join(f"{n}. item number {n}\n" for n in range(1, 800)),
        "| a | b |\n|---|---|\n" + "| one | two |\n" * 700,
        "word " * 4000,
        "x" * 9000,
        "> quoted words\n" * 700,
    ],
    ids=["blocks", "code", "list", "table", "paragraph", "no spaces", "quotation"],
)
def test_a_text_is_cut_into_documents_of_bounded_size_that_lose_nothing(text):
    cuts = split(text)
    assert cuts
    assert max(len(cut.sealed) for cut in cuts) <= SEAL_AT + BREAK_AT + 1000
    again = text
    for cut in cuts:
        assert again.startswith(cut.sealed[: cut.at])
        again = cut.again + again[cut.at :]
    assert again == cuts[-1].rest
    assert len(again) <= SEAL_AT + BREAK_AT + 1000


def test_a_short_text_is_not_cut():
    assert split("word " * 100) == []
    assert Cutter().look("word") is None


def test_a_broken_code_block_has_its_language_in_both_parts():
    cut = split("```python\n" + "x = 1\n" * 1000)[0]
    assert cut.is_code
    assert cut.sealed.endswith("x = 1\n```\n")
    assert cut.rest.startswith("```python\nx = 1\n")


def test_a_broken_table_repeats_its_head():
    cut = split("| a | b |\n|---|---|\n" + "| one | two |\n" * 500)[0]
    assert cut.rest.startswith("| a | b |\n|---|---|\n| one | two |\n")


# -------------------------------------------------------------------- one long answer


async def stream(pilot, response, text, size=200):
    for start in range(0, len(text), size):
        await response.append(text[start : start + size])
        await until(pilot, lambda: not response._coming)


async def test_a_long_answer_is_drawn_in_documents_of_which_few_are_awake():
    async with Harness().run_test(size=(80, 24)) as pilot:
        transcript = pilot.app.transcript
        response = await transcript.add_answer()
        await stream(pilot, response, LONG, 1000)
        await response.finish(GenerationSummary(text=LONG))
        assert response.text == LONG
        await until(pilot, lambda: sum(d.rests for d in response.documents) >= 3)
        shown = "".join(d._kept if d.rests else d.source for d in response.documents)
        assert shown == LONG
        await until(pilot, lambda: "Part 299" in screen_text(pilot.app))
        # Documents are put to rest one after another, on a busy machine some later.
        await until(pilot, lambda: len(list(pilot.app.screen.walk_children())) < 250)


async def test_what_rested_is_drawn_again_when_one_scrolls_there():
    async with Harness().run_test(size=(80, 24)) as pilot:
        transcript = pilot.app.transcript
        response = await transcript.add_answer()
        await stream(pilot, response, LONG, 2000)
        await until(pilot, lambda: response.documents[0].rests)
        transcript.scroll_home(animate=False)
        await until(pilot, lambda: not response.documents[0].rests)
        await until(pilot, lambda: "Part 0" in screen_text(pilot.app))


async def test_the_end_sets_only_the_last_document_again(monkeypatch):
    updated = []
    update = Markdown.update
    async with Harness().run_test(size=(80, 24)) as pilot:
        response = await pilot.app.transcript.add_answer()
        await stream(pilot, response, LONG, 2000)
        monkeypatch.setattr(
            Markdown, "update", lambda self, text: (updated.append(text), update(self, text))[1]
        )
        await response.finish(GenerationSummary(text=LONG))
        assert 0 < sum(map(len, updated)) <= SEAL_AT + BREAK_AT + 1000


async def test_a_fence_that_streams_in_is_never_blank():
    code = "```python\n" + "".join(f"line_{n} = {n}\n" for n in range(12)) + "```\n"
    async with Harness().run_test(size=(80, 24)) as pilot:
        response = await pilot.app.transcript.add_answer()
        for start in range(0, len(code), 7):
            await response.append(code[start : start + 7])
            await until(pilot, lambda: not response._coming)
        await pilot.pause()
        assert "line_11 = 11" in screen_text(pilot.app)
        await response.finish(GenerationSummary(text=code))
        await pilot.pause()
        assert "line_0 = 0" in screen_text(pilot.app)


async def test_lists_and_tables_are_one_widget_each_and_keep_brackets():
    text = "- [/foo] *a*\n  - b\n\n3. c\n4. d\n\n| h | [i] |\n|---|---|\n| [/x] | y |\n"
    async with Harness().run_test(size=(80, 24)) as pilot:
        response = await pilot.app.transcript.add_answer()
        await stream(pilot, response, text, 5)
        await response.finish(GenerationSummary(text=text))
        await pilot.pause()
        shown = screen_text(pilot.app)
        for words in ("• [/foo] a", "▪ b", "3. c", "4. d", "[i]", "[/x]"):
            assert words in shown
        assert not response.query("MarkdownBullet, MarkdownTableCellContents")


async def test_text_in_lists_and_tables_can_be_selected():
    async with Harness().run_test(size=(80, 24)) as pilot:
        response = await pilot.app.transcript.add_answer()
        await response.append("| h | i |\n|---|---|\n| x | yz |\n")
        await until(pilot, lambda: response.query(TableBlock))
        await pilot.pause()
        table = response.query_one(TableBlock)
        assert table.get_selection(Selection(None, None)) == ("h\ti\nx\tyz", "\n")
        _, place = pilot.app.screen.get_widget_and_offset_at(
            table.content_region.x + 4, table.content_region.y + 2
        )
        assert place == (3, 1)  # "z" in the second line of "x\tyz"


def test_columns_share_the_width_and_the_widest_gives_way():
    assert share_width([5, 5], 80) == [5, 5]
    assert share_width([5, 100], 40) == [5, 31]
    assert min(share_width([100, 100, 100], 5)) >= 1


# -------------------------------------------------------------------- a long chat


async def test_a_long_chat_opens_at_its_end_and_mounts_a_part():
    async with Harness().run_test(size=(80, 24)) as pilot:
        transcript = pilot.app.transcript
        await transcript.show(chat(100))
        await pilot.pause()
        assert "Answer 99." in screen_text(pilot.app)
        assert len(transcript.blocks) < 40
        assert len(transcript.said) == 200
        assert transcript.last_answer.startswith("Answer 99.")
        assert "earlier messages" in str(transcript.query_one(Earlier).render())


async def test_scrolling_up_fetches_what_is_above_without_moving_what_is_seen():
    async with Harness().run_test(size=(80, 24)) as pilot:
        transcript = pilot.app.transcript
        await transcript.show(chat(40))
        await pilot.pause()
        messages = [said.message_id for said in transcript.said]
        for step in (-11, 11):
            seen, most = "", 0
            for _ in range(200):
                transcript.scroll_relative(y=step, animate=False)
                await pilot.pause()
                while transcript._is_tidying:  # on a busy machine that takes its time
                    await pilot.pause()
                seen += screen_text(pilot.app)
                most = max(most, len(transcript.blocks))
                if f"Question {0 if step < 0 else 39}?" in seen:
                    break
                assert [said.message_id for said in transcript.said] == messages
            assert [n for n in range(4, 34) if f"Question {n}?" not in seen] == []
            assert most < 40
            assert bool(transcript.query(Gap)) == (step < 0)


async def test_what_is_seen_stays_when_something_above_it_comes():
    async with Harness().run_test(size=(80, 24)) as pilot:
        transcript = pilot.app.transcript
        await transcript.show(chat(40))
        await pilot.pause()
        transcript.scroll_relative(y=-5, animate=False)
        await pilot.pause()
        seen = screen_text(pilot.app)
        await transcript._fetch(6)
        await pilot.pause()
        assert screen_text(pilot.app) == seen


async def test_a_chat_that_goes_on_gives_up_its_beginning():
    async with Harness().run_test(size=(80, 12)) as pilot:
        transcript = pilot.app.transcript
        for n in range(30):
            await transcript.add_question(f"Question {n}?")
            response = await transcript.add_answer()
            await response.finish(GenerationSummary(text=f"Answer {n}.\n\n- a\n- b"))
        await until(pilot, lambda: len(transcript.blocks) < 30)
        assert [said.text[:10] for said in transcript.said if said.role == "user"] == [
            f"Question {n}?"[:10] for n in range(30)
        ]


async def test_branches_ends_and_what_is_dropped_are_said_in_words():
    async with Harness().run_test(size=(80, 24)) as pilot:
        transcript = pilot.app.transcript
        messages = chat(2, status="stopped")
        await transcript.show(messages, {"a1": (2, 3)}, dropped=["u0", "a0"])
        await pilot.pause()
        shown = screen_text(pilot.app)
        assert "version 2 of 3 · stopped · c continues" in shown
        assert shown.index("no longer seen") > shown.index("Answer 0.")
        assert shown.index("no longer seen") < shown.index("Question 1?")
        await transcript.mark_dropped([])
        await until(pilot, lambda: not transcript.query(Divider))


async def test_a_long_question_is_folded_and_opens():
    async with Harness().run_test(size=(80, 24)) as pilot:
        text = "\n".join(f"line {n}" for n in range(1200))
        message = await pilot.app.transcript.add_question(text)
        await pilot.pause()
        assert "▸ 1,200 lines in all" in screen_text(pilot.app)
        assert message.size.height < 20
        message.action_fold()
        await until(pilot, lambda: message.size.height > 1000)


# -------------------------------------------------------------------- by key and by mouse


async def test_messages_are_chosen_by_keys_and_ask_for_what_is_possible():
    async with Harness().run_test(size=(80, 24)) as pilot:
        transcript = pilot.app.transcript
        await transcript.show(chat(2, status="stopped"), {"a1": (2, 3)})
        await pilot.pause()
        transcript.blocks[-1].focus()
        await pilot.press("r", "c", "p", "e", "left", "right", "d")
        assert [action for _, action in pilot.app.asked] == [
            "retry", "continue", "pin", "older", "newer", "delete",
        ]  # fmt: skip
        await pilot.press("up")
        assert pilot.app.focused is transcript.blocks[-2]
        await pilot.press("e")
        assert pilot.app.asked[-1] == ("u1", "edit")


async def test_a_message_under_the_mouse_shows_a_row_of_actions_and_nothing_moves():
    async with Harness().run_test(size=(80, 24)) as pilot:
        transcript = pilot.app.transcript
        await transcript.show(chat(3))
        await pilot.pause()
        before = transcript.max_scroll_y, transcript.virtual_size
        await pilot.hover(transcript.blocks[-2])
        await until(pilot, lambda: transcript.query(Actions))
        await pilot.pause()
        assert "copy   edit   pin   delete" in screen_text(pilot.app)
        assert (transcript.max_scroll_y, transcript.virtual_size) == before
        await pilot.click(Actions, offset=(8, 0))
        await until(pilot, lambda: pilot.app.asked)
        assert pilot.app.asked == [("u2", "edit")]


async def test_a_place_far_above_is_found_and_brought_into_view():
    async with Harness().run_test(size=(80, 24)) as pilot:
        transcript = pilot.app.transcript
        await transcript.show(chat(60))
        await pilot.pause()
        found = transcript.find("answer 3.")
        assert len(found) == 1
        await transcript.reveal(found[0])
        await until(pilot, lambda: "Answer 3." in screen_text(pilot.app))
        await until(pilot, lambda: pilot.app.screen.get_selected_text() == "Answer 3.")
        assert transcript.find("  ") == []
        await pilot.pause(0.2)
        assert "Answer 3." in screen_text(pilot.app)
        assert len(transcript.blocks) < 40
        assert [said.text[:8] for said in transcript.said[::2]] == ["Question"] * 60
        transcript.scroll_end(animate=False)
        await until(pilot, lambda: "Answer 59." in screen_text(pilot.app))
        await until(pilot, lambda: not transcript.query(Gap))
        assert [said.text[:8] for said in transcript.said[::2]] == ["Question"] * 60
        assert [b.said.message_id for b in transcript.blocks[-4:]] == ["u58", "a58", "u59", "a59"]
        await until(pilot, lambda: "Answer 58." in screen_text(pilot.app))
        assert transcript.follows_end


async def test_no_message_counts_twice_while_widgets_come_and_go(monkeypatch):
    async with Harness().run_test(size=(80, 24)) as pilot:
        transcript = pilot.app.transcript
        await transcript.show(chat(60))
        replace, counts = transcript._replace, []

        async def watched(*sides):
            counts.append(len(transcript.said))  # data and widgets are between two states
            await replace(*sides)

        monkeypatch.setattr(transcript, "_replace", watched)
        await transcript.reveal(transcript.find("answer 3.")[0])
        await until(pilot, lambda: "Answer 3." in screen_text(pilot.app))
        transcript.scroll_end(animate=False)
        await until(pilot, lambda: not transcript.query(Gap))
        assert counts and max(counts) == 120


async def test_a_place_inside_a_long_answer_that_rests_is_brought_into_view():
    async with Harness().run_test(size=(80, 24)) as pilot:
        transcript = pilot.app.transcript
        await transcript.show([*chat(8, LONG), *chat(30)])
        await pilot.pause()
        for query in ("Part 150", "Part 7"):
            found = [f for f in transcript.find(query) if f.said is transcript.said[5]]
            await transcript.reveal(found[0])
            await until(pilot, lambda: query in screen_text(pilot.app))  # noqa: B023
            await pilot.pause(0.3)
            assert query in screen_text(pilot.app)


async def test_an_answer_that_comes_is_not_given_up_while_one_reads_far_above():
    async with Harness().run_test(size=(80, 24)) as pilot:
        transcript = pilot.app.transcript
        await transcript.show(chat(40))
        await transcript.add_question("And now?")
        response = await transcript.add_answer()
        waiting = await transcript.add_question("Later.", note="queued")
        await response.append("It ")
        await pilot.pause()
        await transcript.reveal(transcript.find("answer 3.")[0])
        await until(pilot, lambda: "Answer 3." in screen_text(pilot.app))
        await response.append("comes.")
        await until(pilot, lambda: not response._coming)
        await pilot.pause(0.2)
        assert "Answer 3." in screen_text(pilot.app)
        assert response.is_attached
        assert waiting.is_attached
        assert [s.text for s in transcript.said[-3:]] == ["And now?", "It comes.", "Later."]


async def test_what_rests_takes_more_rows_in_a_narrower_window():
    text = "".join(f"Paragraph {n}. {'word ' * 60}\n\n" for n in range(60))
    async with Harness().run_test(size=(100, 24)) as pilot:
        transcript = pilot.app.transcript
        response = await transcript.add_answer()
        await response.finish(GenerationSummary(text=text))
        await until(pilot, lambda: response.documents[0].rests)
        wide = response.parts[response.documents[0]].height
        await pilot.resize_terminal(50, 24)
        await until(pilot, lambda: response.parts[response.documents[0]].height > 1.4 * wide)


async def test_the_line_below_names_the_key_that_is_set_and_counts_in_good_english():
    async with Harness().run_test(size=(80, 24)) as pilot:
        transcript = pilot.app.transcript
        await transcript.show(chat(1, status="partial"))
        await pilot.pause()
        assert "broken off · c continues" in screen_text(pilot.app)
        pilot.app.set_keymap({"message.continue": "ctrl+x,f5"})
        await until(pilot, lambda: "broken off · Ctrl+X continues" in screen_text(pilot.app))
        response = await transcript.add_answer()
        summary = GenerationSummary(text="A", generated_tokens=1, decode_tok_per_s=5)
        await response.finish(summary)
        await until(pilot, lambda: "1 token · 5 tok/s" in screen_text(pilot.app))
