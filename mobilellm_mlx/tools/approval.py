"""What a person has allowed for longer than one call: for this session, and always.

A rule opens one tool, as it was when they allowed it, for one part of the world. Those for always
are kept in a file that may grant nothing unless all of it is exactly as we write it.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import Any, Literal, get_args

from mobilellm_mlx import paths
from mobilellm_mlx.errors import StorageError, ToolError, format_bytes
from mobilellm_mlx.plain import STEERING
from mobilellm_mlx.tools.tool import Call, Duration, Request, Scope, ScopeKind, Tool

MAX_BYTES = 256_000
MAX_RULES = 500
LONGEST_SCOPE = 4_096

Kept = Literal["session", "always"]
By = Literal["session", "always", "reads only"]
"""What allows a call without asking."""

_TOOL = re.compile(r"[a-z][a-z0-9_]{0,63}")
_FINGERPRINT = re.compile(r"[0-9a-f]{32}")
_UNSAYABLE = re.compile(rf"{STEERING.pattern}|[\t\n\ud800-\udfff]")
_IN_WORDS: Mapping[str, str] = {
    "folder": "{tool} below {value}",
    "host": "{tool} on {value}",
    "app": "{tool} with the app {value}",
    "shortcut": "{tool} with the shortcut {value}",
    "server": "{tool} on the server {value}",
}


@dataclass(frozen=True, slots=True)
class Rule:
    """Leave for a tool, for as long as it is what it was.

    Attributes:
        tool: its name.
        fingerprint: of what the person was told about it.
        scope: the part of the world that is open to it.
        since: when they said so.
        duration: until the program ends, or always.
    """

    tool: str
    fingerprint: str
    scope: Scope
    since: datetime
    duration: Kept = "always"

    def grants(self, request: Request) -> bool:
        """Whether it is leave for a call."""
        return (
            self.tool == request.tool.name
            and self.fingerprint == request.tool.fingerprint
            and objection(self.scope) is None
            and _is_exact(request.scope)
            and self.scope.covers(request.scope)
        )


def approvals_path() -> Path:
    """Where the rules for always are kept."""
    return paths.config_dir() / "approvals.json"


def rule_words(tool: Tool | str, scope: Scope) -> str:
    """What a rule allows, in words."""
    name = tool if isinstance(tool, str) else tool.name
    form = _IN_WORDS.get(scope.kind, "every call of {tool}")
    return form.format(tool=name, value=scope.value)


def make_request(id: str, tool: Tool, arguments: Mapping[str, Any]) -> Request:
    """A call as it is put to a person, and again after they have changed it.

    Raises:
        ToolError: when it reaches for what the tool may not touch.
    """
    try:
        scope = tool.scope(arguments)
    except ToolError:
        raise
    except Exception as error:  # the arguments, and the tool, may be anybody's
        raise ToolError(f"what `{tool.name}` would reach cannot be told from its arguments") from (
            error
        )
    words = tool.words(arguments)
    call = Call(tool.name, dict(arguments))
    return Request(id, tool, call, words, scope, rule_words(tool, scope))


def objection(scope: Scope) -> str | None:
    """Why no rule can be made for a scope, as a sentence; None if one can."""
    if not _is_exact(scope):
        return "what the call reaches is not named exactly, so it can only be allowed once"
    if scope.kind == "folder" and _holds_home(scope.value):
        return f"`{scope.value}` holds all your files, which is too much to allow for good"
    return None


def _is_exact(scope: Scope) -> bool:
    """Whether a scope says what it means; a rule must not be led astray by ``..``."""
    value = scope.value
    if scope.kind == "any":
        return not value
    if not value or len(value) > LONGEST_SCOPE or _UNSAYABLE.search(value):
        return False
    if scope.kind != "folder":
        return True
    return value.startswith("/") and not value.startswith("//") and os.path.normpath(value) == value


def _holds_home(folder: str) -> bool:
    try:
        home = Path.home()
        homes = {home, home.resolve()}
    except (OSError, RuntimeError):  # nobody's
        homes = set()
    return folder == "/" or any(PurePosixPath(home).is_relative_to(folder) for home in homes)


class Approvals:
    """The rules of this session and those for always. Any thread may use it.

    Args:
        path: the file of those for always; None keeps them until the program ends. Other running
            programs may change it: it is read again whenever it has.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._session: tuple[Rule, ...] = ()
        self._always: tuple[Rule, ...] = ()
        self._seen: tuple[int, ...] | None = None
        """What tells the file that was read from any other."""
        self._problems: list[str] = []

    def decide(self, request: Request, *, reads_only_free: bool = False) -> By | None:
        """What allows a call without asking; None when the person must be asked.

        Args:
            request: the call.
            reads_only_free: whether tools that only read need no leave.
        """
        rule = next((rule for rule in self.rules if rule.grants(request)), None)
        if rule is not None:
            return rule.duration
        return "reads only" if reads_only_free and request.tool.reads_only else None

    def has_changed(self, request: Request) -> bool:
        """Whether the tool was allowed once, and says other things of itself since."""
        old = [rule for rule in self.rules if rule.tool == request.tool.name]
        return bool(old) and all(rule.fingerprint != request.tool.fingerprint for rule in old)

    def remember(self, request: Request, duration: Duration) -> None:
        """Allow such calls from now on; ``once`` leaves nothing behind.

        Raises:
            ToolError: when that would allow too much; nothing is allowed then.
            StorageError: when it cannot be kept; it holds until the program ends.
        """
        if duration == "once" or duration == "reading":  # the latter is a setting, and no rule
            return
        if why := objection(request.scope):
            raise ToolError(why, "allow the call once")
        tool = request.tool
        if not (_TOOL.fullmatch(tool.name) and _FINGERPRINT.fullmatch(tool.fingerprint)):
            raise ToolError(f"`{tool.name}` is not a name that a rule can be kept for")
        now = datetime.now(UTC).replace(microsecond=0)
        rule = Rule(tool.name, tool.fingerprint, request.scope, now, duration)
        with self._lock:
            if duration == "session":
                self._session = _with(self._session, rule)
                return
            try:
                self._change(lambda rules: _with(rules, rule))
            except StorageError:
                self._session = _with(self._session, replace(rule, duration="session"))
                raise

    @property
    def rules(self) -> tuple[Rule, ...]:
        """All that hold now: those of this session, then those for always, the newest first."""
        with self._lock:
            self._read_again()
            return (*self._session, *self._always)

    def forget(self, rule: Rule) -> None:
        """Ask again from now on.

        Raises:
            StorageError: when the file cannot be written; the rule stays then.
        """
        with self._lock:
            if rule.duration == "session":
                self._session = tuple(kept for kept in self._session if kept != rule)
            else:
                self._change(lambda rules: tuple(kept for kept in rules if kept != rule))

    def take_problems(self) -> list[str]:
        """What was wrong with the file, as sentences; each is given once."""
        with self._lock:
            said, self._problems = self._problems, []
            return said

    # ---------------------------------------------------------------- the file

    def _read_again(self) -> None:
        """Know what is in the file, if it is not the one that was read."""
        if self._path is None or (seen := _identify(self._path)) == self._seen:
            return
        if not seen:  # there is none; the folder need not be made to know that
            self._always, self._seen = (), seen
            return
        try:
            with _locked(self._path):
                self._load(self._path)
        except OSError as error:
            self._always, self._seen = (), seen
            self._tell(f"the rules in {self._path} cannot be read: {error.strerror or error}")

    def _load(self, path: Path) -> None:
        """Read the file; one that is not ours grants nothing and is moved aside.

        Raises:
            OSError: it can be neither read nor moved.
        """
        self._always = ()
        self._seen = _identify(path)
        try:
            text = _read(path)
            self._always = _parse(text) if text is not None else ()
        except ValueError as error:
            kept = _set_aside(path)
            self._seen = _identify(path)
            self._tell(f"{path.name} {error}; it allows nothing and was renamed to {kept.name}")

    def _tell(self, problem: str) -> None:
        self._problems = [*self._problems, problem][-20:]  # nobody reads more

    def _change(self, change: Callable[[tuple[Rule, ...]], tuple[Rule, ...]]) -> None:
        """Write the rules for always anew, from what is in the file now."""
        if self._path is None:
            self._always = change(self._always)
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self._path):
                self._load(self._path)
                changed = change(self._always)
                if changed != self._always:
                    _write(self._path, changed)
                    self._always = changed
                self._seen = _identify(self._path)
        except OSError as error:
            raise StorageError(
                f"cannot keep rules in {self._path}: {error.strerror or error}",
                "free space on the disk or allow this directory to be written",
            ) from error


