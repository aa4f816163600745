"""The programs that ours is measured beside: what each needs, and how it is started.

What runs in their processes is in ``with_*`` and ``llama.mjs``, all behind the loop of ``serve``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilellm_mlx.benchmark.peers.twin import as_llama, unpacked
from mobilellm_mlx.errors import InvalidOption

OURS = "mobilellm"
_HERE = Path(__file__).parent
_SERVE = str(_HERE / "serve.py")


@dataclass(frozen=True, slots=True)
class Place:
    """What is known of where a model and the programs lie."""

    directory: Path
    """Of the model."""
    scratch: Path = Path()
    """For other forms of it; ``iter_bench`` makes one, which goes when all is measured."""
    threads: int | None = None
    compute: str = "auto"
    gguf: Callable[[], Path | None] = lambda: None
    """The same weights for llama.cpp, fetched or found when they are wanted."""
    python: str = sys.executable
    """Has torch and transformers."""
    node_modules: Path | None = None
    """Has node-llama-cpp; None is where NODE_PATH says."""
    on_gpu: bool = False
    context: int = 0
    """Tokens that will be needed."""


class NotInstalled(Exception):
    """A peer that cannot be asked; says in a line what is missing and how to get it."""


def our_command(place: Place) -> list[str]:
    """Our own network, as it is loaded for a chat."""
    return _python(
        sys.executable,
        "mobilellm_mlx.benchmark.ours",
        {"directory": str(place.directory), "compute": place.compute},
    )


def _mlx_lm(place: Place) -> list[str]:
    """mlx-lm at its best: our BLAS and, on a CPU, unpacked weights: packed ones are slow there."""
    _require_mlx_lm()
    form = as_llama if place.on_gpu else unpacked
    directory = str(form(place.directory, place.scratch))
    arguments = {"directory": directory, "same_blas": True, "threads": place.threads}
    return _python(sys.executable, "with_mlx_lm", arguments)


def _mlx_lm_as_installed(place: Place) -> list[str]:
    """mlx-lm with the files as they are and the BLAS that MLX came with."""
    _require_mlx_lm()
    directory = str(as_llama(place.directory, place.scratch))
    arguments = {"directory": directory, "same_blas": False, "threads": place.threads}
    return _python(sys.executable, "with_mlx_lm", arguments)


def _require_mlx_lm() -> None:
    if importlib.util.find_spec("mlx_lm") is None:
        raise NotInstalled("mlx-lm is not installed: pip install mlx-lm")


def _transformers(place: Place) -> list[str]:
    if place.python == sys.executable and not all(
        map(importlib.util.find_spec, ("torch", "transformers"))
    ):
        raise NotInstalled(
            "transformers is not installed: pip install torch transformers, or name a Python that "
            "has them with --peer-python"
        )
    directory = str(unpacked(place.directory, place.scratch))
    arguments = {"directory": directory, "threads": place.threads, "on_gpu": place.on_gpu}
    return _python(place.python, "with_transformers", arguments)


def _llama_cpp(place: Place) -> list[str]:
    node = shutil.which("node")
    if node is None:
        raise NotInstalled(
            "llama.cpp needs Node.js, which is not installed: get it from nodejs.org, then "
            "npm install node-llama-cpp"
        )
    found = _node_modules(place.node_modules)
    if found is None:
        raise NotInstalled(
            "llama.cpp is not installed: npm install node-llama-cpp, then name its node_modules "
            "with --llama-cpp or NODE_PATH"
        )
    gguf = place.gguf()
    if gguf is None:
        raise NotInstalled(
            "llama.cpp needs the weights as GGUF: write them with `mobilellm export --format gguf` "
            "and name the file with --gguf"
        )
    arguments = {
        "modules": str(found),
        "gguf": str(gguf),
        "threads": place.threads,
        "on_gpu": place.on_gpu,
        "context": place.context,
    }
    return [node, str(_HERE / "llama.mjs"), json.dumps(arguments)]


def _node_modules(named: Path | None) -> Path | None:
    """The directory that has node-llama-cpp in it."""
    if named is not None:
        places = [named, named / "node_modules"]
    else:
        said = os.environ.get("NODE_PATH", "").split(os.pathsep)
        places = [*(Path(text) for text in said if text), Path("node_modules")]
    return next((one.resolve() for one in places if (one / "node-llama-cpp").is_dir()), None)


def _python(python: str, module: str, arguments: dict[str, Any]) -> list[str]:
    if module.startswith("mobilellm_mlx."):  # also from a checkout that is not installed
        return [python, "-m", "mobilellm_mlx.benchmark.peers.serve", module, json.dumps(arguments)]
    return [python, "-P", _SERVE, module, json.dumps(arguments)]


PEERS: dict[str, Callable[[Place], list[str]]] = {
    "mlx-lm": _mlx_lm,
    "mlx-lm-as-installed": _mlx_lm_as_installed,
    "llama.cpp": _llama_cpp,
    "transformers": _transformers,
}
"""By the name that ``--peers`` takes: the command of its process; may raise ``NotInstalled``."""


def parse_peers(text: str) -> tuple[str, ...]:
    """The names in a list with commas, each once.

    Raises:
        InvalidOption: when one of them is nobody's.
    """
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in PEERS:
            raise InvalidOption(
                f"`{name}` is no program that this can be measured beside",
                f"`--peers` takes {', '.join(PEERS)}, with commas between them",
            )
    return tuple(dict.fromkeys(names))
