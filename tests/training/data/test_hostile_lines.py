"""Lines that were made to take long or to say much: they are refused soon, and in few words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from training.data.making import CHATML, load
from training.test_hostile_runs import promptly

from mobilellm_mlx.errors import DataError
from mobilellm_mlx.templates import ChatTemplate
from mobilellm_mlx.training.data.reading import parse_json
from mobilellm_mlx.training.data.rows import read_row


def refused(path: Path, line: str, **told: Any) -> DataError:
    (path / "data.jsonl").write_text(line + "\n", encoding="utf-8")
    with promptly(), pytest.raises(DataError) as caught:
        load(path / "data.jsonl", **told)
    assert caught.value.message.startswith("`data.jsonl:1`: ")
    return caught.value


def test_a_key_that_is_there_twice_is_found_among_very_many(tmp_path: Path) -> None:
    keys = ", ".join(f'"{number}": 0' for number in range(60_000))
    error = refused(tmp_path, f'{{{keys}, "twice": 0, "twice": 0}}')
    assert "the key `twice` is there twice" in error.message


def test_the_first_key_that_is_there_again_is_named() -> None:
    with pytest.raises(DataError, match="the key `b` is there twice"):
        parse_json('{"a": 0, "b": 0, "b": 1, "a": 1}')


def test_many_strange_keys_are_not_all_compared() -> None:
    row = {f"prompt_{number}_{number}zzzzzzzzzzzz": 0 for number in range(100_000)}
    with promptly(), pytest.raises(DataError, match="it has `prompt_0") as caught:
        read_row(row)
    assert len(caught.value.message) < 500


@pytest.mark.parametrize("row", [
    {"m" * 3_900_000: 0},
    {"messages": [{"role": "u" * 3_900_000, "content": "a"}]},
    {"conversations": [{"from": "h" * 3_900_000, "value": "a"}]},
], ids=["key", "role", "from"])  # fmt: skip
def test_a_name_of_megabytes_is_neither_compared_nor_repeated(row: dict[str, Any]) -> None:
    with promptly(), pytest.raises(DataError) as caught:
        read_row(row)
    assert len(caught.value.message) < 500


def test_a_key_that_is_nearly_right_is_still_guessed() -> None:
    with pytest.raises(DataError) as caught:
        read_row({"id": 1, "mesages": []})
    assert caught.value.hint == "did you mean `messages`?"


def test_a_template_that_repeats_the_line_in_its_complaint_is_cut_short(tmp_path: Path) -> None:
    template = ChatTemplate("{{ raise_exception(messages[0].content) }}")
    row = {"messages": [{"role": "user", "content": "a" * 100_000},
                        {"role": "assistant", "content": "b"}]}  # fmt: skip
    error = refused(tmp_path, json.dumps(row), template=template)
    assert "aaaa" in error.message
    assert len(error.message) < 1_100 and error.message.endswith(" …")


def test_a_template_that_would_be_compiled_for_long_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "long.jinja"
    path.write_text(CHATML.source + "{# #}" * 20_000)
    (tmp_path / "data.jsonl").write_text('{"prompt": "hi", "completion": "Hello."}\n')
    with pytest.raises(DataError, match="far too long for a chat template"):
        load(tmp_path / "data.jsonl", template=str(path))
