"""The list above the prompt: what it offers, and what the keys mean while it does."""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from textual import events, on
from textual.app import App
from textual.containers import Vertical
from textual.widgets import Button

import tui
from tui import completing
from tui.attachments import Entry
from tui.commands import COMMANDS, Command, with_choices
from tui.completing import file_choices, find_request, rank
from tui.widgets.completion import MOST_ROWS, CompletionList
from tui.widgets.prompt import Prompt, PromptBox

MODELS = ("smollm2-135m", "smollm2-360m", "mobilellm-125m")
CHOICES = with_choices(COMMANDS, {"model": lambda: MODELS, "theme": lambda: ("[red]", "x\x1b[0m")})


class PromptApp(App[None]):
    """A prompt at the bottom of a screen, and a record of what it says."""

    CSS_PATH = Path(tui.__file__).parent / "prompt.tcss"
    CSS = "#rest { height: 1fr; }"

    def __init__(self, root):
        super().__init__()
        self.root = root
        self.said = []
        self.stopped = 0

    def compose(self):
        with Vertical(id="rest"):
            yield Button("elsewhere")
        yield PromptBox(CHOICES, root=self.root)

    def on_mount(self):
        self.bind("escape", "stop_answer")
        self.query_one(Prompt).focus()

    def action_stop_answer(self):
        self.stopped += 1

    @on(Prompt.Submitted)
    @on(Prompt.CommandGiven)
    @on(Prompt.Refused)
    def note(self, event):
        match event:
            case Prompt.Submitted(text=text, shown=shown):
                self.said.append(("said", text, shown))
            case Prompt.CommandGiven(name=name, argument=argument):
                self.said.append(("command", name, argument))
            case Prompt.Refused(sentence=sentence):
                self.said.append(("refused", sentence))


class Desk:
    def __init__(self, app, pilot):
        self.app, self.pilot, self.press = app, pilot, pilot.press
        self.prompt = app.query_one(Prompt)
        self.listed = app.query_one(CompletionList)

    async def type(self, text):
        self.prompt.insert(text)
        await self.pilot.pause()

    def key(self, *keys):
        """Keys as fast as a terminal delivers what was typed ahead."""
        for key in keys:
            character = {"space": " "}.get(key, key if len(key) == 1 else None)
            self.app.post_message(events.Key(key, character))

    async def until(self, predicate):
        for _ in range(500):
            if predicate():
                return
            await self.pilot.pause(0.01)
        pytest.fail(f"still not so: {predicate.__code__}")

    @property
    def rows(self):
        return str(self.listed.render()).split("\n") if self.listed.display else []


@pytest.fixture
def desk(tmp_path):
    for name in ("notes.txt", "nothing.py", ".hidden", "my file.txt"):
        (tmp_path / name).write_text(f"content of {name}")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "plan.md").write_text("a plan")

    @asynccontextmanager
    async def run(size=(80, 24)):
        app = PromptApp(tmp_path)
        async with app.run_test(size=size) as pilot:
            yield Desk(app, pilot)

    return run


# ---------------------------------------------------------------- what is asked for


@pytest.mark.parametrize(
    ("before", "kind", "start", "name"),
    [
        ("/", "command", 0, ""),
        ("/mo", "command", 0, "mo"),
        ("/model ", "argument", 7, ""),
        ("/model smol", "argument", 7, "smol"),
        ("/export ~/x", "file", 8, "x"),
        ("/system see @no", "file", 12, "no"),
        ("see @", "file", 4, ""),
        ("see @docs/pl", "file", 4, "pl"),
        ('see @"my fi', "file", 4, "my fi"),
        ("(@a", "file", 1, "a"),
    ],
)
def test_the_end_of_what_is_typed_says_what_to_offer(before, kind, start, name):
    request = find_request(before, len(before), True, CHOICES)
    assert (request.kind, request.start, request.name) == (kind, start, name)


@pytest.mark.parametrize(
    "before",
    ["", "hello", "/usr/bin", "/new ", "/rename @x", "a@b", "see @a ", '@"a b"', "/preset @x"],
)
def test_nothing_is_offered_where_nothing_was_begun(before):
    assert find_request(before, len(before), True, CHOICES) is None


