"""Settings: read without ever failing, changed one value at a time, never lost."""

from __future__ import annotations

import math
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilellm_mlx import paths
from mobilellm_mlx.errors import InvalidOption, StorageError
from mobilellm_mlx.options import GenerationOptions
from mobilellm_mlx.settings import (
    GROUPS,
    SCHEMA,
    Settings,
    find,
    load_settings,
    save_setting,
    settings_path,
)

COMMENTED = """\
# mine
[interface]   # how it looks
theme = "mobilellm-light"  # for the day

[sampling]
# a little warmer
temperature = 0.7
top_k=40
"""


def write(text: str | bytes) -> Path:
    path = settings_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_settings_and_chats_have_directories_of_their_own(home: Path) -> None:
    assert settings_path() == home / "config" / "settings.toml"
    assert paths.data_dir() == home / "data"


def test_without_a_file_everything_is_at_its_default(home: Path) -> None:
    settings, problems = load_settings()
    assert not settings.values and not problems
    assert settings.get("chat.context_threshold") == 0.8
    assert settings.get("sampling.temperature") is None
    assert settings.instructions is None
    assert not home.exists()  # reading makes nothing


def test_every_setting_has_a_table_a_title_a_help_and_a_default_it_would_accept() -> None:
    assert len({setting.key for setting in SCHEMA}) == len(SCHEMA)
    for setting in SCHEMA:
        assert setting.group in GROUPS and setting.title and setting.help
        assert len(setting.help) <= 110  # two lines of a window 80 wide
        if setting.default is not None:
            assert setting.check(setting.default) == setting.default


def test_a_saved_value_is_read_again_and_none_takes_it_out() -> None:
    for key, value in {
        "sampling.temperature": 0.3,
        "sampling.seed": 2**64 - 1,
        "chat.instructions": 'Be "brief".\nBe kind.\n\ttab \\ ☕',
        "history.save": False,
        "keys.chat.new": "ctrl+g,f5",
        "presets.To French": "Translate.",
        "presets.a.b": "dots",
    }.items():
        assert save_setting(key, value).values[key] == value
        settings, problems = load_settings()
        assert settings.values[key] == value and not problems
        assert key not in save_setting(key, None).values
        assert key not in load_settings()[0].values


def test_comments_and_order_survive_a_change() -> None:
    path = write(COMMENTED)
    save_setting("sampling.temperature", 0.2)
    save_setting("interface.sidebar", "hidden")
    save_setting("sampling.top_k", None)
    text = path.read_text()
    assert "# mine" in text and "# how it looks" in text and "# for the day" in text
    assert "# a little warmer\ntemperature = 0.2" in text
    assert "top_k" not in text
    assert text.index("[interface]") < text.index('sidebar = "hidden"') < text.index("[sampling]")


def test_what_another_program_wrote_since_is_not_lost() -> None:
    save_setting("sampling.temperature", 0.5)
    mine, _ = load_settings()
    write(settings_path().read_text() + "top_k = 7\n")
    now = save_setting("sampling.top_p", 0.9)
    assert mine.sampling == {"temperature": 0.5}
    assert now.sampling == {"temperature": 0.5, "top_k": 7, "top_p": 0.9}


