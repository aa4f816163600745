"""Asking for leave: nothing is allowed by accident, and what is shown is what is run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import Input, TextArea

from mobilellm_mlx.errors import StorageError, ToolError
from mobilellm_mlx.tools.approval import Approvals, make_request
from mobilellm_mlx.tools.tool import Answer, Request, Scope, Tool
from tui.screens import approval
from tui.screens.approval import ApprovalScreen, ApprovalsScreen
from tui.screens.help import HelpScreen
from tui.themes import DARK
from tui.widgets.arguments import LEFT_OUT, Choice, Field

PATIENCE_S = 5.0
TEXT = {"type": "string"}
WAITING = object()


def schema(*required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


def make_tool(name: str, parameters: dict[str, Any], **options: Any) -> Tool:
    return Tool(name, "Does it.", parameters, lambda _, __: "", **options)


def note_words(arguments: Any) -> str:
    return f"Add a note: {arguments['text']}"


NOTE = make_tool("add_note", schema("text", text=TEXT), describe=note_words)
PATHS = [f"/srv/papers/{part}/{n}.txt" for part in ("new", "old") for n in range(75)]
READ = make_tool(
    "read_file",
    schema("path", path={"enum": PATHS}),
    describe=lambda a: f"Read {a['path']}",
    scope=lambda a: Scope("folder", a["path"].rpartition("/")[0]),
    reads_only=True,
)


def note(text: str = "buy milk") -> Request:
    return make_request("1", NOTE, {"text": text})


class House(App[None]):
    """Asks, and keeps the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_theme(DARK)
        self.theme = DARK.name
        self.answer: Any = WAITING

    def take(self, answer: Any) -> None:
        self.answer = answer


class Asked:
    """A running app with a question on it."""

    def __init__(self, app: House, pilot: Pilot[None], screen: Any) -> None:
        self.app, self.pilot, self.screen = app, pilot, screen
        self.press = pilot.press

    def field(self, name: str) -> Field:
        return next(field for field in self.screen.query(Field) if field.label == name)

    async def write(self, name: str, text: str) -> None:
        """Put a text into a field, as if it had been typed."""
        editor = self.field(name)._editor
        if isinstance(editor, Input):
            editor.value = text
        else:
            assert isinstance(editor, TextArea)
            editor.text = text
        await self.pilot.pause()

    def text(self) -> str:
        strips = self.app.screen._compositor.render_strips()
        return "\n".join("".join(part.text for part in strip) for strip in strips)

    async def until(self, predicate: Callable[[], object]) -> None:
        for _ in range(int(PATIENCE_S / 0.01)):
            if predicate():
                return
            await self.pilot.pause(0.01)
        pytest.fail(f"still not so after {PATIENCE_S} s\n{self.text()}")

    async def armed(self) -> None:
        await self.until(lambda: self.screen._is_armed and self.screen.focused is not None)
        await self.pilot.pause()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approval, "QUIET_S", 0.01)


@asynccontextmanager
async def ask(
    request: Request, check: Any = None, *, size: tuple[int, int] = (80, 24), **options: Any
) -> AsyncIterator[Asked]:
    app = House()
    async with app.run_test(size=size, tooltips=True) as pilot:
        screen = ApprovalScreen(request, check, **options)
        app.push_screen(screen, app.take)
        asked = Asked(app, pilot, screen)
        await asked.until(lambda: app.screen is screen and screen.is_mounted)
        if approval.QUIET_S < 1:
            await asked.armed()
        yield asked


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("y", Answer(True, "once")),
        ("s", Answer(True, "session")),
        ("a", Answer(True, "always")),
        ("n", Answer(False, reason="you")),
        ("escape", Answer(False, reason="you")),
        ("enter", Answer(False, reason="you")),
    ],
)
async def test_a_key_answers_and_enter_alone_denies(key: str, answer: Answer) -> None:
    async with ask(note()) as asked:
        await asked.press(key)
        assert asked.app.answer == answer


