"""Results in files: kept by whoever wants to compare, read as if a stranger had written them."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mobilellm_mlx.errors import InvalidInput, StorageError
from mobilellm_mlx.events import BenchSummary

FORMAT = 1
_LARGEST = 16 << 20
_FIGURES = ("ttft_s", "prefill_tok_per_s", "decode_tok_per_s")
_ENDS = ("median", "min", "max")


def save(path: Path, summary: BenchSummary) -> None:
    """Write a result whole, or not at all.

    Args:
        path: of the file; one that is there is replaced.
        summary: to keep.

    Raises:
        StorageError: when the disk refuses.
    """
    value = {
        "format": FORMAT,
        "made_by": f"mobilellm-mlx {version('mobilellm-mlx')}",
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "result": summary.to_dict(),
    }
    scratch: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        scratch = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
        scratch = None
    except OSError as error:
        raise StorageError(f"`{path}` cannot be written: {error.strerror or error}") from error
    finally:
        if scratch is not None:
            scratch.unlink(missing_ok=True)


def require_place(path: Path) -> None:
    """Say before anything is measured that a result could not be kept there.

    Raises:
        StorageError: when there is no such directory, or a directory of that name.
    """
    if path.is_dir() or not path.parent.is_dir():
        what = "is a directory" if path.is_dir() else "is in a directory that does not exist"
        raise StorageError(f"`{path}` {what}", "name a file in a directory that is there")


def load(path: Path) -> BenchSummary:
    """A result that was kept.

    Raises:
        InvalidInput: when the file is no such result.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise InvalidInput(f"`{path}` is too large to be a result of `mobilellm bench`")
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise InvalidInput(f"`{path}` cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or not isinstance(value.get("result"), dict):
        raise InvalidInput(
            f"`{path}` is no result of `mobilellm bench`", "name a file that `--save` has written"
        )
    if value.get("format") != FORMAT:
        raise InvalidInput(
            f"`{path}` has format {value.get('format')!r:.20}, and this program reads {FORMAT}",
            "measure again, or use the program that wrote it",
        )
    result, known = value["result"], {one.name for one in fields(BenchSummary)}
    summary = BenchSummary(**{name: result[name] for name in known & result.keys()})
    if not _is_sound(summary):
        raise InvalidInput(f"`{path}` is damaged: its rows are not those of a result")
    return summary


def _is_sound(summary: BenchSummary) -> bool:
    """Whether all that is compared is there and of its kind."""
    texts = isinstance(summary.model, str) and isinstance(summary.table, str)
    if not texts or not isinstance(summary.machine, dict) or not isinstance(summary.rows, list):
        return False
    if summary.table != "speed":
        return all(isinstance(row, dict) for row in summary.rows)
    for row in summary.rows:
        if not isinstance(row, dict) or not isinstance(row.get("engine"), str):
            return False
        if any(type(row.get(name)) is not int for name in ("prompt", "depth", "batch")):
            return False
        if not all(_is_spread(row.get(name)) for name in _FIGURES):
            return False
    return True


def _is_spread(value: object) -> bool:
    return isinstance(value, dict) and all(
        type(value.get(end)) in (int, float) and 0 < value[end] < math.inf for end in _ENDS
    )


def compare(now: BenchSummary, before: BenchSummary) -> list[dict[str, Any]]:
    """How many times as fast each program is as it was, where the same was measured.

    A row has ``engine``, the case, ``what`` (``prefill`` or ``decode``), ``median`` (of the two
    medians), and ``min`` and ``max``: of the slowest repeat now and the fastest then, and the
    other way round.
    """
    then = {_key(row): row for row in before.rows}
    rows = []
    for row in now.rows:
        old = then.get(_key(row))
        for what in ("prefill", "decode") if old else ():
            new_speed, old_speed = row[f"{what}_tok_per_s"], old[f"{what}_tok_per_s"]  # type: ignore[index]
            rows.append({
                "engine": row["engine"],
                "prompt": row["prompt"],
                "depth": row["depth"],
                "batch": row["batch"],
                "what": what,
                "median": new_speed["median"] / old_speed["median"],
                "min": new_speed["min"] / old_speed["max"],
                "max": new_speed["max"] / old_speed["min"],
            })  # fmt: skip
    return rows


def differences(now: BenchSummary, before: BenchSummary) -> list[str]:
    """What else is not the same, as sentences: ratios of two machines say nothing of a program."""
    found = []
    if now.model != before.model:
        found.append(f"That was measured with {before.model}, this with {now.model}.")
    names = ("chip", "system", "cores")
    others = [name for name in names if now.machine.get(name) != before.machine.get(name)]
    if others:
        found.append(f"The machine has another {_listed(others)} than then.")
    own, old = _own(now.engines), _own(before.engines)
    for key in ("version", "form", "dtype", "kernels", "blas", "threads", "bits"):
        if own.get(key) != old.get(key):
            found.append(f"{key}: {own.get(key)} now, {old.get(key)} then.")
    if now.settings.get("generate") != before.settings.get("generate"):
        found.append("Another number of tokens was generated.")
    return found


def _own(engines: object) -> Mapping[str, Any]:
    held: Sequence[Any] = engines if isinstance(engines, list) else []
    return held[0] if held and isinstance(held[0], dict) else {}


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["engine"], row["prompt"], row["depth"], row["batch"]
