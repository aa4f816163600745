"""``mobilellm generate``: one prompt, one answer, in text and in JSON."""

import json
import re

import pytest

from mobilellm_mlx import events
from mobilellm_mlx.cli import generate as verb
from mobilellm_mlx.cli.generate import answer_events
from mobilellm_mlx.testing import ScriptedEngine

DOCUMENTED = {
    "progress",
    "notice",
    "model_loaded",
    "prefill_progress",
    "text_delta",
    "reasoning_delta",
    "tools_offered",
    "tool_called",
    "tool_allowed",
    "tool_ended",
    "summary",
}


def json_events(run, *args: str, stdin: bytes = b"") -> list[dict]:
    result = run("generate", *args, "--json", stdin=stdin)
    assert result.err == ""
    return [json.loads(line) for line in result.out.splitlines()]


@pytest.fixture
def told(run, tiny_dir) -> list[dict]:
    """The events of a short answer."""
    return json_events(run, "-m", str(tiny_dir), "-p", "hi", "--max-tokens", "9", "--temp", "0")


def test_every_json_line_is_a_documented_event(told) -> None:
    assert {event["event"] for event in told} == {
        "model_loaded",
        "prefill_progress",
        "text_delta",
        "summary",
    }
    assert {event["event"] for event in told} <= DOCUMENTED


def test_every_json_line_can_be_read_back_as_the_event_it_was(told) -> None:
    for event in told:
        assert events.from_dict(event).to_dict() == event


def test_the_last_json_line_is_the_only_summary(told) -> None:
    assert [event["event"] for event in told].index("summary") == len(told) - 1
    assert (told[-1]["job"], told[-1]["status"]) == ("generate", "ok")


def test_the_pieces_joined_are_the_summary_s_text(told) -> None:
    pieces = [event["text"] for event in told if event["event"] == "text_delta"]
    assert len(pieces) > 1 and all(pieces)
    assert "".join(pieces) == told[-1]["text"]


def test_the_summary_counts_what_was_asked_for(told) -> None:
    last = told[-1]
    assert (last["generated_tokens"], last["stop_reason"]) == (9, "length")
    assert last["context_used"] == last["prompt_tokens"] + 9
    assert last["model"] == "tiny"


def test_the_summary_names_a_seed_that_makes_the_answer_again(run, tiny_dir) -> None:
    args = ("-m", str(tiny_dir), "-p", "hi", "--max-tokens", "20", "--temp", "1.5")
    first, other = json_events(run, *args)[-1], json_events(run, *args)[-1]
    seed = str(first["options"]["seed"])
    again = json_events(run, *args, "--seed", seed)[-1]
    assert again["text"] == first["text"] != other["text"]


def test_sampling_options_reach_the_answer(run, tiny_dir) -> None:
    given = {
        "--max-tokens": 3,
        "--temp": 0.5,
        "--top-k": 7,
        "--top-p": 0.8,
        "--min-p": 0.1,
        "--repetition-penalty": 1.2,
        "--seed": 11,
        "--thinking-budget": 0,
    }
    args = [word for name, value in given.items() for word in (name, str(value))]
    told = json_events(run, "-m", str(tiny_dir), "-p", "hi", *args, "--stop", "xx", "--stop", "yy")
    options = told[-1]["options"]
    names = {"--temp": "temperature"}
    for name, value in given.items():
        assert options[names.get(name, name[2:].replace("-", "_"))] == value, name
    assert options["stop"] == ["xx", "yy"]


def test_an_answer_is_the_same_with_guesses_and_without(run, tiny_dir) -> None:
    args = ("-m", str(tiny_dir), "-p", "hi", "--max-tokens", "40", "--temp", "0.1", "--seed", "2")
    plain = json_events(run, *args, "--no-speculate")[-1]
    told = json_events(run, *args, "--speculate")[-1]
    assert told["tokens"] == plain["tokens"]
    assert plain["drafted_tokens"] == 0 and plain["forward_passes"] == 40
    assert told["forward_passes"] == 40 - told["accepted_tokens"]
    assert json_events(run, *args)[-1]["options"]["speculation"] is False


def test_what_the_checkpoint_recommends_holds_unless_overridden(run, tmp_path) -> None:
    from tiny import write_model

    makers = {"do_sample": True, "temperature": 0.7, "top_k": 5}
    directory = str(write_model(tmp_path / "model", generation=makers))
    base = ("-m", directory, "-p", "hi", "--max-tokens", "2")
    assert json_events(run, *base)[-1]["options"]["temperature"] == 0.7
    options = json_events(run, *base, "--temp", "0")[-1]["options"]
    assert (options["temperature"], options["top_k"]) == (0, 5)


