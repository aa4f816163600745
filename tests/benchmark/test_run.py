"""The benchmark from end to end, on tiny networks and beside peers that follow a script."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import LLAMA, MOBILELLM, make_model, write_model

from mobilellm_mlx.backend import mx, tree_flatten
from mobilellm_mlx.benchmark import peers, run, sharing
from mobilellm_mlx.benchmark.bandwidth import measure_bandwidth
from mobilellm_mlx.benchmark.machine import describe_machine, iter_busy, read_thermal
from mobilellm_mlx.benchmark.ours import Ours, step_bytes
from mobilellm_mlx.benchmark.peers import Place, parse_peers
from mobilellm_mlx.benchmark.peers.twin import as_llama, unpacked
from mobilellm_mlx.benchmark.plan import Plan
from mobilellm_mlx.benchmark.weights import find_gguf, make_prompt
from mobilellm_mlx.errors import EngineError, InsufficientMemory, InvalidInput, InvalidOption
from mobilellm_mlx.events import BenchRun, BenchSummary, Notice, from_dict
from mobilellm_mlx.loading import load_model
from mobilellm_mlx.options import LoadOptions

PLAN = Plan(prompts=(8,), generate=3, repeats=2)
PEER = """
import json, sys, time
def say(value): print(json.dumps(value), flush=True)
say({"version": "7", "load_s": 0.1, "init_s": 0.1, "execute_s": [0.1], "context": 512,
     "step_bytes": 100, "weight_bytes": 100, "item_bytes": 4, "kv_bytes_per_token": 64,
     "backend": "cpu"})
for at, line in enumerate(sys.stdin):
    asked = json.loads(line)
    if asked["do"] == "run":
        say(RUN)
    else:
        say({} if asked["do"] == "count" else {"peak_memory_bytes": 5, "device_peak_bytes": 0})
"""
ANSWER = '{"ttft_s": 1.0, "token_s": [0.5] * asked["generate"]}'


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets the peer `scripted` answer with this expression, beside an `ours` that knows a script
    as well and needs no time to start."""

    def command(answer: str) -> list[str]:
        return [sys.executable, "-c", PEER.replace("RUN", answer)]

    def let(answer: str) -> None:
        monkeypatch.setattr(run, "our_command", lambda _: command(ANSWER.replace("0.5", "0.25")))
        monkeypatch.setitem(peers.PEERS, "scripted", lambda _: command(answer))

    return let


def measured(directory: Path, plan: Plan = PLAN, *names: str) -> tuple[list[Any], BenchSummary]:
    place = Place(directory)
    *events, last = run.iter_bench(place, plan, range(200), name="tiny", peers=names, limit_s=60)
    assert isinstance(last, BenchSummary)
    return events, last


def test_ours_is_measured_and_everything_a_reader_needs_is_said(tiny_dir: Path) -> None:
    plan = Plan(prompts=(8,), depths=(0, 20), batches=(1, 2), generate=3, repeats=1, threads=1)
    events, last = measured(tiny_dir, plan)
    runs = [event for event in events if isinstance(event, BenchRun)]
    assert [(one.depth, one.batch) for one in runs] == [(0, 1), (20, 1), (0, 2), (20, 2)]
    assert all(len(one.token_s) == 3 and one.repeat == 1 for one in runs)
    (about,) = last.engines
    assert about["load_s"] > 0 and about["init_s"] > 0 and about["execute_s"]["median"] > 0
    assert about["primitives"] > 20 and about["host_s"]["median"] > 0
    assert about["bandwidth_bytes_per_s"] > 1e8 and "best of" in about["bandwidth_of"]
    assert about["peak_memory_bytes"] > 1e7 and about["threads"] in (1, None)
    assert all(row["step_bytes"] > about["step_bytes"] for row in last.rows)
    assert last.rows[2]["step_bytes"] > last.rows[0]["step_bytes"]  # two sequences' keys
    assert from_dict(json.loads(last.to_json())) == last


def test_peers_take_turns_with_ours_and_are_compared_repeat_by_repeat(
    tiny_dir: Path, peer: Callable[[str], None]
) -> None:
    peer(ANSWER)
    events, last = measured(tiny_dir, PLAN, "scripted")
    runs = [event for event in events if isinstance(event, BenchRun)]
    order = [(one.repeat, one.engine) for one in runs]
    assert order == [(r, e) for r in (1, 2) for e in ("mobilellm", "scripted")]
    assert [one["what"] for one in last.ratios] == ["prefill", "decode"]
    assert (last.ratios[1]["median"], last.ratios[1]["repeats"]) == (2.0, 2)
    assert last.engines[1]["peak_memory_bytes"] == 5


