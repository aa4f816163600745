"""What the hub says about a model: its commit, its files with sizes and hashes, its licence.

The list comes from a server and is read as such: hashes and commits must look like hashes, because
they become file names in the cache, and a path that leaves the directory refuses the whole list.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mobilellm_mlx.errors import DownloadError, format_bytes

_OID = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_FILES = 100_000
_COMPANION = re.compile(
    r"(config|generation_config|special_tokens_map|added_tokens)\.json|"
    r"tokenizer[\w.-]*\.(json|model)|chat_template\.jinja|"
    r"LICEN[CS]E([.-]\w+)*(?<!\.py)|README\.md"
)
_WEIGHT_KINDS = (("model", "safetensors"), ("pytorch_model", "bin"))  # the best first
_WEIGHT_ENDINGS = (".safetensors", ".bin", ".gguf")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository, with what it takes to verify it."""

    path: str
    """Relative, with forward slashes; checked to stay inside a directory."""
    bytes: int
    sha256: str | None
    """Of the content, for files that git keeps elsewhere (LFS); None for the others."""
    git_oid: str | None
    """Git's SHA-1 of the blob; for LFS files that of their pointer, so of no use there."""

    @property
    def oid(self) -> str:
        """The hash that the content must have, also its name in the cache."""
        return self.sha256 or self.git_oid or ""


@dataclass(frozen=True, slots=True)
class RemoteRepo:
    """A model on the hub at one commit."""

    repo_id: str
    commit: str
    files: tuple[RemoteFile, ...]
    gated: bool | str
    """False, or how access is granted: ``auto``, ``manual``."""
    licence: str | None
    revision: str
    """What was asked for: a branch, a tag or a commit."""
    endpoint: str
    """Which hub said so."""
    offline: bool = False
    """It was read from this machine's own record; then nothing is fetched for it."""

    def file(self, path: str) -> RemoteFile:
        """The file of that name.

        Raises:
            DownloadError: when there is none, with names that are close.
        """
        for file in self.files:
            if file.path == path:
                return file
        paths = [file.path for file in self.files]
        close = difflib.get_close_matches(path, paths, 3, 0.5)
        raise DownloadError(
            f"`{self.repo_id}` has no file `{path}` at commit {self.commit[:8]}",
            f"there is {_quoted(close)}" if close else f"see {self.endpoint}/{self.repo_id}",
        )

    def to_record(self) -> dict[str, Any]:
        """The part of the hub's answer that ``parse_info`` reads, as JSON-ready values."""
        return {
            "sha": self.commit,
            "gated": self.gated,
            "cardData": {"license": self.licence},
            "siblings": [
                {
                    "rfilename": file.path,
                    "size": file.bytes,
                    "blobId": file.git_oid,
                    "lfs": {"sha256": file.sha256} if file.sha256 else None,
                }
                for file in self.files
            ],
        }


def parse_info(
    data: Any, repo_id: str, revision: str, endpoint: str, *, offline: bool = False
) -> RemoteRepo:
    """A repository from the hub's answer to ``/api/models/ID/revision/REVISION?blobs=true``.

    Raises:
        DownloadError: when it is not such an answer, has no hashes, or lists an impossible file.
    """
    data = data if type(data) is dict else {}
    commit, siblings = str(data.get("sha")), data.get("siblings")
    if not _matches(_OID, commit) or type(siblings) is not list or len(siblings) > _MAX_FILES:
        raise DownloadError(
            f"{endpoint} does not answer like a Hugging Face hub about `{repo_id}`",
            "check HF_ENDPOINT",
        )
    if _matches(_OID, revision) and commit != revision:
        raise DownloadError(f"{endpoint} gave commit {commit} of `{repo_id}`, not {revision}")
    gated = data.get("gated")
    return RemoteRepo(
        repo_id=repo_id,
        commit=commit,
        files=tuple(_parse_file(entry, repo_id, endpoint) for entry in siblings),
        gated=gated if gated is True or gated in ("auto", "manual") else False,
        licence=_card_licence(data.get("cardData")),
        revision=revision,
        endpoint=endpoint,
        offline=offline,
    )


def _parse_file(entry: Any, repo_id: str, endpoint: str) -> RemoteFile:
    entry = entry if type(entry) is dict else {}
    path, size, oid, lfs = (entry.get(key) for key in ("rfilename", "size", "blobId", "lfs"))
    if type(path) is not str or not _stays_inside(path):
        raise DownloadError(f"`{repo_id}` lists a file with an impossible name: {str(path)[:80]!r}")
    sha256 = lfs.get("sha256") if type(lfs) is dict else None
    hashed = _matches(_SHA256, sha256) if lfs else _matches(_OID, oid)
    if type(size) is not int or size < 0 or not hashed:
        raise DownloadError(
            f"{endpoint} gives no size or no hash for `{path}` of `{repo_id}`, so what it sends "
            "could not be verified",
            "a mirror may leave them out; set HF_ENDPOINT to one that does not",
        )
    return RemoteFile(path, size, sha256, oid if _matches(_OID, oid) else None)


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return type(value) is str and pattern.fullmatch(value) is not None


