"""How a run stands, told by who holds its lock and by what it said last."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from mobilellm_mlx.events import (
    Event,
    Summary,
    TrainPaused,
    TrainStarted,
    TrainStep,
    TrainSummary,
    Validated,
)
from mobilellm_mlx.training.journal import Journal, parse_line

if TYPE_CHECKING:
    from mobilellm_mlx.training.runs import Run

State = Literal["running", "paused", "stopped", "finished", "failed", "interrupted"]

_NEVER = datetime.fromtimestamp(0, UTC)
_Kind = TypeVar("_Kind", bound=Event)


@dataclass(frozen=True, slots=True)
class RunStatus:
    """How a run stands.

    Attributes:
        name: of the run.
        path: its directory.
        state: ``paused`` is alive and waits; ``stopped`` ended because somebody wanted it to;
            ``interrupted`` ended without a word: it was killed, or the machine went off.
        step: steps that were done.
        steps: of the whole run; 0 before that is known.
        loss: of the last step.
        best_loss: on the validation examples.
        best_step: at which it was.
        pid: of the process that trains it; None when nobody does, 0 when that is not known.
        method: of ``TrainConfig``.
        model: name of the base.
        updated: when it said something last.
        reason: why it ended, in words; empty when that is plain.
        adapter: name of what came out, in the registry.
    """

    name: str
    path: Path
    state: State
    step: int = 0
    steps: int = 0
    loss: float | None = None
    best_loss: float | None = None
    best_step: int | None = None
    pid: int | None = None
    method: str = ""
    model: str = ""
    updated: datetime = _NEVER
    reason: str = ""
    adapter: str | None = None

    @property
    def is_alive(self) -> bool:
        """Whether a process trains it, or waits to."""
        return self.state in ("running", "paused")

    @property
    def can_resume(self) -> bool:
        """Whether there may be something left to do."""
        return self.state in ("stopped", "failed", "interrupted")

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {**asdict(self), "path": str(self.path), "updated": self.updated.isoformat()}


def status_of(run: Run, journal: Journal, holder: int | None) -> RunStatus:
    """How a run stands.

    Args:
        run: the run.
        journal: what it said.
        holder: the process that holds its lock.

    Raises:
        StorageError: when the journal cannot be read.
    """
    data = journal.read()
    started, at_start = _last(data, TrainStarted)
    step, at_step = _last(data, TrainStep)
    validated, _ = _last(data, Validated)
    paused, at_pause = _last(data, TrainPaused)
    summary, at_end = _last(data, Summary)
    is_last = at_end > max(at_start, at_step, at_pause)
    end = summary if is_last and holder is None else None
    done = step.step if step and at_step > at_start else started.start_step if started else 0
    is_paused = paused is not None and at_pause > max(at_start, at_step)
    state = ("paused" if is_paused else "running") if holder is not None else _ended(end)
    is_done = isinstance(end, TrainSummary)
    return RunStatus(
        run.name,
        run.path,
        state,
        step=done,
        steps=started.steps if started else 0,
        loss=step.loss if step else None,
        best_loss=validated.best_loss if validated else None,
        best_step=validated.best_step if validated else None,
        pid=holder,
        method=run.config.method,
        model=run.base.name,
        updated=_updated(run, journal),
        reason=_reason(end),
        adapter=end.adapter if is_done else None,  # type: ignore[union-attr]
    )


def _last(data: bytes, kind: type[_Kind]) -> tuple[_Kind | None, int]:
    """The last event of a kind and where it is; every line is not parsed, there may be many."""
    head = f'{{"event": "{kind.name}"'.encode()
    end = len(data)
    while (at := data.rfind(head, 0, end)) >= 0:
        if at == 0 or data[at - 1] == 0x0A:
            event = parse_line(data[at : data.find(b"\n", at)])
            if isinstance(event, kind):
                return event, at
        end = at
    return None, -1


def _ended(end: Summary | None) -> State:
    if end is None:
        return "interrupted"
    if end.status == "error":
        return "failed"
    reason = end.reason if isinstance(end, TrainSummary) else ""
    if end.status == "cancelled" or reason == "stopped":
        return "stopped"
    return "failed" if reason in ("diverged", "error") else "finished"


def _reason(end: Summary | None) -> str:
    if end is None:
        return ""
    if end.error:
        return end.error
    reason = end.reason if isinstance(end, TrainSummary) else ""
    return {"early stop": "no better for long", "diverged": "it diverged"}.get(reason, "")


def _updated(run: Run, journal: Journal) -> datetime:
    try:
        return datetime.fromtimestamp(journal.path.stat().st_mtime, UTC)
    except OSError:
        return run.created
