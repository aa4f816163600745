"""``mobilellm doctor``: what this machine is, what is installed, and whether it is whole."""

from __future__ import annotations

import json
import locale
import os
import platform
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import click

from mobilellm_mlx import catalogue, paths
from mobilellm_mlx.cli.shared import debug_option, is_interactive
from mobilellm_mlx.errors import MobileLLMError, format_bytes

Status = Literal["ok", "warn", "fail"]

PACKAGES = (
    "mobilellm-mlx",
    "mlx-lm",
    "tokenizers",
    "sentencepiece",
    "textual",
    "huggingface-hub",
    "pip",
)


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report; a hint says what to do about a `warn` or `fail`."""

    section: str
    name: str
    value: str
    status: Status = "ok"
    hint: str | None = None


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for a bug report.")
@debug_option
def doctor(as_json: bool) -> int:
    """Check this machine and this installation; nothing is changed or sent.

    Exits with 1 when something is broken.
    """
    checks = list(examine())
    broken = any(check.status == "fail" for check in checks)
    if as_json:
        report = {"ok": not broken, "checks": [asdict(check) for check in checks]}
        click.echo(json.dumps(report, indent=2))
    else:
        _print(checks)
    return int(broken)


def examine() -> Iterator[Check]:
    """Every check, in the order of the report."""
    yield from _machine()
    yield from _mlx()
    yield from _versions()
    yield from _cache()
    yield from _history()
    yield from _terminal()


def _print(checks: list[Check]) -> None:
    section = None
    for check in checks:
        if check.section != section:
            section = check.section
            click.secho(section, bold=True)
        mark = {"ok": "  ", "warn": "! ", "fail": "x "}[check.status]
        colour = {"ok": None, "warn": "yellow", "fail": "red"}[check.status]
        click.secho(f"{mark}{check.name:<16} {check.value}", fg=colour)
        if check.hint:
            click.echo(f"{'':<18} {check.hint}")


def _machine() -> Iterator[Check]:
    import psutil

    memory = psutil.virtual_memory()
    system = platform.mac_ver()[0] or platform.release()
    yield Check("Machine", "system", f"{platform.system()} {system}, {platform.machine()}")
    yield Check("Machine", "chip", _chip())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Check("Machine", "cores", str(cores))
    low = memory.available < 1_000_000_000
    yield Check(
        "Machine",
        "memory",
        f"{format_bytes(memory.total)}, {format_bytes(memory.available)} available",
        "warn" if low else "ok",
        "close other programs before loading a model" if low else None,
    )
    python = f"{platform.python_version()} ({sys.executable})"
    if sys.platform == "darwin" and platform.machine() == "x86_64":
        yield Check(
            "Machine",
            "python",
            python,
            "fail",
            "this is an Intel Python: MLX needs a native arm64 one, not Rosetta",
        )
    else:
        yield Check("Machine", "python", python)


def _chip() -> str:
    """The processor's own name; ``platform`` knows only its architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    try:
        from mobilellm_mlx.backend import device_name

        return device_name()  # macOS: the Apple chip
    except MobileLLMError:
        return platform.processor() or "unknown"


def _mlx() -> Iterator[Check]:
    try:
        from mobilellm_mlx import backend
    except MobileLLMError as error:
        yield Check("MLX", "mlx", error.message, "fail", error.hint)
        return
    mx = backend.mx
    kind = backend.backend()
    yield Check("MLX", "mlx", _version("mlx") or "unknown version")
    yield Check("MLX", "backend", f"{kind.name} ({backend.device_name()})")
    if kind.name != "cpu":
        yield Check("MLX", "compute", _usual(kind.default_compute))
        return
    from mobilellm_mlx.kernels import kernels

    found = kernels()
    if found.module:
        yield Check("MLX", "compute", _usual("packed 4- and 8-bit"))
        yield Check("MLX", "kernels", found.reason)
    else:
        yield Check("MLX", "compute", _usual(kind.default_compute))
        hint = "several times faster on this CPU with them: `mobilellm kernels --build`"
        yield Check("MLX", "kernels", found.reason, "ok", hint)
    milliseconds = _product_ms(mx)
    blas = backend.BLAS
    threads = f", {blas.threads} thread{'s' * (blas.threads > 1)}" if blas.threads else ""
    slow = milliseconds > 60
    yield Check(
        "MLX",
        "BLAS",
        f"{blas.name}{threads}; a 256x576x1536 float32 product takes {milliseconds:.1f} ms",
        "warn" if slow else "ok",
        "a fast BLAS makes this about fifty times faster: `pip install scipy-openblas32`"
        if slow
        else None,
    )
    if blas.path:
        yield Check("MLX", "BLAS file", blas.path)


def _usual(form: str) -> str:
    return f"{form} weights unless `--compute` says else"


def _product_ms(mx: Any) -> float:
    """Median time of the matrix product that prefill is made of."""
    left, right = mx.ones((256, 576)), mx.ones((576, 1536))
    mx.eval(left @ right)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        mx.eval(left @ right)
        times.append(time.perf_counter() - started)
    return sorted(times)[2] * 1000


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _versions() -> Iterator[Check]:
    for package in PACKAGES:
        version = _version(package)
        yield Check(
            "Packages",
            package,
            version or "not installed",
            "ok" if version else "fail",
            None if version else f"install it with `pip install {package}`",
        )


