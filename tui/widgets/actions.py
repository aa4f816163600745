"""What can be done to a message, as a row of words to click below it."""

from __future__ import annotations

from textual.content import Content
from textual.style import Style
from textual.widgets import Static

from .response import Response
from .said import MessageBlock, results_of
from .toolnote import ToolNote
from .word import name_key

GAP = "   "


class Actions(Static):
    """One quiet row for the message that has the mouse or the focus.

    It stands where the empty line below that message was, so that nothing moves. While the message
    has the focus, the keys that do the same are written in front.
    """

    def __init__(self, block: MessageBlock) -> None:
        super().__init__(markup=False)
        self.block = block

    def on_mount(self) -> None:
        self.redraw()

    def redraw(self) -> None:
        """Show what can be done to the message now."""
        keys = self._keys()
        words = [
            Content.assemble((f"{keys[name]} ", "bold"), _word(label, name))
            if name in keys
            else _word(label, name)
            for label, name in self._choices()
        ]
        self.update(Content(GAP).join(words))

    def _keys(self) -> dict[str, str]:
        """The keys of the actions, as they are set, while they work."""
        keys: dict[str, str] = {}
        for key, active in self.screen.active_bindings.items():
            if active.node is self.block and active.enabled:
                name = active.binding.action.removeprefix("ask('").removesuffix("')")
                keys.setdefault(name, name_key(key))
        return keys

    def _choices(self) -> list[tuple[str, str]]:
        block, said = self.block, self.block.said
        choices = [("copy", "copy")]
        if isinstance(block, Response) and ("```" in said.text or "~~~" in said.text):
            choices.append(("copy code", "copy_code"))
        if results_of(said):
            choices += [("copy result", "copy_result"), ("open call", "fold")]
        if isinstance(block, ToolNote):
            return [("copy", "copy"), ("into the prompt", "insert")]
        for label, name in (
            ("edit", "edit"),
            ("again", "retry"),
            ("continue", "continue"),
            ("unpin" if said.pinned else "pin", "pin"),
            ("delete", "delete"),
        ):
            if block.allows(name):
                choices.append((label, name))
        if said.branch is not None:
            which, count = said.branch
            choices += [("older", "older")] * (which > 1) + [(f"{which}/{count}", "")]
            choices += [("newer", "newer")] * (which < count)
        return choices

    def action_do(self, name: str) -> None:
        """Do what was clicked."""
        if name == "copy":
            self.block.action_copy()
        elif name == "copy_code":
            self.block.action_copy_code()
        elif name == "copy_result":
            self.block.action_copy_result()
        elif name == "fold" and isinstance(self.block, Response):
            self.block.action_fold()
        elif name == "insert" and isinstance(self.block, ToolNote):
            self.block.action_insert()
        elif self.block.allows(name):
            self.block.action_ask(name)  # type: ignore[arg-type]


def _word(label: str, name: str) -> Content:
    if not name:
        return Content(label)
    return Content(label).stylize(Style.from_meta({"@click": f"do({name!r})"}))
