"""The settings screen: made from the schema, every change kept as soon as it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from mobilellm_mlx.errors import InvalidOption, MobileLLMError, StorageError
from mobilellm_mlx.settings import Settings, find, save_setting

from ...keymap import Action, keys_of, objection
from ...text import printable
from .ask import KeyScreen, TextScreen
from .lines import NEW_PRESET, PAGES, Line, lines_of, setting_of
from .row import Row

Save = Callable[[str, Any], Settings]

_HINTS = {
    "values": (("Enter change", "activate"), ("Del unset", "unset")),
    "presets": (
        ("Enter edit", "activate"),
        ("U use", "use"),
        ("R rename", "rename"),
        ("Del delete", "unset"),
    ),
    "keys": (("Enter change", "activate"), ("A add", "add"), ("Del default", "unset")),
}


class PageName(Static):
    """A page in the list on the left."""

    class Chosen(Message):
        """It was clicked."""

        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

    def __init__(self, number: int) -> None:
        super().__init__(PAGES[number].title, markup=False)
        self._number = number

    def on_click(self) -> None:
        self.post_message(self.Chosen(self._number))


class Hint(Static):
    """What a key does here; clicking does it, too."""

    class Wanted(Message):
        """It was clicked."""

        def __init__(self, action: str) -> None:
            super().__init__()
            self.action = action

    def __init__(self, text: str, action: str) -> None:
        super().__init__(text, markup=False)
        self._action = action

    def on_click(self) -> None:
        self.post_message(self.Wanted(self._action))


class Rows(VerticalScroll, inherit_bindings=False):
    """The lines of a page. The arrow keys go through them instead of scrolling."""

    can_focus = False


class SettingsScreen(ModalScreen[None]):
    """Everything that can be chosen.

    Args:
        settings: as they are.
        recommended: fields of ``GenerationOptions`` as the loaded model's makers set them.
        actions: what keys can be given to.
        save: keeps one value and gives all as they are then.
        page: the title of the page to begin with.
    """

    class Changed(Message):
        """A setting has another value.

        Attributes:
            key: of the setting.
            value: the new one; None when it was unset.
            settings: all of them, this one included.
        """

        def __init__(self, key: str, value: Any, settings: Settings) -> None:
            super().__init__()
            self.key = key
            self.value = value
            self.settings = settings

    CSS_PATH = "settings.tcss"
    AUTO_FOCUS = None
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (64, "-roomy")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-flat"), (16, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Close", id="settings.close", tooltip="Close the settings"),
        Binding(
            "enter,space", "activate", "Change", id="settings.change", tooltip="Change this setting"
        ),
        Binding(
            "delete,backspace", "unset", "Unset", id="settings.unset", tooltip="Unset or delete"
        ),
        Binding("up", "move(-1)", "Up", id="settings.up", show=False, tooltip="The line above"),
        Binding(
            "down", "move(1)", "Down", id="settings.down", show=False, tooltip="The line below"
        ),
        Binding("left", "step(-1)", "Before", id="settings.left", tooltip="The choice before"),
        Binding("right", "step(1)", "Next", id="settings.right", tooltip="The next choice"),
        Binding("tab", "turn(1)", "Next page", id="settings.next", tooltip="The next page"),
        Binding(
            "shift+tab", "turn(-1)", "Page before", id="settings.back", tooltip="The page before"
        ),
        Binding("a", "add", "Add a key", id="settings.add", tooltip="Give an action one more key"),
        Binding("u", "use", "Use", id="settings.use", tooltip="Use this system prompt, or not"),
        Binding("r", "rename", "Rename", id="settings.rename", tooltip="Rename this system prompt"),
    ]

    def __init__(
        self,
        settings: Settings,
        *,
        recommended: Mapping[str, Any] | None = None,
        actions: Sequence[Action] = (),
        save: Save = save_setting,
        page: str = PAGES[0].title,
    ) -> None:
        super().__init__()
        self._settings = settings
        self._recommended = dict(recommended or {})
        self._actions = list(actions)
        self._save = save
        self._at = next(
            (n for n, known in enumerate(PAGES) if known.title.lower() == page.lower()), 0
        )
        self._to_delete: str | None = None
        """The preset that one more press deletes."""

    def compose(self) -> ComposeResult:
        with Vertical(id="settings") as box:
            box.border_subtitle = "Tab next page · Esc closes"
            with Horizontal(id="body"):
                with Vertical(id="pages"):
                    for number in range(len(PAGES)):
                        yield PageName(number)
                yield Rows(id="rows")
            yield Static(id="help", markup=False)
            yield Horizontal(id="hints")

    async def on_mount(self) -> None:
        await self._open_page()

    # ---------------------------------------------------------------- what is shown

    async def _open_page(self, key: str = "") -> None:
        """Show the page, with the line ``key`` or else the first one in focus."""
        page = PAGES[self._at]
        self._to_delete = None
        box = self.query_one("#settings")
        box.border_title = f"Settings · {page.title} ({self._at + 1} of {len(PAGES)})"
        for number, name in enumerate(self.query(PageName)):
            name.set_class(number == self._at, "-here")
            name.update(f"{'›' if number == self._at else ' '} {PAGES[number].title}")
        rows = self.query_one(Rows)
        rows.set_class(page.kind == "keys", "-keys")
        async with self.batch():
            await rows.remove_children()
            await rows.mount_all([Row(line) for line in self._lines()])
            hints = self.query_one("#hints")
            await hints.remove_children()
            await hints.mount_all([Hint(text, action) for text, action in _HINTS[page.kind]])
        if found := list(self.query(Row)):
            next((row for row in found if row.line.key == key), found[0]).focus()

    def _lines(self) -> list[Line]:
        return lines_of(PAGES[self._at], self._settings, self._recommended, self._actions)

    async def _refresh(self, key: str = "") -> None:
        """Say what has changed; lines that came or went are a page anew."""
        lines = self._lines()
        rows = list(self.query(Row))
        if [line.key for line in lines] != [row.line.key for row in rows]:
            await self._open_page(key)
            return
        for row, line in zip(rows, lines, strict=True):
            row.show(line)

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        if isinstance(event.widget, Row):
            self._explain(event.widget)

    def _explain(self, row: Row) -> None:
        if row.line.key != self._to_delete:
            self._to_delete = None
        self._tell(row.line.help)

    def _tell(self, text: str, *, wrong: bool = False) -> None:
        help = self.query_one("#help", Static)
        help.set_class(wrong, "-wrong")
        help.update(printable(f"Not changed: {text}" if wrong else text))

    @property
    def _row(self) -> Row | None:
        """The line in focus, or whose field is."""
        focused = self.focused
        if focused is None:
            return None
        return next((node for node in focused.ancestors_with_self if isinstance(node, Row)), None)

    # ---------------------------------------------------------------- what keys and clicks do

    async def action_leave(self) -> None:
        """Out of the field, or out of the settings."""
        row = self._row
        if row is not None and row.is_edited:
            await row.close()
        else:
            self.dismiss()

    def action_move(self, step: int) -> None:
        """To another line."""
        rows = list(self.query(Row))
        if rows and (row := self._row) is not None:
            rows[(rows.index(row) + step) % len(rows)].focus()

    async def action_turn(self, step: int) -> None:
        """To another page."""
        await self._go(self._at + step)

    async def _go(self, number: int) -> None:
        row = self._row
        if row is not None and row.is_edited and not await self._keep(row):
            return
        self._at = number % len(PAGES)
        await self._open_page()

    @on(PageName.Chosen)
    async def turn_to(self, event: PageName.Chosen) -> None:
        await self._go(event.number)

    @on(Hint.Wanted)
    async def do_hint(self, event: Hint.Wanted) -> None:
        await self.run_action(event.action)

    @on(Row.Activated)
    async def activate(self, event: Row.Activated) -> None:
        event.row.focus()
        if not event.row.is_edited:
            await self._activate(event.row)

    async def action_activate(self) -> None:
        """Change the setting: the next choice, or something to write."""
        if (row := self._row) is not None and not row.is_edited:
            await self._activate(row)

    async def _activate(self, row: Row) -> None:
        line = row.line
        if line.choices:
            await self._step(row, 1)
        elif line.kind == "keys":
            self._ask_key(line, add=False)
        elif line.key == NEW_PRESET:
            await row.edit("", names=True)
        elif line.kind == "lines":
            self._ask_text(line.key, line.title)
        else:
            value = self._settings.values.get(line.key)
            await row.edit("" if value is None else str(value))

    async def action_step(self, step: int) -> None:
        """Another choice, where there are some."""
        if (row := self._row) is not None and row.line.choices and not row.is_edited:
            await self._step(row, step)

    async def _step(self, row: Row, step: int) -> None:
        choices = row.line.choices
        value = self._settings.get(row.line.key)
        at = choices.index(value) if value in choices else -1
        await self._change(row.line.key, choices[(at + step) % len(choices)])

    async def action_unset(self) -> None:
        """Back to the default; a preset is deleted, by pressing twice."""
        if (row := self._row) is None or row.is_edited or row.line.key == NEW_PRESET:
            return
        key = row.line.key
        if key.startswith(NEW_PRESET) and self._to_delete != key:
            self._to_delete = key
            self._tell(f"Once more deletes the system prompt “{row.line.title}”.")
            return
        if key in self._settings.values:
            await self._change(key, None)
            if key == f"{NEW_PRESET}{self._settings.get('chat.preset')}":
                await self._change("chat.preset", None)

    async def action_use(self) -> None:
        """Choose the system prompt in focus; once more chooses none."""
        row = self._row
        if row is None or not (name := row.line.key.removeprefix(NEW_PRESET)):
            return
        if row.line.key.startswith(NEW_PRESET):
            in_use = self._settings.get("chat.preset") == name
            await self._change("chat.preset", None if in_use else name)

    async def action_rename(self) -> None:
        """Give the system prompt in focus another name."""
        row = self._row
        if row is not None and row.line.key.startswith(NEW_PRESET) and not row.is_edited:
            await row.edit(row.line.key.removeprefix(NEW_PRESET), names=True)

    def action_add(self) -> None:
        """One more key for the action in focus."""
        if (row := self._row) is not None and row.line.kind == "keys":
            self._ask_key(row.line, add=True)

    # ---------------------------------------------------------------- what was written

    @on(Row.Typed)
    async def take(self, event: Row.Typed) -> None:
        event.stop()
        await self._keep(event.row, event.text, leaving=event.leaving)

    async def _keep(self, row: Row, text: str | None = None, *, leaving: bool = False) -> bool:
        """Take what stands in a field. A value that cannot be is said, and the field stays.

        Someone who goes elsewhere is not held back: what cannot be is dropped.
        """
        if not row.is_edited:
            return True
        text = row.query_one(Input).value if text is None else text
        if not text.strip():
            await row.close()
            if not row.names and not leaving and row.line.key in self._settings.values:
                await self._change(row.line.key, None)
            return True
        try:
            if row.names:
                return await self._give_name(row, text.strip(), leaving=leaving)
            value = setting_of(row.line).parse(text)
        except InvalidOption as error:
            if leaving:
                await row.close()
            self._tell(_reason(error), wrong=True)
            return leaving
        await row.close()
        if value != self._settings.values.get(row.line.key):
            await self._change(row.line.key, value)
        return True

    async def _give_name(self, row: Row, name: str, *, leaving: bool) -> bool:
        """Name a new preset, or one that there is."""
        key, old = f"{NEW_PRESET}{name}", row.line.key
        find(key)
        if key != old and key in self._settings.values:
            raise InvalidOption(f"there is a system prompt `{name}` already")
        await row.close()
        if old == NEW_PRESET:
            if not leaving:
                self._ask_text(key, name)
        elif key != old:
            in_use = self._settings.get("chat.preset") == old.removeprefix(NEW_PRESET)
            await self._change(key, self._settings.values[old])
            if in_use:
                await self._change("chat.preset", name)
            await self._change(old, None, focus=key)
        return True

    def _ask_text(self, key: str, title: str) -> None:
        setting = find(key)

        async def keep(text: str | None) -> None:
            if text is not None:
                # A preset may be empty; a system prompt that is, is none.
                await self._change(key, text or (None if setting.group == "chat" else text))

        text = self._settings.values.get(key, "")
        self.app.push_screen(TextScreen(title, text, setting.check), keep)

    def _ask_key(self, line: Line, *, add: bool) -> None:
        action = next(known for known in self._actions if f"keys.{known.id}" == line.key)
        keymap = self._settings.keymap

        def object_to(key: str) -> str | None:
            return objection(action, key, self._actions, keymap)

        async def keep(key: str | None) -> None:
            if key is not None:
                kept = [k for k in keys_of(action, keymap) if k != key] if add else []
                keys = (*kept, key)
                await self._change(line.key, None if keys == action.keys else ",".join(keys))

        self.app.push_screen(KeyScreen(action.what, object_to), keep)

    async def _change(self, key: str, value: Any, *, focus: str = "") -> None:
        """Keep a value; on a disk that cannot be written, for as long as the program runs."""
        said = ""
        try:
            self._settings = self._save(key, value)
        except StorageError as error:
            try:
                self._settings = self._settings.replaced(key, value)
            except MobileLLMError as refused:
                self._tell(_reason(refused), wrong=True)
                return
            said = f"Changed until you quit, but {error.message}"
        except InvalidOption as error:
            self._tell(_reason(error), wrong=True)
            return
        self.post_message(self.Changed(key, value, self._settings))
        await self._refresh(focus or key)
        if said:
            self._tell(said)
        elif (row := self._row) is not None:
            self._tell(row.line.help)


def _reason(error: MobileLLMError) -> str:
    """What an error says, on one line."""
    hint = f"; {error.hint}" if error.hint else ""
    return f"{error.message}{hint}"
