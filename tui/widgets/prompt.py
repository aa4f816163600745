"""Where the person writes: several lines, history, commands, files, Enter to send."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import TextArea

from mobilellm_mlx.errors import InvalidInput

from ..attachments import AttachedFile, Pastes, expand, has_mentions, is_large, read_mentions
from ..commands import Command, read_command, unescaped
from ..completing import Choice, Completer, FolderReader, on_thread
from ..history import History
from ..text import format_key, printable
from .completion import CompletionList

MODIFIED_ENTER = "shift+\r"
"""Shift+Enter from terminals with modifyOtherKeys, as Textual names it."""
PLACEHOLDER = "Ask a short question, or paste a text to rewrite"
LISTING_PATIENCE_S = 0.25
"""How long Enter and Tab wait for a folder that is being read."""
READING_PATIENCE_S = 5.0
"""How long a message waits for the files it names."""
ROOM_FOR_KEYS = 50
"""Columns from which on the list names its keys."""


class Prompt(TextArea):
    """A text area that grows with its text and sends it with Enter.

    Args:
        commands: what may be typed behind a slash; without any, a slash is a slash.
        root: where the paths of files begin.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Send", id="prompt.send", tooltip="Send"),
        Binding(
            "ctrl+j,shift+enter,alt+enter",
            "newline",
            "New line",
            id="prompt.newline",
            tooltip="New line (Ctrl+J in every terminal)",
        ),
        Binding(
            "tab",
            "complete",
            "Complete",
            id="prompt.complete",
            show=False,
            tooltip="Complete a /command or @file",
        ),
        Binding(
            "escape",
            "close_completion",
            "Close the list",
            id="prompt.close",
            show=False,
            tooltip="Close the list of completions",
        ),
        Binding(
            "up",
            "cursor_up",
            "Earlier prompt",
            id="prompt.older",
            show=False,
            tooltip="In the first line: the prompt before",
        ),
        Binding(
            "down",
            "cursor_down",
            "Later prompt",
            id="prompt.newer",
            show=False,
            tooltip="In the last line: the prompt after",
        ),
    ]

    class Submitted(Message):
        """The person sent something that is not blank.

        Attributes:
            text: what the model reads, with pastes and files.
            shown: what was written.
        """

        def __init__(self, text: str, shown: str | None = None) -> None:
            super().__init__()
            self.text = text
            self.shown = text if shown is None else shown

    class CommandGiven(Message):
        """The person gave a command that exists; ``argument`` may be empty."""

        def __init__(self, name: str, argument: str) -> None:
            super().__init__()
            self.name = name
            self.argument = argument

    class Refused(Message):
        """What was written was not sent and is still there; ``sentence`` says why."""

        def __init__(self, sentence: str) -> None:
            super().__init__()
            self.sentence = sentence

    class Offered(Message):
        """What can be completed has changed."""

        def __init__(self, choices: Sequence[Choice], selected: int | None) -> None:
            super().__init__()
            self.choices = choices
            self.selected = selected

    class FolderRead(Message, bubble=False):
        """A folder that was asked for has been read."""

    def __init__(
        self, commands: Sequence[Command] = (), *, root: Path | None = None, id: str | None = None
    ) -> None:
        # Before the text area's own, which already asks for the lines that it draws.
        self._pastes = Pastes()
        super().__init__(
            id=id,
            soft_wrap=True,
            tab_behavior="focus",
            compact=True,
            highlight_cursor_line=False,
            placeholder=PLACEHOLDER,
        )
        self.cursor_blink = False
        self._history = History()
        self._commands = commands
        self._root = root or Path()
        self._folders = FolderReader(lambda: self.post_message(self.FolderRead()))
        self._completer = Completer(commands, self._root, self._folders)

    # ---------------------------------------------------------------- sending

    async def action_submit(self) -> None:
        """Take what is offered, or else send what is written, unless that is nothing."""
        if (choice := self._completer.choice) is not None:
            self.take(choice)
        elif (text := self.text.strip("\n")).strip():
            await self._send(text)

    async def _send(self, shown: str) -> None:
        try:
            given = read_command(shown, self._commands)
        except InvalidInput as problem:
            self._refuse(problem)
            return
        said = given[1] if given else unescaped(shown) if self._commands else shown
        reads_files = has_mentions(said) and (given is None or given[0].argument == "text")
        self.load_text("")
        try:
            files = await self._read_files(said) if reads_files else {}
        except InvalidInput as problem:
            self.put_back(shown)
            self._refuse(problem)
            return
        self._history.add(shown)
        text = expand(said, self._pastes.contents, files)
        if given:
            self.post_message(self.CommandGiven(given[0].name, text))
        else:
            self.post_message(self.Submitted(text, said))

    async def _read_files(self, text: str) -> dict[str, AttachedFile]:
        reading = on_thread(lambda: read_mentions(text, self._root))
        done, _ = await asyncio.wait({asyncio.wrap_future(reading)}, timeout=READING_PATIENCE_S)
        if not done:
            raise InvalidInput(f"The files were not read within {READING_PATIENCE_S:.0f} s.")
        return reading.result()

    def _refuse(self, problem: InvalidInput) -> None:
        hint = f" {problem.hint}" if problem.hint else ""
        self.post_message(self.Refused(printable(f"{problem.message}{hint}")))

    # ---------------------------------------------------------------- lines and history

    def load_history(self, prompts: Sequence[str], chat_prompts: Sequence[str] = ()) -> None:
        """What Up goes back through: first this chat's prompts, then all others.

        Args:
            prompts: what was sent in any chat, oldest first, as the model read it.
            chat_prompts: the same of this chat.
        """
        self._history.load(prompts, chat_prompts)

    def action_newline(self) -> None:
        """Break the line at the cursor."""
        self._replace_via_keyboard("\n", *self.selection)

    def action_cursor_up(self, select: bool = False) -> None:
        """Move up; from the first line of the screen on, back through what was sent."""
        if not select and self.cursor_at_first_line and self.wrapped_cursor_row == 0:
            if (text := self._history.older(self.text)) is not None:
                self._recall(text)
            return
        super().action_cursor_up(select)

    def action_cursor_down(self, select: bool = False) -> None:
        """Move down; from the last line of the screen on, forward to the draft."""
        last = self.wrapped_document.height - 1
        if not select and self.wrapped_cursor_row >= last:
            if (text := self._history.newer()) is not None:
                self._recall(text)
            return
        super().action_cursor_down(select)

    @property
    def wrapped_cursor_row(self) -> int:
        """The cursor's row as drawn, soft wraps counted."""
        return self.wrapped_document.location_to_offset(self.cursor_location).y

    def put_away(self) -> None:
        """Empty the prompt; Up brings back what stood there."""
        self._history.add(self.text)
        self.load_text("")

    def put_back(self, text: str) -> None:
        """Give a text back that was not sent, in front of what has been written since."""
        draft = self.text
        text = self._pastes.recall(printable(text))
        self._show(f"{text}\n\n{draft}" if draft.strip() else text)

    def _recall(self, text: str) -> None:
        self._show(self._pastes.recall(printable(text)))
        self._follow()
        self.action_close_completion()  # Up and Down still walk through the history

    def _show(self, text: str) -> None:
        self.load_text(text)
        self.move_cursor(self.document.end)

    # ---------------------------------------------------------------- keys in the order of typing

    # Textual calls these two and then, unless told otherwise, the text area's own handlers.

    async def _on_key(self, event: events.Key) -> None:
        """Do what the prompt's keys do in the order of typing.

        The text area would insert Enter itself, and a binding with priority would overtake the
        characters that still wait to be inserted: a fast Enter would send half a message. Without
        priority, a key's binding runs behind the characters that follow it: a fast Backspace would
        delete what was typed after it.
        """
        key = "shift+enter" if event.key == MODIFIED_ENTER else event.key
        if event.is_printable:
            return
        self._follow()
        if (active := self.screen.active_bindings.get(key)) is None or active.node is not self:
            return
        action = active.binding.action
        if action in ("submit", "complete") and self._completer.is_waiting:
            await self._folders.wait(LISTING_PATIENCE_S)
            self._follow()
        actions = {"submit": self.action_submit, "newline": self.action_newline}
        if self._completer.is_open:
            actions |= {
                "complete": self.action_complete,
                "close_completion": self.action_close_completion,
                "cursor_up": lambda: self.choose(-1),
                "cursor_down": lambda: self.choose(1),
            }
        if action in ("complete", "close_completion") and action not in actions:
            return  # nothing is offered: the key is the screen's
        if run := actions.get(action):
            if inspect.isawaitable(running := run()):
                await running
        elif not await self.app.run_action(action, default_namespace=self):
            return  # nothing to do here, such as to copy where nothing is selected
        event.stop()
        event.prevent_default()

    def _on_paste(self, event: events.Paste) -> None:  # type: ignore[override]
        event.text = self._as_pasted(event.text)

    def action_paste(self) -> None:
        """Insert what was copied here."""
        self._replace_via_keyboard(self._as_pasted(self.app.clipboard), *self.selection)

    def _as_pasted(self, text: str) -> str:
        text = printable(text)
        return self._pastes.fold(text) if is_large(text) else text

    # ---------------------------------------------------------------- completing

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Esc and Tab are the screen's while nothing is offered."""
        if action == "close_completion":
            return self._completer.is_open
        if action == "complete" and not self._completer.is_open:
            return None  # the page of keys still names it
        return super().check_action(action, parameters)

    def action_complete(self) -> None:
        """Take the chosen row, or the first one."""
        if choices := self._completer.choices:
            self.take(choices[self._completer.selected or 0])

    def action_close_completion(self) -> None:
        """Offer nothing until something else is begun."""
        if self._completer.close():
            self._offer()

    def choose(self, step: int) -> None:
        """Choose another row of what is offered."""
        self._completer.move(step)
        self._offer()

    def take(self, choice: Choice) -> None:
        """Complete what stands in front of the cursor, if ``choice`` still belongs to it."""
        self._follow()
        if (request := self._completer.request) and choice in self._completer.choices:
            row, column = self.cursor_location
            self._replace_via_keyboard(choice.insert, (row, request.start), (row, column))
            self._follow()

    def _follow(self) -> None:
        row, column = self.cursor_location
        line = self.document.get_line(row) if self.selection.is_empty else ""
        if self._completer.follow(line, min(column, len(line)), row == 0):
            self._offer()

    def _offer(self) -> None:
        self.post_message(self.Offered(self._completer.choices, self._completer.selected))

    @on(TextArea.Changed)
    @on(TextArea.SelectionChanged)
    @on(FolderRead)
    def follow_text(self) -> None:
        """The text, the cursor or the disk has moved on."""
        if self.has_focus:
            self._follow()

    def on_blur(self) -> None:
        """Nothing is offered to somebody who is elsewhere."""
        self.action_close_completion()

    # ---------------------------------------------------------------- chips

    def get_line(self, line_index: int) -> Text:
        """A line as it is drawn: chips are set off for as long as they stand for something."""
        text = super().get_line(line_index)
        for start, end in self._pastes.spans(text.plain):
            text.stylize("bold underline", start, end)
        return text

    def action_delete_left(self) -> None:
        """Delete a character, or a whole chip."""
        if not self._delete_chip(1):
            super().action_delete_left()

    def action_delete_word_left(self) -> None:
        """Delete a word, or a whole chip."""
        if not self._delete_chip(1):
            super().action_delete_word_left()

    def action_delete_right(self) -> None:
        """Delete a character, or a whole chip."""
        if not self._delete_chip(0):
            super().action_delete_right()

    def action_delete_word_right(self) -> None:
        """Delete a word, or a whole chip."""
        if not self._delete_chip(0):
            super().action_delete_word_right()

    def _delete_chip(self, side: int) -> bool:
        """Delete the chip whose beginning (0) or end (1) is at the cursor; half of it is no use."""
        row, column = self.cursor_location
        if self.selection.is_empty:
            for span in self._pastes.spans(self.document.get_line(row)):
                if span[side] == column:
                    self._delete_via_keyboard((row, span[0]), (row, span[1]))
                    return True
        return False


