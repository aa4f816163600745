"""Berkeley's own checker, out of the wheel and into modules that nobody else sees.

Its code runs only from the wheel that was pinned. It is given an importer of its own: what it
imports from its package comes from the wheel too, of the rest it gets ``re``, ``enum`` and
``typing``, and a module that would load the clients of every vendor is a stub. ``sys.modules`` is
left as it is.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

from mobilellm_mlx.evals.wheels import Wheel
from mobilellm_mlx.tools.tool import Call

_PACKAGE = "bfcl_eval"
_MODELS = f"{_PACKAGE}.constants.model_config"
_MODEL = "any"
_ALLOWED = ("re", "enum", "typing")


class AstChecker:
    """Compares calls with the answers that Berkeley allows.

    Args:
        wheel: with the code.
    """

    def __init__(self, wheel: Wheel):
        self._wheel = wheel
        self._modules: dict[str, ModuleType] = {}
        stub = ModuleType(_MODELS)
        # Names stay as they are, with dots; the real table says so for each model.
        stub.__dict__["MODEL_CONFIG_MAPPING"] = {_MODEL: SimpleNamespace(underscore_to_dot=False)}
        self._modules[_MODELS] = stub
        module = self._load(f"{_PACKAGE}.eval_checker.ast_eval.ast_checker")
        self._check: Callable[..., Mapping[str, Any]] = module.__dict__["ast_checker"]
        self._python = self._load(f"{_PACKAGE}.constants.enums").__dict__["Language"].PYTHON

    def is_right(
        self, functions: Sequence[Any], calls: Sequence[Call], answer: Sequence[Any], category: str
    ) -> bool:
        """Whether calls are among the right answers.

        Args:
            functions: that were on offer, as the data describes them.
            calls: that were made.
            answer: for each wanted call, the allowed values of its arguments.
            category: of the data.
        """
        made = [{call.name: call.arguments} for call in calls]
        try:
            found = self._check(list(functions), made, list(answer), self._python, category, _MODEL)
        except Exception:  # it stumbles over types that no right answer has
            return False
        return bool(found["valid"])

    def _load(self, name: str) -> ModuleType:
        """A module of the package, out of the wheel."""
        if name in self._modules:
            return self._modules[name]
        module = ModuleType(name)
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": self._import}
        self._modules[name] = module
        member = f"{name.replace('.', '/')}.py"
        exec(compile(self._wheel.text(member), member, "exec"), module.__dict__)
        return module

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        if level == 0 and fromlist and name.startswith(f"{_PACKAGE}."):
            return self._load(name)
        if level == 0 and name in _ALLOWED:
            return import_module(name)
        raise ImportError(f"the checker may not import `{name}`")
