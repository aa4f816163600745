"""Settings as the rest of the program sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from mobilellm_mlx.settings.schema import find
from mobilellm_mlx.settings.servers import ServerConfig, server_config


@dataclass(frozen=True, slots=True)
class Settings:
    """What has been set; everything in it is valid.

    Attributes:
        values: by key, only what differs from "not set".
    """

    values: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def get(self, key: str) -> Any:
        """What holds: the value that was set, or else the default.

        Raises:
            InvalidOption: there is no such setting.
        """
        setting = find(key)
        return self.values.get(key, setting.default)

    def replaced(self, key: str, value: Any) -> Settings:
        """These settings with one changed, in memory only; None unsets it.

        Raises:
            InvalidOption: no such setting, or it cannot have this value.
        """
        setting = find(key)
        values = {k: v for k, v in self.values.items() if k != key}
        if value is not None:
            values[key] = setting.check(value)
        return Settings(MappingProxyType(values))

    def _table(self, group: str) -> dict[str, Any]:
        start = f"{group}."
        return {k.removeprefix(start): v for k, v in self.values.items() if k.startswith(start)}

    @property
    def sampling(self) -> dict[str, Any]:
        """Fields of ``GenerationOptions`` that replace what the model's makers recommend."""
        return self._table("sampling")

    @property
    def presets(self) -> dict[str, str]:
        """System prompts by name, in the order of the file."""
        return self._table("presets")

    @property
    def keymap(self) -> dict[str, str]:
        """Keys by the id of their binding: ``{"chat.new": "f5"}``."""
        return self._table("keys")

    @property
    def mcp(self) -> dict[str, ServerConfig]:
        """Servers of tools by name, in the order of the file."""
        return {name: server_config(name, table) for name, table in self._table("mcp").items()}

    @property
    def instructions(self) -> str | None:
        """The system prompt of a new chat: the chosen preset's text, or else the one written."""
        chosen = self.presets.get(self.get("chat.preset") or "")
        return chosen or self.get("chat.instructions") or None
