"""Typed functions as tools: the schema out of the signature, the words out of the docstring."""

from __future__ import annotations

import inspect
import re
import threading
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, overload

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.tools.bounds import bounded
from mobilellm_mlx.tools.tool import (
    DEFAULT_TIMEOUT_S,
    Example,
    Heard,
    Live,
    Run,
    Scope,
    Tool,
)

if TYPE_CHECKING:
    from msgspec import Meta as Limits

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_SUPPORTED = (
    "str, int, float, bool, Literal, Enum, list, Optional, dataclasses of these, and Annotated "
    "with Limits"
)


def __getattr__(name: str) -> Any:
    """``Limits``, when it is asked for: msgspec takes a while to import."""
    if name == "Limits":
        from msgspec import Meta

        return Meta
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["Limits", "result_text", "tool", "tool_from"]


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...
@overload
def tool(**flags: Any) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(function: Callable[..., Any] | None = None, /, **flags: Any) -> Any:
    """Make a tool of a typed function, as a decorator with or without arguments.

    Args:
        function: see ``tool_from``.
        **flags: the other arguments of ``tool_from``.

    Raises:
        ToolError: see ``tool_from``.
    """
    if function is not None:
        return tool_from(function, **flags)
    return lambda decorated: tool_from(decorated, **flags)


def tool_from(
    function: Callable[..., Any],
    *,
    name: str = "",
    description: str = "",
    reads_only: bool = False,
    source: str = "builtin",
    live: Mapping[str, Live] | None = None,
    spoken: Iterable[str] = (),
    heard: Mapping[str, Heard] | None = None,
    cues: Mapping[str, str] | None = None,
    answers: bool = False,
    examples: Iterable[Example] = (),
    keywords: Iterable[str] = (),
    describe: Callable[[Mapping[str, Any]], str] | None = None,
    scope: Callable[[Mapping[str, Any]], Scope] | None = None,
    check: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    missing: str = "",
) -> Tool:
    """A tool that runs a typed function.

    The function's name is the tool's, the first sentence of its docstring the description, and what
    ``Args:`` says about a parameter describes the argument. A parameter of type ``threading.Event``
    is no argument: it is given the flag that is set when nobody waits any more.

    Args:
        function: has a type for every parameter. Returns text, or what JSON can say.
        name: instead of the function's.
        description: instead of the docstring's.
        reads_only: see ``Tool``, as for the rest.

    Raises:
        ToolError: when the function cannot be a tool, naming the function and the parameter.
    """
    name = name or getattr(function, "__name__", "")
    if not _NAME.fullmatch(name):
        raise ToolError(
            f"`{name[:80]}` cannot be the name of a tool",
            "use lower-case letters, digits and _, beginning with a letter, at most 64",
        )
    signature = _Signature(function, name)
    summary, told = _docstring(function)
    if not (description or summary):
        raise ToolError(
            f"the tool `{name}` has no docstring", "its first sentence tells the model what it does"
        )
    live, heard, cues, spoken = live or {}, heard or {}, cues or {}, frozenset(spoken)
    named = {"live": live, "spoken": spoken, "heard": heard, "cues": cues}
    for what, names in named.items():
        if unknown := [each for each in names if each not in signature.types]:
            raise ToolError(f"the tool `{name}` has no parameter `{unknown[0]}`, named in `{what}`")
    _check_cues(name, signature, cues)
    optional: dict[str, Any] = {"scope": scope} if scope else {}
    return Tool(
        name,
        description or summary,
        bounded(signature.schema(told)),
        signature.run(),
        reads_only=reads_only,
        source=source,
        live=dict(live),
        spoken=spoken,
        heard=dict(heard),
        cues=dict(cues),
        answers=answers,
        examples=tuple(examples),
        keywords=tuple(keywords),
        describe=describe,
        check=check,
        timeout_s=timeout_s,
        missing=missing,
        **optional,
    )


def _check_cues(tool: str, signature: _Signature, cues: Mapping[str, str]) -> None:
    for name, cue in cues.items():
        if not signature.may_leave_out(name):
            raise ToolError(f"`{name}` of the tool `{tool}` has a cue, but is always needed")
        try:
            re.compile(cue)
        except re.error as error:
            raise ToolError(
                f"the cue of `{name}` of the tool `{tool}` is no regular expression: {error}"
            ) from None