def test_commands_begin_in_the_first_line_and_at_the_end_of_a_word():
    assert find_request("/mo", 3, False, CHOICES) is None
    assert find_request("/model", 3, True, CHOICES) is None
    assert find_request("/mo x", 3, True, CHOICES) is not None


def test_names_that_begin_alike_come_before_names_that_contain_it():
    assert [rank("mod", n) for n in ("mod", "model", "a-mod", "my-old", "od", "dom")] == [
        0,
        1,
        2,
        3,
        None,
        None,
    ]


def test_ranking_a_hostile_name_is_quick():
    assert rank("a" * 30 + "b", "a" * 200_000) is None


def test_hidden_files_are_offered_behind_a_dot_only():
    entries = [Entry(".git", True), Entry(".x", False), Entry("a b", False), Entry("c d", True)]

    def offered(before):
        request = find_request(before, len(before), True, ())
        return [choice.insert for choice in file_choices(request, entries)]

    assert offered("@") == ['@"a b" ', '@"c d/']
    assert offered("@.") == ["@.git/", "@.x "]
    assert offered("@docs/.g") == ["@docs/.git/"]


# ---------------------------------------------------------------- commands


async def test_a_slash_offers_at_most_eight_commands_with_what_they_do(desk):
    async with desk() as at:
        await at.type("/")
        assert len(at.rows) == MOST_ROWS
        assert at.rows[0].startswith("▸ /new ")
        assert "Start a new chat" in at.rows[0]
        assert all(row.startswith("  /") for row in at.rows[1:])
        await at.type("mod")
        assert [row.split()[:3] for row in at.rows] == [["▸", "/model", "[name]"]]
        await at.type("x")
        assert at.rows == []


async def test_the_list_lies_right_above_the_prompt_and_moves_nothing(desk):
    async with desk() as at:
        place = at.prompt.region
        await at.type("/")
        await at.pilot.pause()
        assert at.prompt.region == place
        assert at.listed.region.bottom == place.y
        assert at.listed.region.height == MOST_ROWS + 2


async def test_up_and_down_go_around_and_the_chosen_row_stays_in_sight(desk):
    async with desk() as at:
        await at.type("/")
        await at.press("up")
        assert at.rows[-1].startswith(f"▸ /{COMMANDS[-1].name}")
        await at.press("down")
        assert at.rows[0].startswith("▸ /new")
        await at.press(*["down"] * MOST_ROWS)
        assert at.rows[-1].startswith(f"▸ /{COMMANDS[MOST_ROWS].name}")
        assert at.prompt.text == "/"


@pytest.mark.parametrize("key", ["tab", "enter"])
async def test_tab_and_enter_complete_and_the_next_enter_gives_the_command(desk, key):
    async with desk() as at:
        await at.type("/he")
        await at.press(key)
        assert at.prompt.text == "/help"
        assert at.app.said == []
        await at.press("enter")
        assert at.app.said == [("command", "help", "")]
        assert at.prompt.text == ""
        assert at.rows == []


async def test_enter_gives_a_command_that_is_typed_in_full_though_others_begin_alike(desk):
    async with desk() as at:
        await at.type("/set")
        assert len(at.rows) > 1
        await at.press("enter")
        assert at.app.said == [("command", "set", "")]


async def test_an_argument_is_completed_from_what_the_screen_knows(desk):
    async with desk() as at:
        await at.type("/mod")
        await at.press("tab")
        assert at.prompt.text == "/model "
        assert [row.strip() for row in at.rows] == list(MODELS)
        await at.type("smol")
        await at.press("down", "tab")
        assert at.prompt.text == "/model smollm2-360m"
        await at.press("enter")
        assert at.app.said == [("command", "model", "smollm2-360m")]


async def test_enter_behind_a_command_alone_gives_it_without_an_argument(desk):
    async with desk() as at:
        await at.type("/model ")
        assert at.rows
        await at.press("enter")
        assert at.app.said == [("command", "model", "")]


async def test_an_argument_that_nothing_offers_is_given_as_it_is(desk):
    async with desk() as at:
        await at.type("/model other")
        await at.press("enter")
        assert at.app.said == [("command", "model", "other")]


