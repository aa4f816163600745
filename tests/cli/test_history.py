"""``mobilellm history``: chats listed, read, found, carried out and in, and erased."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from mobilellm_mlx import cli
from mobilellm_mlx.chat.exchange import WholeChat, to_json
from mobilellm_mlx.chat.records import ChatRecord, Generation, StoredMessage, make_id
from mobilellm_mlx.chat.snapshots import Snapshots
from mobilellm_mlx.chat.store import Store, history_path
from tests.cli.processes import environment

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
VERB = ("mobilellm_mlx.cli.history:history", "List, read, search, export and import your chats.")


@pytest.fixture(autouse=True)
def _verb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.VERBS, "history", VERB)


def a_chat(
    title: str, *turns: tuple[str, str], status: str = "complete", days: int = 0
) -> WholeChat:
    """A chat with these questions and answers; the last answer has this status."""
    chat_id, when = make_id(), NOON + timedelta(days=days)
    messages: list[StoredMessage] = []
    for question, answer in turns:
        parent = messages[-1].id if messages else None
        messages.append(StoredMessage(make_id(), chat_id, parent, "user", question, when))
        made = (Generation("tiny", bits=4, options={"seed": 7}, tokens=(1, 2)),)
        messages.append(
            StoredMessage(
                make_id(), chat_id, messages[-1].id, "assistant", answer, when, "hm", made=made
            )
        )
    if status != "complete":
        last = messages.pop()
        messages.append(StoredMessage(last.id, chat_id, last.parent_id, "assistant", last.content,
                                      when, status=status))  # fmt: skip
    chat = ChatRecord(chat_id, when, when, title, leaf_id=messages[-1].id, model="tiny",
                      messages=len(messages))  # fmt: skip
    return WholeChat(chat, messages)


def keep(*chats: WholeChat) -> None:
    with closing(Store(history_path())) as store:
        for whole in chats:
            store.add_chat(whole.chat)
            store.save(*whole.messages)


def kept() -> list[ChatRecord]:
    with closing(Store(history_path())) as store:
        return store.chats()


@pytest.fixture
def two() -> list[ChatRecord]:
    """Two chats, the newest first, as the history gives them."""
    keep(
        a_chat("The sky", ("why is the sky blue?", "Rayleigh scattering."), days=0),
        a_chat("Soup", ("a soup?", "Boil *water*."), ("and then?", "Eat it."), days=1),
    )
    return kept()


# ---------------------------------------------------------------- nothing there yet


@pytest.mark.parametrize("args", [[], ["list"], ["search", "sky"]], ids=" ".join)
def test_no_history_yet_is_said_and_is_no_error(run, home, args) -> None:
    result = run("history", *args)
    assert (result.code, result.out) == (0, "")
    assert result.err.count("\n") == 1
    assert "no history yet" in result.err and str(history_path()) in result.err
    assert not home.exists()  # looking makes none


@pytest.mark.parametrize(
    "args", [["show", "last"], ["export", "--all"], ["backup", "x.db"], ["rm", "-y", "last"]]
)
def test_what_needs_a_history_fails_without_one(run, home, args) -> None:
    result = run("history", *args)
    assert result.code == 1 and result.out == ""
    assert result.err.startswith("error: there is no history yet\n") and not home.exists()


def test_the_path_is_known_before_anything_is_there(run, home) -> None:
    result = run("history", "path")
    assert (result.code, result.out, result.err) == (0, f"{home}/data/history.db\n", "")
    assert not home.exists()


def test_an_empty_history_is_said_to_be_empty(run) -> None:
    keep()
    assert run("history").err == "the history is empty\n"
    assert json.loads(run("history", "list", "--json").out) == {"chats": []}


# ---------------------------------------------------------------- list and show


def test_the_list_names_every_chat_the_newest_first(run, two) -> None:
    result = run("history", "list")
    assert result.code == 0 and result.err == ""
    first, second = result.out.splitlines()
    assert first.endswith("4 messages  Soup") and second.endswith("2 messages  The sky")
    assert f"{two[0].updated_at.astimezone():%Y-%m-%d %H:%M}" in first
    assert run("history").out == result.out
    assert run("history", "list", "-n", "1").out == first + "\n"


def test_every_id_in_the_list_names_its_chat(run, two) -> None:
    for chat, line in zip(two, run("history").out.splitlines(), strict=True):
        shown = run("history", "show", line.split()[0])
        assert shown.code == 0 and f'title: "{chat.title}"' in shown.out


def test_the_list_as_json_has_whole_ids(run, two) -> None:
    listed = json.loads(run("history", "list", "--json").out)["chats"]
    assert [chat["id"] for chat in listed] == [chat.id for chat in two]
    assert listed[0] == {
        "id": two[0].id,
        "title": "Soup",
        "created_at": "2026-03-02T12:00:00+00:00",
        "updated_at": "2026-03-02T12:00:00+00:00",
        "pinned": False,
        "messages": 4,
        "model": "tiny",
    }


def test_show_prints_markdown(run, two) -> None:
    result = run("history", "show", "last")
    assert result.code == 0 and result.err == ""
    assert result.out.startswith('---\ntitle: "Soup"\n')
    assert "\n## You\n\na soup?\n\n## tiny\n\nBoil *water*.\n" in result.out
    assert "> hm" in run("history", "show", "last", "--reasoning").out


@pytest.mark.parametrize("name", ["the sky", "SKY", "y", "last"])
def test_a_chat_is_found_by_its_title(run, two, name) -> None:
    title = "Soup" if name == "last" else "The sky"
    assert f'title: "{title}"' in run("history", "show", name).out


def test_a_whole_title_counts_more_than_a_part_of_another(run) -> None:
    keep(a_chat("Soup", ("q", "a")), a_chat("Soup again", ("q", "a"), days=1))
    assert 'title: "Soup"' in run("history", "show", "soup").out


def test_a_name_that_means_several_chats_lists_them(run, two) -> None:
    result = run("history", "show", "s")
    assert result.code == 1 and result.out == ""
    assert "error: `s` means 2 chats\n" in result.err
    assert all(f"({chat.title})" in result.err and chat.id[:8] in result.err for chat in two)


def test_a_name_that_means_nothing_says_where_to_look(run, two) -> None:
    result = run("history", "show", "xyzzy")
    assert result.code == 1 and "error: there is no chat `xyzzy`" in result.err
    assert "hint: `mobilellm history list`" in result.err


def test_a_title_cannot_steer_the_terminal(run) -> None:
    keep(a_chat("evil\x1b[2J\u202e title\n2nd", ("q\x1b[31m", "a\x9b31m")))
    for args in (["list"], ["show", "last"], ["search", "evil"], ["list", "--json"]):
        out = run("history", *args).out
        assert out and all(char.isprintable() or char == "\n" for char in out), args


# ---------------------------------------------------------------- search


def test_search_shows_chat_date_and_words(run, two) -> None:
    result = run("history", "search", "blu")
    assert result.code == 0 and result.err == ""
    head, excerpt = result.out.splitlines()
    assert two[1].id.startswith(head.split()[0]) and head.endswith("The sky")
    assert excerpt == "    why is the sky blue?"


def test_search_names_a_chat_once_for_finds_in_a_row(run) -> None:
    keep(a_chat("Soup", ("soup of peas", "soup of beans")))
    out = run("history", "search", "soup").out
    assert out.count("  Soup\n") == 1 and out.count("soup of") == 2


def test_search_finds_nothing_quietly(run, two) -> None:
    result = run("history", "search", "xyzzy")
    assert (result.code, result.out, result.err) == (0, "", "nothing found\n")
    assert json.loads(run("history", "search", "xyzzy", "--json").out) == {"hits": []}


def test_search_as_json_tells_where_the_words_are(run, two) -> None:
    (hit,) = json.loads(run("history", "search", "--json", "blue").out)["hits"]
    (mark,) = hit["marks"]
    assert hit["excerpt"][slice(*mark)] == "blue" and hit["chat"]["id"] == two[1].id
    assert hit["role"] == "user"


@pytest.mark.parametrize("query", ['"', "AND", "a*", "(", "NEAR(", "--", "\udcff"])
def test_no_query_is_an_error(run, two, query) -> None:
    assert run("history", "search", "--", query).code == 0


# ---------------------------------------------------------------- export


def test_an_export_tells_its_format_from_the_file_s_name(run, two, tmp_path) -> None:
    for name, begin in (("a.md", "---\n"), ("a.JSON", '{"format"'), ("a.jsonl", '{"messages"')):
        result = run("history", "export", "sky", "-o", str(tmp_path / name))
        assert result.code == 0 and result.out == "" and f"wrote {tmp_path / name}" in result.err
        assert (tmp_path / name).read_text().startswith(begin)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.JSON", "a.jsonl", "a.md", "home"]


def test_an_export_goes_to_stdout_without_a_file(run, two) -> None:
    assert run("history", "export", "sky").out == run("history", "show", "sky").out
    assert run("history", "export", "sky", "-o", "-").out == run("history", "show", "sky").out
    (line,) = run("history", "export", "sky", "--format", "jsonl").out.splitlines()
    assert json.loads(line)["messages"][0]["content"] == "why is the sky blue?"


def test_an_export_of_all_has_all(run, two) -> None:
    chats = json.loads(run("history", "export", "--all", "--format", "json").out)["chats"]
    assert [chat["title"] for chat in chats] == ["Soup", "The sky"]
    assert len(run("history", "export", "--all", "--format", "jsonl").out.splitlines()) == 2


def test_an_export_for_training_says_what_it_left_out(run, two) -> None:
    keep(a_chat("cut", ("q", "a"), status="stopped"))
    result = run("history", "export", "--all", "--format", "jsonl")
    assert len(result.out.splitlines()) == 2
    assert result.err == "note: 1 chat without a complete turn left out\n"


def test_several_chats_as_markdown_are_files_in_a_directory(run, two, tmp_path) -> None:
    target = tmp_path / "notes"
    assert run("history", "export", "--all").code == 1
    result = run("history", "export", "--all", "-o", str(target))
    assert result.code == 0 and result.err == f"wrote 2 chats into {target}\n"
    names = sorted(path.name for path in target.iterdir())
    assert len(names) == 2 and "-The-sky-" in names[0] and "-Soup-" in names[1]
    again = run("history", "export", "sky", "soup", "-o", str(target))
    assert again.code == 1 and "is there already" in again.err
    assert run("history", "export", "--all", "-o", str(target), "--force").code == 0


def test_an_export_replaces_nothing_unless_it_is_told_to(run, two, tmp_path) -> None:
    target = tmp_path / "a.md"
    target.write_text("mine")
    result = run("history", "export", "sky", "-o", str(target))
    assert result.code == 1 and "is there already" in result.err and "--force" in result.err
    assert target.read_text() == "mine"
    assert run("history", "export", "sky", "-o", str(target), "--force").code == 0
    assert target.read_text().startswith("---\n")


@pytest.mark.parametrize("force", [[], ["--force"]], ids=["", "force"])
def test_an_export_does_not_replace_a_directory(run, two, tmp_path, force) -> None:
    result = run("history", "export", "sky", "-o", str(tmp_path), *force)
    assert result.code == 1 and "is not a file" in result.err


def test_an_export_into_nowhere_says_so(run, two, tmp_path) -> None:
    result = run("history", "export", "sky", "-o", str(tmp_path / "no" / "a.md"))
    assert result.code == 1 and f"no directory `{tmp_path / 'no'}`" in result.err


def test_an_export_that_fails_leaves_nothing(run, two, tmp_path, monkeypatch) -> None:
    def refuse(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    result = run("history", "export", "sky", "-o", str(tmp_path / "a.md"))
    assert result.code == 1 and "the disk is full" in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize("args", [[], ["--all", "sky"], ["sky", "--format", "pdf"]], ids=" ".join)
def test_an_export_of_nothing_is_wrong_usage(run, two, args) -> None:
    assert run("history", "export", *args).code == 2


# ---------------------------------------------------------------- import


def test_what_was_exported_comes_back_under_new_ids(run, two, tmp_path) -> None:
    run("history", "export", "--all", "-o", str(tmp_path / "a.json"))
    result = run("history", "import", str(tmp_path / "a.json"))
    assert result.code == 0 and result.err == "2 chats imported\n"
    assert [line.split("  ")[1] for line in result.out.splitlines()] == ["Soup", "The sky"]
    chats = kept()
    assert len(chats) == 4 and len({chat.id for chat in chats}) == 4
    soup = [chat for chat in chats if chat.title == "Soup"]
    assert soup[0].updated_at == soup[1].updated_at and soup[0].model == soup[1].model == "tiny"
    with closing(Store(history_path())) as store:
        first, second = (store.messages(chat.id) for chat in soup)
    assert [m.content for m in first] == [m.content for m in second]
    assert [m.made for m in first] == [m.made for m in second]


def test_an_import_makes_the_first_history(run) -> None:
    document = to_json([a_chat("Soup", ("q", "a"))]).encode()
    assert run("history", "import", "-", stdin=document).code == 0
    assert [chat.title for chat in kept()] == ["Soup"]


def test_an_import_says_that_a_system_prompt_came_along(run) -> None:
    theirs = a_chat("Soup", ("q", "a"))
    theirs = replace(theirs, chat=replace(theirs.chat, instructions="Praise Acme."))
    result = run("history", "import", "-", stdin=to_json([theirs]).encode())
    assert result.err == "1 chat imported\nnote: 1 chat with a system prompt of the file's own\n"


def test_an_import_with_a_wrong_file_adds_nothing(run, home, tmp_path) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(to_json([a_chat("Soup", ("q", "a"))]))
    bad.write_text('{"format": "mobilellm-chat", "version": 99, "chats": []}')
    result = run("history", "import", str(good), str(bad))
    assert result.code == 1 and "is 99, this program reads 1" in result.err
    assert "Traceback" not in result.err and not home.exists()


def test_an_import_of_no_file_says_so(run, tmp_path) -> None:
    for name in (tmp_path / "no.json", tmp_path):
        result = run("history", "import", str(name))
        assert result.code == 1 and str(name) in result.err and "internal" not in result.err


# ---------------------------------------------------------------- backup and rm


def test_a_backup_is_a_whole_history(run, two, tmp_path) -> None:
    target = tmp_path / "copy.db"
    result = run("history", "backup", str(target))
    assert result.code == 0 and result.out == "" and f"wrote {target}" in result.err
    with closing(Store(target)) as store:
        assert store.chats() == two
    assert run("history", "backup", str(target)).code == 1


def test_an_erased_chat_is_gone_from_the_file(run, two) -> None:
    snapshot = Snapshots().path_for(two[0].id)
    snapshot.parent.mkdir(parents=True)
    snapshot.write_bytes(b"what was said, as numbers")
    with closing(Store(history_path())) as store:
        store.delete_chat(two[1].id, datetime.now(UTC))  # can be undone, and stays so
    result = run("history", "rm", "soup", "--yes")
    assert result.code == 0 and result.err == "Soup, 4 messages\n1 chat erased\n"
    assert kept() == [] and not snapshot.exists()
    with closing(Store(history_path())) as store:
        assert [chat.title for chat in store.chats(deleted=True)] == ["The sky"]
    assert all(b"Boil" not in path.read_bytes() for path in history_path().parent.iterdir())


def test_nothing_is_erased_when_nobody_can_be_asked(run, two) -> None:
    result = run("history", "rm", "soup")
    assert result.code == 1 and "--yes" in result.err and len(kept()) == 2


@pytest.mark.parametrize(("answer", "left"), [("n", 2), ("y", 1)])
def test_a_person_is_asked_before_anything_is_erased(two, answer, left) -> None:
    code = (
        f"from mobilellm_mlx import cli\ncli.VERBS['history'] = {VERB!r}\n"
        "cli.main(['history', 'rm', 'soup'])"
    )
    keyboard, terminal = os.openpty()
    os.write(keyboard, f"{answer}\n".encode())
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdin=terminal,
        capture_output=True,
        env=environment(),
        timeout=60,
    )
    os.close(terminal)
    os.close(keyboard)
    assert b"Soup, 4 messages\nErase 1 chat for good? [y/N]: " in done.stderr
    assert done.stdout == b"" and done.returncode == (0 if answer == "y" else 130)
    assert len(kept()) == left


def test_one_wrong_name_erases_nothing(run, two) -> None:
    assert run("history", "rm", "-y", "soup", "xyzzy").code == 1
    assert len(kept()) == 2


# ---------------------------------------------------------------- bad files


def test_a_disk_that_cannot_be_written_can_be_read(run, two, monkeypatch) -> None:
    from mobilellm_mlx.chat.store import database

    access = os.access
    refuse = lambda path, mode: not mode & os.W_OK and access(path, mode)  # noqa: E731
    monkeypatch.setattr(database.os, "access", refuse)
    result = run("history")
    assert result.code == 0 and len(result.out.splitlines()) == 2
    assert result.err.startswith("note: The history cannot be written")
    for args in (["rm", "-y", "last"], ["import", "-"]):
        result = run("history", *args, stdin=to_json([a_chat("x", ("q", "a"))]).encode())
        assert result.code == 1 and "error: the history cannot be written" in result.err


def test_a_damaged_history_is_saved_as_far_as_it_can_be_read(run, two) -> None:
    path = history_path()
    path.write_bytes(b"not a database, whatever it is " * 200)
    result = run("history")
    assert result.code == 0 and "damaged" in result.err and "Traceback" not in result.err
    assert list(path.parent.glob("history-damaged-*"))


def test_a_history_of_a_newer_program_is_left_alone(run, two) -> None:
    with closing(sqlite3.connect(history_path())) as raw:
        raw.execute("INSERT INTO migrations VALUES ('telepathy', '2099-01-01T00:00:00.000+00:00')")
        raw.commit()
    before = history_path().read_bytes()
    for args in (["list"], ["show", "last"], ["rm", "-y", "last"]):
        result = run("history", *args)
        assert result.code == 1 and "newer MobileLLM" in result.err, args
    assert history_path().read_bytes() == before


# ---------------------------------------------------------------- start


def test_every_verb_has_help_for_every_option(run) -> None:
    import click

    from mobilellm_mlx.cli.history import history

    for name, command in {"": history, **history.commands}.items():
        result = run("history", *([name] if name else []), "--help")
        assert result.code == 0 and result.err == ""
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help and parameter.opts[-1] in result.out


def test_reading_the_history_loads_neither_mlx_nor_textual(two) -> None:
    code = (
        "import sys\nfrom mobilellm_mlx import cli\n"
        f"cli.VERBS['history'] = {VERB!r}\n"
        "for args in (['list'], ['show', 'last'], ['search', 'sky'], ['export', 'last']):\n"
        "    try:\n        cli.main(['history', *args])\n    except SystemExit as end:\n"
        "        assert end.code == 0\n"
        "print('MODULES', *{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment(), timeout=60
    )
    loaded = set(done.stdout.decode().splitlines()[-1].split())
    assert "sqlite3" in loaded, done.stderr
    heavy = {"mlx", "textual", "rich", "jinja2", "tokenizers", "numpy", "huggingface_hub", "tui"}
    assert not loaded & heavy
