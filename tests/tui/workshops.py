"""A workshop whose trainings are a small script, and runs that tell what a test wants."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from mobilellm_mlx.errors import DataError, MobileLLMError
from mobilellm_mlx.events import (
    CheckpointSaved,
    Event,
    MemoryEstimated,
    Notice,
    Sampled,
    TrainStarted,
    TrainStep,
    TrainSummary,
    Validated,
)
from mobilellm_mlx.training.config import TrainConfig
from mobilellm_mlx.training.control import Want
from mobilellm_mlx.training.runs import Base, Run, RunStatus, list_runs, remove_run
from tui.workshop import Checkup, Launch, Made, Order, Preset

FITS = MemoryEstimated(
    weights_bytes=270_000_000,
    gradients_bytes=20_000_000,
    optimizer_bytes=40_000_000,
    activations_bytes=510_000_000,
    total_bytes=840_000_000,
    available_bytes=5_400_000_000,
    fits=True,
)
TOO_BIG = MemoryEstimated(
    270_000_000, 540_000_000, 1_080_000_000, 4_100_000_000, 5_990_000_000, 3_200_000_000, False,
    ["--batch-size 4 saves 2.05 GB", "--checkpoint-layers saves 1.80 GB"],
)  # fmt: skip
CHECKUP = Checkup(
    facts=(
        ("train", "412 examples, 61,204 tokens, 38 % of them learned"),
        ("valid", "22 examples, 3,310 tokens; set aside from the same file"),
        ("length", "139 tokens in the middle, 1,130 at most"),
        ("cut", "3 examples (0.7 %) are longer than 1,024 tokens; 212 tokens lost"),
    ),
    warnings=("2 prompts stand in both train and valid",),
    examples=(
        (
            ("<|im_start|>user\nWhat is the capital of Peru?<|im_end|>\n", False),
            ("<|im_start|>assistant\n", False),
            ("Lima.<|im_end|>", True),
        ),
        (
            ("<|im_start|>user\nAnd of [b]Chile[/b]?<|im_end|>\n<|im_start|>assistant\n", False),
            ("Santiago.<|im_end|>", True),
        ),
    ),
    estimate=FITS,
)  # fmt: skip


def make_run(
    name: str = "smollm2-lora",
    events: Iterable[Event] = (),
    config: TrainConfig | None = None,
    data: Path = Path("/data/talk.jsonl"),
) -> Run:
    """A run whose story is already told."""
    base = Base("smollm2-135m", Path("/models/smollm2-135m"), "0" * 64)
    run = Run.create(config or TrainConfig(), base, data, "1" * 64, name)
    for event in events:
        run.note(event)
    return run


def started(run: str = "smollm2-lora", steps: int = 300) -> TrainStarted:
    """The first event."""
    return TrainStarted(
        run=run, path="", model="smollm2-135m", method="lora", trained_parameters=2_442_240,
        total_parameters=134_515_008, train_examples=412, valid_examples=22, steps=steps,
        steps_per_epoch=52,
    )  # fmt: skip


def step(at: int, loss: float = 2.0, steps: int = 300) -> TrainStep:
    """One step."""
    return TrainStep(
        step=at, epoch=at / 52, loss=loss, learning_rate=4.2e-4, gradient_norm=0.8,
        tokens=900 * at, tok_per_s=412.0, memory_bytes=910_000_000, peak_memory_bytes=1_240_000_000,
        elapsed_s=2.2 * at, left_s=2.2 * (steps - at),
    )  # fmt: skip


def validated(
    at: int, loss: float, best: float | None = None, best_step: int | None = None
) -> Validated:
    """One validation."""
    return Validated(
        step=at, loss=loss, is_best=best is None, best_loss=loss if best is None else best,
        best_step=at if best_step is None else best_step, tokens=3310, elapsed_s=2.2 * at,
    )  # fmt: skip


def tale(steps: int = 180, total: int = 300) -> list[Event]:
    """A training that goes well."""
    events: list[Event] = [FITS, started(steps=total), validated(0, 3.41)]
    for at in range(1, steps + 1):
        noise = 0.22 * (((at * 7919) % 101) / 101 - 0.5)
        loss = 1.15 + 2.2 * 0.98**at + noise
        rate = 5e-4 * min(1.0, at / 15) * (1 - 0.9 * at / total)
        events.append(
            replace(
                step(at, loss, total),
                learning_rate=rate,
                tok_per_s=400 + 90 * noise,
                memory_bytes=int(9.1e8 + 4e7 * noise),
            )
        )
        if at % 30 == 0:
            events.append(validated(at, 1.22 + 2.1 * 0.98**at))
            events += [
                Sampled(
                    at, "What is the capital of Peru?", "The capital of Peru is Lima.", "Lima."
                ),
                Sampled(
                    at,
                    "Write a line about [b]rain[/b].",
                    "Rain taps the roof\nall night.",
                    "Soft rain.",
                ),
            ]
            events.append(CheckpointSaved(at, "checkpoints", True))
    events.insert(40, Notice("3 examples were cut at 1,024 tokens"))
    return events


def finished(steps: int = 300) -> TrainSummary:
    """The last event."""
    return TrainSummary(
        run="smollm2-lora", reason="finished", adapter="smollm2-lora", step=steps, steps=steps,
        first_loss=3.41, last_loss=1.24, best_loss=1.22, best_step=270, train_s=662.0,
    )  # fmt: skip


CHILD = """
import sys, time
from mobilellm_mlx.training.runs import Run
from tests.tui.workshops import started, step, validated, finished
run = Run.open(sys.argv[1])
with run.lock():
    run.note(started(run.name))
    run.note(validated(0, 3.4))
    at = 0
    while run.want() != "stop" and at < int(sys.argv[2]):
        if run.want() == "pause":
            time.sleep(0.01)
            continue
        at += 1
        run.note(step(at))
        time.sleep(0.005)
    if sys.argv[3] == "dies":
        print("error: the disk [/is] full\\nhint: free some space", file=sys.stderr)
        sys.exit(1)
    end = finished(at)
    if run.want() == "stop":
        from dataclasses import replace
        end = replace(end, reason="stopped", status="cancelled", adapter=None)
    run.note(end)
