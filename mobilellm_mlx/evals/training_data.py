"""Folders of data to train with, made of packages that anyone can fetch.

A folder holds ``train.jsonl``, ``valid.jsonl`` and ``manifest.json``, which says what they are made
of. The same seed and the same packages give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mobilellm_mlx.errors import InvalidOption, StorageError
from mobilellm_mlx.evals.calls.home import Home
from mobilellm_mlx.evals.calls.mixture.glaive import read_dialogues
from mobilellm_mlx.evals.calls.mixture.mixing import FORMAT, Mixture, Side, Sources
from mobilellm_mlx.evals.instructions import Instruction, read_instructions
from mobilellm_mlx.evals.sources import GLAIVE, INSTRUCT, Sdist, ensure_sdist
from mobilellm_mlx.events import Event, Progress
from mobilellm_mlx.messages import Message
from mobilellm_mlx.tools.formats import find_format

MANIFEST = "manifest.json"
SIDES: Mapping[str, Side] = {"train": "train", "valid": "dev"}
MAX_INSTRUCTION = 900
"""Characters of a question and its answer; some 220 tokens."""
VALID_SHARE = 0.05
"""Share of the instructions that is never trained."""

_EVERY = 250


def write_tools(
    directory: Path, *, count: int, valid: int, seed: int, force: bool = False
) -> Iterator[Event]:
    """Write conversations in which tools are called, or not.

    Args:
        directory: made; has to be empty unless ``force``.
        count: conversations to train with.
        valid: conversations to validate with.
        seed: of all that is drawn.
        force: replace what an earlier run wrote.

    Yields:
        ``Progress``.

    Raises:
        InvalidInput: Home Assistant's sentences are not installed.
        InvalidOption: the directory holds something else.
        DownloadError: a source cannot be fetched.
        StorageError: the directory cannot be written.
    """
    prepare(directory, force=force)
    yield from ensure_sdist(GLAIVE)
    yield from ensure_sdist(INSTRUCT)
    sources = tool_sources()
    format = find_format(FORMAT)
    rows: dict[str, list[Any]] = {}
    kinds: dict[str, dict[str, int]] = {}
    for name, side in SIDES.items():
        wanted = count if name == "train" else valid
        lines, found = [], Counter[str]()
        for one in Mixture(sources, side, seed).samples(wanted):
            lines.append([each.to_dict() for each in one.messages(format)])
            found[one.kind] += 1
            if len(lines) % _EVERY == 0 or len(lines) == wanted:
                yield Progress(f"drawing {name}.jsonl", len(lines), wanted, "items")
        random.Random(f"{seed} {name}").shuffle(lines)
        rows[name], kinds[name] = lines, dict(found)
    facts = {
        "format": FORMAT,
        "seed": seed,
        "kinds": kinds,
        "sources": [_home_source(sources.home), _source(GLAIVE), _source(INSTRUCT)],
    }
    write_folder(directory, "tools", rows, facts)


def write_chat(
    directory: Path, *, count: int, valid: int, seed: int, force: bool = False
) -> Iterator[Event]:
    """Write instructions with answers, without a system prompt.

    Args and errors are those of ``write_tools``.
    """
    prepare(directory, force=force)
    yield from ensure_sdist(INSTRUCT)
    sides: dict[str, list[Instruction]] = {"train": [], "valid": []}
    for one in read_instructions(INSTRUCT.text()):
        if len(one.said) + len(one.answer) <= MAX_INSTRUCTION:
            sides["valid" if one.share < VALID_SHARE else "train"].append(one)
    rows: dict[str, list[Any]] = {}
    for name, wanted in (("train", count), ("valid", valid)):
        some = sides[name]
        chosen = random.Random(f"{seed} {name}").sample(some, min(wanted, len(some)))
        rows[name] = [
            [Message("user", one.said).to_dict(), Message("assistant", one.answer).to_dict()]
            for one in chosen
        ]
        yield Progress(f"drawing {name}.jsonl", len(chosen), len(chosen), "items")
    write_folder(directory, "chat", rows, {"seed": seed, "sources": [_source(INSTRUCT)]})


def tool_sources() -> Sources:
    """What conversations with tools are drawn from; the archives have to be there.

    Raises:
        InvalidInput: Home Assistant's sentences are not installed.
        ChecksumError: an archive is not the one that was pinned.
    """
    instructions = list(read_instructions(INSTRUCT.text()))
    return Sources(Home(), read_dialogues(GLAIVE.text()), instructions)


def prepare(directory: Path, *, force: bool) -> None:
    """Make a directory for a folder of data.

    Raises:
        InvalidOption: it holds something, or is a file.
        StorageError: it cannot be made.
    """
    try:
        if directory.exists() and not directory.is_dir():
            raise InvalidOption(f"`{directory}` is a file", "name a folder with `-o`")
        directory.mkdir(parents=True, exist_ok=True)
        held = {one.name for one in directory.iterdir()}
    except OSError as error:
        raise StorageError(f"`{directory}` cannot be made: {error.strerror}") from error
    ours = {MANIFEST, *(f"{name}.jsonl" for name in SIDES)}
    if held - ours or (held and not force):
        raise InvalidOption(
            f"`{directory}` is not empty",
            "name another folder" if held - ours else "pass `--force` to make its files anew",
        )


def write_folder(
    directory: Path,
    kind: str,
    rows: Mapping[str, Sequence[Sequence[Mapping[str, str]]]],
    facts: Mapping[str, Any],
) -> None:
    """Write the files of a folder, the manifest last.

    Args:
        directory: is there.
        kind: of the data.
        rows: conversations by the name of their file.
        facts: more for the manifest.

    Raises:
        StorageError: the disk refuses.
    """
    files = {}
    try:
        (directory / MANIFEST).unlink(missing_ok=True)
        for name, conversations in rows.items():
            data = "".join(_lines(conversations)).encode()
            (directory / f"{name}.jsonl").write_bytes(data)
            digest = hashlib.sha256(data).hexdigest()
            files[f"{name}.jsonl"] = {"rows": len(conversations), "sha256": digest}
        manifest = {"kind": kind, "files": files, **facts}
        (directory / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"`{directory}` cannot be written: {error.strerror}") from error


def _lines(conversations: Iterable[Sequence[Mapping[str, str]]]) -> Iterator[str]:
    for messages in conversations:
        yield json.dumps({"messages": messages}, ensure_ascii=False) + "\n"


def _source(archive: Sdist) -> dict[str, str]:
    return {
        "package": archive.package,
        "version": archive.version,
        "file": archive.member,
        "licence": archive.licence,
        "sha256": archive.sha256,
    }


def _home_source(home: Home) -> dict[str, str]:
    return {
        "package": "home-assistant-intents",
        "version": version("home-assistant-intents"),
        "licence": "Apache-2.0",
        "sha256": home.sha256,
    }
