"""How the machine is: battery, disk, memory, network."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from mobilellm_mlx.errors import ToolError, format_bytes
from mobilellm_mlx.tools.builtin import Surroundings
from mobilellm_mlx.tools.schema import tool_from
from mobilellm_mlx.tools.tool import Example, Tool

What = Literal["battery", "disk", "memory", "network", "all"]
NOT_A_NETWORK = (
    *("lo", "utun", "awdl", "llw", "anpi", "ap", "gif", "stf", "bridge"),
    *("docker", "veth", "virbr", "tun", "tap", "br-"),
)
"""How interfaces begin that stay inside the machine, or are up whether or not a network is."""


def tools(around: Surroundings) -> list[Tool]:
    """``system_status``."""
    parts: dict[str, Callable[[], str]] = {
        "battery": battery,
        "disk": lambda: disk(around.home),
        "memory": memory,
        "network": network,
    }

    def system_status(what: What) -> str:
        """Tell the state of this computer: battery, disk, memory or network.

        Args:
            what: which part of it
        """
        wanted = parts.values() if what == "all" else [parts[what]]
        return "\n".join(part() for part in wanted)

    return [
        tool_from(
            system_status,
            reads_only=True,
            answers=True,
            heard={"what": _parts},
            examples=(
                Example("How full is my battery?", {"what": "battery"}),
                Example("How much disk space is left?", {"what": "disk"}),
                Example("Am I online?", {"what": "network"}),
            ),
            keywords=(
                *("battery", "charge", "charging", "plugged"),
                *("disk", "storage", "space", "free", "full", "memory", "ram"),
                *("network", "wifi", "online", "offline", "connected", "computer", "mac"),
            ),
            describe=_in_words,
        )
    ]


_WORDS = {
    "battery": r"\b(?:batter(?:y|ies)|charg(?:e|ed|er|ing)|plugged|unplugged)\b",
    "disk": r"\b(?:disks?|dis[ck] space|storage|hard drive|ssd|drive)\b",
    "memory": r"\b(?:memory|ram)\b",
    "network": r"\b(?:network|wi-?fi|online|offline|internet|connected|connection)\b",
}


def _parts(said: str) -> list[str]:
    """Which part is meant; the whole for several, none where it cannot be told."""
    low = said.casefold()
    named = [part for part, words in _WORDS.items() if re.search(words, low)]
    return named if len(named) < 2 else ["all"]


def _in_words(arguments: Mapping[str, Any]) -> str:
    what = arguments["what"]
    return f"Look at this computer's {'state' if what == 'all' else what}"


def battery() -> str:
    """The battery's charge and whether it is charging, in a sentence."""
    import psutil

    sensor = getattr(psutil, "sensors_battery", None)  # not on every platform
    try:
        state = sensor() if sensor is not None else None
    except (OSError, ValueError, RuntimeError):  # odd drivers
        state = None
    if state is None:
        return "This computer has no battery."
    power = {True: "plugged in", False: "not plugged in", None: "perhaps plugged in"}
    left = ""
    if not state.power_plugged and state.secsleft is not None and state.secsleft > 0:
        left = f", with {state.secsleft // 3600} h {state.secsleft % 3600 // 60} min left"
    return f"The battery is at {state.percent:.0f} % and {power[state.power_plugged]}{left}."


def disk(home: Path) -> str:
    """What is free on the disk that holds the person's files."""
    import psutil

    try:
        usage = psutil.disk_usage(str(home))
    except OSError as error:
        raise ToolError(f"the disk could not be asked: {error.strerror}") from error
    return f"The disk has {format_bytes(usage.free)} free of {format_bytes(usage.total)}."


def memory() -> str:
    """What programs could still get."""
    import psutil

    state = psutil.virtual_memory()
    free, total = format_bytes(state.available), format_bytes(state.total)
    return f"The memory has {free} free of {total}."


def network() -> str:
    """Whether an interface is up and has an address.

    Nothing is connected to: whether the world behind the interface answers stays unknown, and
    nobody out there learns that it was asked.
    """
    import psutil

    try:
        states, addresses = psutil.net_if_stats(), psutil.net_if_addrs()
    except OSError as error:
        raise ToolError(f"the network could not be asked: {error.strerror}") from error
    up = sorted(
        name
        for name, state in states.items()
        if state.isup
        and not name.startswith(NOT_A_NETWORK)
        and any(_reaches_out(address.address) for address in addresses.get(name, ()))
    )
    return f"The network is up ({', '.join(up)})." if up else "The network is down."


def _reaches_out(address: str) -> bool:
    """Whether it is an internet address, and not one that an interface gives itself."""
    import ipaddress

    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:  # a hardware address
        return False
    return not found.is_link_local and not found.is_loopback