class _Signature:
    """A function's parameters, as types and as a schema."""

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self._function, self._name = function, name
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise ToolError(f"the tool `{name}` is asynchronous", "write it with `def`")
        try:
            parameters = inspect.signature(function).parameters
            hints = typing.get_type_hints(function, include_extras=True)
        except Exception as error:  # an annotation may be any text
            raise ToolError(f"the types of the tool `{name}` cannot be read: {error}") from None
        self._flag = ""
        self.types: dict[str, Any] = {}
        self._defaults: dict[str, Any] = {}
        for parameter in parameters.values():
            self._add(parameter, hints)

    def _add(self, parameter: inspect.Parameter, hints: Mapping[str, Any]) -> None:
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ToolError(
                f"the parameter `{parameter.name}` of the tool `{self._name}` has no name to call "
                "it by",
                "tools take no *args, no **kwargs and nothing before a /",
            )
        if parameter.name not in hints:
            raise ToolError(
                f"the parameter `{parameter.name}` of the tool `{self._name}` has no type",
                f"supported are {_SUPPORTED}",
            )
        if hints[parameter.name] is threading.Event:
            self._flag = parameter.name
            return
        self.types[parameter.name] = hints[parameter.name]
        if parameter.default is not parameter.empty:
            self._defaults[parameter.name] = parameter.default

    def may_leave_out(self, name: str) -> bool:
        """Whether a parameter has a default."""
        return name in self._defaults

    def schema(self, told: Mapping[str, str]) -> dict[str, Any]:
        """JSON Schema of the arguments, with descriptions out of the docstring."""
        import msgspec

        properties: dict[str, Any] = {}
        for name, hint in self.types.items():
            where = f"the parameter `{name}` of the tool `{self._name}`"
            node: dict[str, Any] = {"description": told[name]} if name in told else {}
            try:
                info = msgspec.inspect.type_info(hint)
            except Exception:  # msgspec and typing raise what they like about odd annotations
                raise _unsupported(where, hint) from None
            made = _SchemaMaker(where).make(info)
            default = self._defaults.get(name, msgspec.NODEFAULT)
            if default is None:
                made = _without_null(made)
            elif default is not msgspec.NODEFAULT:
                try:
                    made["default"] = msgspec.to_builtins(msgspec.convert(
                        msgspec.to_builtins(default), hint
                    ))  # fmt: skip
                except (msgspec.ValidationError, TypeError) as error:
                    raise ToolError(
                        f"the default of {where.removeprefix('the ')} is not of its type: {error}"
                    ) from None
            properties[name] = node | made
        required = [name for name in properties if name not in self._defaults]
        return {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }

    def run(self) -> Run:
        """Calls the function with typed values; what it returns becomes text."""

        def run(arguments: Mapping[str, Any], cancel: threading.Event) -> str:
            import msgspec

            values: dict[str, Any] = {self._flag: cancel} if self._flag else {}
            for name, value in arguments.items():
                if name not in self.types:
                    raise ToolError(f"`{self._name}` takes no `{name}`")
                try:
                    values[name] = msgspec.convert(value, self.types[name])
                except msgspec.ValidationError as error:
                    raise ToolError(f"`{name}` of `{self._name}`: {error}") from None
            if missing := [n for n in self.types if n not in values and n not in self._defaults]:
                raise ToolError(f"`{self._name}` needs `{missing[0]}`")
            return result_text(self._function(**values))

        return run


