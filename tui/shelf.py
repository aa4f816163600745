"""The models that are here or could be, as plain values.

Where they come from is not known here: whoever starts the interface hands in a ``ModelShelf``.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mobilellm_mlx.events import Event


@dataclass(frozen=True, slots=True)
class Memory:
    """What a model would take in memory, and what there is."""

    weight_bytes: int
    cache_bytes: int
    kept_free_bytes: int
    available_bytes: int
    is_estimate: bool = False
    """From the published shape: the files are not here yet."""

    @property
    def need_bytes(self) -> int:
        """Weights and the cache of the whole context."""
        return self.weight_bytes + self.cache_bytes

    @property
    def fits(self) -> bool:
        """Whether it can be loaded, with something left for the rest of the machine."""
        return self.need_bytes + self.kept_free_bytes <= self.available_bytes

    @property
    def arithmetic(self) -> str:
        """How that was reckoned, on one line."""
        parts = [f"weights {_giga(self.weight_bytes)}", f"context {_giga(self.cache_bytes)}"]
        about = "~" if self.is_estimate else ""
        free = f"{_giga(self.available_bytes)} GB free"
        if self.fits:
            verdict = "fits"
        else:
            free += f", of which {_giga(self.kept_free_bytes)} stay free"
            verdict = "does not fit"
        return f"{about}{_giga(self.need_bytes)} GB = {' + '.join(parts)}; {free}: {verdict}"


def _giga(count: int) -> str:
    return f"{count / 1e9:.2f}"


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model, as far as it is known; None is what nobody says before it is fetched."""

    name: str
    """What it is asked for by."""
    path: Path
    """Where it lies, or would."""
    heading: str
    """The group it is shown in."""
    title: str = ""
    authors: str = ""
    about: str = ""
    licence: str | None = None
    non_commercial: bool = False
    gated: bool | None = False
    page: str = ""
    """Where its terms can be read."""
    source: str = ""
    """Where it would be fetched from, such as ``the Hugging Face Hub``."""
    parameters: int | None = None
    size: str = ""
    """Its size as its name has it, for when ``parameters`` is not known."""
    context: int | None = None
    packing: str = ""
    chats: bool | None = None
    installed: bool = False
    removable: bool = False
    """It lies in the cache of this program; what a person keeps elsewhere is theirs."""
    resumes: bool = False
    """A pull that was broken off goes on from where it was."""
    bytes: int | None = None
    """On disk."""
    download_bytes: int | None = None
    converted_bytes: int | None = None
    memory: Memory | None = None
    trouble: str = ""
    """What is wrong with its files."""


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """What a person chose to chat with."""

    name: str
    directory: Path


class ModelShelf(Protocol):
    """Knows the models. All methods may take a while and are called on threads.

    Only ``pull`` uses the network. Errors are ``MobileLLMError``.
    """

    def rows(self) -> list[ModelRow]:
        """Every model with a name, grouped: those that are here first."""
        ...

    def find(self, text: str) -> ModelRow:
        """The model of a directory or of a name on the Hugging Face Hub, without asking it."""
        ...

    def memory(self, row: ModelRow) -> Memory | None:
        """What a model that is here needs, and what there is at this moment."""
        ...

    def announcement(self, row: ModelRow) -> str:
        """What a pull would fetch, from where, and under which terms."""
        ...

    def pull(self, row: ModelRow) -> Generator[Event, None, None]:
        """Fetch it and make it ready; closing the generator stops that."""
        ...

    def find_damage(self, row: ModelRow) -> str | None:
        """What is wrong with its files by their SHA-256; None when nothing is."""
        ...

    def remove(self, row: ModelRow) -> int:
        """Take it out of the cache; the bytes that this frees."""
        ...
