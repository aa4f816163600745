"""Runs: every training has a directory of its own, which says all there is to know about it.

::

    <data>/training/runs/<name>/
        run.json         what is trained on what, and how: written once
        metrics.jsonl    what it said, an event a line
        metrics.csv      its figures
        checkpoints/     what it can be gone on from
        control, lock    what others want of it, and who trains it

Nothing here needs MLX: the interface and ``mobilellm train list`` read runs without it.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

from mobilellm_mlx import paths
from mobilellm_mlx.errors import MobileLLMError, TrainingError
from mobilellm_mlx.events import Event
from mobilellm_mlx.training.config import TrainConfig
from mobilellm_mlx.training.control import Control, Lock, Want
from mobilellm_mlx.training.files import storage_error, write_whole
from mobilellm_mlx.training.journal import Journal, JournalReader
from mobilellm_mlx.training.record import VERSION, Base, DataRef, as_record, read_record
from mobilellm_mlx.training.status import RunStatus, status_of

TEMPLATE = "template.jinja"
"""The copy of a chat template that was given as a file."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""As the adapters that come of runs may be called."""
__all__ = [
    "Base",
    "DataRef",
    "Run",
    "RunStatus",
    "check_name",
    "list_runs",
    "remove_run",
    "run_names",
    "runs_dir",
]

_LIST_HINT = "`mobilellm train list` shows all runs"


def runs_dir() -> Path:
    """Where runs are kept."""
    return paths.data_dir() / "training" / "runs"


@dataclass(frozen=True)
class Run:
    """A training, whether it is going on or not.

    Attributes:
        name: unique, the name of its directory.
        path: its directory.
        config: all that was chosen about it.
        base: the model it began with.
        data: the examples.
        created: when.
        version: of ``run.json``.
    """

    name: str
    path: Path
    config: TrainConfig
    base: Base
    data: DataRef
    created: datetime
    version: int = VERSION

    @cached_property
    def _lock(self) -> Lock:
        return Lock(self.path)

    @cached_property
    def _control(self) -> Control:
        return Control(self.path)

    @cached_property
    def _journal(self) -> Journal:
        return Journal(self.path)

    # ------------------------------------------------------------ making and finding

    @classmethod
    def create(
        cls,
        config: TrainConfig,
        base: Base,
        data_path: Path,
        data_sha256: str,
        name: str | None = None,
    ) -> Run:
        """Make the directory of a new run, whole or not at all.

        Args:
            config: all that was chosen.
            base: the model to train.
            data_path: the examples.
            data_sha256: of their bytes.
            name: of the run; without one it is made of model and method.

        Raises:
            TrainingError: the name is taken or cannot be one.
            StorageError: when the disk refuses.
        """
        data = DataRef(data_path.absolute(), data_sha256)
        template = None
        if config.template not in ("", "chatml"):
            template = _existing_template(config.template)
        created = datetime.now(UTC)
        for each in [check_name(name)] if name is not None else _names(config, base):
            path = runs_dir() / each
            if template is not None:  # a copy: a resume must not meet another one
                config = config.merged({"template": str(path / TEMPLATE)})
            run = cls(each, path, config, base, data, created)
            if not run._place(template):
                continue
            return run
        raise TrainingError(
            f"there is a run `{name}` already",
            f"choose another name with `--name`, go on with `mobilellm train resume {name}`, "
            f"or remove it with `mobilellm train rm {name}`",
        )

    @classmethod
    def open(cls, name: str) -> Run:
        """The run of a name.

        Raises:
            TrainingError: there is none (with a did-you-mean), or its ``run.json`` is not sound.
        """
        path = runs_dir() / check_name(name)
        if not (path / "run.json").is_file():
            close = get_close_matches(name.lower(), run_names(), 1)
            raise TrainingError(
                f"there is no run `{name}`",
                f"did you mean `{close[0]}`?" if close else _LIST_HINT,
            )
        try:
            return cls(name, path, *read_record(path / "run.json"))
        except TrainingError as error:
            raise TrainingError(
                f"the run `{name}` cannot be read: {error.message}",
                error.hint or f"`mobilellm train rm {name}` removes it",
            ) from error

    def _place(self, template: Path | None) -> bool:
        """Put the directory in its place; False when the name is taken."""
        scratch: Path | None = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self._is_taken():
                return False
            scratch = Path(tempfile.mkdtemp(prefix=f".{self.name}.", dir=self.path.parent))
            scratch.chmod(0o755)
            (scratch / "checkpoints").mkdir()
            if template is not None:
                shutil.copyfile(template, scratch / TEMPLATE)
            record = as_record(self.config, self.base, self.data, self.created)
            write_whole(scratch / "run.json", record)
            try:
                scratch.rename(self.path)
            except OSError:
                if self.path.exists():  # another process was faster
                    return False
                raise
            scratch = None
            return True
        except OSError as error:
            raise storage_error("make", self.path, error) from error
        finally:
            if scratch is not None:
                shutil.rmtree(scratch, ignore_errors=True)

    def _is_taken(self) -> bool:
        """On some disks capitals make no difference."""
        there = {each.name.lower() for each in self.path.parent.iterdir()}
        return self.name.lower() in there

    # ------------------------------------------------------------ what it said

    def note(self, event: Event) -> None:
        """Keep an event; on its way to the disk when this returns. ``Progress`` is not kept.

        Raises:
            StorageError: when the disk refuses; nothing of the event is left then.
        """
        self._journal.add(event)

    def cut(self, step: int) -> None:
        """Forget what was noted after a step, and that the run ended: it goes on from there.

        Raises:
            StorageError: when the disk refuses.
        """
        self._journal.cut(step)

    def events(self) -> Iterator[Event]:
        """What was noted, from the beginning.

        Raises:
            StorageError: when it cannot be read.
        """
        return self._journal.events()

    def reader(self) -> JournalReader:
        """For following a run: gives what is new each time."""
        return JournalReader(self._journal)

    def status(self) -> RunStatus:
        """How it stands."""
        return status_of(self, self._journal, self._lock.holder())

    # ------------------------------------------------------------ who trains it

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Train it, and nobody else. What was asked of it before is forgotten.

        Within the same ``Run`` it may be taken again.

        Raises:
            TrainingError: another process trains it; the message names it.
            StorageError: when the disk refuses.
        """
        with self._lock.held() as is_first:
            if is_first:
                self._control.clear()
            yield

    def want(self) -> Want:
        """What the training should do next: looked at between two steps."""
        return self._control.want()

    def ask(self, want: Want) -> None:
        """Ask the process that trains it to pause, to go on (``run``) or to stop.

        Raises:
            StorageError: when the disk refuses.
        """
        self._control.ask(want)

    @property
    def checkpoints(self) -> Path:
        """Directory of its checkpoints."""
        return self.path / "checkpoints"

    def remove(self) -> None:
        """Remove it with all its checkpoints.

        Raises:
            TrainingError: it is being trained.
            StorageError: when the disk refuses.
        """
        _remove(self.path, self.lock())


def _existing_template(text: str) -> Path:
    """The file that ``--template`` names.

    Raises:
        TrainingError: there is none.
    """
    found = paths.existing(text)
    if found is None or not found.is_file():
        raise TrainingError(
            f"there is no template `{text[:200]}`", "`--template` takes `chatml` or a Jinja file"
        )
    return found


def check_name(name: str) -> str:
    """A name that can be one of a run.

    Raises:
        TrainingError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise TrainingError(
            f"`{name[:80]}` cannot be the name of a run",
            "use up to 64 letters, digits, dots, dashes and underscores, a letter or digit first",
        )
    return name


