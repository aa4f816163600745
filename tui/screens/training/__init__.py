"""Fine-tuning: the runs there are, a new one, and one that can be watched."""

from __future__ import annotations

from .fields import PathLine
from .form import FormScreen
from .home import RunList, RunsScreen
from .leaving import LeavingScreen
from .run import RunScreen

__all__ = ["FormScreen", "LeavingScreen", "PathLine", "RunList", "RunScreen", "RunsScreen"]