class _SchemaMaker:
    """A schema of one parameter, with nothing to look up elsewhere."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._open: list[type] = []

    def make(self, info: Any) -> dict[str, Any]:
        """The schema of a type that msgspec has described."""
        from msgspec import inspect as kinds

        match info:
            case kinds.Metadata():
                return self.make(info.type) | dict(info.extra_json_schema or {})
            case kinds.StrType():
                limits = {"minLength": info.min_length, "maxLength": info.max_length}
                return _filled("string", limits | {"pattern": info.pattern})
            case kinds.BoolType():
                return {"type": "boolean"}
            case kinds.IntType():
                return _number("integer", info)
            case kinds.FloatType():
                return _number("number", info)
            case kinds.NoneType():
                return {"type": "null"}
            case kinds.LiteralType():
                return {"enum": list(info.values)}
            case kinds.EnumType():
                return {"enum": [member.value for member in info.cls]}
            case kinds.ListType():
                limits = {"minItems": info.min_length, "maxItems": info.max_length}
                return _filled("array", {"items": self.make(info.item_type)} | limits)
            case kinds.UnionType():
                return {"anyOf": [self.make(each) for each in info.types]}
            case kinds.DataclassType():
                return self._object(info)
        raise _unsupported(self._where, getattr(info, "cls", None) or type(info).__name__)

    def _object(self, info: Any) -> dict[str, Any]:
        import msgspec

        if info.cls in self._open:
            raise ToolError(
                f"{self._where} is of a type that holds itself, `{info.cls.__name__}`",
                "a call must come to an end; use a list of something simpler",
            )
        self._open.append(info.cls)
        properties = {}
        for each in info.fields:
            made = self.make(each.type)
            if each.default is None:
                made = _without_null(made)
            elif each.default is not msgspec.NODEFAULT:
                made["default"] = msgspec.to_builtins(each.default)
            properties[each.encode_name] = made
        self._open.pop()
        return {
            "type": "object",
            "properties": properties,
            "required": [each.encode_name for each in info.fields if each.required],
            "additionalProperties": False,
        }


def _filled(kind: str, keys: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": kind} | {key: value for key, value in keys.items() if value is not None}


def _number(kind: str, info: Any) -> dict[str, Any]:
    lower = "exclusiveMinimum" if info.gt is not None else "minimum"
    upper = "exclusiveMaximum" if info.lt is not None else "maximum"
    least = info.gt if info.gt is not None else info.ge
    most = info.lt if info.lt is not None else info.le
    return _filled(kind, {lower: least, upper: most, "multipleOf": info.multiple_of})


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """What may be left out need not be said as null."""
    others = [each for each in schema.get("anyOf", []) if each != {"type": "null"}]
    if not others:
        return schema
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    return (others[0] if len(others) == 1 else {"anyOf": others}) | rest


def _unsupported(where: str, hint: Any) -> ToolError:
    shown = getattr(hint, "__name__", None) or str(hint)
    return ToolError(f"{where} is of a type that tools do not take: {shown}",
                     f"supported are {_SUPPORTED}")  # fmt: skip


# ---------------------------------------------------------------- words

_SECTION = re.compile(r"(Args|Arguments|Returns|Raises|Yields|Examples?|Notes?|Attributes):\s*$")
_ARGUMENT = re.compile(r"\*{0,2}(\w+)(?:\s*\([^)]*\))?:\s*(.*)")
_SENTENCE = re.compile(r"(.+?[.!?])(?=\s+[^a-z\s]|\s*$)", re.DOTALL)


def _docstring(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """The first sentence of a docstring, and what its ``Args:`` says about each parameter."""
    lines = (inspect.getdoc(function) or "").splitlines()
    opening: list[str] = []
    told: dict[str, str] = {}
    section, indent, current = "", 0, ""
    for line in lines:
        text = line.strip()
        deep = len(line) - len(line.lstrip())
        if heading := _SECTION.match(line):
            section, indent = heading[1], 0
        elif not section:
            opening.append(text)
        elif section.startswith("Arg") and text:
            indent = indent or deep
            if deep <= indent and (found := _ARGUMENT.match(text)):
                current = found[1]
                told[current] = found[2]
            elif current:
                told[current] = f"{told[current]} {text}".strip()
    said = "\n".join(opening).strip().partition("\n\n")[0]
    sentence = _SENTENCE.match(said)
    return " ".join((sentence[1] if sentence else said).split()), told


def result_text(value: Any) -> str:
    """What a function returned, as a model reads it.

    Raises:
        ToolError: when it is bytes or something else that JSON cannot say.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return "done"
    if isinstance(value, bytes | bytearray | memoryview):
        raise ToolError("the tool gave binary data, not text")
    import msgspec

    try:
        return msgspec.json.encode(value).decode()
    except Exception as error:  # whatever encoding something foreign leads to
        kind = type(value).__name__
        raise ToolError(f"the tool gave a {kind}, which is no text: {error}") from None