def _stays_inside(path: str) -> bool:
    """Whether ``path`` is a relative path without tricks that every file system can hold."""
    try:
        short = all(len(os.fsencode(part)) < 256 for part in path.split("/"))
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    plain = path.isprintable() and "\\" not in path and len(path) < 1000
    return plain and short and all(part not in ("", ".", "..") for part in path.split("/"))


def _card_licence(card: Any) -> str | None:
    """``license``, or ``license_name`` where that says more."""
    if type(card) is not dict:
        return None
    licence = card.get("license")
    if licence == "other" and type(card.get("license_name")) is str:
        licence = card["license_name"]
    if type(licence) is list:
        licence = ", ".join(str(name) for name in licence)
    return _short(licence) if type(licence) is str and licence != "unknown" else None


def readme_licence(readme: bytes) -> str | None:
    """The licence in the head of a model card, between its two lines of dashes."""
    lines = readme[: 64 << 10].decode("utf-8", "replace").removeprefix("\ufeff").splitlines()
    if not lines or lines[0].strip() != "---":
        return None
    card: dict[str, str] = {}
    previous = ""
    for line in lines[1:]:
        if line.strip() == "---":
            return _card_licence(card)
        key, _, value = line.partition(":")
        if key in ("license", "license_name"):
            card[key] = _plain(value)
        elif previous == "license" and not card["license"] and line.lstrip().startswith("- "):
            card["license"] = _plain(line.strip()[2:])  # a list of one
        previous = key
    return None


def _plain(value: str) -> str:
    """A YAML value of one line, without quotes or comment."""
    value = value.strip()
    if len(value) > 1 and value[0] in "'\"" and value[0] == value[-1]:
        return value[1:-1]
    return value.partition(" #")[0].strip()


def _short(text: str) -> str | None:
    return "".join(sign for sign in text if sign.isprintable())[:100] or None


def wanted_files(repo: RemoteRepo, file: str | None = None) -> tuple[RemoteFile, ...]:
    """What a conversion needs: configuration, tokenizer and licence, then the weights.

    Weights are the safetensors files, else the pickled ones of PyTorch, else the one GGUF file;
    code is never among them. Only files at the top are looked at, apart from a named one.

    Args:
        repo: where to choose.
        file: the weight file, when the person named one.

    Raises:
        DownloadError: when there are no weights, parts are missing, or several GGUF files are there
            and none was named.
    """
    companions = [entry for entry in repo.files if _COMPANION.fullmatch(entry.path)]
    if file is None:
        return (*companions, *_weights(repo))
    if not file.endswith(_WEIGHT_ENDINGS):
        raise DownloadError(
            f"`{file}` of `{repo.repo_id}` is not a weight file",
            "expected a name that ends in .safetensors, .bin or .gguf",
        )
    return (*companions, repo.file(file))


def _weights(repo: RemoteRepo) -> tuple[RemoteFile, ...]:
    by_path = {file.path: file for file in repo.files}
    for stem, ending in _WEIGHT_KINDS:
        if whole := by_path.get(f"{stem}.{ending}"):
            return (whole,)
        part = re.compile(rf"{stem}-\d{{5}}-of-(\d{{5}})\.{ending}")
        found = [match for path in by_path if (match := part.fullmatch(path))]
        if found:
            count = int(found[0][1])
            names = {f"{stem}-{i + 1:05}-of-{count:05}.{ending}" for i in range(count)}
            _refuse_gaps(repo, names, {match[0] for match in found})
            index = by_path.get(f"{stem}.{ending}.index.json")
            return (*([index] if index else []), *(by_path[name] for name in sorted(names)))
    ggufs = [file for file in repo.files if file.path.endswith(".gguf")]
    if len(ggufs) == 1:
        return tuple(ggufs)
    if ggufs:
        sizes = [f"{file.path} ({format_bytes(file.bytes)})" for file in ggufs]
        raise DownloadError(
            f"`{repo.repo_id}` holds {len(ggufs)} GGUF files: {_some(sizes, 12)}",
            f"name one, as in `{repo.repo_id}:{ggufs[0].path}`",
        )
    raise DownloadError(
        f"`{repo.repo_id}` holds no weights: expected model.safetensors, pytorch_model.bin or a "
        f"GGUF file, found {_some([file.path for file in repo.files], 8) or 'nothing'}",
        f"see {repo.endpoint}/{repo.repo_id}",
    )


def _refuse_gaps(repo: RemoteRepo, expected: set[str], found: set[str]) -> None:
    if gaps := sorted(expected - found):
        raise DownloadError(
            f"`{repo.repo_id}` holds {len(found & expected)} of {len(expected)} parts of its "
            f"weights: {gaps[0]} is missing"
        )
    if odd := sorted(found - expected):
        raise DownloadError(f"`{repo.repo_id}` holds a part of other weights too: {odd[0]}")


def _some(names: list[str], most: int) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
