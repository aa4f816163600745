"""``mobilellm eval``: how good a model is at something, measured so that results compare."""

from __future__ import annotations

import click

from mobilellm_mlx.cli import LazyGroup

_HERE = "mobilellm_mlx.cli"
VERBS: dict[str, tuple[str, str]] = {
    "choice": (f"{_HERE}.eval_choice:choice", "The eight common-sense tasks of MobileLLM's paper."),
    "ppl": (f"{_HERE}.eval_ppl:ppl", "Perplexity and bits per byte of a text or a corpus."),
    "quant": (f"{_HERE}.eval_quant:quant", "What rounding weights to fewer bits costs."),
    "chat": (f"{_HERE}.eval_chat:chat", "Answers to MT-Bench's questions, for a judge."),
    "calls": (f"{_HERE}.eval_calls:calls", "How well a model calls tools."),
    "harness": (f"{_HERE}.eval_harness:harness", "The tasks of EleutherAI's lm-eval."),
    "list": (f"{_HERE}.eval_results:list_results", "List the results that were kept."),
    "show": (f"{_HERE}.eval_results:show_result", "Show a result, and what it depends on."),
    "rm": (f"{_HERE}.eval_results:remove_results", "Remove results for good."),
    "compare": (f"{_HERE}.eval_results:compare_results", "Compare results, request by request."),
    "training": (f"{_HERE}.eval_calls:training", "Print conversations with calls to train with."),
}


@click.group(name="eval", cls=LazyGroup, verbs=VERBS)
def eval_() -> None:
    """Measure what a model can do, and compare the results.

    Nothing is sent anywhere. Data is fetched once, from the package index, when a verb needs it;
    lm-eval (`harness`) fetches its own from the Hugging Face Hub.
    """