"""


class FakeWorkshop:
    """A workshop without MLX.

    Args:
        checkup: what the doctor says.
        steps: of every training.
        ending: ``dies`` or nothing.
        command: what to run instead of a training.
    """

    def __init__(
        self,
        checkup: Checkup | MobileLLMError = CHECKUP,
        steps: int = 1000,
        ending: str = "well",
        command: tuple[str, ...] = (),
    ):
        self.checkup = checkup
        self.steps, self.ending = steps, ending
        self.checked: list[Order] = []
        self.command = command
        self.begun: list[Order] = []
        self.resumed: list[str] = []
        self.discarded: list[Path] = []
        self.result: Made | None = None

    def presets(self) -> list[Preset]:
        return [
            Preset(
                "chat-style", "Short answers in your own style", {"learning_rate": 1e-3, "rank": 16}
            ),
            Preset("tools", "Calls of tools", {"rank": 32, "epochs": 2.0}),
        ]

    def check(self, order: Order) -> Checkup:
        self.checked.append(order)
        if not str(order.data).endswith(".jsonl"):
            raise DataError(f"there is no `{order.data.name}`", "name a file of JSON lines")
        if isinstance(self.checkup, MobileLLMError):
            raise self.checkup
        return self.checkup

    def export_chats(self) -> Path:
        return Path("/data/chats.jsonl")

    def discard(self, data: Path) -> None:
        self.discarded.append(data)

    def begin(self, order: Order) -> Launch:
        self.begun.append(order)
        run = make_run(order.name or "new-run", config=order.config)
        return self._launch(run)

    def resume(self, name: str) -> Launch:
        self.resumed.append(name)
        return self._launch(Run.open(name))

    def _launch(self, run: Run) -> Launch:
        command = (sys.executable, "-c", CHILD, run.name, str(self.steps), self.ending)
        return Launch(run.name, self.command or command, run.path)

    def runs(self) -> list[RunStatus]:
        return list_runs()

    def ask(self, name: str, want: Want) -> None:
        Run.open(name).ask(want)

    def remove(self, name: str) -> None:
        remove_run(name)

    def made(self, name: str) -> Made:
        return self.result or Made(
            Path("/models/smollm2-135m"), "smollm2-135m", Path("/adapters/x")
        )
