"""What cannot be seen is never allowed, and no key that was pressed before the question counts."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from mobilellm_mlx.plain import UNSEEN
from mobilellm_mlx.settings import load_settings, settings_path
from mobilellm_mlx.tools.approval import make_request
from mobilellm_mlx.tools.tool import Answer, Tool
from tests.tui.test_approval import (
    EVERYTHING,
    NOTE,
    PATHS,
    READ,
    WAITING,
    Asked,
    House,
    ask,
    make_tool,
    note,
    schema,
)
from tui import house as houses
from tui.screens import approval
from tui.screens.approval import ApprovalScreen

HIDDEN = "a\u200bb\u200e\u2028\u2060\u3164\ufeff\U000e0072\U000e006dc"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approval, "QUIET_S", 0.01)


# ---------------------------------------------------------------- what is not seen


@pytest.mark.parametrize("text", [HIDDEN, f"{HIDDEN}\n{HIDDEN}"], ids=["line", "text"])
async def test_unseen_characters_are_neither_shown_nor_allowed(text: str) -> None:
    async with ask(note(text)) as asked:
        assert not UNSEEN.search(asked.text())
        await asked.press("y")
        seen = UNSEEN.sub("", text)
        assert asked.app.answer == Answer(True, "once", {"text": seen})


async def test_unseen_characters_that_are_typed_are_not_allowed_either() -> None:
    async with ask(note()) as asked:
        await asked.write("text", f"buy{HIDDEN}")
        asked.screen._answers["deny"].focus()
        await asked.press("y")
        assert asked.app.answer == Answer(True, "once", {"text": "buyabc"})


async def test_unseen_characters_in_lines_and_json_are_dropped_or_spelled() -> None:
    given = {"name": "n", "count": 1, "tags": [HIDDEN, "x"], "where": {HIDDEN: HIDDEN}}
    tool = make_tool("everything", EVERYTHING, source="mcp:all")
    async with ask(make_request("1", tool, given)) as asked:
        shown = asked.field("where")._text
        assert not UNSEEN.search(shown)
        for spelled in (r"\u200b", r"\u200e", r"\u2028", r"\udb40\udc72"):
            assert spelled in shown
        assert asked.field("where").read() == {HIDDEN: HIDDEN}  # it can be seen, so it may stay
        assert asked.field("tags").kind == "json" or asked.field("tags").read() == ["abc", "x"]


async def test_unseen_characters_of_a_choice_are_spelled() -> None:
    parameters = schema("way", way={"enum": ["plain", f"plain{HIDDEN}"]})
    tool = make_tool("go", parameters, source="mcp:all")
    async with ask(make_request("1", tool, {"way": f"plain{HIDDEN}"})) as asked:
        assert r"plaina\u200bb\u200e" in asked.text()


# ---------------------------------------------------------------- keys that came too early


async def test_keys_of_a_time_in_which_nothing_moved_allow_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(approval, "QUIET_S", 0.6)
    app = House()
    async with app.run_test() as pilot:
        screen = ApprovalScreen(note())
        app.push_screen(screen, app.take)
        asked = Asked(app, pilot, screen)
        await asked.until(lambda: screen.is_mounted and screen._pause is not None)
        time.sleep(0.6 + approval.LATE_S + 0.1)  # the interface stands still
        await pilot.pause()  # the pause is over, and what was typed meanwhile comes only now
        await pilot.press("y")
        assert app.answer is WAITING and app.screen is screen
        await asked.armed()
        await pilot.press("y")
        assert app.answer == Answer(True, "once")


# ---------------------------------------------------------------- all that only reads


async def test_all_that_only_reads_is_allowed_by_key_and_by_mouse() -> None:
    for size in ((80, 24), (40, 10)):
        async with ask(make_request("1", READ, {"path": PATHS[0]}), size=size) as asked:
            await asked.press("r")
            assert asked.app.answer == Answer(True, "reading")
        async with ask(make_request("1", READ, {"path": PATHS[0]}), size=size) as asked:
            assert await asked.pilot.click("#reading")
            assert asked.app.answer == Answer(True, "reading")


@pytest.mark.parametrize("tool", [NOTE, replace(NOTE, source="mcp:notes")])
async def test_what_may_change_something_cannot_be_allowed_as_reading(tool: Tool) -> None:
    async with ask(make_request("1", tool, {"text": "x"})) as asked:
        assert not asked.screen._answers["reading"].display
        await asked.press("r")
        asked.screen.action_allow("reading")
        await asked.pilot.pause()
        assert asked.app.answer is WAITING


# ---------------------------------------------------------------- secrets of servers


async def test_a_server_is_not_shown_with_its_environment(open_chat: Any, staged: Any) -> None:
    settings_path().parent.mkdir(parents=True, exist_ok=True)
    settings_path().write_text(
        '[mcp.time]\ncommand = "uvx"\nargs = ["--token=SECRET1"]\nenv = {KEY = "SECRET2"}\n'
    )
    settings, problems = load_settings()
    assert settings.mcp["time"].env == {"KEY": "SECRET2"} and not problems
    async with open_chat(staged(["x"]), house=houses.House(settings=settings)) as chat:
        await chat.idle()
        for typed in ("/set mcp.time", "/set mcp.time x"):
            await chat.say(typed)
            await chat.until(lambda: "set up in the settings file" in chat.text())
            assert "SECRET" not in chat.text()
            assert not any("SECRET" in note.message for note in chat.app._notifications)
