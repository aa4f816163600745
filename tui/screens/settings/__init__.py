"""The settings, a page for each kind of thing."""

from __future__ import annotations

from .screen import SettingsScreen

__all__ = ["SettingsScreen"]
