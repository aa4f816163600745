"""Servers of tools in the settings: `[mcp.NAME]`."""

from __future__ import annotations

from typing import Any

import pytest

from mobilellm_mlx.errors import InvalidOption
from mobilellm_mlx.settings import (
    GROUPS,
    ServerConfig,
    find,
    load_settings,
    save_setting,
    settings_path,
)

FILE = """\
[mcp.time]
command = "uvx"  # of uv
args = ["mcp-server-time", "--local-timezone=Europe/Rome"]
env = {KEY = "value"}
timeout_s = 5
reads_only = ["get_current_time"]

[mcp.git-here]
command = "/opt/server"
cwd = "~/code"

[sampling]
top_k = 7
"""


def write(text: str) -> None:
    settings_path().parent.mkdir(parents=True, exist_ok=True)
    settings_path().write_text(text)


def test_servers_are_read_in_the_order_of_the_file() -> None:
    write(FILE)
    settings, problems = load_settings()
    assert not problems and settings.sampling == {"top_k": 7}
    assert list(settings.mcp.values()) == [
        ServerConfig(
            name="time",
            command="uvx",
            args=("mcp-server-time", "--local-timezone=Europe/Rome"),
            env={"KEY": "value"},
            timeout_s=5.0,
            reads_only=("get_current_time",),
        ),
        ServerConfig(name="git-here", command="/opt/server", cwd="~/code"),
    ]


def test_a_change_elsewhere_leaves_servers_and_comments_as_they_were() -> None:
    write(FILE)
    assert list(save_setting("sampling.top_k", 9).mcp) == ["time", "git-here"]
    assert settings_path().read_text() == FILE.replace("top_k = 7", "top_k = 9")


def test_a_server_can_be_saved_and_taken_out() -> None:
    save_setting("mcp.time", {"command": "uvx", "args": ["mcp-server-time"]})
    assert load_settings()[0].mcp["time"].args == ("mcp-server-time",)
    assert save_setting("mcp.time", None).mcp == {}


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("[mcp.a]", '`mcp.a` says no `command` (write the program to start: `command = "uvx"`)'),
        ('[mcp.a]\ncommand = ""', "`mcp.a.command` is ``, expected the name or the path"),
        ("[mcp.a]\ncommand = 7", "`mcp.a.command` is 7, expected the name or the path"),
        ('[mcp.a]\ncommand = "x"\nargs = "y"', "`mcp.a.args` is no such, expected a list of texts"),
        ('[mcp.a]\ncommand = "x"\nargs = [1]', "`mcp.a.args` is no such, expected a list of texts"),
        ('[mcp.a]\ncommand = "x"\nenv = {A = 1}', "`mcp.a.env` is no such, expected texts by name"),
        ('[mcp.a]\ncommand = "x"\nenv = {"A=B" = "c"}', "`mcp.a.env` is no such, expected texts"),
        ('[mcp.a]\ncommand = "x"\ntimeout_s = 0', "`mcp.a.timeout_s` is 0, expected between 0.1"),
        ('[mcp.a]\ncommand = "x"\ntimeout_s = nan', "`mcp.a.timeout_s` is nan, expected between"),
        ('[mcp.a]\ncommand = "x\\u001b[2J"', "`mcp.a.command` is `x[2J`, expected the name"),
        (
            '[mcp.a]\ncomand = "x"',
            "there is no entry `comand` in `mcp.a` (did you mean `command`?); it is ignored",
        ),
        ('[mcp."A b"]\ncommand = "x"', "`A b` cannot be the name of a server (use up to 24 of a-z"),
        ("[mcp]\ntime = 3", "`mcp.time` is 3, expected a table (write it as `[mcp.time]`)"),
        ("mcp = 3", "`mcp` is not a table (write it as `[mcp]`)"),
    ],
)
def test_a_wrong_table_is_one_sentence_and_the_rest_holds(table: str, said: str) -> None:
    rest = '\n[mcp.good]\ncommand = "x"\n' if table != "mcp = 3" else ""
    write(f"{table}\n{rest}[sampling]\ntop_k = 7\n")
    settings, (problem, *more) = load_settings()
    assert said in problem and problem.endswith("; it is ignored") and not more
    assert settings.sampling == {"top_k": 7}
    assert list(settings.mcp) == (["good"] if rest else [])


@pytest.mark.parametrize("value", ["uvx", 3, None, ["uvx"], {}])
def test_what_is_typed_is_no_server(value: Any) -> None:
    assert "mcp" in GROUPS
    with pytest.raises(InvalidOption):
        find("mcp.time").check(value)
    with pytest.raises(InvalidOption):
        find("mcp.time").parse(str(value))
