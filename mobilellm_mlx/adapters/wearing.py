"""Putting adapters on a network and taking them off, while the network stays in memory.

An adapter's modules are made once and then exchanged with those of the base, which costs about as
much as a few hundred assignments: so a question aside may be asked with another adapter than the
conversation's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mobilellm_mlx.adapters.files import Adapter, load_adapter
from mobilellm_mlx.adapters.identity import fits, require_fit
from mobilellm_mlx.adapters.record import CONFIG, TEMPLATE, TENSORS, AdapterInfo, read_info
from mobilellm_mlx.backend import allocation_errors, mx, nn
from mobilellm_mlx.errors import AdapterError, StorageError
from mobilellm_mlx.loading import (
    LoadedModel,
    find_reasoning,
    load_template_source,
    make_template,
    read_json,
)
from mobilellm_mlx.models import LanguageModel
from mobilellm_mlx.models.lora import DoRALinear, adapted_modules, attach, dense_weight, detach
from mobilellm_mlx.paths import MANIFEST

_MOST_TEMPLATE_BYTES = 100_000
"""It is compiled while somebody waits, which nothing can cut short."""


@dataclass(frozen=True, slots=True)
class _Outfit:
    """A model with an adapter on."""

    loaded: LoadedModel
    info: AdapterInfo
    modules: Mapping[str, nn.Module]
    """Those that take the place of the base's, by path."""
    source: tuple[object, ...]
    """The files it was read from, and their state."""


class Wardrobe:
    """The adapters of one model in memory, and which of them is on. For the thread of the model.

    Args:
        loaded: the model, without an adapter.
    """

    def __init__(self, loaded: LoadedModel):
        self._bare = loaded
        self._outfits: list[_Outfit] = []
        self._on: _Outfit | None = None
        self._under: dict[str, nn.Module] = {}
        """The modules of the base whose places are taken."""
        self._forced: set[Path] = set()

    def dressed(self, directory: Path | None, *, force: bool = False) -> LoadedModel:
        """The model as it is with an adapter on; which one is on does not change.

        Args:
            directory: of the adapter; None is the bare model.
            force: use it also when it was made for another model, from now on.

        Raises:
            AdapterError: when it cannot be used.
            MobileLLMError: one of its kinds, for what else is wrong.
        """
        if directory is None:
            return self._bare
        if force:
            self._forced.add(directory)
        return self._outfit(directory).loaded

    def doubt(self, loaded: LoadedModel) -> str | None:
        """What speaks against the adapter on a model that was ``dressed``, as a sentence."""
        outfit = self._find(loaded)
        if outfit is None:
            return None
        name, base = outfit.info.name, outfit.info.base_name or "another model"
        fit = fits(outfit.info, Path(self._bare.info.path))
        if fit is None:
            return f"Nothing says which model the adapter {name} was made for."
        return None if fit else f"The adapter {name} was made for {base}, not for this model."

    def wear(self, loaded: LoadedModel) -> None:
        """Make the network compute as ``loaded``, which came from ``dressed``, says."""
        self._put_on(self._find(loaded))

    def keep_only(self, *kept: LoadedModel, spare: LoadedModel | None = None) -> None:
        """Let all other adapters go.

        Args:
            kept: the models as they are still asked for.
            spare: one that may be asked for again soon; kept unless it is as large as the model.
        """
        self._outfits = [
            outfit
            for outfit in self._outfits
            if outfit is self._on
            or any(outfit.loaded is each for each in kept)
            or (outfit.loaded is spare and outfit.info.method != "full")
        ]

    def _find(self, loaded: LoadedModel) -> _Outfit | None:
        """The outfit of a model; None of the bare one."""
        if loaded is self._bare:
            return None
        return next(outfit for outfit in self._outfits if outfit.loaded is loaded)

    def _put_on(self, wanted: _Outfit | None) -> None:
        if wanted is not self._on:
            _exchange(self._bare.model, self._under)
            self._under = _exchange(self._bare.model, wanted.modules) if wanted else {}
            self._on = wanted

    def _outfit(self, directory: Path) -> _Outfit:
        source = (directory, *_state(directory))
        for known in self._outfits:
            if known.source == source:
                return known
        info = read_info(directory)
        base = self._bare.info
        require_fit(info, Path(base.path), base.model, force=directory in self._forced)
        on = self._on
        self._put_on(None)
        try:
            adapter = load_adapter(directory, self._bare.model)
            with allocation_errors("putting an adapter on"):
                modules = _make_modules(self._bare.model, adapter)
        finally:
            self._put_on(on)
        outfit = _Outfit(dress(self._bare, adapter), info, modules, source)
        self._outfits.append(outfit)
        return outfit


