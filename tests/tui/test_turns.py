"""Asking, queueing, stopping, failing: the order in which a chat happens."""

from __future__ import annotations

import pytest
from textual.widgets import Markdown

from mobilellm_mlx.errors import ContextOverflow, InsufficientMemory
from tui.bridge import UPDATES_PER_S
from tui.widgets.messages import ProblemBlock, UserMessage
from tui.widgets.response import Response
from tui.widgets.rows import TableBlock
from tui.widgets.welcome import Welcome


async def test_an_answer_appears_below_its_question(open_chat, staged):
    async with open_chat(staged(["It is **small**."])) as chat:
        await chat.say("What is it?")
        await chat.idle()
        assert [m.text for m in chat.all(UserMessage)] == ["What is it?"]
        assert [r.text for r in chat.all(Response)] == ["It is **small**."]
        assert "It is small." in chat.text()
        assert "4 tokens · 250 tok/s" in chat.text()


async def test_one_can_write_while_the_model_loads_and_is_answered_after(open_chat, staged):
    engine = staged(["Hello!"], hold_load=True)
    async with open_chat(engine, title="tiny") as chat:
        await chat.until(lambda: "loading tiny" in chat.text())
        await chat.say("Hi")
        message = chat.all(UserMessage)[0]
        assert message.has_class("-waiting")
        assert "queued until the model is loaded" in chat.text()
        assert "1 queued" in chat.text()
        assert engine.conversations == []
        engine.may_load.set()
        await chat.until(lambda: chat.all(Response))
        await chat.idle()
        assert not message.has_class("-waiting")
        assert chat.all(Response)[0].text == "Hello!"


async def test_the_time_that_loading_takes_is_shown(open_chat, staged):
    now = [0.0]
    engine = staged(hold_load=True)
    async with open_chat(engine, clock=lambda: now[0]) as chat:
        now[0] = 2.5
        await chat.until(lambda: "loading the model 2.5 s" in chat.text())


async def test_a_model_that_cannot_be_loaded_is_explained_and_the_message_comes_back(
    open_chat, staged
):
    engine = staged(hold_load=True, loading_error=InsufficientMemory("too big", "buy memory"))
    async with open_chat(engine) as chat:
        await chat.say("Hi")
        engine.may_load.set()
        await chat.until(lambda: chat.all(ProblemBlock))
        await chat.pilot.pause()
        assert "error: too big" in chat.text()
        assert "hint: buy memory" in chat.text()
        assert "no model" in chat.text()
        assert chat.prompt.text == "Hi"
        assert chat.all(UserMessage) == []
        await chat.press("ctrl+q")
    assert chat.app.return_code == 1
    assert isinstance(chat.app.failure, InsufficientMemory)


async def test_sending_after_a_loading_error_tries_to_load_again(open_chat, staged):
    engine = staged(["Hello!"], loading_error=InsufficientMemory("too big"))
    async with open_chat(engine) as chat:
        await chat.until(lambda: chat.all(ProblemBlock))
        engine._loading_error = None
        await chat.say("Hi")
        await chat.until(lambda: chat.all(Response))
        await chat.idle()
        assert engine.loads == 2
        assert chat.all(ProblemBlock) == []
        assert chat.all(Response)[0].text == "Hello!"
        await chat.press("ctrl+q")
    assert chat.app.return_code == 0
    assert chat.app.failure is None


async def test_a_message_sent_during_an_answer_waits_and_then_goes_out(open_chat, staged):
    engine = staged(["First answer", "Second answer"], hold_after=2)
    async with open_chat(engine) as chat:
        await chat.idle()
        await chat.say("one")
        await chat.until(lambda: chat.all(Response)[0].text)
        await chat.say("two")
        assert "queued until this answer is done" in chat.text()
        assert len(engine.conversations) == 1
        engine.may_speak.set()
        await chat.until(lambda: len(chat.all(Response)) == 2)
        await chat.idle()
        shown = [type(w).__name__ for w in chat.app.chat.query_one("Transcript").children]
        assert shown == ["Welcome", "UserMessage", "Response", "UserMessage", "Response"]
        assert [m.content for m in engine.conversations[1]] == ["one", "First answer", "two"]


