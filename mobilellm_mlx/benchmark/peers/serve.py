"""The loop of a process that is measured: a line of JSON in, a line of JSON out.

    python serve.py MODULE '{"directory": ...}'

The standard library alone, for it also runs in interpreters that have nothing else of ours. MODULE
has ``start(**arguments)``, which gives something with

- ``about``: what it is, as a dictionary,
- ``run(depth, prompt, batch, generate)``: seconds to the first token, and from each to the next,
- ``count(depth)``: what there is to say of one step, or an empty dictionary,
- ``device_peak_bytes()``.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from importlib import import_module
from pathlib import Path
from typing import Any


def main(arguments: list[str]) -> None:
    """Answer until nobody asks any more."""
    module, options = arguments
    # Libraries greet and warn on stdout; answers go where only they can.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    try:
        engine = _load(module).start(**json.loads(options))
        say(engine.about)
        for line in sys.stdin:
            say(answer(engine, json.loads(line)))
    except Exception as error:
        say({"error": " ".join(f"{type(error).__name__}: {error}".split())})
        raise


def _load(module: str) -> Any:
    if "." not in module:  # one of those beside this file
        sys.path.insert(0, str(Path(__file__).parent))
        try:
            return import_module(module)
        finally:
            sys.path.pop(0)
    return import_module(module)


def answer(engine: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """What an engine says to one question."""
    do = asked.pop("do")
    if do == "run":
        first_s, steps_s = engine.run(**asked)
        return {"ttft_s": first_s, "token_s": steps_s}
    if do == "count":
        return dict(engine.count(**asked))
    return {
        "peak_memory_bytes": peak_memory_bytes(),
        "device_peak_bytes": engine.device_peak_bytes(),
    }


def peak_memory_bytes() -> int:
    """The most that this process held of the machine's memory."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main(sys.argv[1:])
