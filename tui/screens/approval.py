"""Asking whether a call may be made, and what has been allowed for longer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import date
from typing import Any, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.timer import Timer
from textual.widgets import Button, OptionList, Static
from textual.widgets.option_list import Option

from mobilellm_mlx.errors import MobileLLMError, ToolError
from mobilellm_mlx.tools.approval import (
    Approvals,
    Rule,
    make_request,
    objection,
    rule_words,
)
from mobilellm_mlx.tools.tool import Answer, Duration, Request, Tool

from ..widgets.arguments import LEFT_OUT, Choice, Field, make_fields
from ..widgets.sidebar import LOW, one_line
from ..widgets.word import Word, name_key
from .search import format_when

Check = Callable[[dict[str, Any]], dict[str, Any]]

QUIET_S = 0.4
"""So long no key must come before one can answer: whoever is typing has not read the question."""
LATE_S = 0.2
"""A pause that ends later than this was none."""
LONGEST_WORDS = 400
LONGEST_DESCRIPTION = 1000
ONLY_READING = "No rules. Tools that only read do not ask: the setting `tools.free_reading` is on."
_ANSWERS: Mapping[str, tuple[str, str]] = {
    "once": ("allow once", "once"),
    "session": ("this session", "session"),
    "always": ("always", "always"),
    "reading": ("all reading", "reading"),
    "deny": ("deny", "deny"),
}
"""The answers, on a wide window and on a narrow one."""


def source_words(tool: Tool) -> str:
    """Where a tool comes from, and whether it changes anything."""
    kind, _, name = tool.source.partition(":")
    match kind:
        case "builtin":
            origin = "built in"
        case "file":
            origin = f"from your file {name}"
        case "mcp":
            origin = f"from the MCP server {name}"
        case _:
            origin = f"from {tool.source}"
    return one_line(f"{tool.name}, {origin}{', only reads' if tool.reads_only else ''}")


def _shortened(text: str, longest: int) -> str:
    text = one_line(text)
    return text if len(text) <= longest else f"{text[:longest].rstrip()} …"


def _in_full(error: ToolError) -> str:
    """What is wrong, and what to write instead."""
    return f"{error.message}: {error.hint}" if error.hint else error.message


class ApprovalScreen(ModalScreen[Answer]):
    """Asks whether a call may be made. Nothing that is pressed by accident allows it.

    Args:
        request: the call.
        check: gives arguments as they will be used, or raises ``ToolError``.
        schema: of the arguments, with the values that exist now; None takes the tool's own.
        note: what else to know, such as that the tool has changed.
    """

    CSS_PATH = "approval.tcss"
    AUTO_FOCUS = ""
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (64, "-roomy")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "allow('once')", "Once", id="approval.once", tooltip="Allow this call"),
        Binding(
            "s",
            "allow('session')",
            "Session",
            id="approval.session",
            tooltip="Allow such calls until you quit",
        ),
        Binding(
            "a",
            "allow('always')",
            "Always",
            id="approval.always",
            tooltip="Allow such calls always: the rule is in the dialog",
        ),
        Binding(
            "r",
            "allow('reading')",
            "Reading",
            id="approval.reading",
            tooltip="Allow every tool that only reads, from now on",
        ),
        Binding("n", "deny", "Deny", id="approval.deny", tooltip="Do not allow it"),
        Binding(
            "escape",
            "leave",
            "Deny",
            id="approval.leave",
            priority=True,  # fields have uses of their own for Escape
            tooltip="Close the list of choices, or do not allow it",
        ),
        Binding(
            "up,left", "app.focus_previous", "Before", id="approval.up", tooltip="The field before"
        ),
        Binding(
            "down,right", "app.focus_next", "Next", id="approval.down", tooltip="The next field"
        ),
        Binding("pageup", "page(-1)", "Page up", id="approval.page_up", tooltip="Read further up"),
        Binding("pagedown", "page(1)", "Page down", id="approval.page_down", tooltip="Read on"),
    ]

    def __init__(
        self,
        request: Request,
        check: Check | None = None,
        *,
        schema: Mapping[str, Any] | None = None,
        note: str = "",
    ) -> None:
        super().__init__()
        self._request = request
        self._now: Request | None = request
        """The call as the fields have it; None while they have none."""
        self._check = check
        self._note = note
        tool = request.tool
        self._fields = make_fields(schema or tool.parameters, request.call.arguments)
        self._is_armed = False
        self._pause: Timer | None = None
        self._since = 0.0
        self._body = VerticalScroll(id="call", can_focus=False)
        self._words = Static(id="words", markup=False)
        self._problem = Static(id="problem", markup=False)
        self._rule = Static(markup=False)
        self._answers = {name: Button(id=name, compact=True) for name in _ANSWERS}
        self._answers["reading"].display = tool.reads_only

    def compose(self) -> ComposeResult:
        tool = self._request.tool
        with Vertical(id="approval") as box:
            box.border_title = "Allow this?"
            with self._body:
                yield self._words
                yield Static(source_words(tool), id="source", markup=False)
                if self._note:
                    yield Static(_shortened(self._note, LONGEST_WORDS), id="note", markup=False)
                yield from self._fields
                if tool.source != "builtin":
                    said = _shortened(tool.description, LONGEST_DESCRIPTION)
                    yield Static(f"It says of itself: {said}", id="said", markup=False)
            yield self._problem
            with VerticalScroll(id="rule", can_focus=False):
                yield self._rule
            with Horizontal(id="answers"):
                yield from self._answers.values()

    def on_mount(self) -> None:
        self._wait()
        self.bindings_updated_signal.subscribe(self, lambda _: self._draw_answers())
        self._update()

    def on_resize(self, event: events.Resize) -> None:
        low = event.size.height < LOW
        self.set_class(low, "-low")
        # What is left beside the frame, the rule and the answers, which are always in sight.
        self._body.styles.max_height = max(1, event.size.height - (5 if low else 11))
        self._draw_answers()

    # ---------------------------------------------------------------- what may be pressed when

    def on_key(self, event: events.Key) -> None:
        """Somebody who is still typing has not read the question."""
        if not self._is_armed:
            self._wait()

    def _wait(self) -> None:
        """Begin the pause in which no key may come, once more."""
        if self._pause is not None:
            self._pause.stop()
        self._since = time.monotonic()
        self._pause = self.set_timer(QUIET_S, self._arm)

    def _arm(self) -> None:
        if time.monotonic() - self._since > QUIET_S + LATE_S:
            self._wait()  # the interface stood still: keys of that time are yet to come
            return
        self._is_armed = True
        if self.focused is None:
            self._answers["deny"].focus()
        self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Letters answer only where none is written, and nothing does before the question stood."""
        if action in ("allow", "deny", "leave") and not self._is_armed:
            return False
        if action in ("allow", "deny") and isinstance(self.focused, Button | None):
            return True if action == "deny" or self._is_offered(str(parameters[0])) else None
        return None if action in ("allow", "deny") else True

    def _is_offered(self, answer: str) -> bool:
        if answer == "reading":
            return self._request.tool.reads_only
        if answer in ("session", "always"):
            return self._now is not None and objection(self._now.scope) is None
        return True

    # ---------------------------------------------------------------- what is shown

    @on(Field.Changed)
    def _update(self) -> None:
        """Say what the call is now, and what a rule for it would allow."""
        self._now = self._read()
        call = self._now
        words = "This call cannot be made." if call is None else call.words
        self._words.update(_shortened(words, LONGEST_WORDS))
        if call is None:
            rule = "Change it, or deny it."
        elif why := objection(call.scope):
            rule = f"No rule can be kept: {why}."
        else:
            rule = f"“Always” allows: {call.rule}"
            if self._is_offered("reading"):
                rule += "; “all reading”: every tool that only reads, always"
        self._rule.update(one_line(rule))
        for name in ("session", "always"):
            self._answers[name].disabled = not self._is_offered(name)
        self.refresh_bindings()

    def _draw_answers(self) -> None:
        """The answers with their keys, as long as those work."""
        keys = {
            found.binding.id: key for key, found in self.active_bindings.items() if found.enabled
        }
        # A narrow window has no room for both; the key works all the same.
        reads = self._request.tool.reads_only
        self._answers["session"].display = not (reads and self.has_class("-narrow"))
        for name, (long, short) in _ANSWERS.items():
            key = keys.get(f"approval.{name}", "")
            text = short if self.has_class("-narrow") else long
            label = Content.assemble((name_key(key) if key else " ", "bold"), " ", text)
            button = self._answers[name]
            if button.label != label:
                button.label = label
                button.styles.line_pad = pad = 0 if self.has_class("-narrow") else 1
                button.styles.width = label.cell_length + 2 * pad

    # ---------------------------------------------------------------- the arguments

    def _read(self) -> Request | None:
        """The call as the fields have it; None when there is none, which is said beside them."""
        self._say_problem("")
        for field in self._fields:
            field.say_why("")
        if not any(field.is_changed for field in self._fields):
            return self._request
        arguments: dict[str, Any] = {}
        is_whole = True
        for field in self._fields:
            try:
                value = field.read()
            except ToolError as error:
                field.say_why(_in_full(error))
                is_whole = False
                continue
            if value is not LEFT_OUT:
                arguments[field.label] = value
        if not is_whole:
            return None
        try:
            checked = self._check(arguments) if self._check else arguments
            return make_request(self._request.id, self._request.tool, checked)
        except ToolError as error:
            self._blame(_in_full(error))
            return None

    def _blame(self, why: str) -> None:
        """Say beside the field that it is about, as far as it names one, why a call cannot be."""
        named = [field for field in self._fields if f"`{field.label}`" in why]
        changed = [field for field in self._fields if field.is_changed]
        if field := next(iter(named or (changed if len(changed) == 1 else [])), None):
            field.say_why(why)
        else:
            self._say_problem(why)

    def _say_problem(self, why: str) -> None:
        self._problem.update(_shortened(why, LONGEST_WORDS))
        self._problem.display = bool(why)

    # ---------------------------------------------------------------- answers

    @on(Button.Pressed)
    def press(self, event: Button.Pressed) -> None:
        event.stop()
        if not self._is_armed:
            return
        match event.button.id:
            case "once" | "session" | "always" | "reading" as duration:
                self.action_allow(duration)
            case _:
                self.action_deny()

    def action_allow(self, duration: Duration) -> None:
        """Allow the call as it stands now, unless there is something wrong with it."""
        self._update()
        call = self._now
        if call is None:
            wrong = [field for field in self._fields if field.is_wrong]
            for field in wrong[:1]:
                field.enter()
        elif self._is_offered(duration):
            arguments = None if call is self._request else call.call.arguments
            self.dismiss(Answer(True, duration, arguments))

    def action_deny(self) -> None:
        """Do not allow it."""
        self.dismiss(Answer(False, reason="you"))

    def action_leave(self) -> None:
        """Close the open list of choices, or else deny."""
        opened = next((choice for choice in self.query(Choice) if choice.expanded), None)
        if opened is not None:
            opened.expanded = False
            opened.focus()
        else:
            self.action_deny()

    def action_page(self, step: int) -> None:
        """Scroll what is above the answers."""
        self._body.scroll_relative(y=step * max(1, self._body.size.height - 1))


