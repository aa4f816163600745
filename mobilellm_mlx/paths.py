"""Where this program keeps things on the user's machine.

``MOBILELLM_HOME`` moves everything under one directory; without it the platform's own places are
used (``~/Library/...`` on macOS, the XDG directories on Linux).
"""

from __future__ import annotations

import os
from pathlib import Path

APP = "mobilellm"

MANIFEST = "mobilellm.json"
"""Our own file in a model directory: written last, so its presence means the directory is whole."""


def existing(text: str) -> Path | None:
    """The path that a person typed, if something is there; what cannot be a path is not there."""
    try:
        path = Path(text).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError):  # too long, nobody's home, a NUL
        return None


def _home_override() -> Path | None:
    value = os.environ.get("MOBILELLM_HOME")
    return Path(value).expanduser() if value else None


def cache_dir() -> Path:
    """Directory for what can be fetched or made again: imported models, prepared libraries."""
    if home := _home_override():
        return home / "cache"
    from platformdirs import user_cache_path

    return user_cache_path(APP, appauthor=False)


def config_dir() -> Path:
    """Directory for what a person has chosen: the settings."""
    if home := _home_override():
        return home / "config"
    from platformdirs import user_config_path

    return user_config_path(APP, appauthor=False)


def data_dir() -> Path:
    """Directory for what cannot be made again: the chats."""
    if home := _home_override():
        return home / "data"
    from platformdirs import user_data_path

    return user_data_path(APP, appauthor=False)


def models_dir() -> Path:
    """Directory that holds one folder for each model of the catalogue."""
    return cache_dir() / "models"
