"""Compiled kernels for packed weights on CPUs, where there are some: nothing depends on them.

MLX's own CPU product of packed weights is some ten times slower than memory allows. These are built
from ``src/`` for the Python and the MLX that are installed (``mobilellm_mlx/kernels/build.py``);
on macOS, where Metal is the device, never.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from mobilellm_mlx.backend import mx
from mobilellm_mlx.blas import usable_cores
from mobilellm_mlx.errors import MobileLLMError

log = logging.getLogger(__name__)

MODULE = "_kernels"


@dataclass(frozen=True, slots=True)
class Kernels:
    """Which kernels run, and why.

    Attributes:
        module: compiled; None where MLX computes.
        reason: in a few words, for people.
    """

    module: Any
    reason: str


@cache
def kernels() -> Kernels:
    """The kernels that this process uses; the first call decides.

    ``MOBILELLM_KERNELS`` is ``none`` to go without, or the name of a path (``avx2``, ``plain``).
    ``MOBILELLM_THREADS`` says how many threads they take.
    """
    wanted = os.environ.get("MOBILELLM_KERNELS", "").strip().lower()
    if wanted == "none":
        return Kernels(None, "switched off by MOBILELLM_KERNELS")
    if mx.default_device() != mx.Device(mx.cpu):
        return Kernels(None, "the GPU computes")
    try:
        module, reason = _load()
    except (MobileLLMError, OSError) as error:
        module, reason = None, str(error)
    if module is None:
        return Kernels(None, reason)
    if wanted and wanted not in module.paths():
        known = ", ".join([*module.paths(), "none"])
        log.warning("MOBILELLM_KERNELS=%s is none of %s: it is left aside", wanted, known)
    elif wanted:
        module.choose(wanted)
    module.set_threads(_threads())
    threads = module.threads()
    noun = "thread" if threads == 1 else "threads"
    return Kernels(module, f"{module.path()}, {threads} {noun}")


def _load() -> tuple[ModuleType | None, str]:
    from mobilellm_mlx.kernels.place import find, require_own

    path = find()
    if path is None:
        return None, "not built"
    require_own(path)
    module = sys.modules.get(MODULE)
    if module is None:
        spec = importlib.util.spec_from_file_location(MODULE, path)
        assert spec is not None and spec.loader is not None
        try:
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        except (ImportError, RuntimeError) as error:  # built for what is not there any more
            return None, f"`{path}` cannot be loaded: {error}"
        sys.modules[MODULE] = module  # no process can load it twice
    installed = mx.__version__  # type: ignore[attr-defined]
    if module.built_for != installed:
        return None, f"built for MLX {module.built_for}, and {installed} is installed"
    return module, ""


def _threads() -> int:
    text, cores = os.environ.get("MOBILELLM_THREADS", "").strip(), usable_cores()
    if not text:
        return cores
    if not text.isdecimal() or not 0 < int(text) <= cores:
        log.warning("MOBILELLM_THREADS=%s is none of 1 to %d: it is left aside", text, cores)
        return cores
    return int(text)