async def test_esc_keeps_what_came_and_marks_it_stopped(open_chat, staged):
    engine = staged(["A long answer that goes on"], hold_after=2)
    async with open_chat(engine) as chat:
        await chat.idle()
        await chat.say("go")
        await chat.until(lambda: chat.all(Response)[0].text == "A long a"[:8])
        await chat.press("escape")
        await chat.idle()
        assert chat.all(Response)[0].text == "A long a"
        assert "stopped · 2 tokens" in chat.text()
        assert chat.prompt.text == ""


async def test_esc_takes_queued_messages_back_in_front_of_the_draft(open_chat, staged):
    engine = staged(["A long answer that goes on"], hold_after=2)
    async with open_chat(engine) as chat:
        await chat.idle()
        await chat.say("go")
        await chat.say("second")
        await chat.say("third")
        await chat.write("a draft")
        await chat.press("escape")
        await chat.idle()
        assert chat.prompt.text == "second\n\nthird\n\na draft"
        assert [m.text for m in chat.all(UserMessage)] == ["go"]
        assert len(engine.conversations) == 1


async def test_stopping_before_the_first_word_offers_the_message_again(open_chat, staged):
    engine = staged(["Never said", "Now"], hold_after=0)
    async with open_chat(engine) as chat:
        await chat.idle()
        await chat.say("go")
        await chat.until(lambda: engine.conversations == [] and chat.app.bridge.is_busy)
        await chat.press("escape")
        await chat.idle()
        assert "stopped before the first word; not remembered" in chat.text()
        assert chat.prompt.text == "go"


@pytest.mark.parametrize("draft", ["", "a new thought"])
async def test_after_a_failure_the_text_comes_back_unless_another_is_written(
    open_chat, staged, draft
):
    engine = staged([ContextOverflow(5120, 2048), "Fine."], hold_after=0)
    async with open_chat(engine) as chat:
        await chat.idle()
        await chat.say("too long")
        await chat.write(draft)
        engine.may_speak.set()
        await chat.until(lambda: chat.all(ProblemBlock))
        await chat.idle()
        assert "error: the prompt is 5,120 tokens but the context is 2,048" in chat.text()
        assert "hint: shorten the prompt or start a new chat" in chat.text()
        assert chat.prompt.text == (draft or "too long")
        chat.prompt.clear()
        await chat.say("short")
        await chat.idle()
        assert chat.all(Response)[-1].text == "Fine."
        assert [m.content for m in engine.conversations[-1]] == ["short"]


async def test_an_unexpected_exception_is_an_internal_error_and_the_chat_goes_on(open_chat, staged):
    engine = staged(["Never finished, alas", "Fine."], crash_after=2)
    async with open_chat(engine) as chat:
        await chat.idle()
        await chat.say("go")
        await chat.until(lambda: chat.all(ProblemBlock))
        await chat.idle()
        assert "internal error: RuntimeError: the [/engine] broke" in chat.text()
        assert "--debug" in chat.text()
        assert "broken off" in chat.text()
        assert "not remembered" not in chat.text()
        engine._crash_after = None
        chat.prompt.clear()
        await chat.say("again")
        await chat.idle()
        assert chat.all(Response)[-1].text == "Fine."
        await chat.press("ctrl+q")
    assert isinstance(chat.app.failure, RuntimeError)


async def test_ctrl_n_starts_over(open_chat, staged):
    engine = staged(["One", "Two"])
    async with open_chat(engine) as chat:
        await chat.say("first")
        await chat.idle()
        await chat.press("ctrl+n")
        await chat.until(lambda: not chat.all(Response))
        assert chat.all(UserMessage) == []
        assert chat.all(Welcome)[0].display
        assert "0/2,048" in chat.text()
        await chat.say("second")
        await chat.idle()
        assert [m.content for m in engine.conversations[-1]] == ["second"]


