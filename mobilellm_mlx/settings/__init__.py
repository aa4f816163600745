"""What a person has chosen, kept as TOML in one file."""

from __future__ import annotations

from mobilellm_mlx.settings.file import load_settings, save_setting, settings_path
from mobilellm_mlx.settings.schema import GROUPS, SCHEMA, THEMES, Kind, Setting, find
from mobilellm_mlx.settings.servers import ServerConfig
from mobilellm_mlx.settings.values import Settings

__all__ = [
    "GROUPS",
    "SCHEMA",
    "THEMES",
    "Kind",
    "ServerConfig",
    "Setting",
    "Settings",
    "find",
    "load_settings",
    "save_setting",
    "settings_path",
]