async def test_choices_cannot_steer_the_terminal(desk):
    async with desk() as at:
        await at.type("/theme ")
        assert [row.strip() for row in at.rows] == ["[red]", "x[0m"]


async def test_escape_closes_the_list_and_only_then_reaches_the_screen(desk):
    async with desk() as at:
        await at.type("/mo")
        await at.press("escape")
        assert at.rows == []
        assert at.app.stopped == 0
        await at.type("d")
        assert at.rows == []
        await at.press("escape")
        assert at.app.stopped == 1
        await at.press("backspace", "backspace", "backspace", "backspace")
        await at.type("/")
        assert at.rows


async def test_tab_goes_elsewhere_when_nothing_is_offered(desk):
    async with desk() as at:
        await at.type("hello")
        await at.press("tab")
        assert isinstance(at.app.focused, Button)


async def test_the_list_closes_when_the_prompt_is_left(desk):
    async with desk() as at:
        await at.type("/")
        at.app.query_one(Button).focus()
        await at.until(lambda: at.rows == [])


async def test_the_mouse_scrolls_and_chooses(desk):
    async with desk() as at:
        await at.type("/")
        await at.pilot.click(CompletionList, offset=(5, 3))
        assert at.prompt.text.rstrip() == f"/{COMMANDS[2].name}"
        assert at.app.focused is at.prompt
        await at.press("backspace", *["backspace"] * 10)
        await at.type("/")
        at.listed.post_message(
            events.MouseScrollDown(at.listed, 1, 1, 0, 0, 0, False, False, False)
        )
        await at.until(lambda: at.rows[1].startswith("▸"))


async def test_keys_of_the_list_can_be_changed(desk):
    async with desk() as at:
        at.app.set_keymap({"prompt.complete": "ctrl+space", "prompt.newer": "ctrl+g"})
        await at.type("/")
        assert "Ctrl+Space completes" in str(at.listed.border_subtitle)
        await at.press("ctrl+g", "ctrl+space")
        assert at.prompt.text == f"/{COMMANDS[1].name}"


async def test_the_list_keeps_to_a_small_window(desk):
    async with desk(size=(40, 10)) as at:
        await at.type("/")
        await at.pilot.pause()
        assert len(at.rows) == 5
        assert at.listed.region.y >= 0
        assert at.listed.region.bottom == at.prompt.region.y


# ---------------------------------------------------------------- a fast typist


async def test_a_fast_enter_completes_or_gives_but_never_sends_half(desk):
    async with desk() as at:
        at.key(*"/hel", "enter", "enter", *"next")
        await at.until(lambda: at.prompt.text == "next")
        assert at.app.said == [("command", "help", "")]


async def test_fast_arrows_choose_before_the_enter_behind_them(desk):
    async with desk() as at:
        at.key("/", "down", "down", "enter", "enter")
        await at.until(lambda: at.app.said)
        assert at.app.said == [("command", COMMANDS[2].name, "")]


async def test_a_fast_enter_waits_for_the_folder_and_does_not_send_half_a_name(desk, monkeypatch):
    may_read = threading.Event()
    real = completing.list_folder
    monkeypatch.setattr(completing, "list_folder", lambda f: may_read.wait(5) and real(f))
    monkeypatch.setattr("tui.widgets.prompt.LISTING_PATIENCE_S", 5)
    async with desk() as at:
        at.key(*"see", "space", *"@not", "enter")
        await at.until(lambda: at.prompt.text == "see @not")
        may_read.set()
        await at.until(lambda: at.prompt.text != "see @not")
        assert at.app.said == []
        assert at.prompt.text == "see @notes.txt "


async def test_a_folder_that_never_answers_holds_nobody_up(desk, monkeypatch):
    may_read = threading.Event()
    monkeypatch.setattr(completing, "list_folder", lambda _: may_read.wait(5) and [])
    monkeypatch.setattr("tui.widgets.prompt.LISTING_PATIENCE_S", 0.02)
    async with desk() as at:
        await at.type("ask @joe")
        await at.press("enter")
        await at.until(lambda: at.app.said)
        may_read.set()
        assert at.app.said == [("said", "ask @joe", "ask @joe")]