class PromptBox(Vertical):
    """The prompt, and above it what it offers.

    Args:
        commands: what may be typed behind a slash.
        root: where the paths of files begin.
    """

    def __init__(self, commands: Sequence[Command] = (), *, root: Path | None = None) -> None:
        super().__init__(id="prompt-box")
        self._commands = commands
        self._root = root

    def compose(self) -> ComposeResult:
        yield CompletionList()
        yield Prompt(self._commands, root=self._root)

    @on(Prompt.Offered)
    def show_offer(self, event: Prompt.Offered) -> None:
        event.stop()
        listed = self.query_one(CompletionList)
        hint = self._keys() if self.size.width >= ROOM_FOR_KEYS else ""
        listed.show(event.choices, event.selected, self.region.y, hint)

    def _keys(self) -> str:
        """The keys for what is offered, as the person has set them."""
        says = {"complete": "completes", "close_completion": "closes"}
        keys: dict[str, str] = {}
        for key, active in self.screen.active_bindings.items():
            if (said := says.get(active.binding.action)) and isinstance(active.node, Prompt):
                keys.setdefault(said, format_key(key))
        return " · ".join(f"{keys[said]} {said}" for said in says.values() if said in keys)

    @on(CompletionList.Chosen)
    def take_choice(self, event: CompletionList.Chosen) -> None:
        event.stop()
        self.query_one(Prompt).take(event.choice)

    @on(CompletionList.Scrolled)
    def scroll_choices(self, event: CompletionList.Scrolled) -> None:
        event.stop()
        self.query_one(Prompt).choose(event.step)
