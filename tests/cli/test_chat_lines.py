"""``mobilellm chat`` without a terminal: each line of stdin is a turn."""

import io
import sys

import pytest

from mobilellm_mlx.chat import Session
from mobilellm_mlx.cli import chat as verb
from mobilellm_mlx.cli import faces
from mobilellm_mlx.cli.chat import chat_in_lines
from mobilellm_mlx.errors import ContextOverflow, InvalidInput, StorageError
from mobilellm_mlx.testing import ScriptedEngine


@pytest.fixture
def talk(monkeypatch, capsys):
    """Feeds lines to a session with a scripted engine; gives what it printed."""

    def talk(engine: ScriptedEngine, stdin: bytes) -> str:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        assert chat_in_lines(Session(engine)) == 0
        return capsys.readouterr().out

    return talk


def contents(engine: ScriptedEngine) -> list[list[str]]:
    return [[message.content for message in turn] for turn in engine.conversations]


def test_every_answer_is_a_line_of_its_own(talk) -> None:
    assert talk(ScriptedEngine(["One.", "Two."]), b"a\nb\n") == "One.\nTwo.\n"


def test_an_answer_that_ends_its_own_line_gets_no_second_newline(talk) -> None:
    assert talk(ScriptedEngine(["One.\n", "Two."]), b"a\nb\n") == "One.\nTwo.\n"


def test_the_conversation_grows_from_line_to_line(talk) -> None:
    engine = ScriptedEngine(["Paris.", "Berlin."])
    talk(engine, b"Capital of France?\nAnd Germany?\n")
    assert contents(engine) == [
        ["Capital of France?"],
        ["Capital of France?", "Paris.", "And Germany?"],
    ]


def test_blank_lines_are_not_turns(talk) -> None:
    engine = ScriptedEngine(["x"])
    talk(engine, b"\n  \t\na\n\r\n\nb\n \n")
    assert [turn[-1] for turn in contents(engine)] == ["a", "b"]


def test_the_last_line_needs_no_newline(talk) -> None:
    engine = ScriptedEngine(["x"])
    talk(engine, b"a\nb")
    assert [turn[-1] for turn in contents(engine)] == ["a", "b"]


def test_windows_line_ends_are_no_part_of_the_turn(talk) -> None:
    engine = ScriptedEngine(["x"])
    talk(engine, b"a\r\nb\r\n")
    assert [turn[-1] for turn in contents(engine)] == ["a", "b"]


def test_lines_are_utf_8_whatever_the_locale_says(talk) -> None:
    engine = ScriptedEngine(["x"])
    talk(engine, "Grüße, 世界 👩‍👧\n".encode())
    assert contents(engine) == [["Grüße, 世界 👩‍👧"]]


def test_a_line_that_is_not_utf_8_is_refused_by_its_number(talk) -> None:
    engine = ScriptedEngine(["x"])
    with pytest.raises(InvalidInput, match="line 2 of stdin is not UTF-8"):
        talk(engine, b"good\nbad \xff\n")
    assert contents(engine) == [["good"]]


def test_an_error_in_a_turn_comes_out(talk) -> None:
    with pytest.raises(ContextOverflow):
        talk(ScriptedEngine([ContextOverflow(9, 8)]), b"a\n")


def test_no_input_is_no_output(talk) -> None:
    assert talk(ScriptedEngine(["x"]), b"") == ""


def test_an_error_after_the_first_answer_keeps_that_answer(run, tiny_dir) -> None:
    long = b"y" * 200
    result = run(
        "chat", str(tiny_dir), "--context", "128", "--max-tokens", "5", stdin=b"a\n" + long
    )
    assert result.code == 1
    assert result.out.endswith("\n") and len(result.out) > 1
    assert "error: the prompt is " in result.err and "\nhint: " in result.err


def test_no_verb_at_all_means_chat(run, monkeypatch, tiny_dir) -> None:
    monkeypatch.setattr(verb, "resolve_model", lambda name: tiny_dir if name is None else None)
    result = run(stdin=b"")
    assert (result.code, result.out, result.err) == (0, "", "")
    assert len(run("chat", "--max-tokens", "3", stdin=b"a\n").out) > 1


def test_on_a_terminal_the_interface_is_opened_with_the_options(run, monkeypatch, tiny_dir) -> None:
    opened = {}

    class Interface:
        make_house = staticmethod(dict)

        @staticmethod
        def run_chat(engine, **options):
            opened.update(options, info=engine.info)

    monkeypatch.setattr(verb, "is_interactive", lambda: True)
    monkeypatch.setattr(faces, "tui", lambda: Interface)
    result = run("chat", str(tiny_dir), "--system", "Be brief.", "--temp", "0.3")
    assert result.code == 0
    assert opened.pop("info") is None  # the interface loads the model, behind its first screen
    assert opened["instructions"] == "Be brief." and opened["overrides"] == {"temperature": 0.3}


def open_interface(run, monkeypatch, *args):
    """What the interface is handed."""
    opened = {}

    class Interface:
        make_house = staticmethod(dict)

        @staticmethod
        def run_chat(engine, **options):
            opened.update(options["house"])

    monkeypatch.setattr(verb, "is_interactive", lambda: True)
    monkeypatch.setattr(faces, "tui", lambda: Interface)
    result = run("chat", *args)
    return result, opened


def test_the_interface_keeps_chats_unless_it_is_private(run, monkeypatch, tiny_dir) -> None:
    _, house = open_interface(run, monkeypatch, str(tiny_dir))
    assert house["store"] is not None and house["snapshots"] is not None
    _, house = open_interface(run, monkeypatch, str(tiny_dir), "--private")
    assert house["store"] is None and house["snapshots"] is None


