"""A call's arguments as fields to look at and to change, made from a tool's schema."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, Select, Static, TextArea

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.plain import STEERING, UNSEEN

from ..text import printable
from .line import Line

Kind = Literal["choice", "switch", "integer", "number", "line", "text", "lines", "json"]
LEFT_OUT: Final = object()
"""An argument that is not given."""

LONGEST_LINE = 200
"""Characters of a text that is still written on one line."""
LONGEST_NAME = 14
MOST_CHOICES = 1000
_SCALARS = (str, int, float, bool, type(None))


def _resolve(schema: Any, root: Mapping[str, Any], depth: int = 8) -> tuple[dict[str, Any], bool]:
    """A schema without references and without null, and whether null was among it."""
    if not isinstance(schema, dict) or depth == 0:
        return {}, False
    if isinstance(ref := schema.get("$ref"), str) and ref.startswith("#/$defs/"):
        known = root.get("$defs")
        found = known.get(ref.removeprefix("#/$defs/")) if isinstance(known, dict) else None
        return _resolve(found, root, depth - 1)
    for word in ("anyOf", "oneOf"):
        if isinstance(forms := schema.get(word), list):
            rest = [form for form in forms if form != {"type": "null"}]
            inner = _resolve(rest[0], root, depth - 1)[0] if len(rest) == 1 else {}
            return inner, len(rest) < len(forms)
    kinds = schema.get("type")
    if isinstance(kinds, list):
        rest = [kind for kind in kinds if kind != "null"]
        only = {"type": rest[0]} if len(rest) == 1 else {"type": "object"}
        return {**schema, **only}, "null" in kinds
    return schema, False


def _kind_of(schema: Mapping[str, Any], value: Any) -> Kind:
    """How a value is shown; what the schema does not foresee is shown as JSON."""
    choices = schema.get("enum")
    choices = choices if isinstance(choices, list) and len(choices) <= MOST_CHOICES else []
    given = value is not LEFT_OUT and value is not None
    plain = bool(choices) and all(isinstance(choice, _SCALARS) for choice in choices)
    if plain and (not given or value in choices):
        return "choice"
    wanted = schema.get("type")
    if wanted == "boolean" and (not given or isinstance(value, bool)):
        return "switch"
    if wanted in ("integer", "number") and (not given or type(value) in (int, float)):
        return "integer" if wanted == "integer" else "number"
    if wanted == "string" and (not given or isinstance(value, str)):
        long = given and (len(value) > LONGEST_LINE or "\n" in value)
        return "text" if long else "line"
    items = schema.get("items")
    texts = isinstance(items, dict) and items.get("type") == "string"
    if wanted == "array" and texts:
        lines = value if given else []
        if isinstance(lines, list) and all(isinstance(x, str) and _is_line(x) for x in lines):
            return "lines"
    return "json"


def _is_line(text: str) -> bool:
    """Whether it comes back the same when it is written on a line of its own."""
    return bool(text) and text == text.strip() and text.splitlines() == [text]


def _write_json(value: Any) -> str:
    """JSON in which nothing is hidden and nothing steers the terminal."""
    try:
        text = json.dumps(value, ensure_ascii=False, indent=2, default=str)
    except (ValueError, RecursionError):
        text = json.dumps(repr(value)[:LONGEST_LINE])
    return _spell_out(text)


def _spell_out(text: str) -> str:
    """What steers the terminal or cannot be seen, as one writes it in JSON."""
    return UNSEEN.sub(_escape, STEERING.sub(_escape, text))


def _escape(found: re.Match[str]) -> str:
    return json.dumps(found[0])[1:-1] if ord(found[0]) > 0x7F else f"\\u{ord(found[0]):04x}"


def _seen(text: str) -> str:
    """A text without what nobody would see; what is allowed then is what is seen."""
    return UNSEEN.sub("", printable(text))


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _read_number(text: str, *, whole: bool) -> int | float:
    if re.fullmatch(r"[+-]?\d{1,400}", text, re.ASCII):
        return int(text)
    if whole:
        raise ToolError("a whole number is needed here")
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?", text, re.ASCII | re.IGNORECASE):
        number = float(text)
        if abs(number) != float("inf"):
            return number
    raise ToolError("a number is needed here")


class Choice(Select[int], inherit_bindings=False):
    """One of several values; the keys for up and down stay with what is around it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter,space",
            "show_overlay",
            "Choose",
            id="field.choose",
            show=False,
            tooltip="Show what there is to choose from; typing finds in it",
        ),
    ]


