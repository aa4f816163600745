"""The machine that is measured, and whether it is hot."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_BUSY = 0.5
"""Load of a machine that may be called quiet, at most."""
_LIMIT = re.compile(r"CPU_Speed_Limit\s*=\s*(\d+)")


def describe_machine() -> dict[str, Any]:
    """What somebody else has to know to compare figures; no name, no address."""
    import psutil

    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "system": f"{platform.system()} {platform.mac_ver()[0] or platform.release()}",
        "architecture": platform.machine(),
        "chip": chip(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "memory_bytes": int(psutil.virtual_memory().total),
        "python": platform.python_version(),
        "load": _load(),
    }


def chip(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's own name."""
    try:
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    if sys.platform == "darwin":
        from mobilellm_mlx.backend import device_name

        return device_name()
    return platform.processor() or "unknown"


def _load() -> float | None:
    """Processes that wanted a core in the minute before."""
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def iter_busy(machine: Mapping[str, Any]) -> Iterator[str]:
    """A note, when others were at work on a machine before it was measured."""
    load, cores = machine.get("load"), machine.get("cores") or 1
    if load is not None and load > _BUSY:
        yield (
            f"Load {load:.1f} on {cores} core{'s' * (cores > 1)} before it began: something else "
            "runs, or did a moment ago. Measure again on a quiet machine before you compare."
        )


def thermal_state() -> str | None:
    """What macOS says of heat, such as ``nominal``; None where nobody says anything."""
    pmset = shutil.which("pmset")
    if pmset is None:
        return None
    try:
        said = subprocess.run(
            [pmset, "-g", "therm"], capture_output=True, text=True, timeout=5, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    return read_thermal(said)


def read_thermal(said: str) -> str | None:
    """What ``pmset -g therm`` printed, in a word."""
    if limit := _LIMIT.search(said):
        return "nominal" if limit[1] == "100" else f"clock held at {limit[1]} %"
    if "No thermal warning level has been recorded" in said:
        return "nominal"
    return "a thermal warning" if "warning" in said.lower() else None
