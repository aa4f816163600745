"""Tools in the chat: which of them the model may use, and those that a person calls by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mobilellm_mlx.chat.using import ToolKit
from mobilellm_mlx.errors import InvalidInput, ToolError
from mobilellm_mlx.tools.tool import Tool
from mobilellm_mlx.tools.toolbox import Toolbox

from ..typed import read_arguments, usage
from ..widgets.toolnote import ToolNote
from .approval import ApprovalsScreen
from .demo import DemoScreen
from .tools import ToolsScreen

if TYPE_CHECKING:
    from .chat import ChatScreen

SHORT = {"calc": "calculator", "time": "current_time", "note": "add_note"}
"""Commands that stand for a tool, and for which."""
ALONE = {"time": "here"}
"""What such a command means when nothing stands behind it."""
OWN = frozenset({"add_note", "delete_note", "set_timer", "set_alarm", "cancel_timer"})
"""Tools that come with the program and change nothing but what it keeps itself."""


def is_own(tool: Tool) -> bool:
    """Whether what a person types is leave enough: the tool comes with the program, and only reads,
    or writes what the program itself keeps."""
    return tool.source == "builtin" and (tool.reads_only or tool.name in OWN)


class ToolRoom:
    """Tools for a chat screen.

    Args:
        screen: shows the chat.
    """

    def __init__(self, screen: ChatScreen) -> None:
        self._screen = screen
        tools = screen.house.tools
        self._first = tools.toolbox if tools is not None else Toolbox(())
        self._uses: dict[str, bool] = {}
        """Of each chat, whether it uses tools; the settings speak for the others."""
        self._off: dict[str, frozenset[str]] = {}
        """Of each chat, the tools that the model is not offered."""
        self._told = set(screen.house.notices)
        """What is wrong with tools and has been said."""

    @property
    def kit(self) -> ToolKit:
        """What tools need.

        Raises:
            InvalidInput: there are none.
        """
        if (kit := self._screen.house.tools) is None:
            raise InvalidInput("there are no tools here")
        return kit

    @property
    def box(self) -> Toolbox:
        """All tools that there are now."""
        look = self._screen.house.toolbox
        found = look() if look is not None else self._first
        self.tell()
        return found

    def tell(self) -> None:
        """Say once what could not be used; a server may fail long after the start."""
        problems = self._screen.house.tool_problems
        for problem in problems() if problems is not None else ():
            if problem not in self._told:
                self._told.add(problem)
                self._screen.notify(problem, severity="warning", markup=False, timeout=12)

    @property
    def names(self) -> list[str]:
        """Of the tools that can be used here."""
        return [tool.name for tool in self.box.tools if not tool.missing]

    def has_short(self, command: str) -> bool:
        """Whether the tool that a command stands for is there."""
        return SHORT[command] in self.names

    # ---------------------------------------------------------------- what the model is offered

    @property
    def _chat(self) -> str:
        return self._screen.session.chat.id

    @property
    def is_used(self) -> bool:
        """Whether this chat uses tools."""
        return self._uses.get(self._chat, bool(self._screen.house.settings.get("tools.use")))

    @property
    def reads_freely(self) -> bool:
        """Whether tools that only read need no leave."""
        return bool(self._screen.house.settings.get("tools.free_reading"))

    @property
    def off(self) -> frozenset[str]:
        """The tools that this chat does without."""
        if not self.is_used:
            return frozenset(tool.name for tool in self.box.tools)
        return self._off.get(self._chat, frozenset())

    def apply(self) -> None:
        """Let the session know what to offer; between answers."""
        if (kit := self._screen.session.tools) is None:
            return
        off = self.off
        kit.is_on = self.is_used
        kit.reads_freely = self.reads_freely
        kit.toolbox = Toolbox(tool for tool in self.box.tools if tool.name not in off)

    def switch(self, name: str, is_on: bool) -> None:
        """Offer a tool in this chat, or no longer; it counts from the next question on."""
        off = self.off - {name} if is_on else self.off | {name}
        self._uses[self._chat] = self.is_used or is_on
        self._off[self._chat] = off

    def command(self, argument: str) -> None:
        """``/tools``, with what stood behind it.

        Raises:
            InvalidInput: that means nothing.
        """
        match argument.strip().lower():
            case "":
                self.open_tools()
            case "on" | "off" as word:
                self._uses[self._chat] = word == "on"
                self._off.pop(self._chat, None)
                said = "may use tools" if word == "on" else "uses no tools"
                self._screen.desk.say(f"From the next question on, this chat {said}")
            case "list":
                off = self.off
                on = [name for name in self.names if name not in off]
                self._screen.desk.say(f"Offered in this chat: {', '.join(on) or 'no tools'}")
            case "rules":
                self.open_rules()
            case other:
                raise InvalidInput(
                    f"/tools does not know `{other[:40]}`",
                    "it knows on, off, list and rules; alone it shows all tools",
                )

    def open_tools(self) -> None:
        """Show the tools."""
        screen = ToolsScreen(
            self.box.tools, self.off, self.switch, self.open_rules, reads_freely=self.reads_freely
        )
        self._screen.app.push_screen(screen)

    def open_rules(self) -> None:
        """Show what is allowed without asking."""
        self._screen.app.push_screen(
            ApprovalsScreen(self.kit.approvals, reads_freely=self.reads_freely)
        )

    def open_demo(self, then: Callable[[], None] | None = None) -> None:
        """Show what tools can do.

        Args:
            then: what to do when it is left.
        """
        screen, make = self._screen, self._screen.house.demo
        if make is None:
            raise InvalidInput("there is no demo here")
        if screen.may_act():
            screen.do_chore(screen.session.keep_cache())  # the demo reads other things

            def left(_: None) -> None:
                screen.do_chore(screen.session.restore_cache())
                if then is not None:
                    then()

            screen.app.push_screen(DemoScreen(screen.bridge.engine, make()), left)

    # ---------------------------------------------------------------- calls that are typed

    async def call(self, name: str, text: str) -> None:
        """Call a tool without the model.

        Raises:
            MobileLLMError: there is no such tool, or this is not how it is called.
        """
        tool = self.box.find(name)
        if tool.missing:
            raise ToolError(tool.missing)
        if not text.strip() and tool.parameters.get("required"):
            raise InvalidInput(f"`{tool.name}` needs more than its name", usage(tool))
        arguments = read_arguments(tool, text)
        note = ToolNote.of(
            tool,
            arguments,
            self.kit.approvals,
            asks=not is_own(tool),
            reads_freely=self.reads_freely,
        )
        await self._screen.transcript.add(note)

    async def call_named(self, text: str) -> None:
        """``/tool``, with the name of a tool and its arguments behind it."""
        name, _, rest = text.strip().partition(" ")
        if not name:
            self.open_tools()
        else:
            await self.call(name, rest)

    async def call_short(self, command: str, text: str) -> None:
        """``/calc`` and its like; alone they are begun in the prompt."""
        tool = self.box.find(SHORT[command])
        text = text or ALONE.get(command, "")
        if not text and tool.parameters.get("required"):
            self._screen.prompt.put_back(f"/{command} ")
            self._screen.prompt.focus()
        else:
            await self.call(tool.name, text)

    def stop(self) -> None:
        """Stop what was typed and still runs."""
        for note in self._screen.query(ToolNote):
            note.stop()