def _with(rules: Iterable[Rule], new: Rule) -> tuple[Rule, ...]:
    """``rules`` with another one, and without those of the same tool that it makes needless."""
    kept = [rule for rule in rules if rule.tool != new.tool or not new.scope.covers(rule.scope)]
    if len(kept) >= MAX_RULES:
        raise StorageError(f"there are {MAX_RULES} rules already", "take some back with /tools")
    return (new, *kept)


def _identify(path: Path) -> tuple[int, ...]:
    """Changes whenever the file is replaced; empty when there is none."""
    try:
        status = path.lstat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One program at a time; the lock goes with the process that holds it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    lock = os.open(path.with_name(f".{path.name}.lock"), flags, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _read(path: Path) -> str | None:
    """The text of the file; None when there is none.

    Raises:
        ValueError: it is nothing that we wrote.
        OSError: it cannot be read.
    """
    try:
        if not S_ISREG(path.lstat().st_mode):  # a link may lead to what others can write
            raise ValueError("is not a file")
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(file.fileno())
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise ValueError("could be written by others")
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"has more than {format_bytes(MAX_BYTES)}")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("is not text") from None


def _parse(text: str) -> tuple[Rule, ...]:
    """The rules in a text that is exactly as we write it.

    Raises:
        ValueError: it is not.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("is not JSON") from None
    match data:
        case {"version": 1, "rules": list(rows)} if len(data) == 2 and len(rows) <= MAX_RULES:
            return tuple(map(_parse_rule, rows))
    raise ValueError("is not a list of rules that we wrote")


def _parse_rule(row: Any) -> Rule:
    match row:
        case {
            "tool": str(tool),
            "fingerprint": str(fingerprint),
            "scope": {"kind": str(kind), "value": str(value)} as where,
            "since": str(since),
        } if len(row) == 4 and len(where) == 2:
            scope = Scope(_kind(kind), value)
            if _TOOL.fullmatch(tool) and _FINGERPRINT.fullmatch(fingerprint) and _is_exact(scope):
                return Rule(tool, fingerprint, scope, _moment(since))
    raise ValueError("has a rule that we did not write")


def _kind(text: str) -> ScopeKind:
    for kind in get_args(ScopeKind):
        if kind == text:
            return kind  # type: ignore[no-any-return]
    raise ValueError("has a rule for something unknown")


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("has a rule without a date") from None
    if moment.tzinfo is None:
        raise ValueError("has a rule without a date")
    return moment


def _write(path: Path, rules: Iterable[Rule]) -> None:
    """Replace the file as a whole; a crash leaves the old one or the new one."""
    rows = [
        {
            "tool": rule.tool,
            "fingerprint": rule.fingerprint,
            "scope": {"kind": rule.scope.kind, "value": rule.scope.value},
            "since": rule.since.isoformat(),
        }
        for rule in rules
    ]
    data = json.dumps({"version": 1, "rules": rows}, indent=1).encode()
    if len(data) > MAX_BYTES:
        raise StorageError("there are too many rules", "take some back with /tools")
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600
    scratch = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def _set_aside(path: Path) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    return path.rename(path.with_name(f"{path.stem}-damaged-{stamp}{path.suffix}"))