@pytest.mark.parametrize(
    ("button", "answer"),
    [
        ("once", Answer(True, "once")),
        ("session", Answer(True, "session")),
        ("always", Answer(True, "always")),
        ("deny", Answer(False, reason="you")),
    ],
)
async def test_a_click_answers_even_on_a_small_window(button: str, answer: Answer) -> None:
    async with ask(note(), size=(40, 10)) as asked:
        assert await asked.pilot.click(f"#{button}")
        assert asked.app.answer == answer


@pytest.mark.parametrize("button", ["once", "always", "reading", "deny"])
async def test_a_tool_that_reads_can_be_answered_on_a_small_window_too(button: str) -> None:
    request = make_request("1", replace(note().tool, reads_only=True), {"text": "milk"})
    async with ask(request, size=(40, 10)) as asked:
        assert await asked.pilot.click(f"#{button}")
        given = asked.app.answer
        assert isinstance(given, Answer)
        assert (given.allowed, given.duration) == (
            (False, "once") if button == "deny" else (True, button)
        )


async def test_the_call_its_origin_and_the_rule_are_shown() -> None:
    async with ask(make_request("1", READ, {"path": PATHS[0]})) as asked:
        text = asked.text()
        assert "Read /srv/papers/new/0.txt" in text
        assert "read_file, built in, only reads" in text
        assert "“Always” allows: read_file below /srv/papers/new" in text


async def test_what_a_server_says_of_itself_is_its_own_word() -> None:
    tool = replace(NOTE, source="mcp:notes", reads_only=True, description="Keeps [b]notes[/b].")
    async with ask(make_request("1", tool, {"text": "x"}), note="It has changed.") as asked:
        text = asked.text()
        assert "from the MCP server notes, only reads" in text
        assert "It says of itself: Keeps [b]notes[/b]." in text
        assert "It has changed." in text


async def test_a_rule_that_would_be_too_wide_is_not_offered() -> None:
    request = make_request("1", replace(READ, scope=lambda _: Scope("folder", "/")), {"path": "/x"})
    async with ask(request) as asked:
        assert "No rule can be kept" in asked.text()
        await asked.press("a", "s")
        assert asked.app.answer is WAITING
        await asked.press("y")
        assert asked.app.answer == Answer(True, "once")


# ---------------------------------------------------------------- accidents


async def test_what_was_typed_in_advance_answers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approval, "QUIET_S", 60.0)
    async with ask(note()) as asked:
        await asked.press("y", "a", "enter", "s", "escape", "n", "tab", "enter", "space")
        await asked.pilot.click("#always")
        assert asked.app.answer is WAITING
        assert asked.app.screen is asked.screen


async def test_whoever_goes_on_typing_has_not_read_the_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(approval, "QUIET_S", 1.0)
    app = House()
    async with app.run_test() as pilot:
        screen = ApprovalScreen(note())
        app.push_screen(screen, app.take)
        asked = Asked(app, pilot, screen)
        await asked.until(lambda: screen.is_mounted)
        for _ in range(14):  # longer than it is waited, but never so long without a key
            await pilot.press("y")
            await pilot.pause(0.1)
        assert app.answer is WAITING
        await asked.armed()
        await pilot.press("y")
        assert app.answer == Answer(True, "once")


async def test_letters_are_written_where_one_writes() -> None:
    async with ask(note("")) as asked:
        asked.field("text").enter()
        await asked.press("y", "a", "s", "n")
        assert asked.app.answer is WAITING
        assert asked.field("text").read() == "yasn"
        await asked.press("enter")
        assert asked.app.answer is WAITING


