"""The paper's two figures for API calling, and what else tells how a model calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.evals.calls.case import Case, Gold, calls_of
from mobilellm_mlx.evals.calls.normal import is_same
from mobilellm_mlx.evals.rouge import rouge_1, rouge_l
from mobilellm_mlx.evals.task import Response
from mobilellm_mlx.tools.tool import Call

Check = Callable[[Case, Gold, Sequence[Call]], bool]
"""Whether calls are right in all their arguments."""


def exactly(_: Case, gold: Gold, calls: Sequence[Call]) -> bool:
    """Whether the calls are those that are wanted, in order, after normalisation."""
    return len(calls) == len(gold.calls) and all(map(is_same, calls, gold.calls))


def score_calls(case: Case, gold: Gold, response: Response, check: Check) -> dict[str, float]:
    """The metrics of one response.

    ``em_intent``: the right tool, or none where none is wanted. ``em_structure``, where one is
    wanted: its arguments too. ``called``, where one is wanted: something was called at all.
    ``restraint``, where none is wanted: nothing was called. ``valid``, where something was called,
    be it half a call: it can be read, the tool was on offer, and its arguments fit.

    Args:
        case: what was asked.
        gold: what is right.
        response: what came back; see ``asking``.
        check: compares arguments.
    """
    values = response.values
    calls = calls_of(values["calls"])
    called = bool(calls or values["error"] or values["is_cut"])
    wanted = bool(gold.calls)
    names_fit = [call.name for call in calls] == [call.name for call in gold.calls]
    scores = {
        "em_intent": float(names_fit and called == wanted),
        "seconds": float(values["elapsed_s"]),
    }
    if wanted:
        scores["em_structure"] = float(names_fit and check(case, gold, calls))
        scores["called"] = float(called)
    else:
        scores["restraint"] = float(not called)
    if called:
        scores["valid"] = float(bool(calls) and all(_fits(case, call) for call in calls))
    if calls and values["tokens"]:
        scores["tokens"] = float(values["tokens"])
        scores["forward_passes"] = float(values["forward_passes"])
        scores["forced_share"] = values["forced_tokens"] / values["tokens"]
        scores["passes_per_token"] = values["forward_passes"] / values["tokens"]
    if case.reply and values.get("reply") is not None:
        scores["rouge_1"] = rouge_1(values["reply"], case.reply)
        scores["rouge_l"] = rouge_l(values["reply"], case.reply)
    return scores


def _fits(case: Case, call: Call) -> bool:
    """Whether a tool on offer takes the call."""
    from mobilellm_mlx.tools.checking import check_arguments

    if (found := case.schema(call.name)) is None:
        return False
    tool, schema = found
    try:
        check_arguments(tool, call.arguments, schema)
    except ToolError:
        return False
    return True