async def test_ctrl_n_during_an_answer_stops_it_first(open_chat, staged):
    engine = staged(["A long answer that goes on", "Two"], hold_after=2)
    async with open_chat(engine) as chat:
        await chat.idle()
        await chat.say("first")
        await chat.until(lambda: chat.all(Response)[0].text)
        await chat.press("ctrl+n")
        await chat.until(lambda: not chat.all(Response))
        await chat.idle()
        engine.may_speak.set()
        await chat.say("second")
        await chat.idle()
        assert [m.content for m in engine.conversations[-1]] == ["second"]


@pytest.mark.parametrize("first", ["A long answer", ContextOverflow(5120, 2048)])
async def test_what_is_said_after_ctrl_n_opens_the_new_chat(open_chat, staged, first):
    engine = staged([first, "Second answer"], hold_after=0, deaf=True)
    async with open_chat(engine) as chat:
        await chat.idle()
        await chat.say("first")
        await chat.press("ctrl+n")
        await chat.say("second")
        assert chat.app.chat.is_answering
        engine.may_speak.set()
        await chat.until(lambda: len(engine.conversations) == 2)
        await chat.idle()
        assert [m.content for m in engine.conversations[1]] == ["second"]
        shown = [type(w).__name__ for w in chat.app.chat.query_one("Transcript").children]
        assert shown == ["Welcome", "UserMessage", "Response"]
        assert not chat.all(Welcome)[0].display
        assert chat.all(Response)[0].text == "Second answer"
        assert "queued" not in chat.text()


async def test_ctrl_n_while_a_failure_is_being_drawn_waits_for_it(open_chat, staged, monkeypatch):
    engine = staged([ContextOverflow(5120, 2048)])
    async with open_chat(engine) as chat:
        await chat.idle()
        break_off = Response.break_off

        async def press_meanwhile(response):
            await break_off(response)
            await chat.app.chat.action_new_chat()

        monkeypatch.setattr(Response, "break_off", press_meanwhile)
        await chat.say("too long")
        await chat.until(lambda: engine.conversations and not chat.all(Response))
        await chat.idle()
        assert chat.all(UserMessage) == chat.all(ProblemBlock) == []


async def test_a_message_sent_just_before_an_answer_is_known_to_have_ended_waits(open_chat, staged):
    engine = staged(["First answer", "Second answer"], hold_after=0)
    async with open_chat(engine) as chat:
        await chat.idle()
        await chat.say("one")
        chat.app.bridge._timer.pause()
        engine.may_speak.set()
        chat.say_before_the_end_is_known("two")
        await chat.until(lambda: len(engine.conversations) == 2)
        await chat.idle()
        assert [r.text for r in chat.all(Response)] == ["First answer", "Second answer"]
        assert "queued" not in chat.text()


async def test_a_message_sent_just_before_the_model_is_known_loads_it_only_once(open_chat, staged):
    engine = staged(["Hello!"], hold_load=True)
    async with open_chat(engine) as chat:
        await chat.until(lambda: engine.loads)
        chat.app.bridge._timer.pause()
        engine.may_load.set()
        chat.say_before_the_end_is_known("Hi")
        await chat.until(lambda: chat.all(Response))
        await chat.idle()
        assert chat.all(Response)[0].text == "Hello!"
        assert engine.loads == 1


async def test_markup_of_the_person_and_of_the_model_is_only_text(open_chat, staged):
    nasty = "[red]x[/] [/foo] [@click=app.quit]y[/]"
    answer = f"{nasty}\n\n<b>bold</b> <script>z</script>\n\n<div>\nblock\n</div>"
    async with open_chat(staged([answer])) as chat:
        await chat.say(nasty)
        await chat.idle()
        assert chat.text().count(nasty) == 2
        assert "<b>bold</b> <script>z</script>" in chat.text()
        assert "<div>" in chat.text()


async def test_control_characters_do_not_reach_the_terminal(open_chat, staged):
    async with open_chat(staged(["a\x1b[31mb\x07c\x9bd\u202ee"])) as chat:
        await chat.say("x\x1b]0;title\x07y")
        await chat.idle()
        shown = chat.text()
        assert not set(shown) & {"\x1b", "\x07", "\x9b", "\u202e"}
        assert "a[31mbcde" in shown
        assert chat.all(Response)[0].text == "a\x1b[31mb\x07c\x9bd\u202ee"


