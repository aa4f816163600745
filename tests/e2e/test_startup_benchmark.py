"""The parts of ``benchmarks/startup.py`` that can be wrong without anybody noticing. Not timed."""

import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mobilellm_mlx.backend import mx
from mobilellm_mlx.loading import load_model
from mobilellm_mlx.options import LoadOptions

# The benchmark leaves the pipes of the processes that it has timed to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <_io.FileIO")


@pytest.fixture(scope="module")
def startup() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "startup.py"
    spec = importlib.util.spec_from_file_location("startup_benchmark", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_peer_gets_the_same_weights_unpacked(startup, tmp_path) -> None:
    from tiny import write_model

    packed = write_model(tmp_path / "packed", packed=True, dtype=mx.float16)
    dense = startup.write_dense(packed, tmp_path / "dense")
    config = json.loads((dense / "config.json").read_text())
    assert "quantization" not in config and "quantization_config" not in config
    tensors = mx.load(str(dense / "model.safetensors"))
    assert {tensor.dtype for tensor in tensors.values()} == {mx.float32}
    tokens = mx.array([[1, 2, 3, 200]])
    logits = [
        load_model(directory, LoadOptions(compute="dense")).model(tokens)
        for directory in (packed, dense)
    ]
    assert mx.array_equal(*logits)


def test_both_sides_are_asked_the_same(startup, tmp_path) -> None:
    ours = startup.our_command(tmp_path)
    peer = startup.peer_command(tmp_path, same_blas=True)
    for command in (ours, peer):
        assert command[0] == sys.executable
        for words in ([startup.PROMPT], ["--temp", "0"], ["--max-tokens", "8"], [str(tmp_path)]):
            assert all(word in command for word in words)
    assert "mobilellm_mlx.backend" in " ".join(peer)
    assert "mobilellm_mlx" not in " ".join(startup.peer_command(tmp_path, same_blas=False))


def test_our_command_is_one_that_runs(startup, tiny_dir) -> None:
    assert startup.first_byte_s(startup.our_command(tiny_dir), skip=0) > 0


def test_the_first_byte_after_the_skipped_lines_is_timed(startup) -> None:
    code = "import time; print('x'); time.sleep(0.3); print('y'); time.sleep(0.5)"
    command = [sys.executable, "-c", code]
    skipped, whole = (startup.first_byte_s(command, skip=n, env=os.environ) for n in (1, 0))
    assert skipped >= 0.3 and whole < skipped


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "pass"], ids=["fails", "says nothing"])
def test_a_run_that_fails_or_says_nothing_is_no_measurement(startup, code) -> None:
    with pytest.raises(SystemExit, match="failed"):
        startup.first_byte_s([sys.executable, "-c", code], skip=0)


@pytest.mark.parametrize(("peer", "verdict"), [(4.0, "met"), (1.5, "missed")])
def test_the_last_line_is_json_and_the_verdict_fits(startup, capsys, peer, verdict) -> None:
    times = {
        startup.OURS: [1.0, 0.9, 1.1],
        startup.OURS_PACKED: [2.0, 2.0, 2.0],
        startup.PEER: [peer] * 3,
    }
    startup.print_result(times, None, "OpenBLAS")
    *table, last = capsys.readouterr().out.splitlines()
    row = json.loads(last)
    assert (row["benchmark"], row["repeats"], row["blas"]) == ("startup", 3, "OpenBLAS")
    figures = row["min_median_max"]
    assert figures[startup.OURS] == [0.9, 1.0, 1.1]
    assert figures[f"ratio, {startup.OURS}"] == [0.9 / peer, 1.0 / peer, 1.1 / peer]
    assert figures[f"ratio, {startup.OURS_PACKED}"] == [2.0 / peer] * 3
    assert table[-1].endswith(verdict)
