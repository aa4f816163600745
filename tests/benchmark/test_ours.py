"""Our own network as it is measured: whose time is counted."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mobilellm_mlx.benchmark import ours
from mobilellm_mlx.benchmark.ours import Ours
from mobilellm_mlx.models import LanguageModel
from mobilellm_mlx.models.accelerated import AcceleratedModel
from mobilellm_mlx.options import LoadOptions

CALL_S = 0.05


class Called(AcceleratedModel):
    """Says that all of its time is that of one call."""

    seconds = 0.0

    @property
    def called_s(self) -> float:
        return self.seconds

    def hidden(self, *inputs: Any) -> Any:
        started = time.perf_counter()
        time.sleep(CALL_S)
        hidden = LanguageModel.hidden(self, *inputs)
        self.seconds += time.perf_counter() - started
        return hidden


@pytest.fixture
def count(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """What a step costs on a network of this class."""
    monkeypatch.setattr(ours, "_STEPS", 3)
    monkeypatch.setattr(ours, "measure_bandwidth", lambda: (1.0, "looked up"))

    def found(kind: type | None = None) -> dict[str, Any]:
        engine = Ours(tiny_dir, LoadOptions())
        engine._model.__class__ = kind or engine._model.__class__
        return engine.count(8)

    return found


def test_a_call_that_computes_all_blocks_is_no_time_of_the_hosts(count) -> None:
    found = count(Called)
    assert found["compiled_calls"] == 1
    assert all(0 < seconds < CALL_S for seconds in found["host_s"])


def test_without_such_a_call_all_of_it_is_the_hosts(count) -> None:
    found = count()
    assert found["compiled_calls"] == 0 and found["primitives"] > 20
    assert all(seconds > 0 for seconds in found["host_s"])
