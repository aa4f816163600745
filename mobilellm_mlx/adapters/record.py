"""What an adapter's directory says about it, without its tensors.

``adapter_config.json`` is mlx-lm's and says how the tensors are to be used. ``mobilellm.json``
beside it is ours: where the adapter comes from, and what it is good for. An adapter without it is
none of ours, and its base is not known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mobilellm_mlx.errors import AdapterError
from mobilellm_mlx.paths import MANIFEST

CONFIG = "adapter_config.json"
TENSORS = "adapters.safetensors"
TEMPLATE = "chat_template.jinja"
FILES = (CONFIG, TENSORS, MANIFEST, TEMPLATE, "README.md", "LICENSE")
"""All that an adapter's directory may hold; what else lies there is not copied."""
FORMAT = 1
MOST_RANK = 1024
_MOST_BYTES = 1_000_000
"""Of a file that is text."""
_MOST_KEYS = 20_000
_MOST_NUMBER = 1e6

AdapterMethod = Literal["lora", "dora", "full"]
_METHODS: dict[str, AdapterMethod] = {"lora": "lora", "dora": "dora", "full": "full"}


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """An adapter without its tensors. None is what is not known.

    The first fields say how it is used, the others where it comes from.
    """

    name: str
    path: Path = Path()
    method: AdapterMethod = "lora"
    """``full`` has whole weights in place of the base's."""
    rank: int = 0
    scale: float = 0.0
    dropout: float = 0.0
    keys: tuple[str, ...] | None = None
    """Names of the adapted modules: in full, or as they are called inside a block. None is every
    matrix of the blocks."""
    num_layers: int = 0
    """How many of the last blocks have it; 0 is all of them."""
    per_run: bool = False
    """Whether shared blocks have one for each of their runs, which only this program can use."""
    base_name: str = ""
    base_sha256: str | None = None
    data_name: str = ""
    data_sha256: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    """Of the training; see ``training.config``."""
    scores: dict[str, Any] = field(default_factory=dict)
    """What was measured: ``best_loss`` and its like."""
    created: str = ""
    """ISO 8601, in UTC."""
    made_by: str = ""
    run: str = ""
    """That it comes from; a later state of the same run takes its place."""
    licence: str | None = None
    """Of the base, whose terms hold for what is made of it."""
    tools: dict[str, Any] | None = None
    """Of an adapter for calls: ``style`` to ask in, and ``only_calls`` when the rest of a
    conversation is better without it."""
    stop_token: str = ""
    """Name of a token that ends a turn, beside those of the base."""
    bytes: int = 0
    """Of the tensors' file."""
    shipped: bool = False
    """Whether it came with the program."""

    @property
    def has_template(self) -> bool:
        """Whether it brings a chat template of its own."""
        return (self.path / TEMPLATE).is_file()


def read_info(directory: Path) -> AdapterInfo:
    """What a directory says about the adapter in it. The tensors are not looked at.

    Raises:
        AdapterError: when it is no adapter, damaged, or of a kind that cannot be used.
    """
    config = _read_table(directory / CONFIG)
    if config is None:
        raise AdapterError(
            f"`{directory}` is no adapter: it has no `{CONFIG}`",
            "`mobilellm adapters list` shows those that are here",
        )
    if "peft_type" in config or "r" in config:
        raise AdapterError(
            f"`{directory}` is an adapter in PEFT's format, expected mlx-lm's",
            "its matrices are transposed and named differently: train it again here",
        )
    try:
        tensors = directory / TENSORS
        size = tensors.stat().st_size if tensors.is_file() else None
    except OSError as error:
        raise AdapterError(f"`{directory}` cannot be read: {error.strerror}") from error
    if size is None:
        raise AdapterError(f"`{directory}` has no `{TENSORS}`", "the adapter is incomplete")
    known = _read_table(directory / MANIFEST) or {}
    whole = directory if directory.name.strip(".") else directory.resolve()
    return AdapterInfo(
        name=whole.name,  # of a link its own, as a registry names it
        path=directory,
        bytes=size,
        **_read_use(config),
        **_read_origin(known, str(config.get("model") or "")[:200]),
    )


