"""``mobilellm fuse``: what it says where, its exit codes, and that its output works alone."""

import json

import pytest
from tiny import LLAMA, write_model

from mobilellm_mlx import cli, events
from mobilellm_mlx.adapters import Registry
from mobilellm_mlx.backend import mx
from mobilellm_mlx.paths import MANIFEST
from tests.adapters.made import write_random_adapter

WIDE = {**LLAMA, "hidden_size": 64, "intermediate_size": 128}
QUICK = "--no-verify"


@pytest.fixture(autouse=True)
def verb(monkeypatch) -> None:
    monkeypatch.setitem(cli.VERBS, "fuse", ("mobilellm_mlx.cli.fuse:fuse", "Fuse an adapter."))


@pytest.fixture
def base(tmp_path):
    return write_model(tmp_path / "base", WIDE, dtype=mx.bfloat16)


@pytest.fixture
def adapter(tmp_path, base) -> str:
    """Name of one that the registry keeps."""
    write_random_adapter(tmp_path / "made", base)
    Registry().add(tmp_path / "made", "pirate")
    return "pirate"


def test_fusing_says_what_is_left_on_stderr_and_the_place_on_stdout(
    run, base, adapter, tmp_path
) -> None:
    out = tmp_path / "out"
    result = run("fuse", str(base), "--adapter", adapter, "-o", str(out))
    assert (result.code, result.out) == (0, f"{out}\n")
    said = result.err.splitlines()
    assert said[:3] == ["fusing (181 kB)", "verifying", "measuring the adapter"]
    assert said[3].endswith(" kB -> 181 kB (16.00 bits a weight)")
    assert (
        said[4].startswith("`pirate` changes 14 tensors by ") and "100% of that is left" in said[4]
    )
    assert said[5].startswith("the adapter moves the model by KL ") and "rounding by" in said[5]
    assert said[-1] == f"try it: mobilellm chat {out}"


def test_what_was_fused_answers_alone_and_otherwise_than_its_base(
    run, base, adapter, tmp_path
) -> None:
    out = str(tmp_path / "out")
    run("fuse", str(base), "--adapter", adapter, "-o", out, QUICK)
    asked = ("-p", "hi", "--max-tokens", "6", "--temp", "0")
    plain, fused = (run("generate", "-m", where, *asked) for where in (str(base), out))
    assert fused.code == 0 and fused.out != plain.out


def test_json_is_events_and_a_summary(run, base, adapter, tmp_path) -> None:
    result = run("fuse", str(base), "--adapter", adapter, "--dry-run", "--bits", "4", "--json")
    assert (result.code, result.err) == (0, "")
    told = [json.loads(line) for line in result.out.splitlines()]
    last = told[-1]
    assert (last["event"], last["job"], last["status"]) == ("summary", "fuse", "ok")
    assert last["dry_run"] and last["adapter"] == "pirate" and len(last["tensors"]) == 14
    assert 0 < last["cosine"] <= 1 and last["adapter_kl"] > 0
    assert all(events.from_dict(event).to_dict() == event for event in told)


def test_a_dry_run_needs_no_place_and_leaves_nothing(run, base, adapter, tmp_path) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    result = run("fuse", str(base), "--adapter", adapter, "--dry-run", "--bits", "2")
    assert (result.code, result.out) == (0, "") and "nothing was written" in result.err
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_the_converter_s_options_are_taken(run, base, adapter, tmp_path) -> None:
    out = tmp_path / "out"
    options = ("--bits", "8", "--group-size", "32", "--bits-for", "v_proj=6", "--dtype", "float16")
    assert run("fuse", str(base), "--adapter", adapter, "-o", str(out), *options, QUICK).code == 0
    table = json.loads((out / "config.json").read_text())["quantization"]
    assert (table["bits"], table["group_size"]) == (8, 32)
    assert table["model.layers.0.self_attn.v_proj"]["bits"] == 6
    assert run("fuse", str(base), "--adapter", adapter, "-o", str(out), "--recipe", "x").code == 2


def test_an_adapter_can_be_a_directory(run, base, adapter, tmp_path) -> None:
    made = str(tmp_path / "made")
    assert run("fuse", str(base), "--adapter", made, "-o", str(tmp_path / "o"), QUICK).code == 0


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_an_adapter_that_is_not_there_is_explained(run, base, adapter, tmp_path, options) -> None:
    out = str(tmp_path / "out")
    result = run("fuse", str(base), "--adapter", "pirat", "-o", out, *options)
    assert result.code == 1
    if options:
        told = json.loads(result.out.splitlines()[-1])
        assert (told["job"], told["status"]) == ("fuse", "error") and "pirate" in told["hint"]
    else:
        assert result.err.splitlines() == [
            "error: there is no adapter named `pirat`, and no such directory",
            "hint: did you mean `pirate`?",
        ]


def test_an_adapter_of_another_model_needs_a_word(run, adapter, tmp_path) -> None:
    other = write_model(tmp_path / "other", WIDE, seed=1)
    arguments = ("fuse", str(other), "--adapter", adapter, "-o", str(tmp_path / "out"), QUICK)
    result = run(*arguments)
    assert result.code == 1 and "it was made for `base`" in result.err
    assert "--force-adapter" in result.err
    assert run(*arguments, "--force").code == 1  # that is about what is replaced
    result = run(*arguments, "--force-adapter")
    assert result.code == 0 and "was forced on this one" in result.err


def test_a_target_in_the_way_is_replaced_with_force(run, base, adapter, tmp_path) -> None:
    arguments = ("fuse", str(base), "--adapter", adapter, "-o", str(tmp_path / "out"), QUICK)
    assert run(*arguments).code == 0
    assert run(*arguments).code == 1
    assert run(*arguments, "--force").code == 0 and (tmp_path / "out" / MANIFEST).is_file()


def test_where_the_result_goes_has_to_be_said(run, base, adapter) -> None:
    result = run("fuse", str(base), "--adapter", adapter)
    assert result.code == 2 and "-o DIR" in result.err
    assert run("fuse", str(base), "-o", "x").code == 2