async def test_letters_do_not_answer_from_a_list_of_choices() -> None:
    async with ask(make_request("1", READ, {"path": PATHS[0]})) as asked:
        choice = asked.screen.query_one(Choice)
        choice.focus()
        await asked.press("y", "a", "n")
        assert asked.app.answer is WAITING
        await asked.press("enter", "y", "a")
        assert asked.app.answer is WAITING
        await asked.press("escape")
        assert not choice.expanded
        assert asked.app.answer is WAITING
        await asked.press("escape")
        assert asked.app.answer == Answer(False, reason="you")


async def test_the_keys_are_on_the_help_page() -> None:
    async with ask(note()) as asked:
        screen = HelpScreen(asked.screen)
        keys = dict(screen._sections[0][1])
        assert keys["y"] == "Allow this call"
        assert "rule" in keys["a"]
        assert {"s", "n", "Esc"} <= set(keys)


# ---------------------------------------------------------------- arguments


async def test_changing_an_argument_changes_the_words_and_the_answer() -> None:
    async with ask(note()) as asked:
        await asked.write("text", "buy oat milk")
        assert "Add a note: buy oat milk" in asked.text()
        await asked.press("y")
        assert asked.app.answer == Answer(True, "once", {"text": "buy oat milk"})


async def test_choosing_another_value_changes_the_rule() -> None:
    async with ask(make_request("1", READ, {"path": PATHS[0]})) as asked:
        asked.screen.query_one(Choice).focus()
        await asked.press("enter", "o", "l", "d", "enter")
        await asked.until(lambda: "read_file below /srv/papers/old" in asked.text())
        assert "Read /srv/papers/old/0.txt" in asked.text()
        await asked.press("tab", "a")
        assert asked.app.answer == Answer(True, "always", {"path": "/srv/papers/old/0.txt"})


async def test_what_is_checked_is_what_is_used() -> None:
    async with ask(note(), lambda arguments: {"text": arguments["text"].upper()}) as asked:
        await asked.write("text", "tea")
        assert "Add a note: TEA" in asked.text()
        await asked.press("y")
        assert asked.app.answer == Answer(True, "once", {"text": "TEA"})


async def test_what_the_tool_does_not_take_is_said_beside_the_field() -> None:
    def check(arguments: dict[str, Any]) -> dict[str, Any]:
        if not arguments["text"]:
            raise ToolError("`text` is empty, expected some words")
        return arguments

    async with ask(note(), check) as asked:
        await asked.write("text", "")
        assert "`text` is empty, expected some words" in asked.text()
        assert asked.field("text").is_wrong
        for key in ("y", "a", "s"):
            asked.screen._answers["deny"].focus()
            await asked.press(key)
        assert asked.app.answer is WAITING
        await asked.pilot.click("#once")
        assert asked.app.answer is WAITING
        assert asked.app.focused is asked.field("text")._editor
        await asked.write("text", "tea")
        assert not asked.field("text").is_wrong
        await asked.pilot.click("#once")
        assert asked.app.answer == Answer(True, "once", {"text": "tea"})


async def test_a_reach_that_is_not_allowed_is_said() -> None:
    def scope(arguments: Any) -> Scope:
        if "secret" in arguments["text"]:
            raise ToolError("that is outside of your folders")
        return Scope()

    async with ask(make_request("1", replace(NOTE, scope=scope), {"text": "x"})) as asked:
        await asked.write("text", "secret")
        assert "that is outside of your folders" in asked.text()
        await asked.press("y")
        assert asked.app.answer is WAITING


EVERYTHING = schema(
    "name",
    "count",
    name=TEXT,
    count={"type": "integer"},
    share={"type": "number"},
    loud={"type": "boolean"},
    order={"$ref": "#/$defs/Order"},
    tags={"type": "array", "items": TEXT},
    where={"type": "object"},
    until={"anyOf": [{"type": "string"}, {"type": "null"}]},
) | {"$defs": {"Order": {"enum": ["newest", "oldest"]}}}
GIVEN: dict[str, Any] = {
    "name": "a",
    "count": 3,
    "share": 1.0,
    "loud": False,
    "order": "oldest",
    "tags": ["x", "y"],
    "where": {"a": [1, None]},
    "until": None,
    "extra": [{"not": "foreseen"}],
}


