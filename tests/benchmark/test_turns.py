"""Turns of a conversation, timed: what is counted, what is refused, what the child may say."""

import json
import tempfile
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tiny import write_model

from mobilellm_mlx.benchmark import turns, turns_child
from mobilellm_mlx.benchmark.turns import TurnsResult, TurnTimes, iter_turns
from mobilellm_mlx.benchmark.twins import write_dense, write_endless
from mobilellm_mlx.decoding import Generator
from mobilellm_mlx.errors import EngineError, InvalidInput, ModelNotFound
from mobilellm_mlx.loading import load_model
from mobilellm_mlx.options import GenerationOptions, LoadOptions

TEXT = "Go on."


def test_every_turn_of_every_conversation_is_told_and_the_last_word_is_the_result(tiny_dir) -> None:
    *told, result = iter_turns(tiny_dir, turns=3, reply_tokens=2, repeats=2, text=TEXT)
    assert all(isinstance(time, TurnTimes) for time in told)
    assert [(time.repeat, time.turn) for time in told] == [
        (r, t) for r in (1, 2) for t in (1, 2, 3)
    ]
    assert all(0 < time.network_s < time.ttft_s for time in told)
    growth = [b.context_tokens - a.context_tokens for a, b in pairwise(told)]
    assert growth[0] > len(TEXT) and growth[2] < 0  # the next conversation begins anew
    assert isinstance(result, TurnsResult) and (result.turns, result.reply_tokens) == (3, 2)
    assert {row["repeats"] for row in result.rows} == {2}


def test_what_was_read_in_earlier_turns_is_not_read_again(tiny_dir) -> None:
    said = list(turns_child.talk_to_ours(tiny_dir, 4, 2, TEXT))
    # A random model's bytes may come back as another text: then its last reply is read again.
    longest = len(f"<user\n{TEXT}>\n<assistant\n") + 2 * len("\ufffd".encode()) + 2
    assert all(0 < turn["read_tokens"] <= longest for turn in said[1:])
    assert said[3]["context_tokens"] > 2 * longest


def test_mlx_lm_holds_the_same_conversation_in_its_own_loop(tiny_dir, capsys) -> None:
    turns_child.main(["mlx-lm", str(tiny_dir), "2", "3", TEXT])
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert set(first) == {"ttft_s", "network_s", "read_tokens", "context_tokens"}
    assert first["read_tokens"] == second["read_tokens"] > len(TEXT)
    assert second["context_tokens"] == first["context_tokens"] + second["read_tokens"] + 3


def test_both_hold_conversations_in_turn_and_are_told_apart(tmp_path) -> None:
    model = write_model(tmp_path / "model", packed=True)  # which mlx-lm is given unpacked
    *told, result = iter_turns(
        model, turns=3, reply_tokens=2, repeats=1, text=TEXT, with_mlx_lm=True
    )
    assert [(time.engine, time.turn) for time in told] == [
        (engine, turn) for engine in ("mobilellm", "mlx-lm") for turn in (1, 2, 3)
    ]
    ours, theirs = told[:3], told[3:]
    assert all(0 < time.ttft_s < 60 for time in told)
    assert {time.network_s for time in theirs} == {None}
    # Its loop reads the new text alone, and each turn adds that and the reply.
    assert len({time.read_tokens for time in theirs}) == 1
    growth = [b.context_tokens - a.context_tokens for a, b in pairwise(theirs)]
    assert growth == [theirs[0].read_tokens + 2] * 2
    assert ours[0].read_tokens == theirs[0].read_tokens > len(TEXT)  # one template, one tokenizer
    rows = {(row["engine"], row["what"]): row["median"] for row in result.rows}
    for engine, (_, second, last) in (("mobilellm", ours), ("mlx-lm", theirs)):
        assert rows[engine, "ratio"] == pytest.approx(last.ttft_s / second.ttft_s)
        assert rows[engine, "turn 3, ttft_s"] == last.ttft_s


def times(engine: Any, repeat: int, seconds: list[float]) -> list[TurnTimes]:
    network = 0.5 if engine == "mobilellm" else None
    return [
        TurnTimes(engine, repeat, turn, s, network and network * s, 10 * turn, 0)
        for turn, s in enumerate(seconds, 1)
    ]