def test_context_limits_the_conversation(run, tiny_dir) -> None:
    told = json_events(run, "-m", str(tiny_dir), "-p", "hi", "--context", "64")
    assert told[-1]["stop_reason"] == "context"
    assert told[-1]["context_limit"] == told[-1]["context_used"] == 64


@pytest.mark.parametrize("compute", ["packed", "dense"])
def test_compute_chooses_the_form_of_the_weights(run, tmp_path, compute) -> None:
    from tiny import write_model

    directory = str(write_model(tmp_path / "packed", packed=True))
    told = json_events(run, "-m", directory, "-p", "x", "--max-tokens", "2", "--compute", compute)
    assert told[0]["compute"] == compute


def test_a_prompt_longer_than_the_context_is_explained(run, tiny_dir) -> None:
    result = run("generate", "-m", str(tiny_dir), "-p", "x" * 500, "--raw", "--context", "64")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("error: the prompt is 500 tokens but the context is 64\nhint: ")


def test_stdin_is_the_prompt_when_asked_for(run, tiny_dir) -> None:
    args = ("-m", str(tiny_dir), "--raw", "--temp", "0", "--max-tokens", "4")
    given = json_events(run, *args, "-p", "Grüße, 世界")
    piped = json_events(run, *args, "-p", "-", stdin="Grüße, 世界\n".encode())
    assert piped[-1]["prompt_tokens"] == given[-1]["prompt_tokens"] == len("Grüße, 世界".encode())
    assert piped[-1]["text"] == given[-1]["text"]


def test_only_the_last_newline_of_stdin_is_dropped(run, tiny_dir) -> None:
    told = json_events(
        run, "-m", str(tiny_dir), "--raw", "--max-tokens", "1", "-p", "-", stdin=b"\na\n\n\n"
    )
    assert told[-1]["prompt_tokens"] == 4


def test_stdin_that_is_not_utf_8_is_refused(run) -> None:
    result = run("generate", "-p", "-", stdin=b"caf\xe9 au lait")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("error: stdin is not UTF-8 text: ") and "byte 3" in result.err


@pytest.mark.parametrize("stdin", [b"", b"\n"])
def test_an_empty_stdin_is_refused(run, stdin) -> None:
    result = run("generate", "-p", "-", stdin=stdin)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("error: stdin is empty\nhint: ")


@pytest.mark.parametrize("option", ["-p", "--system", "--stop"])
def test_an_argument_that_is_not_utf_8_is_wrong_usage(run, option) -> None:
    result = run("generate", "-p", "hi", option, "caf\udce9")  # how Python hands on a stray byte
    assert result.code == 2 and result.out == ""
    assert "UTF-8" in result.err and option in result.err


def test_raw_leaves_the_chat_template_out(run, tiny_dir) -> None:
    args = ("-m", str(tiny_dir), "-p", "abc", "--max-tokens", "1")
    assert json_events(run, *args, "--raw")[-1]["prompt_tokens"] == 3
    assert json_events(run, *args)[-1]["prompt_tokens"] > 20


def test_raw_with_an_empty_prompt_is_explained(run, tiny_dir) -> None:
    result = run("generate", "-m", str(tiny_dir), "--raw", "-p", "")
    assert (result.code, result.err) == (
        1,
        "error: the prompt is empty\nhint: say something with `-p TEXT`\n",
    )


def test_a_model_without_a_template_continues_the_text(run, tmp_path) -> None:
    from tiny import write_model

    directory = str(write_model(tmp_path / "base", template=None))
    told = json_events(run, "-m", directory, "-p", "abc", "--max-tokens", "1")
    assert told[0]["chat"] is False and told[-1]["prompt_tokens"] == 3


def test_a_model_without_a_template_takes_no_instructions(run, tmp_path) -> None:
    from tiny import write_model

    directory = str(write_model(tmp_path / "base", template=None))
    result = run("generate", "-m", directory, "-p", "abc", "--system", "Be brief.")
    assert result.code == 2
    assert "has no chat template" in result.err and "hint: leave out `--system`" in result.err


def test_instructions_come_before_the_prompt() -> None:
    engine = ScriptedEngine(["yes"])
    list(answer_events(engine, "Are you there?", "Be brief.", False, {}))
    said = [(message.role, message.content) for message in engine.conversations[0]]
    assert said == [("system", "Be brief."), ("user", "Are you there?")]


