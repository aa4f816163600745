"""A shelf of models that exist only in a test, whose pulls wait where a test wants."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

from mobilellm_mlx.errors import MobileLLMError, ModelNotFound
from mobilellm_mlx.events import Event, Progress
from mobilellm_mlx.paths import MANIFEST
from tui.shelf import Memory, ModelRow

FITS = Memory(270_000_000, 90_000_000, 256_000_000, 7_900_000_000)
TOO_BIG = Memory(4_000_000_000, 8_300_000_000, 256_000_000, 7_900_000_000)
R1 = "MobileLLM-R1: for maths"


class FakeShelf:
    """Two models that are here, three that are not; every call is noted.

    Attributes:
        may_pull: while clear, a pull waits in its middle.
        failing: what pulls raise, if anything.
        closed: names of the pulls whose generator was closed before its end.
    """

    def __init__(self, home: Path):
        self.home = home
        self.may_pull = threading.Event()
        self.may_pull.set()
        self.failing: Exception | None = None
        self.damage: str | None = None
        self.plan: Memory = FITS
        self.asked: list[str] = []
        self.closed: list[str] = []
        self.removed: list[str] = []
        for name in ("small-chat", "other-chat"):
            self.put(name)

    def put(self, name: str) -> Path:
        path = self.home / name
        path.mkdir(parents=True, exist_ok=True)
        (path / MANIFEST).write_text("{}")
        return path

    def make(self, name: str, heading: str = R1, **fields: object) -> ModelRow:
        here = (self.home / name / MANIFEST).is_file()
        known: dict[str, object] = {
            "title": name.upper(), "licence": "FAIR Noncommercial Research License",
            "non_commercial": True, "gated": True, "page": f"https://huggingface.co/x/{name}",
            "source": "the Hugging Face Hub", "parameters": 140_000_000, "context": 2048,
            "chats": True, "installed": here, "removable": here, "resumes": True,
            "bytes": 98_000_000 if here else None, "download_bytes": 280_000_000,
            "converted_bytes": 124_000_000, "memory": FITS,
        }  # fmt: skip
        place = "Here" if here else heading
        return ModelRow(name, self.home / name, place, **{**known, **fields})  # type: ignore[arg-type]

    def rows(self) -> list[ModelRow]:
        self.asked.append("rows")
        free = {"licence": "Apache-2.0", "non_commercial": False, "gated": False}
        return [
            self.make("small-chat", **free),
            self.make("other-chat", **free, memory=self.plan),
            self.make("r1-140m"),
            self.make("r1-360m"),
            self.make("wheel", "To start with", resumes=False, **free),
            self.make("base-125m", "MobileLLM: completes text", chats=False),
        ]

    def find(self, text: str) -> ModelRow:
        self.asked.append(f"find {text}")
        if (Path(text) / "config.json").is_file():
            chats = {"removable": False, "installed": True, "heading": "A directory of yours"}
            return ModelRow("mine", Path(text), memory=FITS, **chats)  # type: ignore[arg-type]
        raise ModelNotFound(f"there is no directory `{text}`", "name another")

    def memory(self, row: ModelRow) -> Memory | None:
        self.asked.append(f"memory {row.name}")
        return self.plan

    def announcement(self, row: ModelRow) -> str:
        return f"{row.name} is fetched from the Hub; its licence is for non-commercial use only."

    def pull(self, row: ModelRow) -> Iterator[Event]:
        self.asked.append(f"pull {row.name}")
        total = 200_000_000
        try:
            yield Progress(f"fetching {row.name}", 0, total)
            yield Progress(f"fetching {row.name}", total / 4, total)
            while not self.may_pull.wait(0.005):
                yield Progress(f"fetching {row.name}", total / 2, total)
            if self.failing is not None:
                raise self.failing
            yield Progress(f"fetching {row.name}", total, total)
        except GeneratorExit:
            self.closed.append(row.name)
            raise
        self.put(row.name)

    def find_damage(self, row: ModelRow) -> str | None:
        self.asked.append(f"check {row.name}")
        return self.damage

    def remove(self, row: ModelRow) -> int:
        if not row.removable:
            raise MobileLLMError("not yours")
        self.removed.append(row.name)
        (row.path / MANIFEST).unlink()
        return row.bytes or 0