@pytest.mark.parametrize(("last", "is_met"), [(1.5, True), (1.6, False)])
def test_the_ratio_is_one_of_each_conversation(last: float, is_met: bool) -> None:
    told = [*times("mobilellm", 1, [9, 1, last]), *times("mlx-lm", 1, [9, 2, 8])]
    told += [*times("mobilellm", 2, [9, 4, 4 * last]), *times("mlx-lm", 2, [9, 2, 4])]
    result = TurnsResult(3, 2, rows=list(turns._rows(told, 3)))
    rows = {(row["engine"], row["what"]): row for row in result.rows}
    figures = ("median", "min", "max", "repeats")
    assert [rows["mobilellm", "ratio"][name] for name in figures] == [last, last, last, 2]
    assert [rows["mlx-lm", "ratio"][name] for name in figures] == [3, 2, 4, 2]
    assert rows["mobilellm", "turn 2, besides the network, s"]["max"] == 2
    assert ("mlx-lm", "turn 2, besides the network, s") not in rows
    assert rows["mlx-lm", "turn 3, tokens read"]["median"] == 30
    assert (result.ratio, result.is_met) == (last, is_met)


def test_an_endless_model_never_ends_by_itself(tmp_path) -> None:
    raw_end = {"eos_token_id": list(range(258))}
    model = write_model(tmp_path / "model", generation=raw_end)
    (model / "config.json").write_text(
        json.dumps({**json.loads((model / "config.json").read_text()), **raw_end})
    )
    counts = []
    for directory in (model, write_endless(model, tmp_path / "endless")):
        generator = Generator(load_model(directory))
        *_, summary = generator.generate([1, 2, 3], GenerationOptions(max_tokens=8))
        counts.append(summary.generated_tokens)
    assert counts == [1, 8]


def test_a_dense_twin_says_the_same(tmp_path) -> None:
    from mobilellm_mlx.backend import mx

    packed = write_model(tmp_path / "packed", packed=True, dtype=mx.float16)
    dense = write_dense(packed, tmp_path / "dense")
    config = json.loads((dense / "config.json").read_text())
    assert "quantization" not in config and "quantization_config" not in config
    tensors = mx.load(str(dense / "model.safetensors"))
    assert {tensor.dtype for tensor in tensors.values()} == {mx.float32}
    tokens = mx.array([[1, 2, 3, 200]])
    logits = [
        load_model(directory, LoadOptions(compute="dense")).model(tokens)
        for directory in (packed, dense)
    ]
    assert mx.array_equal(*logits)


def test_a_conversation_that_would_not_fit_is_refused(tiny_dir) -> None:
    with pytest.raises(InvalidInput, match="drops its oldest turns"):
        next(iter_turns(tiny_dir, turns=20, text="word " * 20))


def test_a_model_that_does_not_chat_is_refused(tmp_path) -> None:
    base = write_model(tmp_path / "base", template=None)
    with pytest.raises(InvalidInput, match="`base` has no chat template"):
        next(iter_turns(base))
    with pytest.raises(ModelNotFound):
        next(iter_turns(tmp_path / "nowhere"))


@pytest.mark.parametrize("wrong", [{"turns": 1}, {"repeats": 0}, {"reply_tokens": 0}])
def test_nothing_to_compare_is_refused(tiny_dir, wrong) -> None:
    with pytest.raises(InvalidInput, match="too few"):
        next(iter_turns(tiny_dir, **wrong))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("print('Loading...')", "no measurement: 'Loading...'"),
        ("print('[1]')", "no measurement"),
        ("print('{\"ttft_s\": 1}')", "no measurement"),
        ("raise SystemExit('no such model')", "mlx-lm failed: no such model"),
        ("raise SystemExit(3)", "mlx-lm failed: exit code 3"),
        ("import time; time.sleep(60)", "took more than 1 s"),
    ],
)
def test_a_child_that_says_something_else_or_nothing_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, said: str
) -> None:
    package = tmp_path / "mobilellm_mlx" / "benchmark"
    package.mkdir(parents=True)
    for name in (package.parent / "__init__.py", package / "__init__.py"):
        name.touch()
    (package / "turns_child.py").write_text(code)
    monkeypatch.chdir(tmp_path)  # what `python -m` looks in first
    with pytest.raises(EngineError, match=said):
        list(turns._iter_lines(["mlx-lm"], 1, tmp_path))


def test_a_conversation_that_is_left_leaves_no_files_behind(
    tiny_dir, monkeypatch, tmp_path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with closing(iter_turns(tiny_dir, turns=20, reply_tokens=1, text="a")) as told:
        next(told)
        assert list(tmp_path.rglob("chats.db"))  # the child is at work, in a place of ours
    assert not list(tmp_path.iterdir())