@pytest.mark.parametrize(
    ("option", "value", "name"),
    [
        ("--temp", "-1", "temperature"),
        ("--temp", "nan", "temperature"),
        ("--top-p", "0", "top_p"),
        ("--top-p", "1.5", "top_p"),
        ("--top-k", "-1", "top_k"),
        ("--min-p", "2", "min_p"),
        ("--max-tokens", "0", "max_tokens"),
        ("--repetition-penalty", "0", "repetition_penalty"),
        ("--seed", "-1", "seed"),
        ("--thinking-budget", "-1", "thinking_budget"),
        ("--stop", "", "stop"),
        ("--context", "1", "context"),
    ],
)
def test_an_impossible_value_is_named_before_anything_is_loaded(
    run, monkeypatch, tmp_path, option, value, name
) -> None:
    monkeypatch.setattr(verb.Engine, "load", lambda self: pytest.fail("it was loaded"))
    result = run("generate", "-m", str(tmp_path), "-p", "hi", option, value)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"error: `{name}` is ") and "\nhint: " in result.err


def test_a_context_beyond_what_the_model_was_trained_for_is_refused(run, tiny_dir) -> None:
    result = run("generate", "-m", str(tiny_dir), "-p", "hi", "--context", "5000")
    assert result.code == 2 and "5,000" in result.err and "`--context 1024` or less" in result.err


@pytest.mark.parametrize(
    "args", [["-m", "/no/such/model"], ["--temp", "-1"], ["-p", "-"]], ids=" ".join
)
def test_in_json_an_error_is_the_summary_line(run, args) -> None:
    result = run("generate", "-p", "hi", *args, "--json")
    last = json.loads(result.out.splitlines()[-1])
    assert (result.code, result.err) == (2 if "--temp" in args else 1, "")
    assert (last["event"], last["job"], last["status"]) == ("summary", "generate", "error")
    assert last["error"] and last["hint"]


@pytest.fixture
def thinker(monkeypatch) -> dict:
    """Makes the verb ask a scripted model that reasons; change the dictionary to change it."""
    told = {"answers": ["Yes."], "reasoning": "Is it?\n"}

    class Thinker(ScriptedEngine):
        def __init__(self, *_, **__):
            super().__init__(**told)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.close()

    monkeypatch.setattr(verb, "Engine", Thinker)
    return told


def test_reasoning_goes_to_stderr_when_it_is_asked_for(run, tiny_dir, thinker) -> None:
    args = ("generate", "-m", str(tiny_dir), "-p", "hi")
    plain, shown = run(*args), run(*args, "--show-reasoning")
    assert (plain.out, plain.err) == ("Yes.\n", "")
    assert (shown.out, shown.err) == ("Yes.\n", "Is it?\n")


def test_reasoning_is_dimmed_on_a_terminal(tiny_dir, thinker, capsys, monkeypatch) -> None:
    import click

    styled = []
    monkeypatch.setattr(click, "secho", lambda text, **style: styled.append((text, style)))
    list_ = iter([events.ReasoningDelta("Hm"), events.TextDelta("Yes.")])
    verb.console.print_answer(list_, show_reasoning=True)
    assert styled == [("Hm", {"err": True, "nl": False, "dim": True})]
    said = capsys.readouterr()
    assert (said.out, said.err) == ("Yes.\n", "\n")


def test_in_json_reasoning_has_events_of_its_own(run, tiny_dir, thinker) -> None:
    told = json_events(run, "-m", str(tiny_dir), "-p", "hi")
    pieces = [event["text"] for event in told if event["event"] == "reasoning_delta"]
    assert "".join(pieces) == told[-1]["reasoning"] == "Is it?\n"
    assert (told[-1]["text"], told[-1]["reasoning_tokens"]) == ("Yes.", 2)
    assert {event["event"] for event in told} <= DOCUMENTED


def test_reasoning_without_an_answer_is_explained(run, tiny_dir, thinker) -> None:
    thinker["answers"] = [""]
    result = run("generate", "-m", str(tiny_dir), "-p", "hi", "-v")
    assert (result.code, result.out) == (0, "")
    note, cost = result.err.splitlines()
    assert note == "note: the model reasoned for 2 tokens and gave no answer"
    assert "2 tokens (2 of reasoning) at" in cost


@pytest.mark.parametrize(
    ("reason", "advice"),
    [("length", "raise `--max-tokens` or set `--thinking-budget`"), ("context", "context is full")],
)
def test_reasoning_that_was_cut_says_what_to_do(capsys, reason, advice) -> None:
    cut = events.GenerationSummary(reasoning="Hm", reasoning_tokens=1, stop_reason=reason)
    verb.console.print_answer(iter([cut]))
    assert advice in capsys.readouterr().err