def dress(loaded: LoadedModel, adapter: Adapter) -> LoadedModel:
    """What is known of a model when an adapter is on it: its words and its fingerprint.

    Raises:
        AdapterError: when the adapter's chat template or stop token cannot be used.
    """
    info, base = adapter.info, loaded.info
    fingerprint = hashlib.sha256(f"{base.fingerprint}\n{adapter.sha256}".encode()).hexdigest()
    dressed = replace(
        loaded,
        info=replace(
            base,
            adapter=info.name,
            fingerprint=fingerprint,
            weight_bytes=base.weight_bytes + adapter.nbytes,
            chat=base.chat or info.has_template,
        ),
    )
    if info.stop_token:
        token = loaded.tokenizer.special.get(info.stop_token)
        if token is None:
            raise AdapterError(
                f"the adapter `{info.name}` ends turns with `{info.stop_token[:40]}`, which is no "
                "token of this model"
            )
        dressed = replace(dressed, stop_tokens=loaded.stop_tokens | {token})
    if not info.has_template:
        return dressed
    if (info.path / TEMPLATE).stat().st_size > _MOST_TEMPLATE_BYTES:
        raise AdapterError(f"the chat template of the adapter `{info.name}` is too long")
    source = load_template_source(info.path, {})
    if source is None:
        return dressed
    words = read_json(Path(base.path) / "tokenizer_config.json", missing={})
    template = make_template(source, words)
    template.compile()
    reasoning = find_reasoning(source, loaded.tokenizer)
    return replace(dressed, template=template, reasoning=reasoning)


def _state(directory: Path) -> tuple[object, ...]:
    """What changes when somebody writes to an adapter."""
    state: list[object] = []
    for name in (CONFIG, TENSORS, TEMPLATE, MANIFEST):
        try:
            status = (directory / name).stat()
            state.append((status.st_size, status.st_mtime_ns, status.st_ino))
        except FileNotFoundError:
            state.append(None)
        except OSError as error:
            raise StorageError(f"`{directory / name}` cannot be read: {error.strerror}") from error
    return tuple(state)


def _make_modules(model: LanguageModel, adapter: Adapter) -> dict[str, nn.Module]:
    """The modules that an adapter brings, around those of a bare network, which stays as it is."""
    if adapter.spec is None:
        return _whole_modules(model, adapter.tensors)
    attach(model, adapter.spec)
    try:
        model.load_weights(list(adapter.tensors.items()), strict=False)
        modules: dict[str, nn.Module] = dict(adapted_modules(model))
    finally:
        detach(model)
    for path, module in modules.items():
        module.eval()
        if isinstance(module, DoRALinear) and module.lora_a.ndim == 2:
            modules[path] = _SettledDoRA(module)
    return modules


class _SettledDoRA(nn.Module):  # type: ignore[misc]  # untyped
    """DoRA when nothing is trained any more: the rows' lengths, most of its work, are known.

    Args:
        trained: what it computes the same as.
    """

    def __init__(self, trained: DoRALinear):
        super().__init__()
        self.linear, self.scale = trained.linear, trained.scale
        self.lora_a, self.lora_b = trained.lora_a, trained.lora_b
        change = self.scale * (self.lora_b.T @ self.lora_a.T)  # (O, D)
        changed = dense_weight(self.linear).astype(mx.float32) + change
        self.factor = trained.m / mx.linalg.norm(changed, axis=1)  # (O,)
        mx.eval(self.factor)  # one large matrix at a time

    def __call__(self, x: mx.array) -> mx.array:
        """Inputs (..., D) to outputs (..., O)."""
        change = self.scale * ((x @ self.lora_a) @ self.lora_b)
        outputs: mx.array = self.linear(x) + change.astype(x.dtype)
        return self.factor.astype(x.dtype) * outputs


def _whole_modules(model: LanguageModel, tensors: Mapping[str, mx.array]) -> dict[str, nn.Module]:
    """Modules with whole weights of their own; what was packed is not any more."""
    bases, modules = dict(model.named_modules()), dict[str, nn.Module]()
    for name, array in tensors.items():
        path = name.rpartition(".")[0]
        base = bases[path]
        module: nn.Module
        if isinstance(base, nn.Embedding | nn.QuantizedEmbedding):
            module = nn.Embedding(1, 1)
        elif isinstance(base, nn.RMSNorm):
            module = nn.RMSNorm(1, eps=base.eps)
        else:
            module = nn.Linear(1, 1, bias=False)
        module.weight = array
        modules[path] = module
    return modules


def _exchange(model: LanguageModel, modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Put modules in their places; what was there."""
    before = {}
    for path, module in modules.items():
        place: Any = model
        *holders, name = path.split(".")
        for part in holders:
            place = place[int(part)] if isinstance(place, list) else place[part]
        before[path] = place[name]
        place[name] = module
    return before
