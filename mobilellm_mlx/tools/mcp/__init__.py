"""Tools of servers that speak the Model Context Protocol, each a program of its own.

Nothing that a server says is believed. It gets a small environment instead of ours, its words are
cut and cleaned before anybody reads them, its schemas are made anew from what we understand, and it
is ended with everything it started when it is late, says too much, or is not needed any more.
"""

from __future__ import annotations

from mobilellm_mlx.settings import ServerConfig
from mobilellm_mlx.tools.mcp.servers import ServerRow, Servers

__all__ = ["ServerConfig", "ServerRow", "Servers"]
