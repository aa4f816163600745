"""Asking for calls: every mode with a scripted engine, and what is kept of the answers."""

import threading
from typing import Any

import pytest

from mobilellm_mlx.errors import ContextOverflow, InvalidOption
from mobilellm_mlx.evals.calls.asking import MODES, CallAnswerer, asking_settings, style_of
from mobilellm_mlx.evals.calls.case import Case, Gold
from mobilellm_mlx.evals.task import Request, Response
from mobilellm_mlx.testing import ScriptedEngine
from mobilellm_mlx.tools.asking import Offered
from mobilellm_mlx.tools.tool import Call, Tool

SCHEMA = {
    "type": "object",
    "properties": {"room": {"type": "string"}},
    "required": ["room"],
    "additionalProperties": False,
}
TOOL = Tool("light", "Set a light.", SCHEMA, run=lambda arguments, cancel: "")
REQUEST = Request(
    "r",
    Case("light in the hall", (Offered(TOOL, SCHEMA),), "The light is on"),
    Gold((Call("light", {"room": "hall"}),)),
)
CALL = {"name": "light", "arguments": {"room": "hall"}}
WRITTEN = '<tool_call>[{"name":"light","arguments":{"room":"hall"}}]</tool_call>'


def ask(mode: str, *answers: Any, request: Request = REQUEST, **changes: Any) -> dict[str, Any]:
    engine = ScriptedEngine(answers)
    list(engine.load())
    answerer = CallAnswerer(engine, style_of(mode), threading.Event(), **changes)
    (found,) = answerer([request])
    assert isinstance(found, Response)
    return found.values


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_makes_the_call(mode: str) -> None:
    answers = ("light", '{"room":"hall"}') if mode == "two-step" else (WRITTEN,)
    values = ask(mode, *answers)
    assert (values["calls"], values["error"], values["is_cut"]) == ([CALL], "", False)
    assert values["tokens"] > 0


def test_speech_is_no_call() -> None:
    values = ask("free", "I cannot do that.")
    assert (values["calls"], values["error"], values["raw"]) == ([], "", ["I cannot do that."])


def test_a_malformed_call_is_an_error_and_the_run_goes_on() -> None:
    values = ask("free", '<tool_call>[{"name":</tool_call>')
    assert values["error"].startswith("ToolError: ")
    assert values["calls"] == []


def test_a_prompt_that_does_not_fit_is_an_error_and_the_run_goes_on() -> None:
    values = ask("free", ContextOverflow(9000, 2048))
    assert values["error"].startswith("ContextOverflow: ")


def test_where_nothing_is_offered_the_model_is_not_asked() -> None:
    request = Request("r", Case("hello", ()), Gold())
    values = ask("two-step", RuntimeError("asked"), request=request)
    assert (values["calls"], values["tokens"]) == ([], 0)


def test_only_two_of_three_modes_are_bound() -> None:
    bound = {}
    for mode in MODES:
        engine = ScriptedEngine(["none"])
        list(engine.load())
        list(CallAnswerer(engine, style_of(mode), threading.Event())([REQUEST]))
        bound[mode] = engine.grammars[0] is not None
    assert bound == {"free": False, "one-step": True, "two-step": True}


def test_the_reply_follows_the_right_call() -> None:
    values = ask("free", WRITTEN, "The light is on.", reply=True)
    assert values["reply"] == "The light is on."
    assert "reply" not in ask("free", WRITTEN)


def test_a_stopped_request_has_no_response() -> None:
    engine = ScriptedEngine([WRITTEN])
    list(engine.load())
    cancel = threading.Event()
    cancel.set()
    assert list(CallAnswerer(engine, style_of("free"), cancel)([REQUEST])) == []


def test_settings_tell_how_it_is_asked() -> None:
    settings = {mode: asking_settings(mode, style_of(mode), [REQUEST]) for mode in MODES}
    assert len({one["asked"] for one in settings.values()}) == 3
    other = Request("r", Case("dark, please", REQUEST.payload.offered))
    assert asking_settings("free", style_of("free"), [other])["asked"] != settings["free"]["asked"]
    assert asking_settings("free", style_of("free"), [])["asked"] == ""


@pytest.mark.parametrize("mode", MODES[1:])
def test_a_schema_that_changed_is_asked_anew(mode: str) -> None:
    looser = {**SCHEMA, "required": []}
    other = Request("r", Case("light in the hall", (Offered(TOOL, looser),)))
    before, after = (asking_settings(mode, style_of(mode), [one]) for one in (REQUEST, other))
    assert before["asked"] != after["asked"]


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(InvalidOption, match="mode"):
        style_of("three-step")