async def test_brackets_in_a_table_survive_the_mouse(open_chat, staged):
    async with open_chat(staged(["| a |\n|---|\n| [/foo] |\n"])) as chat:
        chat.app.TOOLTIP_DELAY = 0.01
        await chat.say("table")
        await chat.idle()
        table = chat.all(Response)[0].query_one(TableBlock)
        drawn = []
        for y in range(table.size.height):
            await chat.pilot.hover(table, offset=(2, y))
            await chat.pilot.pause(0.03)  # a tooltip would come now, read as markup
            drawn.append(chat.text())
        assert len(drawn) == 3
        assert all("[/foo]" in text for text in drawn)
        assert table.tooltip is None


async def test_a_link_opens_only_when_clicked_and_only_to_the_web(open_chat, staged, monkeypatch):
    opened = []
    answer = "[web](https://example.org/) and [other](ftp://example.org/)"
    async with open_chat(staged([answer])) as chat:
        monkeypatch.setattr(chat.app, "open_url", lambda url, **_: opened.append(url))
        await chat.say("links")
        await chat.idle()
        assert opened == []
        paragraph = chat.all(Response)[0].query("MarkdownParagraph").first()
        await chat.pilot.click(paragraph, offset=(1, 0))
        await chat.until(lambda: opened)
        await chat.pilot.click(paragraph, offset=(9, 0))
        await chat.until(lambda: "Not a web address" in chat.text())
        assert opened == ["https://example.org/"]


async def test_a_fast_engine_is_drawn_in_few_steps_and_completely(open_chat, staged, monkeypatch):
    answer = "\n\n".join(
        f"Paragraph {n} with `code` and *words*.\n\n```\nx = {n}\n```" for n in range(25)
    )
    appended = []
    append = Markdown.append
    monkeypatch.setattr(
        Markdown, "append", lambda self, text: (appended.append(text), append(self, text))[1]
    )
    async with open_chat(staged([answer], tok_per_s=500), (120, 40), UPDATES_PER_S) as chat:
        await chat.idle()
        await chat.say("go")
        await chat.until(lambda: chat.all(Response) and chat.all(Response)[0].text)
        await chat.idle()
        response = chat.all(Response)[0]
        assert response.text == answer
        assert response.query_one(Markdown).source == answer
        assert 0 < len(appended) < len(answer) / 4 / 4
        assert "x = 24" in chat.text()


async def test_the_end_is_followed_unless_the_person_scrolled_up(open_chat, staged):
    engine = staged(["\n\n".join(f"line {n}" for n in range(60))], hold_after=60)
    async with open_chat(engine) as chat:
        await chat.idle()
        await chat.say("go")
        transcript = chat.app.chat.query_one("Transcript")
        await chat.until(lambda: transcript.max_scroll_y > 0)
        await chat.until(lambda: transcript.scroll_y == transcript.max_scroll_y)
        await chat.press("pageup")
        await chat.pilot.pause()
        before = transcript.scroll_y
        assert before < transcript.max_scroll_y
        engine.may_speak.set()
        await chat.idle()
        assert transcript.scroll_y == before < transcript.max_scroll_y
        await chat.say("more")
        await chat.until(lambda: transcript.scroll_y == transcript.max_scroll_y)


async def test_scrolling_a_short_chat_moves_nothing(open_chat, staged):
    async with open_chat(staged(["Short."])) as chat:
        await chat.say("go")
        await chat.idle()
        await chat.until(lambda: "tok/s" in chat.text())
        before = chat.text()
        await chat.press("pageup")
        assert chat.text() == before
        await chat.press("pagedown")
        assert chat.text() == before


async def test_leaving_in_mid_answer_stops_the_engine(open_chat, staged):
    engine = staged(["A long answer that goes on"], hold_after=2)
    async with open_chat(engine) as chat:
        await chat.idle()
        await chat.say("go")
        await chat.until(lambda: chat.all(Response)[0].text)
        await chat.press("ctrl+q")
    chat.app.bridge.close(timeout_s=5)
    assert not chat.app.bridge._thread.is_alive()
    assert chat.app.return_code == 0
