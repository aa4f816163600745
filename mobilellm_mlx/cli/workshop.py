"""Trainings as the interface sees them: data, recipes and runs behind one object."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellm_mlx import paths
from mobilellm_mlx.cli import faces
from mobilellm_mlx.errors import DataError, MobileLLMError, StorageError, TrainingError
from mobilellm_mlx.events import MemoryEstimated
from mobilellm_mlx.training.control import Want
from mobilellm_mlx.training.status import RunStatus

if TYPE_CHECKING:
    from mobilellm_mlx.chat.store import Store
    from tui.workshop import Checkup, Launch, Made, Order, Preset

# -P: modules that happen to lie where we were started must not be taken for Python's.
_PYTHON = (sys.executable, "-P", "-m")
_PROGRAM = (*_PYTHON, "mobilellm_mlx")


class Workshop:
    """What ``tui.workshop.Workshop`` asks for.

    Args:
        store: of the chats that can be trained on; None: there are none.
    """

    def __init__(self, store: Store | None = None) -> None:
        self._store = store
        self._known: dict[str, tuple[object, RunStatus]] = {}
        """How runs stood, and when their files were changed: nothing of them is read twice."""

    def presets(self) -> list[Preset]:
        """The recipes of this program.

        Raises:
            MobileLLMError: when one is not sound.
        """
        from mobilellm_mlx.training.recipes import list_recipes

        make: Callable[..., Preset] = _values().Preset
        return [make(each.name, each.description, each.values) for each in list_recipes()]

    def check(self, order: Order) -> Checkup:
        """Read the data as the training would, and reckon its memory: see ``cli.checkup``.

        Raises:
            MobileLLMError: for what cannot be read or trained on.
        """
        asked = {
            "base": str(order.base),
            "data": str(order.data),
            "config": order.config.to_dict(),
        }
        child = subprocess.run(
            [*_PYTHON, "mobilellm_mlx.cli.checkup"],
            input=json.dumps(asked).encode(),
            capture_output=True,
            check=False,
        )
        try:
            found: dict[str, Any] = json.loads(child.stdout)
        except ValueError as error:
            said = child.stderr.decode("utf-8", "replace").strip().splitlines()
            raise TrainingError(
                f"the data could not be looked at: {said[-1] if said else child.returncode}"
            ) from error
        if "error" in found:
            raise DataError(str(found["error"]), found.get("hint"))
        make: Callable[..., Checkup] = _values().Checkup
        return make(
            facts=tuple((label, text) for label, text in found["facts"]),
            warnings=tuple(found["warnings"]),
            examples=tuple(
                tuple((text, learned) for text, learned in example) for example in found["examples"]
            ),
            estimate=MemoryEstimated(**found["estimate"]),
        )

    def export_chats(self) -> Path:
        """Write all chats that are kept to a file to train with.

        Raises:
            MobileLLMError: there is nothing to learn from, or the disk refuses.
        """
        from mobilellm_mlx.chat.exchange import WholeChat, files

        if self._store is None:
            raise DataError("no chats are kept here")
        store = self._store
        whole = [WholeChat(chat, store.messages(chat.id)) for chat in store.chats()]
        text, _ = files.as_text(whole, "jsonl")
        if not text:
            raise DataError(
                "the chats have no complete turn to learn from", "name a file of examples"
            )
        folder = _exports()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make {folder}: {error.strerror}") from error
        target = folder / f"chats-{datetime.now():%Y%m%d-%H%M%S-%f}.jsonl"
        files.write_text(target, text)
        return target

    def discard(self, data: Path) -> None:
        """Delete a file that ``export_chats`` wrote, if no run needs it."""
        from mobilellm_mlx.training.runs import Run, run_names

        if data.parent != _exports():
            return
        for name in run_names():
            with suppress(MobileLLMError):
                if Run.open(name).data.path == data:
                    return
        with suppress(OSError):
            data.unlink()

    def begin(self, order: Order) -> Launch:
        """Make a new run.

        Raises:
            MobileLLMError: the name is taken, or model or data cannot be read.
        """
        from mobilellm_mlx.cli.train import make_run

        run = make_run(order.config, str(order.data), str(order.base), order.name or None)
        return self._launch(run.name, run.path, force=order.risks_memory)

    def resume(self, name: str) -> Launch:
        """Go on with a run.

        Raises:
            TrainingError: there is none, or it has nothing left to do.
        """
        from mobilellm_mlx.cli.train_runs import pick_resumable

        run = pick_resumable(name)
        return self._launch(run.name, run.path)

    @staticmethod
    def _launch(name: str, folder: Path, *, force: bool = False) -> Launch:
        # A run without checkpoints is gone on with from its beginning.
        command = (*_PROGRAM, "train", "resume", name, "--json", *(("--force",) * force))
        launch: Launch = _values().Launch(name, command, folder)
        return launch

    def runs(self) -> list[RunStatus]:
        """Every run, the one that said something last first."""
        from mobilellm_mlx.training.runs import Run, run_names, runs_dir

        found = []
        for name in run_names():
            stamp = _stamp(runs_dir() / name)
            known = self._known.get(name)
            if known is None or known[0] != stamp or known[1].is_alive:
                try:
                    known = (stamp, Run.open(name).status())
                except MobileLLMError as error:
                    known = (
                        stamp,
                        RunStatus(name, runs_dir() / name, "failed", reason=error.message),
                    )
                self._known[name] = known
            found.append(known[1])
        return sorted(found, key=lambda row: row.updated, reverse=True)

    def ask(self, name: str, want: Want) -> None:
        """Tell a run that is trained what it should do after its present step.

        Raises:
            MobileLLMError: there is none, or the disk refuses.
        """
        from mobilellm_mlx.training.runs import Run

        Run.open(name).ask(want)

    def remove(self, name: str) -> None:
        """Delete a run, and with it the chats that were written down for it alone.

        Raises:
            MobileLLMError: it is being trained, or the disk refuses.
        """
        from mobilellm_mlx.training.runs import Run, remove_run

        data = None
        with suppress(MobileLLMError):
            data = Run.open(name).data.path
        remove_run(name)
        if data is not None:
            self.discard(data)

    def made(self, name: str) -> Made:
        """What a run can show for itself.

        Raises:
            MobileLLMError: there is no such run.
        """
        from mobilellm_mlx.adapters import Registry
        from mobilellm_mlx.training.runs import Run

        run = Run.open(name)
        kept = run.status().adapter
        found = Registry().kept(kept) if kept else None
        path = found.path if found is not None else None
        made: Made = _values().Made(run.base.path, run.base.name, path)
        return made


def _stamp(run: Path) -> tuple[object, ...]:
    """Differs as soon as a run has said something or somebody trains it."""
    stamps: list[object] = []
    for name in ("metrics.jsonl", "lock", "run.json"):
        try:
            found = (run / name).stat()
            stamps.append((found.st_mtime_ns, found.st_size, found.st_ino))
        except OSError:
            stamps.append(None)
    return tuple(stamps)


def _values() -> Any:
    """The plain values that the interface understands."""
    return import_module(f"{faces.TUI}.workshop")


def _exports() -> Path:
    return paths.data_dir() / "training" / "chats"
