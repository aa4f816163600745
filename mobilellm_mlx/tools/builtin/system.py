"""How the machine is: battery, disk, memory, network."""

from __future__ import annotations

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
            examples=(
                Example("How full is my battery?", {"what": "battery"}),
                Example("How much disk space is left?", {"what": "disk"}),
                Example("Am I online?", {"what": "network"}),
            ),
            keywords=(
                *("battery", "charge", "charging", "plugged", "power"),
                *("disk", "storage", "space", "free", "full", "memory", "ram"),
                *("network", "wifi", "online", "offline", "connected", "computer", "mac"),
            ),
            describe=_in_words,
        )
    ]


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
        return "Battery: this computer has none."
    power = {True: "plugged in", False: "on battery", None: "its charger is unknown"}
    left = ""
    if not state.power_plugged and state.secsleft is not None and state.secsleft > 0:
        left = f", {state.secsleft // 3600} h {state.secsleft % 3600 // 60} min left"
    return f"Battery: {state.percent:.0f} %, {power[state.power_plugged]}{left}."


def disk(home: Path) -> str:
    """What is free on the disk that holds the person's files."""
    import psutil

    try:
        usage = psutil.disk_usage(str(home))
    except OSError as error:
        raise ToolError(f"the disk could not be asked: {error.strerror}") from error
    return f"Disk: {format_bytes(usage.free)} free of {format_bytes(usage.total)}."


def memory() -> str:
    """What programs could still get."""
    import psutil

    state = psutil.virtual_memory()
    return f"Memory: {format_bytes(state.available)} available of {format_bytes(state.total)}."


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
    return f"Network: up ({', '.join(up)})." if up else "Network: down."


def _reaches_out(address: str) -> bool:
    """Whether it is an internet address, and not one that an interface gives itself."""
    import ipaddress

    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:  # a hardware address
        return False
    return not found.is_link_local and not found.is_loopback
