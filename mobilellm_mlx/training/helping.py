"""What the first process of a training tells those that help it, perhaps on other machines.

Places under the first one's home directory are looked for under the home directory there.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mobilellm_mlx.training.config import TrainConfig
from mobilellm_mlx.training.data.example import Example
from mobilellm_mlx.training.runs import TEMPLATE, Base, DataRef, Run, runs_dir


def tell(run: Run, *, resume: bool, force: bool) -> str:
    """A run in words that another machine understands."""
    base, data = run.base, run.data
    own = run.config.template not in ("", "chatml")
    return json.dumps(
        {
            "name": run.name,
            "config": run.config.to_dict(),
            "template": Path(run.config.template).read_text(encoding="utf-8") if own else None,
            "base": [base.name, _from_here(str(base.path)), base.sha256],
            "data": [_from_here(str(data.path)), data.sha256],
            "resume": resume,
            "force": force,
        }
    )


def hear(text: str) -> tuple[Run, dict[str, bool]]:
    """The run that was told, which is nowhere on this disk, and what is to be done with it."""
    told: dict[str, Any] = json.loads(text)
    config = told["config"]
    if told["template"] is not None:
        config = {**config, "template": _keep(told["template"])}
    name, place, base_sha256 = told["base"]
    run = Run(
        told["name"],
        runs_dir() / told["name"],
        TrainConfig().merged(config),
        Base(name, Path(_to_here(place)), base_sha256),
        DataRef(Path(_to_here(told["data"][0])), told["data"][1]),
        datetime.now(UTC),
    )
    return run, {"resume": told["resume"], "force": told["force"]}


def _keep(text: str) -> str:
    """A file with a text, until this process ends; its path."""
    folder = tempfile.TemporaryDirectory(prefix="mobilellm-")
    atexit.register(folder.cleanup)
    path = Path(folder.name) / TEMPLATE
    path.write_text(text, encoding="utf-8")
    return str(path)


def digest(parts: Iterable[Iterable[Example]]) -> str:
    """A hash of the tokens of examples and of what is learned of them."""
    whole = hashlib.sha256()
    for examples in parts:
        for example in examples:
            whole.update(b"%d " % len(example) + example.tokens.tobytes() + example.learned)
        whole.update(b"|")
    return whole.hexdigest()


def _from_here(place: str) -> str:
    path, home = Path(place), Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else place


def _to_here(place: str) -> str:
    return str(Path.home() / place[2:]) if place.startswith("~/") else place
