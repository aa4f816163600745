"""The settings screen: every kind of value by key and by mouse, and nothing changed unasked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest
from textual import on
from textual.app import App
from textual.binding import Binding, BindingType
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import Input, Static, TextArea

from mobilellm_mlx.errors import StorageError
from mobilellm_mlx.settings import SCHEMA, Settings, load_settings, save_setting, settings_path
from tui.keymap import list_actions, usable
from tui.screens.settings import SettingsScreen
from tui.screens.settings.ask import KeyScreen, TextScreen
from tui.screens.settings.lines import PAGES, lines_of
from tui.screens.settings.row import Row
from tui.themes import THEMES

PATIENCE_S = 5.0
RECOMMENDED = {"temperature": 0.2, "top_k": 0, "max_tokens": 1024, "seed": None}


class Below(Screen[None]):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+n", "new", "New", id="chat.new", tooltip="Start a new chat"),
        Binding("ctrl+y,f4", "copy", "Copy", id="chat.copy", tooltip="Copy the last answer"),
    ]


class Field(Static):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+y", "redo", "Redo", id="field.redo", tooltip="Do it again"),
        Binding("y", "copy", "Copy", id="field.copy", tooltip="Copy this"),
        Binding("x", "nothing", id="field.hidden"),
    ]


class House(App[None]):
    """An app with nothing but a settings screen, which does what the real one does with it."""

    def __init__(self) -> None:
        super().__init__()
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = THEMES[0].name
        self.changes: list[tuple[str, Any]] = []

    @on(SettingsScreen.Changed)
    def apply(self, event: SettingsScreen.Changed) -> None:
        self.changes.append((event.key, event.value))
        self.theme = event.settings.get("interface.theme")


ACTIONS = list_actions([House, Below, Field])


class Desk:
    """A running app and its settings screen."""

    def __init__(self, app: House, pilot: Pilot[None], screen: SettingsScreen) -> None:
        self.app = app
        self.pilot = pilot
        self.screen = screen

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)

    async def write(self, text: str) -> None:
        await self.press(*("space" if c == " " else c for c in text))

    async def until(self, predicate: Callable[[], object]) -> None:
        for _ in range(int(PATIENCE_S / 0.01)):
            if predicate():
                return
            await self.pilot.pause(0.01)
        pytest.fail(f"still not so after {PATIENCE_S} s\n{self.text()}")

    async def turn_to(self, title: str) -> None:
        await self.screen._go([page.title for page in PAGES].index(title))
        await self.until(lambda: self.screen._row is not None)

    async def go_to(self, key: str) -> None:
        next(row for row in self.screen.query(Row) if row.line.key == key).focus()
        await self.until(lambda: self.focused.line.key == key)

    @property
    def focused(self) -> Row:
        row = self.screen._row
        assert row is not None
        return row

    @property
    def help(self) -> str:
        return str(self.screen.query_one("#help", Static).render())

    @property
    def words(self) -> str:
        """What is on the screen, lines and borders apart."""
        return " ".join(self.text().replace("│", " ").split())

    def text(self) -> str:
        lines = self.app.screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in line) for line in lines)


@asynccontextmanager
async def desk(size: tuple[int, int] = (80, 24), **options: Any) -> AsyncIterator[Desk]:
    app = House()
    async with app.run_test(size=size) as pilot:
        options.setdefault("recommended", RECOMMENDED)
        screen = SettingsScreen(load_settings()[0], actions=ACTIONS, **options)
        app.push_screen(screen)
        await pilot.pause()
        found = Desk(app, pilot, screen)
        await found.until(lambda: screen.query(Row) and screen._row is not None)
        yield found


def kept() -> dict[str, Any]:
    return dict(load_settings()[0].values)


async def test_looking_at_every_page_changes_nothing() -> None:
    for key, value in {
        "sampling.temperature": 0.7,
        "interface.theme": "mobilellm-light",
        "presets.Brief": "Be brief.",
        "chat.preset": "Brief",
        "keys.chat.new": "f5",
    }.items():
        save_setting(key, value)
    before = settings_path().read_bytes()
    async with desk() as house:
        for _ in PAGES:
            for row in house.screen.query(Row):
                row.focus()
                await house.pilot.pause(0)
            await house.press("up", "down", "tab")
        await house.press("escape")
        await house.until(lambda: house.app.screen is not house.screen)
        assert house.app.changes == []
    assert settings_path().read_bytes() == before


async def test_a_number_is_edited_in_place_and_kept() -> None:
    async with desk() as house:
        assert "model recommends 0.2" in house.text()
        assert "likeliest word" in house.help
        await house.press("enter")
        await house.write("0.7")
        await house.press("enter")
        await house.until(lambda: house.app.changes)
        assert house.app.changes == [("sampling.temperature", 0.7)]
        assert kept() == {"sampling.temperature": 0.7}
        assert "›•" in house.text() and "0.7  model recommends 0.2" in house.text()

        await house.press("delete")
        await house.until(lambda: len(house.app.changes) == 2)
        assert kept() == {} and house.app.changes[1] == ("sampling.temperature", None)


async def test_what_cannot_be_is_explained_and_the_field_stays() -> None:
    async with desk() as house:
        await house.press("enter")
        await house.write("-1")
        await house.press("enter")
        assert "expected 0 or more" in house.help and house.focused.is_edited
        await house.press("backspace", "backspace", "1", "enter")
        await house.until(lambda: house.app.changes)
        assert kept() == {"sampling.temperature": 1} and not house.focused.is_edited
        assert "likeliest word" in house.help


async def test_escape_leaves_the_field_and_then_the_screen() -> None:
    async with desk() as house:
        await house.press("enter", "9", "escape")
        assert house.app.screen is house.screen and not house.screen.query(Input)
        await house.press("escape")
        await house.until(lambda: house.app.screen is not house.screen)
    assert kept() == {}


async def test_going_elsewhere_keeps_what_can_be_kept() -> None:
    async with desk() as house:
        await house.press("enter", "1", "tab")  # another page
        await house.until(lambda: house.app.changes)
        assert kept() == {"sampling.temperature": 1}
        await house.press("shift+tab", "down", "enter", "x")
        await house.pilot.click(list(house.screen.query(Row))[3])  # another line
        await house.until(lambda: not house.screen.query(Input))
    assert kept() == {"sampling.temperature": 1}


async def test_choices_and_switches_turn_with_keys_and_clicks() -> None:
    async with desk() as house:
        await house.turn_to("Interface")
        await house.press("right", "right")
        await house.until(lambda: house.app.theme == "mobilellm-contrast")  # seen at once
        await house.press("left")
        await house.until(lambda: house.app.theme == "mobilellm-light")
        await house.go_to("interface.notify")
        await house.press("space")
        await house.until(lambda: kept().get("interface.notify") is False)
        value = next(r for r in house.screen.query(Row) if r.line.key == "interface.notify")
        await house.pilot.click(value.query_one(".value"))
        await house.until(lambda: kept().get("interface.notify") is True)


async def test_pages_are_chosen_with_the_mouse() -> None:
    async with desk() as house:
        await house.pilot.click(list(house.screen.query("PageName"))[3])
        await house.until(lambda: "Interface (4 of 7)" in house.text())
        await house.press("right")
        await house.until(lambda: house.app.changes)
        await house.pilot.click(list(house.screen.query("Hint"))[1])
        await house.until(lambda: kept() == {})


async def test_a_system_prompt_has_several_lines() -> None:
    async with desk() as house:
        await house.turn_to("Chat")
        await house.go_to("chat.instructions")
        await house.press("enter")
        await house.until(lambda: isinstance(house.app.screen, TextScreen))
        await house.press("a", "enter", "b", "ctrl+s")
        await house.until(lambda: house.app.changes)
        assert kept() == {"chat.instructions": "a\nb"}
        assert "a … 2 lines" in house.text()
        await house.press("enter")
        await house.until(lambda: isinstance(house.app.screen, TextScreen))
        await house.press("x", "escape")
        await house.until(lambda: "Esc once more drops it" in house.text())
        await house.press("y", "escape")  # whoever goes on writing is asked again
        await house.until(lambda: "Esc once more drops it" in house.text())
        await house.press("escape")
        await house.until(lambda: house.app.screen is house.screen)
        assert kept() == {"chat.instructions": "a\nb"}


async def test_a_text_too_long_is_explained_and_stays() -> None:
    async with desk() as house:
        await house.turn_to("Chat")
        await house.go_to("chat.instructions")
        await house.press("enter")
        await house.until(lambda: isinstance(house.app.screen, TextScreen))
        house.app.screen.query_one(TextArea).load_text("x" * 40_000)
        await house.press("ctrl+s")
        await house.until(lambda: "at most 32,000 characters" in house.words)
        house.app.screen.query_one(TextArea).load_text("[b]x[/]\x1b[31m")
        await house.press("ctrl+s")
        await house.until(lambda: house.app.changes)
        assert kept() == {"chat.instructions": "[b]x[/][31m"}
        assert "[b]x[/][31m" in house.text()


async def test_a_preset_is_written_used_renamed_and_deleted() -> None:
    async with desk() as house:
        await house.turn_to("Prompts")
        await house.press("enter")
        await house.write("To [French]")
        await house.press("enter")
        await house.until(lambda: isinstance(house.app.screen, TextScreen))
        assert "To [French]" in house.text()
        await house.press("T", "ctrl+s")
        await house.until(lambda: kept() == {"presets.To [French]": "T"})
        await house.until(lambda: house.screen._row is not None)
        assert house.focused.line.title == "To [French]"

        await house.press("u")
        await house.until(lambda: kept().get("chat.preset") == "To [French]")
        assert "in use" in house.text()

        await house.press("r")
        await house.until(lambda: house.screen.query(Input))
        await house.write("F")  # what stood there is selected
        await house.press("enter")
        await house.until(lambda: kept() == {"presets.F": "T", "chat.preset": "F"})
        await house.until(lambda: house.screen._row and house.focused.line.title == "F")

        await house.press("delete")
        assert "Once more deletes" in house.help and "presets.F" in kept()
        await house.press("delete")
        await house.until(lambda: kept() == {})


async def test_a_name_that_is_taken_is_explained() -> None:
    save_setting("presets.A", "a")
    save_setting("presets.B", "b")
    async with desk() as house:
        await house.turn_to("Prompts")
        await house.press("r")
        await house.until(lambda: house.screen.query(Input))
        await house.write("B")
        await house.press("enter")
        assert "already" in house.help and house.focused.is_edited
    assert kept() == {"presets.A": "a", "presets.B": "b"}


async def test_presets_are_chosen_like_any_other_choice() -> None:
    save_setting("presets.A", "a")
    save_setting("presets.B", "b")
    async with desk() as house:
        await house.turn_to("Chat")
        seen = []
        for _ in range(3):
            await house.press("right")
            seen.append(kept().get("chat.preset"))
        assert seen == ["A", "B", None]


async def test_a_key_is_given_by_pressing_it() -> None:
    async with desk() as house:
        await house.turn_to("Keys")
        await house.go_to("keys.chat.new")
        await house.press("enter")
        await house.until(lambda: isinstance(house.app.screen, KeyScreen))
        await house.press("f4")
        assert "F4 is taken: Copy the last answer (chat.copy)" in house.words
        await house.press("n")
        assert "for writing" in house.text()
        await house.press("f5")
        await house.until(lambda: kept() == {"keys.chat.new": "f5"})
        await house.until(lambda: house.app.screen is house.screen)
        await house.press("a")
        await house.until(lambda: isinstance(house.app.screen, KeyScreen))
        await house.press("ctrl+g")
        await house.until(lambda: kept() == {"keys.chat.new": "f5,ctrl+g"})
        await house.until(lambda: house.app.screen is house.screen)
        assert "F5 or Ctrl+G" in house.text()
        await house.press("delete")
        await house.until(lambda: kept() == {})


async def test_a_conflict_from_the_file_is_shown() -> None:
    save_setting("keys.chat.new", "f4")
    async with desk(page="keys") as house:
        assert "conflict: chat.copy" in house.text()


async def test_a_disk_that_cannot_be_written_changes_this_run_only() -> None:
    def refuse(key: str, value: Any) -> Settings:
        raise StorageError("cannot write the settings: Read-only file system")

    async with desk(save=refuse, page="interface") as house:
        await house.press("right")
        await house.until(lambda: house.app.theme == "mobilellm-light")
        assert "until you quit" in house.help and "Read-only" in house.help
    assert kept() == {}


@pytest.mark.parametrize("size", [(20, 5), (40, 10), (60, 14)])
async def test_small_windows_keep_the_line_in_focus_in_sight(size: tuple[int, int]) -> None:
    async with desk(size) as house:
        for page in PAGES:
            await house.turn_to(page.title)
            await house.press("up")
            rows = house.screen.query_one("#rows").region
            assert house.focused.region.y in rows.line_range
        await house.turn_to("Sampling")
        await house.press("enter", "1", "enter")
        await house.until(lambda: kept() == {"sampling.temperature": 1})


def test_actions_are_the_bindings_with_a_name_and_a_tooltip() -> None:
    found = {action.id: action for action in list_actions([Below, Field, Below])}
    assert sorted(found) == ["chat.copy", "chat.new", "field.copy", "field.redo"]
    assert found["chat.copy"].keys == ("ctrl+y", "f4")
    assert found["field.copy"].types and not found["chat.new"].types


@pytest.mark.parametrize(
    ("keymap", "good", "said"),
    [
        ({"chat.new": "f5,ctrl+g"}, {"chat.new": "f5,ctrl+g"}, ""),
        ({"chat.new": "ctrl+y"}, {}, "taken: Copy the last answer (chat.copy)"),
        ({"chat.new": "ctrl+y", "chat.copy": "f6"}, {"chat.copy": "f6"}, "taken: Do it again"),
        ({"chat.new": "f4", "chat.copy": "f6"}, {"chat.new": "f4", "chat.copy": "f6"}, ""),
        ({"chat.new": "f4", "chat.copy": "ctrl+n"}, {"chat.new": "f4", "chat.copy": "ctrl+n"}, ""),
        ({"chat.new": "f5", "chat.copy": "f5"}, {"chat.copy": "f5"}, "taken"),
        ({"chat.new": "n"}, {}, "for writing"),
        ({"field.copy": "c"}, {"field.copy": "c"}, ""),
        ({"chat.new": "ctrl+nosuch,f7"}, {"chat.new": "f7"}, "no key called `ctrl+nosuch`"),
        ({"chat.nwe": "f5"}, {}, "did you mean `chat.new`?"),
        ({"chat.copy": "ctrl+y"}, {"chat.copy": "ctrl+y"}, ""),
    ],
)
def test_only_keys_that_work_reach_the_app(
    keymap: dict[str, str], good: dict[str, str], said: str
) -> None:
    usual, problems = usable(keymap, ACTIONS)
    assert usual == good
    assert said in "\n".join(problems) and bool(said) == bool(problems)


def test_every_setting_has_a_page() -> None:
    """But for those that a page of their own makes: system prompts, keys, and servers of tools."""
    shown = {group for page in PAGES for group in page.groups}
    assert {setting.group for setting in SCHEMA} <= shown


def test_folders_that_nobody_granted_are_none() -> None:
    (page,) = (page for page in PAGES if page.title == "Tools")
    aside = {line.title: line.aside for line in lines_of(page, Settings(), {}, ())}
    assert (aside["Folders"], aside["Your own tools"]) == ("none", "none")