async def test_every_kind_of_argument_can_be_changed() -> None:
    tool = make_tool("everything", EVERYTHING, source="mcp:all")
    async with ask(make_request("1", tool, GIVEN)) as asked:
        fields = asked.screen.query(Field)
        kinds = [field.kind for field in fields]
        assert " ".join(kinds) == "line integer number switch choice lines json line json"
        assert {field.label: field.read() for field in fields} == GIVEN
        for name, text in {
            "count": "-12",
            "share": ".5",
            "tags": "one\n\n two ",
            "where": '{"b": 2}',
            "extra": "",
        }.items():
            await asked.write(name, text)
        loud = asked.field("loud")._editor
        assert isinstance(loud, Choice)
        loud.value = 0
        await asked.pilot.pause()
        asked.screen._answers["deny"].focus()
        await asked.press("y")
        changed = {k: v for k, v in GIVEN.items() if k != "extra"} | {
            "count": -12,
            "share": 0.5,
            "tags": ["one", "two"],
            "where": {"b": 2},
            "loud": True,
        }
        assert asked.app.answer == Answer(True, "once", changed)


async def test_what_was_not_touched_is_used_as_it_came() -> None:
    tool = make_tool("everything", EVERYTHING, source="mcp:all")
    async with ask(make_request("1", tool, GIVEN)) as asked:
        await asked.press("y")
        assert asked.app.answer == Answer(True, "once", None)


async def test_a_value_of_the_wrong_kind_is_said() -> None:
    tool = make_tool("everything", EVERYTHING)
    async with ask(make_request("1", tool, GIVEN)) as asked:
        for name, text, why in (
            ("count", "1.5", "whole number"),
            ("count", "", "needed"),
            ("count", "١٢", "whole number"),
            ("share", "1e999", "number"),
            ("where", '{"a": NaN}', "not JSON"),
            ("where", "[" * 2000, "not JSON"),
        ):
            before = asked.field(name)._text
            await asked.write(name, text)
            assert asked.field(name).is_wrong
            with pytest.raises(ToolError, match=why):
                asked.field(name).read()
            asked.screen._answers["deny"].focus()
            await asked.press("y")
            assert asked.app.answer is WAITING
            await asked.write(name, before)
            assert not asked.field(name).is_wrong
        asked.screen._answers["deny"].focus()
        await asked.press("y")
        assert asked.app.answer == Answer(True)


async def test_arguments_that_are_not_given_are_left_out() -> None:
    tool = make_tool("everything", EVERYTHING)
    async with ask(make_request("1", tool, {"name": "a", "count": 1})) as asked:
        values = {field.label: field.read() for field in asked.screen.query(Field)}
    assert {k: v for k, v in values.items() if v is not LEFT_OUT} == {"name": "a", "count": 1}


@pytest.mark.parametrize(
    "parameters",
    [{}, {"properties": 7, "required": 3}, {"properties": {"a": None, "text": {"$ref": 1}}}],
)
async def test_a_schema_that_makes_no_sense_still_shows_every_argument(parameters: Any) -> None:
    async with ask(make_request("1", make_tool("t", parameters), {"text": "x"})) as asked:
        assert asked.field("text").read() == "x"
        assert '"x"' in asked.text()


# ---------------------------------------------------------------- hostile text


HOSTILE = "[b]safe[/b]\x1b[2J\x1b]52;c;eA==\x07\u202eevas\n" + "very " * 2000