def _cache() -> Iterator[Check]:
    from mobilellm_mlx.cli.inventory import directory_bytes, find_damage, iter_kept

    place = paths.cache_dir()
    nearest = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(nearest).free
    writable = nearest.is_dir() and os.access(nearest, os.W_OK)
    size = format_bytes(directory_bytes(place)) if place.exists() else "empty"
    yield Check(
        "Cache",
        "directory",
        f"{place} ({size}, {format_bytes(free)} free on its disk)",
        "ok" if writable else "fail",
        None if writable else "it cannot be written: check its permissions, or set MOBILELLM_HOME",
    )
    for model in catalogue.CATALOGUE.values():
        if not model.path.exists():
            yield Check("Cache", model.name, f"not fetched; `mobilellm models pull {model.name}`")
        else:
            yield _whole(model.name, find_damage(model.path), model.licence)
    for kept in iter_kept():
        name = kept.published.name if kept.published else kept.name
        yield _whole(name, find_damage(kept.path), "converted from the Hugging Face Hub")


def _whole(name: str, damage: str | None, remark: str) -> Check:
    if damage is None:
        return Check("Cache", name, f"whole, every file as it was made ({remark})")
    hint = f"`mobilellm models rm {name}`, then `mobilellm models pull {name}`"
    return Check("Cache", name, damage, "fail", hint)


def _history() -> Iterator[Check]:
    from mobilellm_mlx.chat.store import history_path

    path = history_path()
    if not os.path.lexists(path):
        yield Check("History", "chats", f"none yet; chats will be kept in {path}")
    else:
        yield _history_file(path)
    with closing(sqlite3.connect(":memory:")) as memory:
        try:
            memory.execute("CREATE VIRTUAL TABLE words USING fts5 (word)")
            yield Check("History", "search", f"SQLite {sqlite3.sqlite_version} with FTS5")
        except sqlite3.OperationalError:
            value = f"SQLite {sqlite3.sqlite_version} of this Python has no FTS5"
            yield Check("History", "search", value, "fail", "use a Python of python.org or of uv")


def _history_file(path: Path) -> Check:
    """Whether the chats' file is whole and ours; it is only read."""
    from mobilellm_mlx.chat.store.migrations import names

    if not os.access(path, os.R_OK | os.W_OK):
        hint = "check its permissions; until then chats are not kept"
        return _no_history(f"{path} cannot be read and written", hint)
    try:
        value, migrations = _inspect(path)
    except (sqlite3.Error, OSError) as error:
        if "no such table" in str(error):
            hint = "move it away, or set MOBILELLM_HOME to another directory"
            return _no_history(f"{path} is a database of another program", hint)
        hint = "`mobilellm history list` saves what can be read and keeps the damaged file"
        return _no_history(f"{path} is damaged: {error}", hint)
    if not migrations <= set(names()):
        hint = "update MobileLLM; until then chats are not kept"
        return _no_history(f"{value}, written by a newer MobileLLM", hint)
    return Check("History", "chats", value)


def _no_history(value: str, hint: str) -> Check:
    return Check("History", "chats", value, "fail", hint)


def _inspect(path: Path) -> tuple[str, set[str]]:
    """What there is to say about a file of chats, and the steps of its schema."""
    # Without a log nobody has it open, and then SQLite need not put files of its own beside it.
    quiet = "" if path.with_name(f"{path.name}-wal").exists() else "&immutable=1"
    uri = f"{path.absolute().as_uri()}?mode=ro{quiet}"
    with closing(sqlite3.connect(uri, uri=True)) as file:
        ((verdict,),) = file.execute("PRAGMA quick_check(1)").fetchall()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        migrations = {name for (name,) in file.execute("SELECT name FROM migrations")}
        query = "SELECT count(*) FROM chats WHERE deleted_at IS NULL"
        ((chats,),) = file.execute(query).fetchall()
    size = format_bytes(path.stat().st_size)
    return f"{path} ({size}, {chats} chat{'s' * (chats != 1)}, whole)", migrations


def _terminal() -> Iterator[Check]:
    columns, lines = shutil.get_terminal_size()
    attached = is_interactive()
    yield Check("Terminal", "attached", "yes" if attached else "no: `chat` reads lines from stdin")
    yield Check(
        "Terminal",
        "kind",
        f"{os.environ.get('TERM_PROGRAM') or os.environ.get('TERM') or 'unknown'}, "
        f"{columns}x{lines}, colours: {_colours()}",
    )
    encoding = locale.getpreferredencoding(False)
    unicode = encoding.lower().replace("-", "") == "utf8"
    yield Check(
        "Terminal",
        "encoding",
        encoding,
        "ok" if unicode else "warn",
        None if unicode else "set a UTF-8 locale, such as LANG=en_US.UTF-8",
    )


def _colours() -> str:
    if os.environ.get("NO_COLOR"):
        return "off (NO_COLOR)"
    if os.environ.get("COLORTERM", "") in ("truecolor", "24bit"):
        return "16 million"
    return "256" if "256" in os.environ.get("TERM", "") else "16 or fewer"