class Field(Vertical):
    """One argument: its name, what it is, and beneath it why that cannot be.

    Args:
        label: the argument's name.
        schema: its own.
        root: the schema around it, where references lead.
        value: as the call has it, or ``LEFT_OUT``.
        required: whether the call needs it.
        indent: cells in front of what is written.
    """

    class Changed(Message):
        """The person changed it."""

    def __init__(
        self,
        label: str,
        schema: Any,
        root: Mapping[str, Any],
        value: Any,
        *,
        required: bool,
        indent: int = 16,
    ) -> None:
        super().__init__()
        self.label = label
        self._schema, self._takes_null = _resolve(schema, root)
        self._value = value
        self._required = required
        self.kind = _kind_of(self._schema, value)
        self._choices: list[Any] = []
        self._shown = self._write()
        self._editor = self._make_editor()
        help = self._schema.get("description")
        if isinstance(help, str):
            self._editor.tooltip = Content(printable(help)[:LONGEST_LINE])
        name = printable(label).replace("\n", " ")
        self._title = Static(name, classes="name", markup=False)
        self._title.styles.width = indent
        self._why = Static(classes="why", markup=False)
        self._why.styles.padding = (0, 0, 0, indent)
        self._why.display = False

    def compose(self) -> ComposeResult:
        with Horizontal():
            yield self._title
            yield self._editor
        yield self._why

    # ---------------------------------------------------------------- value to text

    def _write(self) -> str:
        """The value as it is shown at first."""
        value, kind = self._value, self.kind
        if value is LEFT_OUT or (value is None and kind != "json"):
            return ""
        if kind == "lines":
            return _seen("\n".join(value))
        return _write_json(value) if kind == "json" else _seen(str(value))

    def _make_editor(self) -> Input | TextArea | Choice:
        if self.kind in ("choice", "switch"):
            return self._make_choice()
        if self.kind in ("integer", "number", "line"):
            line = Line(self._shown, max_length=0)
            line.placeholder = "" if self._required else "left out"
            return line
        return TextArea(
            self._shown, soft_wrap=True, compact=True, tab_behavior="focus", show_line_numbers=False
        )

    def _make_choice(self) -> Choice:
        is_switch = self.kind == "switch"
        self._choices = [True, False] if is_switch else list(self._schema["enum"])
        names = {True: "yes", False: "no"} if is_switch else {}
        options = []
        for number, value in enumerate(self._choices):
            said = names[value] if is_switch else value if isinstance(value, str) else str(value)
            text = _spell_out(said).replace("\n", "\\n").replace("\t", "\\t")
            options.append((Text(text, no_wrap=True, overflow="ellipsis"), number))
        given = self._value in self._choices if self._value is not LEFT_OUT else False
        return Choice(
            options,
            value=self._choices.index(self._value) if given else Select.NULL,
            prompt="choose" if self._required else "left out",
            allow_blank=not (given and self._required),
            compact=True,
        )

    # ---------------------------------------------------------------- text to value

    @property
    def _text(self) -> str:
        editor = self._editor
        assert not isinstance(editor, Select)
        return editor.value if isinstance(editor, Input) else editor.text

    @property
    def is_changed(self) -> bool:
        """Whether what is shown is not what the call has."""
        if isinstance(self._editor, Select):
            return self._chosen is not self._value and self._chosen != self._value
        return self._text != self._shown or not self._is_faithful

    @property
    def _is_faithful(self) -> bool:
        """Whether everything of the value can be seen; what cannot be seen is never allowed."""
        if isinstance(self._value, str) and self.kind in ("line", "text"):
            return self._shown == self._value
        if self.kind == "lines" and isinstance(self._value, list):
            return self._shown == "\n".join(self._value)
        return True

    @property
    def _chosen(self) -> Any:
        assert isinstance(self._editor, Select)
        at = self._editor.selection
        return LEFT_OUT if at is None else self._choices[at]

    def read(self) -> Any:
        """The value as it is now, or ``LEFT_OUT``.

        Raises:
            ToolError: why it is none.
        """
        if not self.is_changed:
            value = self._value
        elif isinstance(self._editor, Select):
            value = self._chosen
        else:
            value = self._parse(_seen(self._text))
        if value is LEFT_OUT and self._required:
            raise ToolError("this is needed")
        return value

    def _parse(self, text: str) -> Any:
        if not text.strip() and not (self.kind in ("line", "text", "lines") and self._required):
            return None if self._takes_null and self._required else LEFT_OUT
        match self.kind:
            case "integer" | "number":
                return _read_number(text.strip(), whole=self.kind == "integer")
            case "lines":
                return [line.strip() for line in text.splitlines() if line.strip()]
            case "json":
                try:
                    return json.loads(text, parse_constant=_refuse)
                except json.JSONDecodeError as error:
                    what = error.msg[:1].lower() + error.msg[1:]
                    raise ToolError(f"this is not JSON: {what}, line {error.lineno}") from None
                except (ValueError, RecursionError):
                    raise ToolError("this is not JSON that can be used") from None
        return text

    def say_why(self, why: str) -> None:
        """Show why the value cannot be; an empty text takes that back."""
        self._why.update(printable(why).replace("\n", " "))
        self._why.display = bool(why)

    @property
    def is_wrong(self) -> bool:
        """Whether it says why its value cannot be."""
        return bool(self._why.display)

    def enter(self) -> None:
        """Begin to write here."""
        self._editor.focus()

    @on(Input.Changed)
    @on(TextArea.Changed)
    @on(Select.Changed)
    def pass_on(self, event: Message) -> None:
        event.stop()
        self.post_message(self.Changed())


def make_fields(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> list[Field]:
    """A field for every argument that is given or could be."""
    known = schema.get("properties")
    known = known if isinstance(known, dict) else {}
    needed = schema.get("required")
    needed = needed if isinstance(needed, list) else []
    names = [*known, *(name for name in arguments if name not in known)]
    indent = min(LONGEST_NAME, max(map(len, names), default=0)) + 2
    return [
        Field(
            name,
            known.get(name),
            schema,
            arguments.get(name, LEFT_OUT),
            required=name in needed,
            indent=indent,
        )
        for name in names
    ]
