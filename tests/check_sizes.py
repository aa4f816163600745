"""The size budget: no file over 600 lines, no function over 100. Run by ``make lint``."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOMS = ("mobilellm_mlx", "convert", "tui", "tests", "benchmarks")
MAX_FILE, MAX_FUNCTION = 600, 100


def complaints(root: Path) -> list[str]:
    """Every place that is over the budget, as ``path:line what``."""
    found = []
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            lines = text.count("\n")
            if lines > MAX_FILE:
                found.append(f"{path.relative_to(root)}:1 {lines} lines, at most {MAX_FILE}")
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    length = (node.end_lineno or node.lineno) - node.lineno + 1
                    if length > MAX_FUNCTION:
                        where = f"{path.relative_to(root)}:{node.lineno}"
                        found.append(f"{where} `{node.name}` has {length} lines")
    return found


if __name__ == "__main__":
    problems = complaints(Path(__file__).parent.parent)
    print("\n".join(problems) or "sizes: within the budget")
    sys.exit(bool(problems))