@pytest.mark.parametrize(
    "answer",
    ['"what?"', '{"ttft_s": 0, "token_s": [1, 1, 1]}', '{"ttft_s": 1, "token_s": [1]}', "1 / 0"],
)
def test_a_peer_that_answers_nonsense_is_left_out_with_a_notice(
    tiny_dir: Path, peer: Callable[[str], None], answer: str
) -> None:
    peer(answer)
    events, last = measured(tiny_dir, PLAN, "scripted")
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert len(notices) == 1 and notices[0].startswith("without scripted from here on: ")
    assert [row["engine"] for row in last.rows] == ["mobilellm"] and not last.ratios


def test_a_peer_that_never_begins_is_left_out_and_the_next_one_is_not_hurried(
    tiny_dir: Path, peer: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    peer(ANSWER)
    silent = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setitem(peers.PEERS, "silent", lambda _: silent)
    monkeypatch.setattr(run, "START_S", 3.0)
    events, last = measured(tiny_dir, PLAN, "silent", "scripted")
    (notice,) = [event.text for event in events if isinstance(event, Notice)]
    assert notice.startswith("without silent: ") and "--threads 1" in notice
    assert [row["engine"] for row in last.rows] == ["mobilellm", "scripted"]


def test_others_at_work_before_it_began_are_a_note() -> None:
    (note,) = iter_busy({"load": 1.6, "cores": 2})
    assert note.startswith("Load 1.6 on 2 cores before it began")
    assert not [*iter_busy({"load": 0.2, "cores": 2}), *iter_busy({"load": None})]


def test_a_peer_that_is_not_installed_is_a_line_that_says_how_to_get_it(
    tiny_dir: Path, peer: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    peer(ANSWER)
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", "/nowhere")
    names = ("mlx-lm", "llama.cpp", "transformers")
    events, last = measured(tiny_dir, Plan(prompts=(4,), generate=1, repeats=1), *names)
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert [text.split(":")[0] for text in notices] == [f"without {name}" for name in names]
    assert all("install" in text for text in notices) and len(last.engines) == 1


def test_a_program_that_is_slow_is_asked_once_and_that_counts(
    tiny_dir: Path, peer: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    peer(f"(time.sleep(0.4), {ANSWER})[1]")
    monkeypatch.setattr(run, "SLOW_S", 0.3)
    events, last = measured(tiny_dir, PLAN, "scripted")
    theirs = [e for e in events if isinstance(e, BenchRun) and e.engine == "scripted"]
    assert [one.repeat for one in theirs] == [0]
    assert any("measured once" in e.text for e in events if isinstance(e, Notice))
    assert last.ratios


def test_a_model_that_cannot_be_loaded_is_an_error(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "broken")
    (directory / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(EngineError, match=r"mobilellm: .*safetensors"):
        measured(directory)


def test_a_case_longer_than_the_context_is_refused(tiny_dir: Path) -> None:
    with pytest.raises(InvalidOption, match="tokens of context"):
        measured(tiny_dir, Plan(prompts=(100_000,)))


def test_a_batch_that_no_memory_holds_is_refused_at_once(tiny_dir: Path) -> None:
    plan = Plan(prompts=(8,), batches=(1, 1_000_000), generate=1000, repeats=1)
    with pytest.raises(InsufficientMemory, match=r"prompt 8 x 1000000 take .* GB") as caught:
        measured(tiny_dir, plan)
    assert "smaller batch" in str(caught.value.hint)


def test_mlx_lm_answers_the_same_questions(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "tiny", packed=True)
    names = ("mlx-lm", "mlx-lm-as-installed")
    events, last = measured(directory, Plan(prompts=(8,), generate=3, repeats=1, threads=1), *names)
    assert not [event for event in events if isinstance(event, Notice)]
    _, best, bare = last.engines
    assert (best["form"], bare["form"]) == ("unpacked", "packed")
    assert best["blas"] != bare["blas"] == "MLX's own"
    assert best["primitives"] > 20 and best["host_s"]["median"] > 0


def test_a_step_of_a_shared_block_reads_its_weights_twice() -> None:
    once = make_model({**MOBILELLM, "layer_sharing": False})
    twice = make_model(MOBILELLM)
    flat = tree_flatten(once.parameters())
    blocks = sum(array.nbytes for name, array in flat if ".layers." in name)
    assert step_bytes(once) == once.weight_bytes()
    assert step_bytes(twice) - step_bytes(once) == blocks > 0


def test_a_step_reads_one_row_of_an_embedding_that_is_not_the_head() -> None:
    model = make_model({**LLAMA, "tie_word_embeddings": False})
    embedding = LLAMA["vocab_size"] * LLAMA["hidden_size"] * 4
    assert step_bytes(model) == model.weight_bytes() - embedding


def test_depth_is_the_same_context_every_time(tiny_dir: Path) -> None:
    ours = Ours(tiny_dir, LoadOptions())
    seen = []
    for _ in range(2):
        caches = ours._behind([5] * 20, 1)
        seen.append([cache.offset for cache in caches])
        ours.run([5] * 20, [6] * 4, 1, 3)
    assert seen[0] == seen[1] == [20] * len(seen[0])


def test_the_bandwidth_is_that_of_the_quickest_reading() -> None:
    rate, how = measure_bandwidth()
    assert 1e8 < rate < 1e14 and "MiB" in how


def test_other_programs_get_a_llama_and_layer_sharing_is_refused(tmp_path: Path) -> None:
    plain = write_model(tmp_path / "plain", {**MOBILELLM, "layer_sharing": False}, packed=True)
    shared = write_model(tmp_path / "shared", MOBILELLM)
    twin = as_llama(plain, tmp_path)
    config = json.loads((twin / "config.json").read_text())
    assert config["model_type"] == "llama" and config["tie_word_embeddings"] is True
    dense = unpacked(plain, tmp_path)
    tokens = mx.array([[1, 2, 3]])
    logits = [load_model(d, LoadOptions(compute="dense")).model(tokens) for d in (plain, dense)]
    assert mx.array_equal(*logits)
    with pytest.raises(EngineError, match="share layers"):
        as_llama(shared, tmp_path)


def test_layer_sharing_compares_three_networks_with_the_first() -> None:
    tiny = {"a": {**MOBILELLM, "layer_sharing": False}, "b": MOBILELLM}
    *_, last = sharing.iter_layer_sharing(Plan(prompts=(4,), generate=2, repeats=1), networks=tiny)
    assert isinstance(last, BenchSummary) and last.table == "layer-sharing"
    assert [row["name"] for row in last.rows] == ["a", "b"]
    assert last.rows[0]["weight_bytes"] == last.rows[1]["weight_bytes"]
    assert [one["name"] for one in last.ratios] == ["b"]


def test_the_papers_networks_have_the_papers_shape() -> None:
    assert sharing.NETWORKS.keys() == sharing.PAPER.keys()
    layers = [raw["num_hidden_layers"] for raw in sharing.NETWORKS.values()]
    shared = [raw["layer_sharing"] for raw in sharing.NETWORKS.values()]
    assert layers == [30, 30, 60] and shared == [False, True, False]


def test_the_prompt_is_as_long_as_was_asked(tiny_dir: Path) -> None:
    assert len(make_prompt(tiny_dir, 1000)) == 1000


def test_a_file_that_is_no_gguf_is_refused(tiny_dir: Path) -> None:
    assert find_gguf(tiny_dir, None) is None
    with pytest.raises(InvalidInput, match="no GGUF"):
        find_gguf(tiny_dir, tiny_dir / "config.json")
    with pytest.raises(InvalidInput, match="cannot be read"):
        find_gguf(tiny_dir, tiny_dir / "nothing")


def test_peers_are_named_once_and_nobody_else_is() -> None:
    assert parse_peers("llama.cpp, MLX-LM,llama.cpp") == ("llama.cpp", "mlx-lm")
    with pytest.raises(InvalidOption, match="`vllm`"):
        parse_peers("vllm")


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("CPU_Scheduler_Limit = 100\nCPU_Speed_Limit = 100", "nominal"),
        ("CPU_Speed_Limit \t= 62", "clock held at 62 %"),
        ("Note: No thermal warning level has been recorded", "nominal"),
        ("", None),
    ],
)
def test_the_systems_word_on_heat_is_understood(said: str, state: str | None) -> None:
    assert read_thermal(said) == state


def test_a_machine_is_described_without_its_name() -> None:
    machine = describe_machine()
    assert machine["cores"] >= 1 and machine["memory_bytes"] > 0 and machine["chip"]
    assert not {"node", "hostname", "user"} & machine.keys()
