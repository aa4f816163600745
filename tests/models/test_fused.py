"""Which form of a fused function runs where; both must give the same."""

import pytest
from tolerances import FP32, assert_close

import mobilellm_mlx.backend as backend_module
from mobilellm_mlx.backend import BACKENDS, mx

Calls = list[str]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Names of the forms that ran; ``mx.compile`` is replaced by one that tells."""
    seen: Calls = []

    def compile_(function, **options):  # type: ignore[no-untyped-def]
        def compiled(*arrays):  # type: ignore[no-untyped-def]
            seen.append("compiled")
            return function(*arrays)

        return compiled

    monkeypatch.setattr(mx, "compile", compile_)
    return seen


@pytest.mark.parametrize(
    ("name", "expected"), [("cpu", []), ("metal", ["compiled"]), ("cuda", ["compiled"])]
)
def test_fused_compiles_on_a_gpu_and_runs_eagerly_on_a_cpu(
    name: str, expected: list[str], calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    double = backend_module.fused(lambda x: x + x)
    monkeypatch.setattr(backend_module, "backend", lambda: BACKENDS[name])  # type: ignore[index]
    assert double(mx.array(3)).item() == 6
    assert calls == expected


def test_the_backend_is_asked_at_each_call(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    double = backend_module.fused(lambda x: x + x)
    for name in ("cpu", "metal", "cpu"):
        monkeypatch.setattr(backend_module, "backend", lambda name=name: BACKENDS[name])
        double(mx.array(3))
    assert calls == ["compiled"]


def test_swiglu_is_silu_of_the_gate_times_up() -> None:
    from mobilellm_mlx.backend import nn
    from mobilellm_mlx.models.network import _swiglu

    gate, up = (mx.random.normal((5, 7), key=mx.random.key(n)) for n in (1, 2))
    assert_close(_swiglu(gate, up), nn.silu(gate) * up, FP32, "swiglu")


@pytest.mark.parametrize(
    ("on_gpu", "platform", "name"),
    [
        (True, "darwin", "metal"),
        (True, "linux", "cuda"),
        (False, "darwin", "cpu"),
        (False, "linux", "cpu"),
    ],
)
def test_the_backend_follows_device_and_platform(on_gpu: bool, platform: str, name: str) -> None:
    assert backend_module._select(on_gpu, platform) == name


def test_only_gpus_compute_packed_and_in_half_precision_by_default() -> None:
    assert {
        name: (b.default_compute, b.half_precision, b.name == name) for name, b in BACKENDS.items()
    } == {
        "metal": ("packed", True, True),
        "cuda": ("packed", True, True),
        "cpu": ("dense", False, True),
    }