def test_a_template_that_opens_reasoning_and_a_budget_that_closes_it(run, tmp_path) -> None:
    from tiny import CHATML, write_model

    template = CHATML.replace("assistant\\n", "assistant\\n<think>\\n")
    directory = str(write_model(tmp_path / "thinker", template=template))
    args = ("-m", directory, "-p", "hi", "--max-tokens", "30", "--temp", "0")
    last = json_events(run, *args)[-1]
    assert (last["text"], last["reasoning_tokens"]) == ("", 30)
    last = json_events(run, *args, "--thinking-budget", "0")[-1]
    assert (last["reasoning"], last["reasoning_tokens"]) == ("", 0)
    assert last["text"] and last["generated_tokens"] == 30
    last = json_events(run, *args, "--thinking-budget", "0", "--raw")[-1]
    assert last["text"] and not last["reasoning"]


# ---------------------------------------------------------------- bound answers

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "old": {"type": "boolean"}},
    "required": ["name", "old"],
    "additionalProperties": False,
}


@pytest.fixture
def schema(tmp_path) -> str:
    path = tmp_path / "person.json"
    path.write_text(json.dumps(PERSON))
    return str(path)


def bound(run, tiny_dir, *args: str):
    return run("generate", "-m", str(tiny_dir), "-p", "hi", *args)


def test_an_answer_can_be_bound_to_a_schema(run, tiny_dir, schema) -> None:
    result = bound(run, tiny_dir, "--schema", schema)
    person = json.loads(result.out)
    assert set(person) == {"name", "old"} and isinstance(person["old"], bool)


@pytest.mark.parametrize(
    ("args", "answers"),
    [
        (("--regex", "[ab]{3}c"), {f"{x}{y}{z}c" for x in "ab" for y in "ab" for z in "ab"}),
        (("--choice", "red,green"), {"red", "green"}),
        (("--choice", "a,b", "--choice", "c"), {"a,b", "c"}),
    ],
)
@pytest.mark.parametrize("more", [(), ("--raw",), ("--temp", "2")])
def test_an_answer_can_be_bound_in_other_ways(run, tiny_dir, args, answers, more) -> None:
    assert bound(run, tiny_dir, *args, *more).out.removesuffix("\n") in answers


def test_an_answer_can_be_bound_to_a_grammar(run, tiny_dir, tmp_path) -> None:
    path = tmp_path / "greeting.lark"
    path.write_text('start: "Hello, " NAME "!"\nNAME: /[A-Z][a-z]{2}/\n')
    assert re.fullmatch(
        r"Hello, [A-Z][a-z]{2}!\n", bound(run, tiny_dir, "--grammar", str(path)).out
    )


def test_half_an_answer_is_not_printed(run, tiny_dir, schema) -> None:
    result = bound(run, tiny_dir, "--schema", schema, "--max-tokens", "12")
    assert (result.code, result.out) == (1, "")
    assert "cut at 12 tokens, before it was whole" in result.err and "--max-tokens" in result.err


def test_a_bound_answer_is_the_likeliest_one_unless_a_temperature_is_given(run, tiny_dir) -> None:
    def options(*args: str) -> dict:
        return json_events(run, "-m", str(tiny_dir), "-p", "hi", "--regex", "[a-z]", *args)[-1][
            "options"
        ]

    assert (options()["temperature"], options()["repetition_penalty"]) == (0.0, 1.0)
    assert options("--temp", "0.5")["temperature"] == 0.5


def test_what_was_forced_is_said(run, tiny_dir, schema) -> None:
    told = json_events(run, "-m", str(tiny_dir), "-p", "hi", "--schema", schema)[-1]
    assert told["forward_passes"] == told["generated_tokens"] - told["forced_tokens"]
    assert told["forced_tokens"] > told["forward_passes"] and told["is_whole"]


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("--schema", "missing.json"), 1, "`missing.json` cannot be read"),
        (("--schema", "list.json"), 1, "holds no JSON Schema"),
        (("--schema", "broken.json"), 1, "is not JSON"),
        (("--regex", "(("), 1, "the regular expression cannot bind an answer"),
        (("--choice", "a,,b"), 1, "none of them empty"),
        (("--choice", "a", "--regex", "b"), 2, "Give one of"),
    ],
)
def test_a_grammar_that_is_none_is_said_in_a_sentence(
    run, tiny_dir, tmp_path, monkeypatch, args, code, said
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "broken.json").write_text("{")
    result = bound(run, tiny_dir, *args)
    assert (result.code, result.out) == (code, "")
    assert said in result.err and "Traceback" not in result.err
