"""The state of the machine, searching chats, and all tools together."""

from __future__ import annotations

import re
import socket
import threading
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from jsonschema import Draft202012Validator
from recorded import RecordedRunner, by_name

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.tools.builtin import Surroundings, builtin_tools, chats, system
from mobilellm_mlx.tools.formats.grounding import pieces
from mobilellm_mlx.tools.tool import Tool
from mobilellm_mlx.tools.toolbox import Toolbox

Battery = namedtuple("Battery", "percent secsleft power_plugged")
Address = namedtuple("Address", "address")


def status(what: str) -> str:
    tool = system.tools(Surroundings(home=Path("/")))[0]
    return tool.run({"what": what}, threading.Event())


def test_the_whole_state_is_four_lines() -> None:
    parts = ("battery", "disk", "memory", "network")
    lines = status("all").splitlines()
    assert len(lines) == 4
    assert all(part in line for part, line in zip(parts, lines, strict=True))
    assert re.fullmatch(r"The disk has [\d.]+ .?B free of [\d.]+ .?B\.", status("disk"))
    assert re.fullmatch(r"The memory has [\d.]+ .?B free of [\d.]+ .?B\.", status("memory"))


@pytest.mark.parametrize(
    ("said", "parts"),
    [
        ("am I online?", ["network"]),
        ("is my laptop charging", ["battery"]),
        ("how full is the disk", ["disk"]),
        ("disk and memory please", ["all"]),
        ("how is the machine?", []),
    ],
)
def test_the_part_that_is_meant_is_told_by_its_words(said: str, parts: list[str]) -> None:
    assert system.tools(Surroundings())[0].heard["what"](said) == parts


@pytest.mark.parametrize(
    ("sensor", "said"),
    [
        (None, "This computer has no battery."),
        (Battery(80.4, -2, True), "The battery is at 80 % and plugged in."),
        (
            Battery(50, 3_900, False),
            "The battery is at 50 % and not plugged in, with 1 h 5 min left.",
        ),
        (Battery(50, -1, False), "The battery is at 50 % and not plugged in."),
        (Battery(50, -1, None), "The battery is at 50 % and perhaps plugged in."),
    ],
)
def test_a_battery_is_told_in_words(
    sensor: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "sensors_battery", lambda: sensor, raising=False)
    assert status("battery") == said


def test_a_platform_without_battery_sensors_has_no_battery(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(psutil, "sensors_battery", raising=False)
    assert status("battery") == "This computer has no battery."


@pytest.mark.parametrize(
    ("interfaces", "said"),
    [
        ({"lo0": (True, "127.0.0.1"), "en0": (True, "192.168.1.7")}, "The network is up (en0)."),
        ({"lo": (True, "::1"), "wlan0": (True, "2001:db8::1")}, "The network is up (wlan0)."),
        ({"en0": (False, "192.168.1.7")}, "The network is down."),
        ({"en0": (True, "fe80::1%en0"), "en1": (True, "169.254.3.4")}, "The network is down."),
        ({"utun3": (True, "10.0.0.1"), "docker0": (True, "172.17.0.1")}, "The network is down."),
        ({"en0": (True, "00:11:22:33:44:55")}, "The network is down."),
        ({}, "The network is down."),
    ],
)
def test_the_network_is_up_where_an_interface_has_an_address(
    interfaces: dict[str, tuple[bool, str]], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = {name: SimpleNamespace(isup=up) for name, (up, _) in interfaces.items()}
    addresses = {name: [Address(address)] for name, (_, address) in interfaces.items()}
    monkeypatch.setattr(psutil, "net_if_stats", lambda: states)
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: addresses)
    assert status("network") == said


def test_asking_for_the_network_connects_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert status("network").startswith("The network")


def test_what_cannot_be_asked_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(psutil, "disk_usage", fail)
    monkeypatch.setattr(psutil, "net_if_stats", fail)
    for what in ("disk", "network"):
        with pytest.raises(ToolError, match="could not be asked: Input/output error"):
            status(what)
    with pytest.raises(ToolError):
        status("weather")


def test_chats_are_searched_with_what_was_handed_in() -> None:
    asked: list[str] = []

    def search(words: str) -> list[str]:
        asked.append(words)
        return [f"line {number}" for number in range(30)] if words == "fence" else []

    tool = chats.tools(Surroundings(search_chats=search))[0]
    assert not tool.missing and tool.reads_only
    assert tool.run({"words": " fence "}, threading.Event()).endswith("line 19\nand 10 more")
    assert tool.run({"words": "moat"}, threading.Event()) == "No chat mentions 'moat'."
    assert asked == ["fence", "moat"]
    assert chats.tools(Surroundings())[0].missing == "there are no chats to search here"


def all_tools(tmp_path: Path, platform: str) -> list[Tool]:
    (tmp_path / "Documents").mkdir(exist_ok=True)
    return builtin_tools(
        Surroundings(
            folders=(tmp_path / "Documents",),
            data_dir=tmp_path / "data",
            search_chats=lambda _: [],
            runner=RecordedRunner({}, ["open", "shortcuts", "pbpaste", "pbcopy"]),
            platform=platform,
            home=tmp_path,
        )
    )


@pytest.mark.parametrize("platform", ["darwin", "linux"])
def test_the_built_in_tools_are_whole(tmp_path: Path, platform: str) -> None:
    tools = all_tools(tmp_path, platform)
    assert len(by_name(tools)) == len(tools) >= 10
    for tool in tools:
        schema = tool.parameters
        Draft202012Validator.check_schema(schema)
        assert schema["type"] == "object" and schema["additionalProperties"] is False
        assert tool.description.endswith(".") and tool.source == "builtin"
        assert tool.keywords and len(tool.examples) >= 2, tool.name
        assert {*tool.live, *tool.spoken} <= set(schema["properties"])
        for name, node in schema["properties"].items():
            assert node.get("description"), f"{tool.name}.{name}"
        for example in tool.examples:
            Draft202012Validator(schema).validate(example.arguments)
            assert not tool.words(example.arguments).startswith(tool.name + "("), tool.name


def test_results_that_are_answers_are_marked(tmp_path: Path) -> None:
    unmarked = {tool.name for tool in all_tools(tmp_path, "darwin") if not tool.answers}
    assert unmarked == {
        *("read_file", "search_files", "read_note", "read_clipboard", "search_chats"),
        "run_shortcut",
    }


def test_examples_are_what_a_model_would_be_bound_to(tmp_path: Path) -> None:
    for tool in all_tools(tmp_path, "darwin"):
        box = Toolbox([replace(tool, live={})])
        for example in tool.examples:
            schema = box.schema_for(box.tools[0], example.said)
            assert set(schema["required"]) <= set(example.arguments) <= set(schema["properties"])
            for name, value in example.arguments.items():
                heard = [] if name not in tool.heard else tool.heard[name](example.said)
                if name not in ("place", "from_place", "to_place", "folder"):
                    assert not heard or value in heard, (tool.name, example.said, name, heard)
                if name in tool.spoken:
                    assert value in pieces(example.said), (tool.name, value)


def test_on_a_mac_with_everything_nothing_is_missing(tmp_path: Path) -> None:
    assert [tool.name for tool in all_tools(tmp_path, "darwin") if tool.missing] == []
    assert {tool.name for tool in all_tools(tmp_path, "linux") if tool.missing} == {
        *("read_clipboard", "copy_to_clipboard", "open_url", "open_app", "run_shortcut"),
    }
