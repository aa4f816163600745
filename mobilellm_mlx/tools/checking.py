"""Arguments against a schema, whoever wrote either of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from fractions import Fraction
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from mobilellm_mlx.errors import MobileLLMError, ToolError
from mobilellm_mlx.plain import printable
from mobilellm_mlx.tools.bounds import FINEST
from mobilellm_mlx.tools.tool import Tool

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError
    from llguidance import LLTokenizer

MAX_ARGUMENTS = 100_000
"""Characters of all arguments of a call as JSON."""
_MAX_DEPTH = 32
_MAX_REFERENCES = 2_000
"""References that are followed in one check; a few that double each other could take for ever."""
_MAX_SHOWN = 60

_KINDS = {
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "nothing",
}
_LIMITS = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "exclusiveMinimum": "more than {}",
    "exclusiveMaximum": "less than {}",
    "multipleOf": "a multiple of {}",
    "minLength": "a text of at least {} characters",
    "maxLength": "a text of at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "pattern": "a text that matches {}",
    "const": "{}",
}


def check_arguments(
    tool: Tool, arguments: object, schema: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The arguments as the tool takes them: checked by its schema, then by itself.

    Args:
        tool: that is to be called.
        arguments: from a model, a file or a person.
        schema: instead of the tool's own, with live values in it.

    Raises:
        ToolError: names the argument, its value and what was expected.
    """
    if not isinstance(arguments, Mapping):
        raise ToolError(f"the arguments of `{tool.name}` are {_shown(arguments)}, not an object")
    plain = {_name(name): _plain(value, _name(name), 0) for name, value in arguments.items()}
    if len(json.dumps(plain)) > MAX_ARGUMENTS:
        raise ToolError(
            f"the arguments of `{tool.name}` are longer than {MAX_ARGUMENTS:,} characters"
        )
    schema = schema or tool.parameters
    if error := _first_error(tool, schema, plain):
        raise error
    checked: dict[str, Any] = _with_whole_numbers(plain, schema)
    if tool.check is None:
        return checked
    try:
        return dict(tool.check(checked))
    except MobileLLMError:
        raise
    except Exception as error:
        raise ToolError(f"`{tool.name}` could not check its arguments: {error}") from error


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise ToolError(f"{_shown(name)} is not the name of an argument")
    return name


def _plain(value: Any, where: str, depth: int) -> Any:
    """A copy of a value that JSON can say; anything else is refused."""
    if depth > _MAX_DEPTH:
        raise ToolError(f"`{_cut(where)}` is nested more than {_MAX_DEPTH} deep")
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise ToolError(f"`{_cut(where)}` is no valid text: it holds half a character")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ToolError(f"`{_cut(where)}` is {value}, expected a finite number")
        return value
    if isinstance(value, list | tuple):
        return [_plain(each, f"{where}[{at}]", depth + 1) for at, each in enumerate(value)]
    if isinstance(value, Mapping):
        return {
            _name(name): _plain(each, f"{where}.{name}", depth + 1) for name, each in value.items()
        }
    raise ToolError(f"`{_cut(where)}` is of type {type(value).__name__}, which JSON cannot say")


def _with_whole_numbers(value: Any, schema: Any) -> Any:
    """``3.0`` as ``3`` where a whole number is meant: to JSON Schema they are the same."""
    if not isinstance(schema, Mapping):
        return value
    if isinstance(value, float) and schema.get("type") == "integer":
        return int(value)
    if isinstance(value, dict) and isinstance(named := schema.get("properties"), Mapping):
        return {name: _with_whole_numbers(each, named.get(name)) for name, each in value.items()}
    if isinstance(value, list):
        return [_with_whole_numbers(each, schema.get("items")) for each in value]
    return value


# ---------------------------------------------------------------- the validator


def _first_error(
    tool: Tool, schema: Mapping[str, Any], arguments: dict[str, Any]
) -> ToolError | None:
    """What is wrong with the arguments first of all, in words."""
    from jsonschema.exceptions import best_match
    from referencing import Registry

    try:
        # An empty registry fetches nothing: a schema of somebody else may name any address.
        validator = _validator()(_without_patterned_names(schema), registry=Registry())
        error = best_match(validator.iter_errors(arguments))
        return None if error is None else _explained(tool, error)
    except Exception as error:  # a schema of somebody else may be wrong in any way
        kind = "endless" if isinstance(error, RecursionError | _Endless) else "malformed"
        raise ToolError(
            f"the schema of `{tool.name}` is {kind}, so its arguments cannot be checked",
            f"it comes from {tool.source}",
        ) from error


class _Endless(Exception):
    """References that lead to references, too many of them."""


