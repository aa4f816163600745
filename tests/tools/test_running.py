"""A call ends in time, and says no more than a model can read; nothing it does raises."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilellm_mlx.errors import StorageError, ToolError
from mobilellm_mlx.plain import STEERING
from mobilellm_mlx.tools.running import clean_text, run_tool
from mobilellm_mlx.tools.tool import MAX_RESULT, Outcome, Tool

SCHEMA = {"type": "object", "properties": {}}


def outcome(run: Any, *, cancel: threading.Event | None = None, **more: Any) -> Outcome:
    return run_tool(Tool("act", "Act.", SCHEMA, run, **more), {}, cancel or threading.Event())


def says(text: Any) -> Callable[[Mapping[str, Any], threading.Event], Any]:
    return lambda arguments, cancel: text


def fails(error: BaseException) -> Callable[[Mapping[str, Any], threading.Event], str]:
    def run(_: Mapping[str, Any], __: threading.Event) -> str:
        raise error

    return run


class Silent(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


def test_a_result_is_text_and_took_some_time() -> None:
    done = outcome(says("51"))
    assert (done.status, done.text, done.is_shortened) == ("ok", "51", False)
    assert 0 < done.elapsed_s < 5


def test_nothing_is_said_to_be_nothing() -> None:
    assert outcome(says("")).text == "(nothing)"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ToolError("there is no note `x`", "look again"), "there is no note `x`"),
        (StorageError("the disk is full"), "the disk is full"),
        (ValueError("two\nlines\x1b[31m"), "`act` failed: ValueError: two lines"),
        (ValueError("x" * 10_000), f"`act` failed: ValueError: {'x' * 299}…"),
        (KeyError("k"), "`act` failed: KeyError: 'k'"),
        (RecursionError(), "`act` failed: RecursionError"),
        (SystemExit(3), "`act` failed: SystemExit: 3"),
        (KeyboardInterrupt(), "`act` failed: KeyboardInterrupt"),
        (Silent(), "`act` failed: Silent"),
    ],
)
def test_whatever_a_tool_raises_is_a_sentence(error: BaseException, text: str) -> None:
    done = outcome(fails(error))
    assert (done.status, done.text) == ("failed", text)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (b"bytes", "`act` gave no text but bytes"),
        (None, "`act` gave no text but NoneType"),
        ("a\x00b", "`act` gave binary data, not text"),
        ("\ufffd\x01\x02PNG", "`act` gave binary data, not text"),
    ],
)
def test_what_is_no_text_is_refused(given: Any, text: str) -> None:
    done = outcome(says(given))
    assert (done.status, done.text) == ("failed", text)


def test_a_tool_that_cannot_be_used_here_is_not_run() -> None:
    done = outcome(fails(AssertionError("it ran")), missing="only on macOS")
    assert (done.status, done.text) == ("unavailable", "only on macOS")


def test_a_tool_that_hangs_is_left_behind_and_told_so() -> None:
    told = threading.Event()

    def hang(_: Mapping[str, Any], cancel: threading.Event) -> str:
        cancel.wait(10)
        told.set()
        return "late"

    done = outcome(hang, timeout_s=0.1)
    said = "`act` gave nothing within 0.1 s; what it had begun may be done all the same"
    assert (done.status, done.text) == ("timeout", said)
    assert told.wait(5)


def test_who_cancels_does_not_wait() -> None:
    cancel, begun, over = threading.Event(), threading.Event(), threading.Event()

    def deaf(_: Mapping[str, Any], __: threading.Event) -> str:
        begun.set()
        over.wait(10)
        return "late"

    def stop() -> None:
        nonlocal at
        begun.wait(5)
        at = time.perf_counter()
        cancel.set()

    at = 0.0
    stopper = threading.Thread(target=stop)
    stopper.start()
    done = outcome(deaf, cancel=cancel)
    waited_s = time.perf_counter() - at
    over.set()
    stopper.join()
    said = "`act` was stopped; what it had begun may be done all the same"
    assert (done.status, done.text) == ("cancelled", said)
    assert waited_s < 0.5  # about 20 ms on a machine that does nothing else


def test_who_cancels_in_time_has_nothing_begun() -> None:
    cancel = threading.Event()
    cancel.set()
    done = outcome(fails(AssertionError("it ran")), cancel=cancel)
    assert (done.status, done.text) == ("cancelled", "`act` was not begun")


def test_the_flag_of_the_turn_is_not_the_tools_to_set() -> None:
    def run(_: Mapping[str, Any], cancel: threading.Event) -> str:
        cancel.set()
        return "x"

    cancel = threading.Event()
    outcome(run, cancel=cancel)
    assert not cancel.is_set()


def test_a_hundred_megabytes_are_not_copied() -> None:
    big = "x" * 100_000_000
    tracemalloc.start()
    done = outcome(says(big))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert done.is_shortened
    assert len(done.text) <= MAX_RESULT
    assert done.text.endswith("\n[cut here: the result is longer]")
    assert peak < 2_000_000


def test_what_fits_exactly_is_not_cut() -> None:
    assert clean_text("x" * MAX_RESULT) == ("x" * MAX_RESULT, False)
    assert clean_text("x" * (MAX_RESULT + 1))[1]


def test_what_steers_a_terminal_is_gone() -> None:
    said = "\x1b[31mred\x1b[0m \x1b]0;title\x07a\x9b2Jb\u202ec\r\nd\te"
    assert clean_text(said) == ("red abc\nd\te", False)


def test_a_character_of_several_is_not_cut_in_half() -> None:
    family, flag = "\U0001f469\u200d\U0001f467", "e\u0301"
    for many in (family, flag):
        text, is_cut = clean_text(many * 100, 60)
        kept = text.partition("\n[cut")[0]
        assert is_cut and kept and kept == many * (len(kept) // len(many))


@given(st.text(st.characters(exclude_categories=()), max_size=200), st.integers(40, 100))
def test_cleaned_text_is_short_plain_and_encodable(text: str, limit: int) -> None:
    cleaned, is_cut = clean_text(text, limit)
    assert len(cleaned) <= limit
    assert not STEERING.search(cleaned)
    cleaned.encode()
    assert is_cut or len(text) <= 4 * limit


# ---------------------------------------------------------------- what it may have done


AFTERMATH = "; what it had begun may be done all the same"


@pytest.mark.parametrize(
    ("more", "gives_up", "is_told"),
    [
        ({}, False, True),
        ({"reads_only": True}, False, False),
        ({}, True, False),
        ({"source": "mcp:odd"}, True, True),
        ({"source": "mcp:odd", "reads_only": True}, True, False),
        ({"source": "file:/srv/my_tools.py"}, True, False),
    ],
    ids=["writes", "reads", "has left off", "a server", "a server reads", "a file"],
)
@pytest.mark.parametrize("end", ["timeout", "cancelled"])
def test_what_a_call_may_still_do_is_told_unless_it_has_surely_left_off(
    more: dict[str, Any], gives_up: bool, is_told: bool, end: str
) -> None:
    over, cancel = threading.Event(), threading.Event()

    def act(_: Mapping[str, Any], stop: threading.Event) -> str:
        if end == "cancelled":
            cancel.set()
        if gives_up:
            stop.wait(10)
            raise ToolError("it was stopped")
        over.wait(10)
        return "late"

    done = outcome(act, cancel=cancel, timeout_s=0.05 if end == "timeout" else 10, **more)
    over.set()
    assert done.status == end
    assert done.text.endswith(AFTERMATH) is is_told


def test_a_call_that_was_done_all_the_same_is_told_of() -> None:
    def act(_: Mapping[str, Any], stop: threading.Event) -> str:
        stop.wait(10)
        return "done"

    assert outcome(act, timeout_s=0.05).text.endswith(AFTERMATH)
