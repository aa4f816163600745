"""Lines that begin with a slash."""

from __future__ import annotations

import pytest

from mobilellm_mlx.errors import InvalidInput
from tui.commands import COMMANDS, find_command, read_command, unescaped, with_choices


def read(text):
    found = read_command(text, COMMANDS)
    return found and (found[0].name, found[1])


def test_a_command_has_a_name_and_perhaps_an_argument():
    assert read("/new") == ("new", "")
    assert read("/model smollm2-135m") == ("model", "smollm2-135m")
    assert read("/Model  smollm2-135m  ") == ("model", "smollm2-135m")
    assert read("/set sampling.temperature 0.2") == ("set", "sampling.temperature 0.2")
    assert read("/system Be terse.\nNever joke.") == ("system", "Be terse.\nNever joke.")


@pytest.mark.parametrize(
    "text",
    [
        "hello",
        " /new",
        "//new",
        "// a comment in code",
        "/usr/bin/python fails",
        "/2024-01-01",
        "/",
        "/ new",
        "what is /new",
        "",
    ],
)
def test_what_only_looks_a_little_like_a_command_is_said(text):
    assert read(text) is None


@pytest.mark.parametrize(
    ("typed", "meant"), [("/modle", "/model"), ("/HLEP", "/help"), ("/serch all", "/search")]
)
def test_a_misspelt_command_is_told_what_was_meant(typed, meant):
    with pytest.raises(InvalidInput, match=f"There is no command .* Did you mean {meant}[?]"):
        read(typed)


def test_a_command_that_is_like_no_other_is_told_so_and_how_to_send_the_line():
    with pytest.raises(InvalidInput, match=r"^There is no command /xyzzyq\.$") as caught:
        read("/xyzzyq")
    assert "space" in caught.value.hint


def test_an_argument_that_nobody_wants_is_refused():
    with pytest.raises(InvalidInput, match="/new takes nothing"):
        read("/new chat please")


def test_without_commands_a_slash_is_a_slash():
    assert read_command("/anything", ()) is None


def test_two_slashes_say_one():
    assert unescaped("//new") == "/new"
    assert unescaped(" /new") == " /new"
    assert unescaped("// a comment") == "// a comment"


def test_names_are_distinct_short_and_can_be_typed():
    names = [command.name for command in COMMANDS]
    assert len(set(names)) == len(names)
    for command in COMMANDS:
        assert read(f"/{command.name}") == (command.name, "")
        assert len(command.summary) <= 42, command.summary


def test_choices_are_handed_in_by_name():
    commands = with_choices(COMMANDS, {"model": lambda: ["a", "b"]})
    assert find_command("model", commands).choices() == ["a", "b"]
    assert find_command("theme", commands).choices is None
    assert find_command("model", COMMANDS).choices is None
    with pytest.raises(ValueError, match="modle"):
        with_choices(COMMANDS, {"modle": list})
