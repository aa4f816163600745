"""An adapter's tensors, fitted to a model and read for one of its matrices at a time.

Shapes in comments: O outputs, D inputs, R rank, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

from mobilellm_mlx.adapters.record import TENSORS, AdapterInfo
from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import AdapterError, MobileLLMError

from ..readers.safetensors_file import SafetensorsReader
from ..readers.tensors import Tensor
from ..source import EMBEDDING
from ..transform import count_nonfinite, dense

Shapes = Mapping[str, tuple[int, ...]]

_LEAVES = ("lora_a", "lora_b", "m")
_FLOATS = ("F16", "BF16", "F32")
_SHORTEST = 1e-10
"""Row that DoRA divides by: one of zeros stays one."""


class AdapterWeights:
    """What an adapter makes of a model's tensors.

    Args:
        info: of the adapter.
        shapes: of the model's tensors, by name.

    Attributes:
        info: of the adapter.
        path: its weight file.

    Raises:
        AdapterError: when the file is damaged, of another model, or holds what cannot be fused.
    """

    def __init__(self, info: AdapterInfo, shapes: Shapes):
        self.info, self.path = info, info.path / TENSORS
        try:
            self._reader = SafetensorsReader(self.path)
        except MobileLLMError as error:
            raise AdapterError(error.message, error.hint) from error
        self._parts = self._sort(shapes)
        if not self._parts:
            raise AdapterError(
                f"`{self.path.name}` of `{info.name}` holds no tensors", "the adapter is damaged"
            )
        for name, parts in self._parts.items():
            self._check(name, parts, shapes[name])

    @property
    def changed(self) -> frozenset[str]:
        """Names of the model's tensors that it changes."""
        return frozenset(self._parts)

    def apply(self, name: str, base: Tensor) -> mx.array:
        """One of the model's tensors with the adapter's change, float32.

        Raises:
            AdapterError: when the adapter holds values that are not finite, or makes such.
        """
        parts = {leaf: self._read(theirs) for leaf, theirs in self._parts[name].items()}
        if "whole" in parts:
            return parts["whole"]
        change = self.info.scale * (parts["lora_a"] @ parts["lora_b"])  # (D, O), or (V, D)
        weight = dense(base)
        changed = weight + (change if name == EMBEDDING else change.T)
        if "m" in parts:  # DoRA: the row's own direction, a trained length
            lengths = mx.maximum(mx.linalg.norm(changed, axis=1), _SHORTEST)  # (O,)
            changed = (parts["m"] / lengths)[:, None] * changed
        mx.eval(changed)
        if count_nonfinite(changed) > count_nonfinite(weight):
            raise AdapterError(
                f"the adapter `{self.info.name}` makes `{name}` too large for numbers",
                "it is damaged, or its training diverged: use an earlier one",
            )
        return changed

    def _sort(self, shapes: Shapes) -> dict[str, dict[str, str]]:
        """The file's tensors by those of the model, each by what it is to it."""
        sorted_: dict[str, dict[str, str]] = {}
        full = self.info.method == "full"
        for theirs in self._reader.entries:
            module, _, leaf = theirs.rpartition(".")
            name = theirs if full or leaf not in _LEAVES else f"{module}.weight"
            if name not in shapes or (name == theirs) is not full:
                raise AdapterError(
                    f"the adapter `{self.info.name}` has `{theirs[:80]}`, for which this model has "
                    "no place",
                    "use it with the model that it was made for",
                )
            sorted_.setdefault(name, {})["whole" if full else leaf] = theirs
        return sorted_

    def _check(self, name: str, parts: Mapping[str, str], shape: tuple[int, ...]) -> None:
        """Refuse parts that are missing or do not fit the model's tensor."""
        entries = {leaf: self._reader.entries[theirs] for leaf, theirs in parts.items()}
        for entry in entries.values():
            if entry.dtype not in _FLOATS:
                raise AdapterError(
                    f"`{entry.name}` holds {entry.dtype}, expected floats", "the adapter is damaged"
                )
        got = {leaf: entry.shape for leaf, entry in entries.items()}
        if "whole" in got:
            wanted = {"whole": shape}
        else:
            self._require_matrix(name, parts, shape)
            if any(len(theirs) == 3 for theirs in got.values()):
                raise AdapterError(
                    f"the adapter `{self.info.name}` has matrices for each run of a shared block, "
                    "and a fused block has one set of weights for all its runs",
                    "use it with `--adapter`, or train one without `--per-run`",
                )
            rank = self.info.rank
            inputs, outputs = shape if name == EMBEDDING else shape[::-1]
            wanted = {"lora_a": (inputs, rank), "lora_b": (rank, outputs)}
            wanted |= {"m": (shape[0],)} if "m" in got else {}
        for leaf, expected in wanted.items():
            if got[leaf] != expected:
                raise AdapterError(
                    f"`{parts[leaf]}` is {_shape(got[leaf])}, but this model needs "
                    f"{_shape(expected)}",
                    "use the adapter with the model that it was made for",
                )

    def _require_matrix(self, name: str, parts: Mapping[str, str], shape: tuple[int, ...]) -> None:
        """Refuse a low-rank change of what is no matrix, or one that lacks a part."""
        module = name.removesuffix(".weight")
        if len(shape) != 2:
            raise AdapterError(
                f"the adapter changes `{module}`, which is no matrix", "the adapter is damaged"
            )
        wanted = _LEAVES if self.info.method == "dora" else _LEAVES[:2]
        missing = [leaf for leaf in wanted if leaf not in parts]
        if missing or len(parts) != len(wanted):
            fault = f"lacks `{module}.{missing[0]}`" if missing else f"has `{parts['m']}`"
            raise AdapterError(
                f"the adapter `{self.info.name}` {fault}, which does not go with the method "
                f"{self.info.method}",
                "it is incomplete, or its `adapter_config.json` is another's",
            )

    def _read(self, theirs: str) -> mx.array:
        values = self._reader.read(theirs).astype(mx.float32)
        if count_nonfinite(values):
            raise AdapterError(
                f"`{theirs}` of the adapter `{self.info.name}` holds values that are not finite",
                "it is damaged, or its training diverged: use an earlier one",
            )
        return values


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single number"
