"""Servers that other people wrote, as the package index has them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.settings import ServerConfig
from mobilellm_mlx.tools.checking import check_arguments
from mobilellm_mlx.tools.mcp import Servers
from mobilellm_mlx.tools.tool import Tool

GOES_ON = threading.Event()


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    if find_spec("mcp_server_time") and find_spec("mcp_server_git"):
        return
    reason = "mcp-server-time and mcp-server-git are not installed (the group `test` has them)"
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    arguments = ("-m", "mcp_server_time")
    time = ServerConfig("time", sys.executable, arguments, reads_only=("convert_time",))
    git = ServerConfig("git", sys.executable, ("-m", "mcp_server_git"))
    with Servers([time, git]) as both:
        assert both.tools() and not both.problems
        yield both


def find(servers: Servers, name: str) -> Tool:
    return next(tool for tool in servers.tools() if tool.name == name)


def test_every_tool_of_the_real_servers_can_be_used(servers: Servers) -> None:
    tools = servers.tools()
    assert {"time_get_current_time", "time_convert_time", "git_status", "git_log"} <= {
        tool.name for tool in tools
    }
    assert not [tool.name for tool in tools if tool.missing]
    assert [tool.name for tool in tools if tool.reads_only] == ["time_convert_time"]


def test_the_time_server_tells_the_time_elsewhere(servers: Servers) -> None:
    tool = find(servers, "time_convert_time")
    arguments = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}
    said = json.loads(tool.run(check_arguments(tool, arguments), GOES_ON))
    assert "T21:00:00+09:00" in said["target"]["datetime"]


def test_what_a_real_server_refuses_is_one_sentence(servers: Servers) -> None:
    with pytest.raises(ToolError, match=r"^the server `time` says: .*Atlantis"):
        find(servers, "time_get_current_time").run({"timezone": "Atlantis"}, GOES_ON)


def test_the_git_server_reads_a_repository(servers: Servers, tmp_path: Path) -> None:
    who = ("-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    for command in (("init", "-q"), (*who, "commit", "-q", "--allow-empty", "-m", "The first one")):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    log = find(servers, "git_log").run({"repo_path": str(tmp_path), "max_count": 1}, GOES_ON)
    assert "The first one" in log
