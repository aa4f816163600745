"""The tools there are: what each does, whether it asks first, and which this chat may use."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from mobilellm_mlx.tools.tool import Tool

from ..text import Segment, fit, printable
from ..widgets.calls import brief
from ..widgets.models import actions_line
from ..widgets.toolcard import CardBody

NAME = 18
"""Cells of the column of names, where there are several columns."""
LEAVE = 10
"""Of that which says whether a tool asks."""
COLUMNS_FROM = 50
"""Cells from which on there are."""
ON, OFF, MISSING = "●", "○", "–"

Switch = Callable[[str, bool], None]


def tool_line(tool: Tool, is_on: bool, width: int) -> Content:
    """One tool: whether it may be used, its name, whether it asks, what it does."""
    mark = MISSING if tool.missing else ON if is_on else OFF
    style = "dim" if tool.missing or not is_on else ""
    name = brief(tool.name, NAME if width >= COLUMNS_FROM else 40)
    padded = f"{name:<{NAME}}" if width >= COLUMNS_FROM else name
    leave = "not here" if tool.missing else "reads only" if tool.reads_only else "asks first"
    if width < COLUMNS_FROM:
        left, right = Content.assemble(f"{mark} ", (padded, style)), Content.styled(leave, "dim")
        return fit([Segment([(99, left)])], [Segment([(5, right), (0, Content(""))])], width)
    columns = Content.assemble(f"{mark} ", (padded, style), (f"  {leave:<{LEAVE}}  ", "dim"))
    about = Content.styled(brief(tool.description, 160), style)
    return columns + about.truncate(max(1, width - columns.cell_length), ellipsis=True)


def describe_tool(tool: Tool, is_on: bool, reads_freely: bool) -> list[tuple[str, str]]:
    """Labels and texts of everything worth knowing about a tool."""
    facts = [
        ("does", tool.description),
        ("with", ", ".join(_parameters(tool)) or "nothing"),
        ("leave", _say_leave(tool, reads_freely)),
        ("source", "came with this program" if tool.source == "builtin" else tool.source),
        ("here", tool.missing or ("offered to the model" if is_on else "not offered in this chat")),
        ("say", tool.examples[0].said if tool.examples else ""),
    ]
    return [(label, printable(text)) for label, text in facts if text]


def _say_leave(tool: Tool, reads_freely: bool) -> str:
    """Whether the person is asked before it does something."""
    asks = "asks before every call, unless a rule of yours allows it"
    if tool.reads_only and reads_freely:
        return "changes nothing and sends nothing, so it does not ask"
    return f"{asks}; it changes nothing and sends nothing" if tool.reads_only else asks


def _parameters(tool: Tool) -> list[str]:
    """What a call is made with; what may be left out in brackets."""
    properties = tool.parameters.get("properties", {})
    required = tool.parameters.get("required", ())
    return [name if name in required else f"[{name}]" for name in list(properties)[:20]]


class ToolList(OptionList):
    """A list in which a click only points."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter,space", "select", "On or off", id="tools.switch", tooltip="Offer it, or not"
        ),
    ]

    async def _on_click(self, event: events.Click) -> None:
        event.prevent_default()
        clicked = event.style.meta.get("option")
        if clicked is not None:
            self.highlighted = clicked


class ToolsScreen(ModalScreen[None]):
    """Every tool; what is switched counts for this chat, from the next question on.

    Args:
        tools: in the order in which they are listed.
        off: names of those that are not offered.
        switch: offers a tool, or no longer.
        rules: shows what is allowed without asking; None where there is nothing to show.
        reads_freely: whether tools that only read need no leave.
    """

    CSS_PATH = "tools.tcss"
    AUTO_FOCUS = "ToolList"
    VERTICAL_BREAKPOINTS = [(0, "-flat"), (20, "-low"), (32, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "all", "All", id="tools.all", tooltip="Offer all tools, or none"),
        Binding("r", "rules", "Rules", id="tools.rules", tooltip="What is allowed without asking"),
        Binding("escape,q", "back", "Back", id="tools.close", tooltip="Back", show=False),
    ]

    def __init__(
        self,
        tools: Sequence[Tool],
        off: Collection[str],
        switch: Switch,
        rules: Callable[[], None] | None = None,
        *,
        reads_freely: bool = False,
    ) -> None:
        super().__init__()
        self._tools = list(tools)
        self._off = set(off)
        self._switch = switch
        self._rules = rules
        self._reads_freely = reads_freely
        self._list = ToolList(compact=True, markup=False)
        self._title = Static("", id="tool-name", markup=False)
        self._about = CardBody()
        self._actions = Static("", id="tool-actions", markup=False)

    def compose(self) -> ComposeResult:
        with Vertical(id="tools") as box:
            box.border_title = "Tools"
            yield self._list
            with VerticalScroll(id="tool-detail", can_focus=False):
                yield self._title
                yield self._about
            yield self._actions

    def on_resize(self) -> None:
        self.call_after_refresh(self._build)

    def _build(self) -> None:
        """Draw the list anew, with the same tool pointed at."""
        at = self._list.highlighted
        width = max(10, self._list.scrollable_content_region.width - 1)
        lines = [tool_line(tool, self._is_on(tool), width) for tool in self._tools]
        self._list.set_options([Option(line) for line in lines])
        self._list.highlighted = (at or 0) if self._tools else None
        here = [tool for tool in self._tools if not tool.missing]
        count = sum(self._is_on(tool) for tool in here)
        self.query_one("#tools").border_subtitle = f"{count} of {len(here)} offered in this chat"
        self._describe()

    def _is_on(self, tool: Tool) -> bool:
        return not tool.missing and tool.name not in self._off

    @property
    def _pointed(self) -> Tool | None:
        at = self._list.highlighted
        return self._tools[at] if at is not None and at < len(self._tools) else None

    @on(OptionList.OptionHighlighted)
    def _describe(self) -> None:
        tool = self._pointed
        switched = "off" if tool is not None and self._is_on(tool) else "on"
        doable = [("Enter", f"switch {switched}", "switch")] if tool and not tool.missing else []
        doable += [("a", "all or none", "all")] if self._tools else []
        doable += [("r", "rules", "rules")] if self._rules else []
        width = max(10, self._list.size.width - 1)
        self._actions.update(actions_line([*doable, ("Esc", "back", "back")], width))
        if tool is None:
            self._title.update("There are no tools here.")
            return
        facts = describe_tool(tool, self._is_on(tool), self._reads_freely)
        self._title.update(Content.styled(printable(tool.name), "bold"))
        self._about.show([(label, Content(text)) for label, text in facts])
        self.query_one("#tool-detail").scroll_home(animate=False)

    @on(OptionList.OptionSelected)
    def action_switch(self) -> None:
        """Offer the tool that is pointed at, or no longer."""
        if (tool := self._pointed) is not None and not tool.missing:
            self._set(tool, not self._is_on(tool))
            self._build()

    def action_all(self) -> None:
        """Offer all, or none when all are."""
        here = [tool for tool in self._tools if not tool.missing]
        is_on = not all(self._is_on(tool) for tool in here)
        for tool in here:
            self._set(tool, is_on)
        self._build()

    def _set(self, tool: Tool, is_on: bool) -> None:
        (self._off.discard if is_on else self._off.add)(tool.name)
        self._switch(tool.name, is_on)

    def action_rules(self) -> None:
        """What is allowed without asking."""
        if self._rules is not None:
            self._rules()

    def action_back(self) -> None:
        """To the chat."""
        self.dismiss(None)
