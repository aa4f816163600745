"""``mobilellm adapters``, and ``--adapter`` wherever a model answers."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import write_model

from mobilellm_mlx.adapters import Registry
from mobilellm_mlx.chat import Session
from mobilellm_mlx.chat.store import Store, open_history
from mobilellm_mlx.engine import Engine
from mobilellm_mlx.paths import models_dir
from mobilellm_mlx.settings import save_setting
from tests.adapters.made import write_random_adapter
from tests.adapters.test_record import write
from tests.cli.conftest import Result
from tests.engine.test_engine import read

Run = Callable[..., Result]
SHORT = ("--max-tokens", "6", "--temp", "0")


@pytest.fixture
def base(tiny_dir: Path, home: Path) -> Path:
    """The tiny model among the installed ones."""
    path = models_dir() / "hub" / "somebody--tiny"
    shutil.copytree(tiny_dir, path)
    (path / "mobilellm.json").write_text(json.dumps({"name": "tiny"}), encoding="utf-8")
    return path


@pytest.fixture
def pirate(base: Path) -> Path:
    """An adapter of it in the registry, with all that can be known."""
    return write_random_adapter(
        Registry().root / "pirate",
        base,
        base_name="tiny",
        licence="Apache-2.0",
        data_name="pirate.jsonl",
        data_sha256="ab" * 32,
        config={"method": "lora", "rank": 4, "modules": ["*_proj"], "system": ""},
        scores={"first_loss": 3.25, "best_loss": 1.5, "best_step": 40},
        created="2026-01-02T03:04:05+00:00",
        made_by="mobilellm-mlx 0.1.0",
    ).path


@pytest.fixture(autouse=True)
def _none_is_shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("mobilellm_mlx.adapters.registry.SHIPPED", tmp_path / "shipped")


def test_nothing_is_listed_where_there_is_nothing(run: Run) -> None:
    said = run("adapters", "list")
    assert said.code == 0 and "mobilellm train lora" in said.out


def test_the_list_says_what_each_is_and_how_good(run: Run, pirate: Path) -> None:
    write(pirate.parent / "broken", [])
    said = run("adapters", "list")
    line = next(line for line in said.out.splitlines() if "pirate" in line)
    assert line.split() == ["pirate", "lora", "4", "tiny", "1.500", "2026-01-02", "19", "kB"]
    assert "damaged" in said.out
    assert max(map(len, said.out.splitlines())) <= 80
    told = json.loads(run("adapters", "list", "--json").out)
    assert [row["name"] for row in told["adapters"]] == ["pirate"]
    assert list(told["damaged"]) == ["broken"]


def test_show_says_where_an_adapter_comes_from(run: Run, pirate: Path) -> None:
    printed = run("adapters", "show", "pirate").out
    assert max(map(len, printed.partition("\npath")[0].splitlines())) < 80
    said = " ".join(printed.split())
    for text in (
        "lora, rank 4, scale 1.5",
        "of the last 2 blocks",
        "tiny (SHA-256 ",
        "Apache-2.0 (of the base)",
        "pirate.jsonl (SHA-256 abab",
        "first loss 3.25, best loss 1.5, best step 40",
        "method lora, rank 4, modules *_proj made",
        "2026-01-02T03:04:05+00:00 by mobilellm-mlx 0.1.0",
        str(pirate),
    ):
        assert text in said
    row = json.loads(run("adapters", "show", "pirate", "--json").out)
    assert row["scores"]["best_loss"] == 1.5 and row["template"] is False


def test_names_from_files_cannot_steer_the_terminal(run: Run, pirate: Path) -> None:
    manifest = json.loads((pirate / "mobilellm.json").read_text())
    manifest["base"]["name"] = "evil\x1b[2J"
    manifest["scores"] = {"best_loss": "\x1b[31mlow", "x\x07": 1}
    (pirate / "mobilellm.json").write_text(json.dumps(manifest))
    for verb in ("list", "show pirate"):
        said = run("adapters", *verb.split())
        assert said.code == 0 and not {"\x1b", "\x07"} & set(said.out)


def test_an_adapter_can_be_renamed_exported_and_removed(
    run: Run, pirate: Path, tmp_path: Path
) -> None:
    assert run("adapters", "rename", "pirate", "captain").code == 0
    said = run("adapters", "export", "captain", str(tmp_path / "out"))
    assert said.out.strip() == str(tmp_path / "out")
    assert (tmp_path / "out" / "adapters.safetensors").is_file()
    assert run("adapters", "rm", "captain", stdin=b"n\n").code == 130
    assert [info.name for info in Registry().list()][:1] == ["captain"]
    assert run("adapters", "rm", "captain", "--yes").code == 0
    assert "captain" not in [info.name for info in Registry().list()]


def test_a_name_that_is_not_there_is_one_sentence(run: Run, pirate: Path) -> None:
    for verb in (["show"], ["rm"], ["export", "x"], ["rename", "x"]):
        said = run("adapters", verb[0], "pirat", *verb[1:])
        assert said.code == 1
        assert "did you mean `pirate`?" in said.err


def test_the_list_needs_no_mlx() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from mobilellm_mlx.cli import main\n"
        "try: main(['adapters', 'list'])\n"
        "finally: assert 'mlx' not in sys.modules and 'mlx.core' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_generate_answers_with_the_adapter(run: Run, base: Path, pirate: Path) -> None:
    asked = ("generate", "-m", str(base), "-p", "hi", *SHORT)
    bare = run(*asked)
    worn = run(*asked, "--adapter", "pirate")
    assert worn.code == 0 and worn.out != bare.out
    assert run(*asked, "--adapter", str(pirate)).out == worn.out
    events = [
        json.loads(line) for line in run(*asked, "--adapter", "pirate", "--json").out.splitlines()
    ]
    assert next(e for e in events if e["event"] == "model_loaded")["adapter"] == "pirate"


def test_an_adapter_of_another_model_is_refused_by_every_verb(
    run: Run, pirate: Path, tmp_path: Path
) -> None:
    other = str(write_model(tmp_path / "other", seed=4))
    for verb in (
        ["generate", "-m", other, "-p", "hi", *SHORT],
        ["chat", other, *SHORT],
        ["eval", "calls", "-m", other, "--data", "home", "--limit", "1", "--mode", "free"],
    ):
        said = run(*verb, "--adapter", "pirate", stdin=b"hi\n")
        assert said.code == 1
        assert "`pirate` is not for `other`: it was made for `tiny`" in said.err
        assert "--force-adapter" in said.err
    forced = run(
        "generate", "-m", other, "-p", "hi", *SHORT, "--adapter", "pirate", "--force-adapter"
    )
    assert forced.code == 0 and "not for this model" in forced.err


def test_a_chat_in_lines_answers_with_the_adapter(run: Run, base: Path, pirate: Path) -> None:
    bare = run("chat", str(base), *SHORT, stdin=b"hi\n")
    worn = run("chat", str(base), *SHORT, "--adapter", "pirate", stdin=b"hi\n")
    assert worn.code == 0 and worn.out != bare.out


def test_chats_begin_with_the_adapter_of_the_settings_where_it_fits(
    run: Run, base: Path, pirate: Path, tmp_path: Path
) -> None:
    worn = run("chat", str(base), *SHORT, "--adapter", "pirate", stdin=b"hi\n")
    save_setting("model.adapter", "pirate")
    assert run("chat", str(base), *SHORT, stdin=b"hi\n").out == worn.out
    other = write_model(tmp_path / "other", seed=4)
    said = run("chat", str(other), *SHORT, stdin=b"hi\n")
    assert said.code == 0 and "without an adapter" in said.err
    save_setting("model.adapter", "nothing")
    said = run("chat", str(base), *SHORT, stdin=b"hi\n")
    assert said.code == 0 and "no adapter named `nothing`" in said.err


# -------------------------------------------------------------------- chats that were kept


@pytest.fixture
def kept(base: Path, pirate: Path) -> Iterator[tuple[Store, Session]]:
    """A chat with one answer of the bare model and one with the adapter on."""
    store, _ = open_history()
    with Engine(base) as engine:
        session = Session(engine, store=store, overrides={"max_tokens": 5})
        read(session.send("hi"))
        read(engine.adapt(pirate))
        read(session.send("and now?"))
        yield store, session
    store.close()


def test_answers_are_made_again_with_what_they_were_made_with(run: Run, kept: Any) -> None:
    said = run("history", "reproduce", "last")
    assert [line.split()[3:5] for line in said.out.splitlines()] == [["the", "same"]] * 2
    assert said.code == 0


def test_an_answer_whose_adapter_is_gone_is_said_to_be(run: Run, kept: Any) -> None:
    Registry().remove("pirate")
    said = run("history", "reproduce", "last")
    first, second = said.out.splitlines()
    assert "the same" in first
    assert "its adapter pirate is gone" in second


def test_an_adapter_that_was_trained_again_makes_another_answer(
    run: Run, kept: Any, base: Path, pirate: Path
) -> None:
    shutil.rmtree(pirate)
    write_random_adapter(pirate, base, seed=8)
    said = run("history", "reproduce", "last")
    assert said.code == 1
    assert "made by another model or form" in said.out.splitlines()[1]


def test_a_chat_that_goes_on_has_its_adapter_on(run: Run, kept: Any) -> None:
    store, session = kept
    run("chat", "--resume", session.chat.id, *SHORT, stdin=b"again\n")
    made = [m.made[-1].adapter for m in store.messages(session.chat.id) if m.made]
    assert made == [None, "pirate", "pirate"]
    Registry().remove("pirate")
    said = run("chat", "--resume", session.chat.id, *SHORT, stdin=b"again\n")
    assert said.code == 0 and "pirate is not here any more" in said.err