def _validator() -> Any:
    """Draft 2020-12, except where a hostile schema could keep it busy; counts references."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    followed = 0
    follow = Draft202012Validator.VALIDATORS["$ref"]

    def reference(validator: Any, ref: Any, instance: Any, schema: Any) -> Iterator[Any]:
        nonlocal followed
        followed += 1
        if followed > _MAX_REFERENCES:
            raise _Endless
        yield from follow(validator, ref, instance, schema) or ()

    return extend(  # type: ignore[no-untyped-call]
        Draft202012Validator,
        {"pattern": _pattern, "multipleOf": _multiple, "$ref": reference, "$dynamicRef": reference},
    )


def _pattern(validator: Any, pattern: Any, instance: Any, _: Any) -> Iterator[ValidationError]:
    from jsonschema.exceptions import ValidationError

    if validator.is_type(instance, "string") and not matches(str(pattern), instance):
        yield ValidationError("no match")


def _multiple(validator: Any, step: Any, instance: Any, _: Any) -> Iterator[ValidationError]:
    """As it is written: 0.3 is a multiple of 0.1, though its float is not."""
    from jsonschema.exceptions import ValidationError

    # The finest step is there for models alone, which would write decimals without end.
    if not validator.is_type(instance, "number") or step == FINEST:
        return
    if Fraction(repr(instance)) % Fraction(repr(step)):
        yield ValidationError("no multiple")


def _without_patterned_names(schema: Any) -> Any:
    """A schema without patterns for names, which are matched in a way that can be kept busy."""
    if isinstance(schema, Mapping):
        drop = {"patternProperties"}
        if "patternProperties" in schema:
            drop |= {"additionalProperties", "unevaluatedProperties"}
        return {k: _without_patterned_names(v) for k, v in schema.items() if k not in drop}
    if isinstance(schema, list):
        return [_without_patterned_names(each) for each in schema]
    return schema


@lru_cache(maxsize=64)
def _matcher_source(pattern: str) -> str:
    from llguidance import LLMatcher

    return str(
        LLMatcher.grammar_from_json_schema(json.dumps({"type": "string", "pattern": pattern}))
    )


def matches(pattern: str, text: str) -> bool:
    """Whether a pattern of JSON Schema is found in a text, in time that grows with the text alone.

    Python's own expressions can take for ever over one hostile pattern, and nothing can stop them;
    the engine that binds answers matches without going back. What it cannot compile matches.
    """
    from llguidance import LLMatcher

    said = list(json.dumps(text, ensure_ascii=False).encode())
    try:
        matcher = LLMatcher(_bytes_tokenizer(), _matcher_source(pattern), log_level=0)
        if matcher.is_error():
            return True
        taken = matcher.try_consume_tokens(said)
        return bool(matcher.is_error()) or (taken == len(said) and bool(matcher.is_accepting()))
    except Exception:  # no opinion of its own: the tool will have one
        return True


class _Bytes:
    """A vocabulary in which every byte is a token."""

    eos_token_id = 256
    bos_token_id = None
    special_token_ids = (256,)
    tokens = (*(bytes([byte]) for byte in range(256)), b"\xff<end>")

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())


@cache
def _bytes_tokenizer() -> LLTokenizer:
    from llguidance import LLTokenizer
    from llguidance._tokenizer import TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_Bytes()))


# ---------------------------------------------------------------- words


def _explained(tool: Tool, error: ValidationError) -> ToolError:
    """A validator's error as one plain sentence."""
    where = _where(error.absolute_path)
    there = f"`{where}` of `{tool.name}`" if where else f"`{tool.name}`"
    wanted: Any = error.validator_value
    value: Any = error.instance
    match error.validator:
        case "required":
            missing = next((each for each in wanted if each not in value), "?")
            return ToolError(f"{there} needs `{_cut(str(missing))}`")
        case "additionalProperties" | "unevaluatedProperties":
            known = error.schema.get("properties", {}) if isinstance(error.schema, Mapping) else {}
            extra = _cut(next((str(each) for each in value if each not in known), "?"))
            return ToolError(f"{there} takes no `{extra}`", _near(extra, known))
        case "type":
            kinds = wanted if isinstance(wanted, list) else [wanted]
            expected = " or ".join(_KINDS.get(kind, str(kind)) for kind in kinds)
            return ToolError(f"{there} is {_shown(value)}, expected {expected}")
        case "enum":
            some = ", ".join(_shown(each) for each in wanted[:5])
            more = f" and {len(wanted) - 5} more" if len(wanted) > 5 else ""
            return ToolError(
                f"{there} is {_shown(value)}, expected one of {some}{more}",
                _near(value, wanted),
            )
        case str() as keyword if keyword in _LIMITS:
            expected = _LIMITS[keyword].format(_shown(wanted))
            return ToolError(f"{there} is {_shown(value)}, expected {expected}")
    return ToolError(
        f"{there} is {_shown(value)}, which its schema does not allow "
        f"(`{_cut(str(error.validator))}`)"
    )


def _where(path: Iterable[str | int]) -> str:
    said = ""
    for part in path:
        said += f"[{part}]" if isinstance(part, int) else f".{part}"
    return _cut(said.removeprefix("."))


def _near(word: object, known: Iterable[object]) -> str | None:
    close = get_close_matches(str(word)[:100], [str(each)[:100] for each in known], n=1)
    return f"did you mean `{printable(close[0])}`?" if close else None


def _shown(value: Any) -> str:
    """A value of any origin in a few words."""
    if isinstance(value, str):
        return f"`{_cut(value)}`"
    if value is None or isinstance(value, bool | int | float):
        return _cut(json.dumps(value))
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, list) else f"a {type(value).__name__}"


def _cut(text: str) -> str:
    line = printable(text[: 2 * _MAX_SHOWN]).replace("\n", " ")
    return line if len(line) <= _MAX_SHOWN else f"{line[: _MAX_SHOWN - 1]}…"