# ---------------------------------------------------------------- files


async def test_a_file_is_completed_and_goes_along(desk):
    async with desk() as at:
        await at.type("see @")
        await at.until(lambda: at.rows)
        assert [row.split() for row in at.rows] == [
            ["docs/", "folder"],
            ["my", "file.txt"],
            ["notes.txt"],
            ["nothing.py"],
        ]
        await at.type("note")
        await at.press("tab")
        assert at.prompt.text == "see @notes.txt "
        await at.press("enter")
        await at.until(lambda: at.app.said)
        text = "see notes.txt \n\nnotes.txt:\n```txt\ncontent of notes.txt\n```"
        assert at.app.said == [("said", text, "see @notes.txt ")]


async def test_folders_are_walked_into_and_quotes_are_set_where_they_are_needed(desk):
    async with desk() as at:
        await at.type("@do")
        await at.until(lambda: at.rows)
        await at.press("tab")
        assert at.prompt.text == "@docs/"
        await at.until(lambda: at.rows == ["  plan.md  "] or "plan.md" in "".join(at.rows))
        await at.press("tab")
        assert at.prompt.text == "@docs/plan.md "
        await at.type("@my")
        await at.until(lambda: at.rows)
        await at.press("tab")
        assert at.prompt.text == '@docs/plan.md @"my file.txt" '


async def test_a_sign_alone_takes_no_file_that_was_not_pointed_at(desk):
    async with desk() as at:
        await at.type("write to me @")
        await at.until(lambda: at.rows)
        await at.press("enter")
        await at.until(lambda: at.app.said)
        assert at.app.said == [("said", "write to me @", "write to me @")]


async def test_a_new_file_may_begin_like_an_old_one(desk):
    async with desk() as at:
        await at.type("/export note")
        await at.until(lambda: at.rows)
        await at.press("enter")
        assert at.app.said == [("command", "export", "note")]
        await at.type("/import note")
        await at.until(lambda: at.rows)
        await at.press("tab")
        assert at.prompt.text == "/import notes.txt"


async def test_a_file_that_cannot_go_along_is_refused_and_nothing_is_lost(desk, tmp_path):
    (tmp_path / "large.txt").write_text("x" * 70_000)
    async with desk() as at:
        await at.type("see @large.txt please")
        await at.press("enter")
        await at.until(lambda: at.app.said)
        assert at.app.said == [
            (
                "refused",
                "large.txt is too large: the files of a message may have 64 kB together.",
            )
        ]
        assert at.prompt.text == "see @large.txt please"


async def test_only_a_text_brings_files_to_a_command(desk):
    async with desk() as at:
        for line in ("/system Be as in @notes.txt now", "/rename @notes.txt x"):
            await at.type(line)
            await at.press("enter")
        await at.until(lambda: len(at.app.said) == 2)
        assert "content of notes.txt" in at.app.said[0][2]
        assert at.app.said[1] == ("command", "rename", "@notes.txt x")


# ---------------------------------------------------------------- what is no command


async def test_an_unknown_command_is_not_sent_and_stays(desk):
    async with desk() as at:
        await at.type("/modle x")
        await at.press("enter")
        assert at.app.said[0][0] == "refused"
        assert "Did you mean /model?" in at.app.said[0][1]
        assert at.prompt.text == "/modle x"


async def test_a_space_or_a_second_slash_sends_it_as_it_is(desk):
    async with desk() as at:
        await at.type(" /new")
        await at.press("enter")
        await at.type("//new")
        await at.press("enter")
        assert [said[1] for said in at.app.said] == [" /new", "/new"]


def test_a_command_without_an_argument_completes_without_a_space():
    command = Command("x", "Does something")
    request = find_request("/", 1, True, [command])
    assert [c.insert for c in completing.command_choices(request, [command])] == ["/x"]


def test_work_that_nobody_waits_for_any_more_ends_quietly() -> None:
    may_end = threading.Event()
    future = completing.on_thread(lambda: may_end.wait(5))
    assert not future.cancel()
    may_end.set()
    assert future.result(5)
