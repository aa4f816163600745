"""Programs in processes of their own: what they may say, and what becomes of those that do not."""

import os
import sys
from collections.abc import Iterator

import pytest

from mobilellm_mlx.benchmark.wire import Child, number, numbers, pinned
from mobilellm_mlx.errors import EngineError

ECHO = """
import json, os, sys
print(json.dumps({"hello": os.environ.get("OPENBLAS_NUM_THREADS")}), flush=True)
for line in sys.stdin:
    print(json.dumps({"got": json.loads(line)}), flush=True)
"""


def started(code: str, **options: object) -> Child:
    options = {"limit_s": 20.0, **options}
    return Child("the peer", [sys.executable, "-c", code], **options)  # type: ignore[arg-type]


@pytest.fixture
def echo() -> Iterator[Child]:
    child = started(ECHO, threads=1)
    yield child
    child.close()


def test_it_greets_and_then_answers_what_it_is_asked(echo: Child) -> None:
    assert echo.greeting == {"hello": "1"}
    assert echo.ask("run", prompt=[1, 2]) == {"got": {"do": "run", "prompt": [1, 2]}}
    assert echo.ask("end") == {"got": {"do": "end"}}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("print('welcome!')", "what is no answer: 'welcome!'"),
        ("print('[1, 2]')", "what is no answer: '[1, 2]'"),
        ("print('[' * 200_000)", "what is no answer"),
        ("""print('{"error": "it is too large"}')""", "the peer: it is too large"),
        ("raise SystemExit(3)", "the peer ended: exit 3"),
        ("raise ValueError('no such file')", "the peer ended: ValueError: no such file"),
        ("import os; os.write(1, bytes([255, 254, 10]))", "what is no answer"),
    ],
)
def test_one_that_does_not_answer_is_a_sentence(code: str, said: str) -> None:
    with pytest.raises(EngineError) as caught:
        started(code)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_one_that_hangs_is_not_waited_for() -> None:
    with pytest.raises(EngineError, match="no answer within 1 s"):
        started("import time; time.sleep(60)", limit_s=1.0)


def test_one_that_dies_while_it_is_asked_is_a_sentence() -> None:
    child = started("print('{}', flush=True); input(); raise MemoryError('all of it')")
    try:
        with pytest.raises(EngineError, match="ended: MemoryError: all of it"):
            child.ask("run")
        with pytest.raises(EngineError):
            child.ask("run")
    finally:
        child.close()


def test_a_program_that_is_not_there_is_a_sentence() -> None:
    with pytest.raises(EngineError, match="cannot be started: `/nowhere/python`"):
        Child("the peer", ["/nowhere/python"])


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen here")
def test_a_child_gets_as_many_cores_as_threads_and_we_keep_ours() -> None:
    before = os.sched_getaffinity(0)
    with pinned(1):
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("value", [None, "1", True, float("nan"), float("inf"), -1, [1]])
def test_what_is_no_measurement_is_refused(value: object) -> None:
    with pytest.raises(EngineError, match="the peer said"):
        number({"ttft_s": value}, "ttft_s", "the peer")


@pytest.mark.parametrize("values", [None, [], [1.0], "ab", {"a": 1}])
def test_a_list_must_be_as_long_as_what_was_asked_for(values: object) -> None:
    with pytest.raises(EngineError, match="expected 2"):
        numbers({"token_s": values}, "token_s", "the peer", 2)