@pytest.mark.parametrize("size", [(80, 24), (40, 10)])
async def test_hostile_text_is_shown_as_text_and_leaves_the_answers_in_sight(
    size: tuple[int, int],
) -> None:
    tool = make_tool(
        "evil",
        schema("te[b]xt", **{"te[b]xt": TEXT, "x" * 300: {"enum": ["[/]", HOSTILE]}}),
        source=f"mcp:{HOSTILE}",
        describe=lambda _: HOSTILE,
    )
    tool = replace(tool, description=HOSTILE)
    request = make_request("1", tool, {"te[b]xt": HOSTILE, "x" * 300: HOSTILE})
    async with ask(request, size=size, note=HOSTILE) as asked:
        await asked.until(lambda: "“Always” allows" in asked.text())
        text = asked.text()
        assert "[b]safe[/b]" in text
        assert not {"\x1b", "\u202e", "\x07"} & set(text)
        for name in ("once", "session", "always", "deny"):
            region = asked.screen._answers[name].region
            assert region in asked.app.screen.region
            assert name in text
        await asked.press("pagedown", "pagedown")
        await asked.until(lambda: asked.screen._body.scroll_y > 0)


async def test_what_cannot_be_seen_is_not_run() -> None:
    async with ask(note("milk\x1b[2J\u202e")) as asked:
        await asked.press("y")
        assert asked.app.answer == Answer(True, "once", {"text": "milk[2J"})


async def test_what_cannot_be_seen_in_json_is_written_out() -> None:
    tool = make_tool("t", schema(o={"type": "object"}))
    async with ask(make_request("1", tool, {"o": {"a": "\u202e\x9b"}})) as asked:
        assert '"\\u202e\\u009b"' in asked.text()
        await asked.press("y")
        assert asked.app.answer == Answer(True)


async def test_a_value_to_choose_shows_what_cannot_be_seen() -> None:
    tool = make_tool("t", schema("f", f={"enum": ["a\u202etxt", "[b]\nc"]}))
    async with ask(make_request("1", tool, {"f": "a\u202etxt"})) as asked:
        assert "a\\u202etxt" in asked.text()
        await asked.press("y")
        assert asked.app.answer == Answer(True)  # as it came: a file may be called so


# ---------------------------------------------------------------- the list


@asynccontextmanager
async def listed(approvals: Approvals, size: tuple[int, int] = (80, 24)) -> AsyncIterator[Asked]:
    app = House()
    async with app.run_test(size=size) as pilot:
        screen = ApprovalsScreen(approvals, today=date(2031, 1, 1))
        app.push_screen(screen, app.take)
        asked = Asked(app, pilot, screen)
        await asked.until(lambda: app.screen is screen and screen.is_mounted)
        await pilot.pause()
        yield asked


@pytest.mark.parametrize("size", [(80, 24), (40, 10)])
async def test_what_is_allowed_is_listed_and_can_be_taken_back(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    approvals = Approvals(tmp_path / "approvals.json")
    approvals.remember(note(), "always")
    approvals.remember(make_request("1", READ, {"path": PATHS[0]}), "session")
    async with listed(approvals, size) as asked:
        assert "read_file below /srv/papers/new" in asked.text()
        assert "until you quit, since" in asked.text()
        assert "every call of add_note" in asked.text()
        await asked.press("down", "d")
        assert [rule.tool for rule in approvals.rules] == ["read_file"]
        assert "add_note" not in asked.text()
        assert await asked.pilot.click("#approvals-forget")
        assert approvals.rules == ()
        assert "Nothing: every call is asked about." in asked.text()
        await asked.press("d", "escape")
        assert asked.app.answer is None


async def test_a_rule_that_cannot_be_taken_back_stays_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    approvals = Approvals(tmp_path / "approvals.json")
    approvals.remember(note(), "always")

    def refuse(_: Any) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(approvals, "forget", refuse)
    async with listed(approvals) as asked:
        await asked.press("d")
        assert "the disk is full" in asked.text()
        assert "every call of add_note" in asked.text()


async def test_a_damaged_file_is_said_in_the_list(tmp_path: Path) -> None:
    path = tmp_path / "approvals.json"
    path.write_text("{")
    async with listed(Approvals(path)) as asked:
        assert "allows nothing" in asked.text()