def run_names() -> list[str]:
    """The names of all runs."""
    try:
        return sorted(
            each.name
            for each in runs_dir().iterdir()
            if _NAME.fullmatch(each.name) and (each / "run.json").is_file()
        )
    except FileNotFoundError:
        return []
    except OSError as error:
        raise storage_error("read", runs_dir(), error) from error


def list_runs() -> list[RunStatus]:
    """How all runs stand, the one that said something last first.

    One that cannot be read is ``failed``, with the reason.

    Raises:
        StorageError: when the directory of runs cannot be read.
    """
    found = []
    for name in run_names():
        try:
            found.append(Run.open(name).status())
        except MobileLLMError as error:
            found.append(RunStatus(name, runs_dir() / name, "failed", reason=error.message))
    return sorted(found, key=lambda status: status.updated, reverse=True)


def remove_run(name: str) -> None:
    """Remove a run, also one that cannot be read.

    Raises:
        TrainingError: there is none, or it is being trained.
        StorageError: when the disk refuses.
    """
    if name not in run_names():
        Run.open(name)  # says what there is
    path = runs_dir() / name
    _remove(path, Lock(path).held())


def _remove(path: Path, lock: AbstractContextManager[Any]) -> None:
    with lock:
        try:
            # Aside first: a run that is half removed is none.
            aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
            path.rename(aside / path.name)
            shutil.rmtree(aside)
        except OSError as error:
            raise storage_error("remove", path, error) from error


def _names(config: TrainConfig, base: Base) -> Iterator[str]:
    """Names for a run that was given none, the plainest first."""
    model = re.sub(r"[^a-z0-9._-]+", "-", base.name.rpartition("/")[2].lower()).strip("-._")
    plain = f"{model[:48] or 'model'}-{config.method}"
    yield plain
    for number in range(2, 10_000):
        yield f"{plain}-{number}"