def _read_use(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that say how the tensors are used, from mlx-lm's configuration."""
    kind = _take(config, "fine_tune_type", str, "lora")
    if kind not in _METHODS:
        raise _wrong("fine_tune_type", kind, "lora, dora or full")
    layers = _take(config, "num_layers", int, 0)
    _require(abs(layers) < _MOST_NUMBER, "num_layers", layers, "the number of blocks")
    # Their slice of the last `max(n, 0)` blocks is all of them for 0 and for -1.
    use: dict[str, Any] = {"method": _METHODS[kind], "num_layers": max(layers, 0)}
    if kind == "full":
        return use
    table = _take(config, "lora_parameters", dict, {})
    rank, scale = table.get("rank"), table.get("scale")
    whole = type(rank) is int and 1 <= rank <= MOST_RANK
    _require(whole, "rank", rank, f"a whole number from 1 to {MOST_RANK:,}")
    number = type(scale) in (int, float) and abs(scale) <= _MOST_NUMBER  # which NaN is not
    _require(number, "scale", scale, "a number")
    dropout = _take(table, "dropout", float, 0.0)
    _require(0 <= dropout < 1, "dropout", dropout, "at least 0 and below 1")
    keys = _take(table, "keys", list, None)
    if keys is not None:
        fits = len(keys) <= _MOST_KEYS and all(type(k) is str and 0 < len(k) <= 200 for k in keys)
        _require(fits, "keys", keys, "a list of names")
        use["keys"] = tuple(keys)
    return {**use, "rank": rank, "scale": float(scale), "dropout": dropout}


def _read_origin(known: Mapping[str, Any], model: str) -> dict[str, Any]:
    """The fields that say where an adapter comes from, from our own file."""
    if _take(known, "format", int, FORMAT) != FORMAT:
        raise _wrong("format", known["format"], f"{FORMAT}: a newer version made it")
    base, data = _take(known, "base", dict, {}), _take(known, "data", dict, {})
    return {
        "per_run": _take(known, "per_run", bool, False),
        "base_name": _take(base, "name", str, model),
        "base_sha256": _take(base, "sha256", str, None),
        "licence": _take(base, "licence", str, None),
        "data_name": _take(data, "name", str, ""),
        "data_sha256": _take(data, "sha256", str, None),
        "config": _take(known, "training", dict, {}),
        "scores": _take(known, "scores", dict, {}),
        "created": _take(known, "created", str, ""),
        "made_by": _take(known, "made_by", str, ""),
        "run": _take(known, "run", str, ""),
        "tools": _take(known, "tools", dict, None),
        "stop_token": _take(known, "stop_token", str, ""),
    }


def config_table(info: AdapterInfo) -> dict[str, Any]:
    """What ``adapter_config.json`` says, as mlx-lm reads it."""
    table: dict[str, Any] = {
        "fine_tune_type": info.method,
        "num_layers": info.num_layers,
        "model": info.base_name,
    }
    if info.method != "full":
        parameters = {"rank": info.rank, "scale": info.scale, "dropout": info.dropout}
        keys = {} if info.keys is None else {"keys": list(info.keys)}
        table["lora_parameters"] = {**parameters, **keys}
    return table


def manifest_table(info: AdapterInfo) -> dict[str, Any]:
    """What ``mobilellm.json`` says."""
    table: dict[str, Any] = {
        "format": FORMAT,
        "kind": "adapter",
        "made_by": info.made_by,
        "created": info.created,
        "base": {"name": info.base_name, "sha256": info.base_sha256, "licence": info.licence},
        "data": {"name": info.data_name, "sha256": info.data_sha256},
        "training": info.config,
        "scores": info.scores,
        "per_run": info.per_run,
    }
    told = {
        "run": info.run or None,
        "tools": info.tools,
        "stop_token": info.stop_token or None,
    }
    return table | {name: value for name, value in told.items() if value is not None}


def _read_table(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is no such file."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return None
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise AdapterError(f"`{path}` is longer than {_MOST_BYTES:,} bytes")
        value = json.loads(data, parse_constant=_no_number)
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except OSError as error:
        raise AdapterError(f"`{path}` cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"`{path}` is not valid JSON: {str(error)[:200]}") from error
    if not isinstance(value, dict):
        raise AdapterError(f"`{path}` holds {type(value).__name__}, expected a JSON object")
    return value


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _take(table: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    """A value of the right kind; null and nothing are the default."""
    value = table.get(name)
    if value is None:
        return default
    if kind is float and type(value) is int and abs(value) <= _MOST_NUMBER:
        value = float(value)
    if type(value) is not kind:
        raise _wrong(name, value, _EXPECTED[kind])
    return value


_EXPECTED: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "a table",
}


def _require(condition: bool, name: str, value: Any, expected: str) -> None:
    if not condition:
        raise _wrong(name, value, expected)


def _wrong(name: str, value: Any, expected: str) -> AdapterError:
    said = json.dumps(value, default=str)[:80]
    return AdapterError(f"the adapter's `{name}` is {said}, expected {expected}")