# ------------------------------------------------------------------- what has been allowed


class ApprovalsScreen(ModalScreen[None]):
    """What was allowed for longer than one call; any of it can be taken back.

    Args:
        approvals: keeps it.
        today: the day of the person; None asks the machine.
        reads_freely: whether tools that only read need no leave.
    """

    CSS_PATH = "approval.tcss"
    AUTO_FOCUS = "OptionList"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "d,delete",
            "forget",
            "Take back",
            id="approvals.forget",
            tooltip="Take it back: ask again from now on",
        ),
        Binding("escape", "close", "Close", id="approvals.close", tooltip="Close the list"),
    ]

    def __init__(
        self, approvals: Approvals, *, today: date | None = None, reads_freely: bool = False
    ) -> None:
        super().__init__()
        self._reads_freely = reads_freely
        self._approvals = approvals
        self._today = today or date.today()
        self._rules: tuple[Rule, ...] = ()
        self._list = OptionList(markup=False, compact=True)
        self._said = Static(id="problem", markup=False)
        self._forget = Word("take back", id="approvals-forget", binding="approvals.forget")

    def compose(self) -> ComposeResult:
        with Vertical(id="approvals") as box:
            box.border_title = "Allowed without asking"
            yield self._list
            yield self._said
            with Horizontal(id="approvals-line"):
                yield self._forget
                yield Word("close", id="approvals-close", binding="approvals.close")

    def on_mount(self) -> None:
        self._show()

    def on_resize(self, event: events.Resize) -> None:
        self.set_class(event.size.height < LOW, "-low")

    def _show(self, problem: str = "") -> None:
        at = self._list.highlighted or 0
        self._rules = self._approvals.rules
        self._list.set_options(Option(self._draw(rule)) for rule in self._rules)
        self._list.highlighted = min(at, len(self._rules) - 1) if self._rules else None
        said = [problem] if problem else self._approvals.take_problems()
        if not self._rules and not said:
            said = [ONLY_READING if self._reads_freely else "Nothing: every call is asked about."]
        self._said.update(" ".join(one_line(text) for text in said))
        self._said.display = bool(said)
        for part in (self._list, self._forget):
            part.display = bool(self._rules)
        self.set_class(not self._rules, "-empty")

    def _draw(self, rule: Rule) -> Content:
        """What a rule allows on a line, since when on the next."""
        words = one_line(rule_words(rule.tool, rule.scope))
        length = "until you quit" if rule.duration == "session" else "always"
        since = format_when(rule.since, self._today)
        return Content.assemble(words, "\n", (f"  {length}, since {since}", "dim"))

    @on(Word.Clicked, "#approvals-forget")
    def action_forget(self) -> None:
        """Take back what is highlighted."""
        at = self._list.highlighted
        if at is None or at >= len(self._rules):
            return
        try:
            self._approvals.forget(self._rules[at])
        except MobileLLMError as error:
            self._show(error.message)
        else:
            self._show()

    @on(Word.Clicked, "#approvals-close")
    def action_close(self) -> None:
        """Leave everything as it is."""
        self.dismiss()

    def on_click(self, event: events.Click) -> None:
        """A click beside the window closes it."""
        if event.widget is self:
            self.action_close()
