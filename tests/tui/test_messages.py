"""What can be done with a message: again, in other words, on, away, and back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mobilellm_mlx.chat.store import Store
from mobilellm_mlx.errors import ContextOverflow, EngineError
from mobilellm_mlx.testing import SCRIPTED_MODEL
from tui.house import House
from tui.widgets.messages import ProblemBlock, UserMessage
from tui.widgets.prompt import Prompt
from tui.widgets.response import Response
from tui.widgets.said import MessageAction

WIDE = (120, 40)


@pytest.fixture
def house():
    store = Store()
    yield House(store=store)
    store.close()


def said(chat):
    return [m.text for m in chat.all(UserMessage)], [r.text for r in chat.all(Response)]


def remembered(chat):
    return [m.content for m in chat.app.chat.session.branch]


async def test_shift_tab_goes_to_the_newest_message_and_esc_back(open_chat, staged, house):
    async with open_chat(staged(["One"]), WIDE, house=house) as chat:
        await chat.say("first")
        await chat.idle()
        await chat.press("shift+tab")
        assert isinstance(chat.app.focused, Response)
        await chat.press("up")
        assert isinstance(chat.app.focused, UserMessage)
        await chat.press("escape")
        assert isinstance(chat.app.focused, Prompt)


async def test_r_asks_once_more_and_both_answers_stay(open_chat, staged, house):
    async with open_chat(staged(["One", "Two"]), WIDE, house=house) as chat:
        await chat.say("first")
        await chat.idle()
        await chat.press("shift+tab", "r")
        await chat.until(lambda: said(chat) == (["first"], ["Two"]))
        await chat.idle()
        assert "version 2 of 2" in chat.text()
        await chat.press("shift+tab", "left")
        await chat.until(lambda: said(chat) == (["first"], ["One"]))
        assert "version 1 of 2" in chat.text()


async def test_a_question_in_other_words_opens_a_branch(open_chat, staged, house):
    engine = staged(["One", "Two", "Three"])
    async with open_chat(engine, WIDE, house=house) as chat:
        await chat.say("first")
        await chat.idle()
        await chat.say("second")
        await chat.idle()
        await chat.press("shift+tab", "up", "up", "up", "e")
        assert chat.prompt.text == "first"
        assert "Editing" in chat.text()
        chat.prompt.load_text("")
        await chat.say("primo")
        await chat.until(lambda: said(chat) == (["primo"], ["Three"]))
        await chat.idle()
        assert [m.content for m in engine.conversations[-1]] == ["primo"]
        assert "Editing" not in chat.text()
        await chat.press("shift+tab", "up", "left")
        await chat.until(lambda: said(chat) == (["first", "second"], ["One", "Two"]))


async def test_a_new_chat_leaves_the_editing_behind(open_chat, staged, house):
    engine = staged(["One", "Two"])
    async with open_chat(engine, WIDE, house=house) as chat:
        await chat.say("first")
        await chat.idle()
        await chat.say("/edit")
        await chat.until(lambda: "Editing" in chat.text())
        await chat.press("ctrl+n")
        await chat.until(lambda: "Editing" not in chat.text())
        chat.prompt.load_text("")
        await chat.say("other words")
        await chat.until(lambda: said(chat) == (["other words"], ["Two"]))
        assert [m.content for m in engine.conversations[-1]] == ["other words"]


async def test_editing_can_be_left_with_esc(open_chat, staged, house):
    async with open_chat(staged(["One"]), WIDE, house=house) as chat:
        await chat.say("first")
        await chat.idle()
        await chat.say("/edit")
        await chat.until(lambda: chat.prompt.text == "first")
        await chat.press("escape")
        assert chat.prompt.text == "" and "Editing" not in chat.text()
        assert said(chat) == (["first"], ["One"])


async def test_a_stopped_answer_goes_on_where_it_stopped(open_chat, staged, house):
    engine = staged(["A long answer", " and its end."], hold_after=2)
    async with open_chat(engine, WIDE, house=house) as chat:
        await chat.idle()
        await chat.say("go")
        await chat.until(lambda: said(chat)[1] == ["A long a"])
        await chat.press("escape")
        await chat.idle()
        assert "c continues" in chat.text()
        engine.may_speak.set()
        await chat.press("shift+tab", "c")
        await chat.until(lambda: said(chat) == (["go"], ["A long a and its end."]))
        await chat.idle()
        assert engine.begun[-1] == [0, 1]
        assert "c continues" not in chat.text()
        assert chat.app.chat.session.branch[-1].content == "A long a and its end."


async def test_only_the_last_answer_of_a_chat_goes_on(open_chat, staged, house):
    engine = staged(["A long answer", "Two", "never"], hold_after=2)
    async with open_chat(engine, WIDE, house=house) as chat:
        await chat.idle()
        await chat.say("go")
        await chat.until(lambda: said(chat)[1] == ["A long a"])
        await chat.press("escape")
        await chat.idle()
        engine.may_speak.set()
        await chat.say("second")
        await chat.idle()
        before = said(chat), remembered(chat)
        stopped = chat.all(Response)[0]
        stopped.post_message(MessageAction(stopped.message_id, "continue"))
        await chat.until(lambda: "only the last answer of a chat can be continued" in chat.text())
        assert (said(chat), remembered(chat)) == before
        assert len(engine.conversations) == 2


async def test_a_deleted_turn_comes_back(open_chat, staged, house):
    async with open_chat(staged(["One", "Two"]), WIDE, house=house) as chat:
        for text in ("first", "second"):
            await chat.say(text)
            await chat.idle()
        await chat.press("shift+tab", "up", "up", "d")
        await chat.until(lambda: said(chat) == (["second"], ["Two"]))
        await chat.say("/undo")
        await chat.until(lambda: said(chat) == (["first", "second"], ["One", "Two"]))


async def test_a_deleted_turn_comes_back_where_it_was(open_chat, staged, house):
    async with open_chat(staged(["One", "Two"]), WIDE, house=house) as chat:
        await chat.say("first")
        await chat.idle()
        await chat.press("shift+tab", "d")
        await chat.until(lambda: said(chat) == ([], []))
        await chat.press("ctrl+n")
        await chat.say("second")
        await chat.idle()
        await chat.say("/undo")
        await chat.until(lambda: said(chat) == (["first"], ["One"]))


async def test_nothing_is_undone_while_an_answer_comes(open_chat, staged, house):
    engine = staged(["One", "A long answer"], hold_after=1)
    async with open_chat(engine, WIDE, house=house) as chat:
        engine.may_speak.set()
        await chat.say("first")
        await chat.idle()
        await chat.press("shift+tab", "d")
        await chat.until(lambda: said(chat) == ([], []))
        engine.may_speak.clear()
        await chat.say("second")
        await chat.until(lambda: said(chat)[1] == ["A lo"])
        await chat.say("/undo")
        await chat.until(lambda: "Wait for the answer" in chat.text())
        assert said(chat) == (["second"], ["A lo"])
        engine.may_speak.set()
        await chat.idle()
        await chat.say("/undo")
        await chat.until(lambda: said(chat) == (["first", "second"], ["One", "A long answer"]))


async def test_a_pinned_message_says_so_and_stays_in_sight(open_chat, staged, house):
    info = replace(SCRIPTED_MODEL, context_limit=100)
    engine = staged(["word " * 20], info=info)
    async with open_chat(engine, WIDE, house=house) as chat:
        await chat.say("remember me")
        await chat.idle()
        await chat.press("shift+tab", "up", "p")
        await chat.until(lambda: "pinned" in chat.text())
        for n in range(6):
            await chat.say(f"question {n}")
            await chat.idle()
        assert engine.conversations[-1][0].content == "remember me"
        assert "question 0" not in [m.content for m in engine.conversations[-1]]


async def test_where_the_model_no_longer_looks_is_drawn_and_said(open_chat, staged, house):
    info = replace(SCRIPTED_MODEL, context_limit=100)
    async with open_chat(staged(["word " * 20], info=info), WIDE, house=house) as chat:
        for n in range(6):
            await chat.say(f"question {n}")
            await chat.idle()
        await chat.until(lambda: "no longer seen by the model" in chat.text())
        await chat.say("/context")
        await chat.until(lambda: "left out" in chat.text())


async def test_a_full_context_can_ask_instead(open_chat, staged, house):
    info = replace(SCRIPTED_MODEL, context_limit=100)
    async with open_chat(staged(["word " * 20], info=info), WIDE, house=house) as chat:
        await chat.idle()
        await chat.say("/context stop")
        for n in range(5):
            await chat.say(f"question {n}")
            await chat.until(lambda n=n: len(chat.all(UserMessage)) > n or chat.all(ProblemBlock))
            await chat.idle()
            if chat.all(ProblemBlock):
                break
        await chat.until(lambda: chat.all(ProblemBlock))
        assert "more than 80% of the 100" in chat.text()
        assert chat.prompt.text == f"question {n}"


async def test_a_failed_retry_brings_the_old_answer_back(open_chat, staged, house):
    engine = staged(["One", ContextOverflow(9, 8)])
    async with open_chat(engine, WIDE, house=house) as chat:
        await chat.say("first")
        await chat.idle()
        await chat.press("shift+tab", "r")
        await chat.until(lambda: chat.all(ProblemBlock))
        await chat.idle()
        assert said(chat) == (["first"], ["One"])
        assert chat.prompt.text == ""


async def test_a_model_that_breaks_in_mid_answer_leaves_what_came(open_chat, staged, house):
    engine = staged(["Half of it", " Rest."], crash_after=1)
    async with open_chat(engine, WIDE, house=house) as chat:
        await chat.idle()
        await chat.say("go")
        await chat.until(lambda: chat.all(ProblemBlock))
        await chat.idle()
        kept = house.store.messages(chat.app.chat.session.chat.id)
        assert [m.content for m in kept] == ["go", "Half"]
        engine._crash_after = None
        await chat.press("shift+tab", "c")
        await chat.until(lambda: said(chat)[1] == ["Half Rest."])


async def test_nothing_is_done_to_a_message_while_an_answer_comes(open_chat, staged, house):
    engine = staged(["One", "A long answer"], hold_after=1)
    async with open_chat(engine, WIDE, house=house) as chat:
        engine.may_speak.set()
        await chat.say("first")
        await chat.idle()
        engine.may_speak.clear()
        await chat.say("second")
        await chat.until(lambda: len(said(chat)[1]) == 2)
        await chat.say("/retry")
        await chat.until(lambda: "Wait for the answer" in chat.text())
        assert len(engine.conversations) == 2


async def test_two_commands_of_the_palette_at_once_are_one_after_the_other(
    open_chat, staged, house
):
    engine = staged(["One", "A long answer"], hold_after=1)
    async with open_chat(engine, WIDE, house=house) as chat:
        engine.may_speak.set()
        await chat.say("first")
        await chat.idle()
        engine.may_speak.clear()
        listed = {c.title: c.callback for c in chat.app.get_system_commands(chat.app.screen)}
        (retry,) = (run for title, run in listed.items() if title.endswith("(/retry)"))
        retry()
        retry()
        await chat.until(lambda: "Wait for the answer" in chat.text())
        engine.may_speak.set()
        await chat.until(lambda: said(chat) == (["first"], ["A long answer"]))
        assert len(engine.conversations) == 2


@pytest.mark.parametrize("again", ["same", "other"])
async def test_a_question_comes_back_when_it_is_stopped_before_the_first_word(
    open_chat, staged, house, again
):
    engine = staged(["One", "Two"], hold_after=0)
    async with open_chat(engine, WIDE, house=house) as chat:
        engine.may_speak.set()
        await chat.say("same")
        await chat.idle()
        engine.may_speak.clear()
        await chat.say(again)
        await chat.until(lambda: chat.app.chat.is_answering and len(engine.conversations) == 1)
        await chat.press("escape")
        await chat.idle()
        assert chat.prompt.text == again
        assert remembered(chat) == ["same", "One"]


async def test_an_answer_that_ends_does_not_cost_the_draft(open_chat, staged, house):
    engine = staged(["One", "A long answer"], hold_after=1)
    async with open_chat(engine, WIDE, house=house) as chat:
        engine.may_speak.set()
        await chat.say("first")
        await chat.idle()
        engine.may_speak.clear()
        await chat.say("second")
        await chat.until(lambda: len(said(chat)[1]) == 2)
        await chat.write("a long draft")
        await chat.press("up")
        assert chat.prompt.text == "second"
        engine.may_speak.set()
        await chat.idle()
        await chat.press("down", "down")
        assert chat.prompt.text == "a long draft"


async def test_up_gives_back_what_was_typed_and_not_what_became_of_it(
    open_chat, staged, house, tmp_path
):
    house.folder = tmp_path
    (tmp_path / "f.txt").write_text("the file\n")
    engine = staged(["One", "Two"])
    async with open_chat(engine, WIDE, house=house) as chat:
        await chat.idle()
        for typed in ("read @f.txt please", "//slash", "/theme light"):
            await chat.say(typed)
            await chat.idle()
        assert "the file" in engine.conversations[0][0].content
        assert engine.conversations[1][-1].content == "/slash"
        seen = []
        for _ in range(4):
            await chat.press("up")
            seen.append(chat.prompt.text)
        assert seen == ["/theme light", "//slash", *["read @f.txt please"] * 2]


async def test_a_question_that_failed_is_found_by_up(open_chat, staged, house):
    async with open_chat(staged(["One", EngineError("no")]), WIDE, house=house) as chat:
        await chat.say("first")
        await chat.idle()
        await chat.say("precious")
        await chat.until(lambda: chat.all(ProblemBlock))
        await chat.idle()
        chat.prompt.load_text("")
        await chat.press("up")
        assert chat.prompt.text == "precious"


async def test_words_are_found_in_the_chat_one_after_the_other(open_chat, staged, house):
    async with open_chat(staged(["apple pie", "no fruit", "an apple"]), WIDE, house=house) as chat:
        for text in ("one", "two", "three"):
            await chat.say(text)
            await chat.idle()
        await chat.press("ctrl+f", *"apple")
        await chat.until(lambda: "2 of 2" in chat.text())
        await chat.press("up")
        await chat.until(lambda: "1 of 2" in chat.text())
        await chat.press("escape")
        assert isinstance(chat.app.focused, Prompt)


async def test_every_command_runs_or_says_why_not(open_chat, staged, house):
    """On an empty chat, where most have nothing to do."""
    async with open_chat(staged(), WIDE, house=house) as chat:
        await chat.idle()
        for command in chat.app.chat.commands:
            if command.name in ("quit",):
                continue
            await chat.app.chat.dispatch.run(command.name)
            await chat.pilot.pause()
            while len(chat.app.screen_stack) > 1:
                await chat.press("escape")
        assert chat.app.is_running


async def test_one_can_walk_through_versions_without_going_back_to_the_prompt(
    open_chat, staged, house
):
    async with open_chat(staged(["One", "Two", "Three"]), WIDE, house=house) as chat:
        await chat.say("first")
        await chat.idle()
        for answer in ("Two", "Three"):
            await chat.say("/retry")
            await chat.until(lambda answer=answer: said(chat)[1] == [answer])
            await chat.idle()
        await chat.press("shift+tab")
        for key, answer in (("left", "Two"), ("left", "One"), ("right", "Two")):
            await chat.press(key)
            await chat.until(lambda answer=answer: said(chat)[1] == [answer])
            await chat.until(lambda: isinstance(chat.app.focused, Response))


async def test_a_draft_survives_editing_another_message(open_chat, staged, house):
    async with open_chat(staged(["One", "Two"]), WIDE, house=house) as chat:
        await chat.say("first")
        await chat.idle()
        await chat.write("my draft")
        await chat.press("shift+tab", "up", "e")
        await chat.until(lambda: chat.prompt.text == "first")
        await chat.press("escape")
        assert chat.prompt.text == "my draft"


async def test_the_message_that_is_chosen_shows_what_can_be_done_with_it(open_chat, staged, house):
    async with open_chat(staged(["One"]), WIDE, house=house) as chat:
        await chat.say("first")
        await chat.idle()
        await chat.press("shift+tab")
        await chat.until(lambda: "again" in chat.text())
        await chat.press("up")
        await chat.until(lambda: "edit" in chat.text() and "again" not in chat.text())


async def test_the_meter_belongs_to_the_branch_that_is_shown(open_chat, staged, house):
    async with open_chat(staged(["word " * 50, "One"]), WIDE, house=house) as chat:
        await chat.say("first")
        await chat.idle()
        used = chat.app.chat.status.state.context_used
        await chat.say("/retry")
        await chat.until(lambda: said(chat)[1] == ["One"])
        await chat.idle()
        assert chat.app.chat.status.state.context_used < used
        await chat.press("shift+tab", "left")
        await chat.until(lambda: chat.app.chat.status.state.context_used == used)


async def test_the_line_ends_of_a_poem_stay(open_chat, staged, house):
    async with open_chat(staged(["Roses are red,\nviolets blue."]), WIDE, house=house) as chat:
        await chat.say("a poem")
        await chat.idle()
        lines = [line.strip() for line in chat.text().splitlines()]
        assert any(line.endswith("Roses are red,") for line in lines)
        assert any(line.endswith("violets blue.") for line in lines)
