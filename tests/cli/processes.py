"""The command line as a process."""

import os
import sys


def command(*args: str) -> list[str]:
    """The command line as a process of this Python."""
    return [sys.executable, "-m", "mobilellm_mlx", *args]


def environment(**changes: str) -> dict[str, str]:
    """This process's environment (its home is the test's own), with changes."""
    drop = ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "PYTHONIOENCODING", "LC_ALL", "PYTHONUTF8")
    kept = {name: value for name, value in os.environ.items() if name not in drop}
    return {**kept, "LANG": "C.UTF-8", **changes}