def test_the_settings_can_say_that_nothing_is_kept(run, monkeypatch, tiny_dir) -> None:
    from mobilellm_mlx.settings import save_setting

    save_setting("history.save", False)
    _, house = open_interface(run, monkeypatch, str(tiny_dir))
    assert house["store"] is None


def test_switched_off_nothing_of_the_caches_stays(run, monkeypatch, tiny_dir) -> None:
    from mobilellm_mlx.chat.snapshots import Snapshots
    from mobilellm_mlx.settings import save_setting

    kept = Snapshots().path_for("chat")
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"x" * 100)
    _, house = open_interface(run, monkeypatch, str(tiny_dir))
    assert kept.is_file() and house["snapshots"] is not None
    save_setting("cache.snapshots", False)
    _, house = open_interface(run, monkeypatch, str(tiny_dir))
    assert not kept.exists() and house["snapshots"] is None


def test_where_chats_are_only_in_memory_no_cache_of_them_is_written(
    run, monkeypatch, tiny_dir
) -> None:
    import sqlite3
    from contextlib import closing

    from mobilellm_mlx.chat.store import Store, history_path

    Store(history_path()).close()
    with closing(sqlite3.connect(history_path())) as raw:
        raw.execute("INSERT INTO migrations VALUES ('telepathy', '2099-01-01T00:00:00.000+00:00')")
        raw.commit()
    _, house = open_interface(run, monkeypatch, str(tiny_dir))
    assert house["store"].path is None and house["snapshots"] is None
    assert "newer MobileLLM" in house["notices"][0]


def test_without_any_store_the_interface_still_opens_and_says_so(
    run, monkeypatch, tiny_dir
) -> None:
    """No history can be opened, not even in memory: an SQLite without full-text search."""

    def fail() -> None:
        raise StorageError("this SQLite has no full-text search")

    monkeypatch.setattr("mobilellm_mlx.chat.store.open_history", fail)
    result, house = open_interface(run, monkeypatch, str(tiny_dir))
    assert result.code == 0 and house["store"] is None
    assert house["notices"] == ("Chats are not kept: this SQLite has no full-text search.",)


def test_what_is_wrong_with_the_settings_is_said(run, monkeypatch, tiny_dir) -> None:
    from mobilellm_mlx.settings import settings_path

    settings_path().parent.mkdir(parents=True)
    settings_path().write_text("[sampling]\ntemprature = 1\n")
    _, house = open_interface(run, monkeypatch, str(tiny_dir))
    assert "did you mean `sampling.temperature`" in house["notices"][0]
    monkeypatch.setattr(verb, "is_interactive", lambda: False)
    assert "note: there is no setting" in run("chat", str(tiny_dir), stdin=b"").err


def test_a_chat_in_lines_is_kept_only_when_it_was_resumed(run, tiny_dir) -> None:
    from mobilellm_mlx.chat.records import ChatRecord, make_id, now
    from mobilellm_mlx.chat.store import Store, history_path

    lines = ("chat", str(tiny_dir), "--max-tokens", "3")
    assert run(*lines, stdin=b"hello\n").code == 0
    assert not history_path().exists()
    store = Store(history_path())
    chat = ChatRecord(make_id(), now(), now(), title="Mine")
    store.add_chat(chat)
    store.close()
    assert run(*lines, "--resume", "mine", stdin=b"hello\n").code == 0
    store = Store(history_path())
    assert [m.role for m in store.messages(chat.id)] == ["user", "assistant"]
    store.close()


def test_a_chat_to_resume_must_be_there(run, tiny_dir) -> None:
    result = run("chat", str(tiny_dir), "--resume", stdin=b"")
    assert result.code == 1 and "there is no chat" in result.err
    assert run("chat", "--resume", "--private", stdin=b"").code == 2


def test_a_model_that_a_chat_names_is_used_only_if_it_is_one_of_ours(run, tmp_path) -> None:
    """The history may hold what somebody else exported: its paths are not to be trusted."""
    from mobilellm_mlx.chat.records import ChatRecord, Generation, StoredMessage, make_id, now
    from mobilellm_mlx.chat.store import Store

    foreign = tmp_path / "elsewhere"
    foreign.mkdir()
    (foreign / "mobilellm.json").write_text("{}")
    store, chat = Store(), ChatRecord(make_id(), now(), now())
    made = Generation(model="x", model_path=str(foreign))
    store.add_chat(chat)
    store.save(StoredMessage("m", chat.id, None, "assistant", "x", now(), made=(made,)))
    assert verb._resumed(store, "last") == (chat.id, None, "")
    store.close()


def test_a_model_without_a_chat_template_is_explained(run, tmp_path) -> None:
    from tiny import write_model

    result = run("chat", str(write_model(tmp_path / "base", template=None)), stdin=b"hi\n")
    assert (result.code, result.out) == (1, "")
    assert "`base` has no chat template" in result.err and "\nhint: " in result.err


def test_reasoning_is_left_out_unless_it_is_asked_for(monkeypatch, capsys) -> None:
    for show, err in ((False, ""), (True, "Hm, an a.\nHm, an a.\n")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\nb\n")))
        session = Session(ScriptedEngine(["One.", "Two."], reasoning="Hm, an a."))
        assert chat_in_lines(session, show) == 0
        said = capsys.readouterr()
        assert (said.out, said.err) == ("One.\nTwo.\n", err)