def test_writers_at_the_same_moment_all_get_through() -> None:
    names = [f"presets.p{n}" for n in range(12)]
    threads = [threading.Thread(target=save_setting, args=(name, name)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(load_settings()[0].values) == set(names)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[sampling]\ntemprature = 1", "did you mean `sampling.temperature`?"),
        ("temperature = 1", "did you mean `sampling.temperature`?"),
        ("[samplng]\nseed = 1", "did you mean `sampling`?"),
        ("[sampling]\ntemperature = -1", "`sampling.temperature` is -1, expected 0 or more"),
        ("[sampling]\ntop_p = 0", "expected above 0 and at most 1"),
        ("[sampling]\ntemperature = true", "is true, expected a number"),
        ("[sampling]\ntemperature = nan", "expected 0 or more"),
        ("[sampling]\nseed = 0x1" + 5000 * "0", "expected a smaller number"),
        ("[sampling]\ntop_k = 1.5", "expected a whole number"),
        ("[chat]\ncontext_threshold = 2", "expected between 0.3 and 0.95"),
        ("[chat]\ncontext_policy = 'dorp'", "did you mean `drop`?"),
        ("[chat]\ninstructions = [1]", "is a list, expected a text"),
        ("[chat]\ninstructions = 'a\\u0000b'\n[history]\nsave = 'yes'", "`true` or `false`"),
        ('[chat]\ninstructions = "a\\u0000b"', "without control characters"),
        ('[chat]\npreset = "a\\nb"', "expected one line"),
        ("[chat.instructions]\na = 1", "is a table, expected a text"),
        ("chat = 5", "`chat` is not a table"),
        ("[history]\nsave = 1979-05-27", "is a date, expected `true` or `false`"),
        ("[keys]\n'chat.new' = 'ctrl++x'", "expected keys such as"),
        ("[keys]\nnew = 'f5'", "is not the name of an action"),
        ("[presets]\n' x' = 'f5'", "cannot be the name of a preset"),
        ("[presets]\nx = 5", "`presets.x` is 5, expected a text"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_and_ignored(text: str, said: str) -> None:
    write(text + "\n[cache]\nlimit_gb = 5\n")
    settings, problems = load_settings()
    assert said in "\n".join(problems)
    assert settings.values.get("cache.limit_gb") == 5  # the rest is used
    assert all(key == "cache.limit_gb" or key == "chat.instructions" for key in settings.values)


HOSTILE: dict[str, bytes] = {
    "not toml": b"{",
    "a NUL": b"[chat]\npreset = 'a\0b'",
    "not UTF-8": b"[chat]\npreset = '\xff\xfe'",
    "nested lists": b"a = " + b"[" * 100_000,
    "nested tables": b"a = " + b"{a=" * 50_000,
    "a number of 5000 digits": b"a = " + b"9" * 5000,
    "a megabyte": b"[presets]\nx = '" + b"y" * 1_000_000 + b"'",
    "a long dotted key": b"a." * 100_000 + b"a = 1",
    "a long quoted key": b'"a" . ' * 40_000 + b"a = 1",
    "a long dotted table": b"[" + b"a." * 100_000 + b"a]",
    "given twice": b"[chat]\n[chat]\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_reported_and_moved_aside_by_the_first_change(name: str) -> None:
    path = write(HOSTILE[name])
    began = time.monotonic()
    settings, problems = load_settings()
    assert time.monotonic() - began < 2
    assert not settings.values
    assert len(problems) == 1 and str(path) in problems[0] and len(problems[0]) < 500

    assert save_setting("cache.limit_gb", 5).values == {"cache.limit_gb": 5}
    kept = list(path.parent.glob("settings-damaged-*.toml"))
    assert [file.read_bytes() for file in kept] == [HOSTILE[name]]


def test_thousands_of_wrong_values_are_not_all_read_out() -> None:
    write("[chat]\n" + "".join(f"a{n} = 1\n" for n in range(5000)))
    problems = load_settings()[1]
    assert len(problems) == 21 and "4,980 more" in problems[-1]


def test_a_byte_order_mark_is_no_problem() -> None:
    write(b"\xef\xbb\xbf[cache]\nlimit_gb = 5\n")
    assert load_settings() == (Settings({"cache.limit_gb": 5}), [])


def test_a_pipe_in_place_of_the_file_is_not_waited_for() -> None:
    path = settings_path()
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    assert "is not a file" in load_settings()[1][0]
    with pytest.raises(StorageError, match="is not a file"):
        save_setting("cache.limit_gb", 5)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    dotfile = tmp_path / "dotfiles.toml"
    dotfile.write_text("[cache]\nlimit_gb = 3\n")
    dotfile.chmod(0o640)
    path = settings_path()
    path.parent.mkdir(parents=True)
    path.symlink_to(dotfile)
    save_setting("cache.limit_gb", 5)
    assert path.is_symlink() and "limit_gb = 5" in dotfile.read_text()
    assert dotfile.stat().st_mode & 0o777 == 0o640


def test_a_disk_that_cannot_be_written_is_an_error_that_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write(COMMENTED)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        save_setting("sampling.temperature", 0.1)
    assert path.read_text() == COMMENTED
    assert sorted(p.name for p in path.parent.iterdir()) == [".settings.toml.lock", path.name]


def test_a_file_in_place_of_the_directory_is_an_error(home: Path) -> None:
    home.mkdir()
    (home / "config").write_text("")
    assert "cannot read" in load_settings()[1][0]
    with pytest.raises(StorageError, match="cannot write the settings"):
        save_setting("cache.limit_gb", 5)


def test_a_value_that_cannot_be_used_is_not_saved() -> None:
    path = write(COMMENTED)
    for key, value in [("sampling.top_p", 2), ("sampling.topp", 1), ("chat.preset", "\ud800")]:
        with pytest.raises(InvalidOption):
            save_setting(key, value)
    assert path.read_text() == COMMENTED


def test_settings_too_large_to_be_read_again_are_not_written() -> None:
    for n in range(7):
        save_setting(f"presets.p{n}", "x" * 32_000)
    with pytest.raises(StorageError, match="larger than 256 kB"):
        save_setting("presets.last", "é" * 32_000)
    assert len(load_settings()[0].presets) == 7


@pytest.mark.parametrize(
    "text",
    [
        "sampling.temperature = 1\nsampling.top_k = 3\n",
        "sampling = {temperature = 1, top_k = 3}\n",
        "[sampling]\ntemperature = 1\n[chat]\npreset = 'p'\n[sampling.more]\nx = 1\n[cache]\n",
        "[keys]\nchat.new = 'f5'\nchat.stop = 'f6'\n[sampling]\n",
        "[keys.chat]\nnew = 'f5'\nstop = 'f6'\n",
        "x = nan\n[sampling]\ntop_k = 3\n",
        "sampling = 5\n",
    ],
)
def test_every_way_of_writing_tables_can_be_changed(text: str) -> None:
    write(text)
    before = load_settings()[0].values
    for key, value in [("sampling.temperature", 0.5), ("keys.chat.new", "f9")]:
        save_setting(key, value)
    after = load_settings()[0].values
    assert after == {**before, "sampling.temperature": 0.5, "keys.chat.new": "f9"}
    save_setting("keys.chat.new", None)
    save_setting("sampling.temperature", None)
    gone = ("sampling.temperature", "keys.chat.new")
    assert load_settings()[0].values == {k: v for k, v in before.items() if k not in gone}


def test_the_chosen_preset_is_the_system_prompt_of_new_chats() -> None:
    settings = Settings().replaced("presets.brief", "Be brief.")
    settings = settings.replaced("chat.instructions", "Be kind.")
    assert settings.instructions == "Be kind."
    settings = settings.replaced("chat.preset", "brief")
    assert settings.instructions == "Be brief."
    assert settings.replaced("presets.brief", None).instructions == "Be kind."


def test_a_preset_that_is_missing_is_said() -> None:
    write("[chat]\npreset = 'gone'\n")
    assert "no preset called `gone`" in load_settings()[1][0]


@pytest.mark.parametrize(
    ("key", "typed", "value"),
    [
        ("sampling.temperature", " 0.70 ", 0.7),
        ("sampling.temperature", "1", 1),
        ("sampling.max_tokens", "2,048", 2048),
        ("history.save", "off", False),
        ("chat.preset", " brief ", "brief"),
        ("chat.instructions", " two\nlines ", " two\nlines "),
        ("keys.chat.new", "ctrl+g, f5,", "ctrl+g,f5"),
    ],
)
def test_what_a_person_types_becomes_a_value(key: str, typed: str, value: Any) -> None:
    parsed = find(key).parse(typed)
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize("typed", ["", "warm", "1e999", "nan", "0x10", "--1", "٣" * 5000, "1 2"])
def test_what_is_no_number_is_refused_in_words(typed: str) -> None:
    with pytest.raises(InvalidOption, match=r"`sampling\.top_k`.*expected"):
        find("sampling.top_k").parse(typed)
    if typed:
        with pytest.raises(InvalidOption, match=r"`sampling\.temperature`.*expected"):
            find("sampling.temperature").parse(typed)


@given(
    name=st.sampled_from(["temperature", "top_k", "top_p", "min_p", "max_tokens", "seed"]),
    value=st.one_of(st.integers(-(2**70), 2**70), st.floats(), st.booleans(), st.text()),
)
@settings(max_examples=200)
def test_sampling_takes_what_generation_takes(name: str, value: Any) -> None:
    try:
        GenerationOptions().merged({name: value})
        expected = type(value) is not int or abs(value) < 2**64
    except InvalidOption:
        expected = False
    try:
        checked = find(f"sampling.{name}").check(value)
        assert expected and (checked == value or math.isnan(value))
    except InvalidOption:
        assert not expected
