"""What is trained and what it takes, as plain values.

How that is done is not known here: whoever starts the interface hands in a ``Workshop``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mobilellm_mlx.events import MemoryEstimated
from mobilellm_mlx.training.config import TrainConfig
from mobilellm_mlx.training.control import Want
from mobilellm_mlx.training.status import RunStatus


@dataclass(frozen=True, slots=True)
class Preset:
    """A recipe: values that suit a purpose."""

    name: str
    about: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Order:
    """A training as a person wants it."""

    base: Path
    data: Path
    config: TrainConfig
    base_name: str = ""
    name: str = ""
    """Of the run; empty leaves it to the workshop."""
    risks_memory: bool = False
    """To be begun even if memory may not do."""


Piece = tuple[str, bool]
"""A piece of an example, and whether it is learned or only read."""


@dataclass(frozen=True, slots=True)
class Checkup:
    """What the doctor of data says, and the memory that the training would take."""

    facts: tuple[tuple[str, str], ...] = ()
    """Labels and texts."""
    warnings: tuple[str, ...] = ()
    examples: tuple[tuple[Piece, ...], ...] = ()
    estimate: MemoryEstimated | None = None
    """None where it is not known."""


@dataclass(frozen=True, slots=True)
class Made:
    """What a run has made, for trying it."""

    base: Path
    """The model that was trained."""
    base_name: str
    adapter: Path | None = None
    """Directory of what came of it; None where nothing has yet."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A training that can begin: the command of its process, and the directory of its run."""

    name: str
    command: tuple[str, ...]
    folder: Path


class Workshop(Protocol):
    """Knows the trainings. All methods may take a while and are called on threads.

    Errors are ``MobileLLMError``.
    """

    def presets(self) -> list[Preset]:
        """The recipes."""
        ...

    def check(self, order: Order) -> Checkup:
        """Read the data as the training would, and reckon its memory."""
        ...

    def export_chats(self) -> Path:
        """Write all chats that are kept to a file to train with."""
        ...

    def discard(self, data: Path) -> None:
        """Delete a file that ``export_chats`` wrote, if no run needs it; leave any other alone."""
        ...

    def begin(self, order: Order) -> Launch:
        """Make a new run."""
        ...

    def resume(self, name: str) -> Launch:
        """Go on with a run."""
        ...

    def runs(self) -> list[RunStatus]:
        """Every run, the newest first."""
        ...

    def ask(self, name: str, want: Want) -> None:
        """Tell a run that is trained what it should do after its present step."""
        ...

    def remove(self, name: str) -> None:
        """Delete a run with its checkpoints; what it gave to the adapters stays."""
        ...

    def made(self, name: str) -> Made:
        """What a run can show for itself."""
        ...
