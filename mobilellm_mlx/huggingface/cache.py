"""Where files from the hub lie: the cache that the official client and other tools share.

Its layout, a documented one: ``models--ORG--NAME/blobs/HASH`` holds contents,
``snapshots/COMMIT/PATH`` links to them, ``refs/REVISION`` holds a commit. What the hub said about
a model is kept beside our own things, so that it can be checked again without the network.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from mobilellm_mlx import paths
from mobilellm_mlx.errors import ChecksumError, ModelNotFound, StorageError
from mobilellm_mlx.huggingface.repo import RemoteFile, RemoteRepo, parse_info

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

_BLOCK_BYTES = 4 << 20


def hub_cache() -> Path:
    """The shared cache, by the same variables as the official client, which it reads on import."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if value := os.environ.get(name):
            return Path(os.path.expandvars(value)).expanduser()
    if value := os.environ.get("HF_HOME"):
        return Path(os.path.expandvars(value)).expanduser() / "hub"
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expandvars(base)).expanduser() / "huggingface" / "hub"


class Place:
    """The folder of one repository in the shared cache."""

    def __init__(self, repo: RemoteRepo):
        self.folder = hub_cache() / f"models--{repo.repo_id.replace('/', '--')}"
        self.blobs = self.folder / "blobs"
        self.snapshot = self.folder / "snapshots" / repo.commit

    def blob(self, file: RemoteFile) -> Path:
        """Where the content of a file belongs."""
        return self.blobs / file.oid

    def part(self, file: RemoteFile) -> Path:
        """Where its content grows.

        Not the name that older clients append to, whose locks we do not share; the ending is
        theirs, so that `hf cache` knows what an abandoned one is.
        """
        return self.blobs / f"{file.oid}.mobilellm.incomplete"

    def find(self, file: RemoteFile) -> Path | None:
        """The content of a file, when it lies here; not verified."""
        linked = self.snapshot / file.path
        return next((path for path in (linked, self.blob(file)) if path.is_file()), None)

    def link(self, file: RemoteFile) -> None:
        """Make a content that lies here visible under the file's name."""
        pointer, blob = self.snapshot / file.path, self.blob(file)
        if pointer.is_file():
            return
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.unlink(missing_ok=True)  # a link to nothing
        try:
            pointer.symlink_to(os.path.relpath(blob, pointer.parent))
        except FileExistsError:  # another process was faster
            return
        except OSError:  # a disk without links: the file itself, as the official client does
            shutil.move(blob, pointer)

    def remove(self, file: RemoteFile) -> None:
        """Take a file away, the content that its name leads to included."""
        for path in (self.snapshot / file.path, self.blob(file)):
            content = path.resolve()
            path.unlink(missing_ok=True)
            if content.is_relative_to(hub_cache().resolve()):  # it may be shared by repositories
                content.unlink(missing_ok=True)

    def write_ref(self, repo: RemoteRepo) -> None:
        """Note which commit the revision was, for tools that look it up without the network."""
        ref = self.folder / "refs" / repo.revision
        if repo.revision != repo.commit and not (ref.is_file() and ref.read_text() == repo.commit):
            _write_whole(ref, repo.commit)


class Part:
    """A file on its way: what there is of it, and the hash of that. Use with ``with``.

    Raises:
        StorageError: when another process has it.
    """

    def __init__(self, path: Path, file: RemoteFile):
        self._path, self._file = path, file
        self._out = path.open("ab")
        self._digest = new_hash(file)
        try:
            fcntl.flock(self._out, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._out.close()
            raise StorageError(
                f"`{file.path}` is being fetched by another process", "wait for it, then try again"
            ) from error

    def __enter__(self) -> Part:
        return self

    def __exit__(self, *_: object) -> None:
        self._out.close()

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return self._out.tell()

    def read_kept(self) -> Iterator[int]:
        """Hash what an earlier call left; yields bytes so far."""
        if self.size > self._file.bytes:
            self.restart()
        done = 0
        for block in read_blocks(self._path):
            self._digest.update(block)
            yield (done := done + len(block))

    def restart(self) -> None:
        """Forget what there is."""
        self._out.seek(0)
        self._out.truncate()
        self._digest = new_hash(self._file)

    def append(self, block: bytes) -> None:
        """Add what came."""
        self._out.write(block)
        self._digest.update(block)

    def publish(self, blob: Path, repo: RemoteRepo, hint: str) -> None:
        """Give the whole file its name in the cache, or remove it.

        Raises:
            ChecksumError: when it is not what the hub lists.
        """
        try:
            verify(self._digest, self.size, self._file, repo, hint)
        except ChecksumError:
            self._path.unlink()
            raise
        self._out.flush()
        self._path.replace(blob)


def read_blocks(path: Path) -> Iterator[bytes]:
    """A file in blocks."""
    with path.open("rb") as source:
        while block := source.read(_BLOCK_BYTES):
            yield block


def new_hash(file: RemoteFile) -> Hash:
    """SHA-256 for LFS files, git's SHA-1 of a blob for the others, before any content."""
    if file.sha256:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % file.bytes, usedforsecurity=False)


def verify(digest: Hash, size: int, file: RemoteFile, repo: RemoteRepo, hint: str) -> None:
    """Compare a content with what the hub said.

    Raises:
        ChecksumError: with the file, what was expected and what there is.
    """
    name = f"`{file.path}` of `{repo.repo_id}`"
    if size != file.bytes:
        raise ChecksumError(f"{name} has {size:,} bytes, expected {file.bytes:,}", hint)
    if digest.hexdigest() != file.oid:
        kind = "SHA-256" if file.sha256 else "git hash"
        raise ChecksumError(
            f"{name} is not the file that the hub lists: {kind} {digest.hexdigest()}, "
            f"expected {file.oid}",
            hint,
        )


def write_record(repo: RemoteRepo) -> None:
    """Keep what the hub said, under the revision that was asked for and under the commit."""
    text = json.dumps(repo.to_record(), indent=1)
    for revision in {repo.revision, repo.commit}:
        _write_whole(_record_path(repo.repo_id, revision), text)


def read_record(repo_id: str, revision: str, endpoint: str) -> RemoteRepo:
    """What the hub said when it was last asked.

    Raises:
        ModelNotFound: when it was never asked on this machine, or the record is damaged.
    """
    try:
        data = json.loads(_record_path(repo_id, revision).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelNotFound(
            f"`{repo_id}` at `{revision}` was not looked up on this machine yet, and offline it "
            "cannot be",
            "convert it once with the network, without HF_HUB_OFFLINE",
        ) from error
    return parse_info(data, repo_id, revision, endpoint, offline=True)


def _record_path(repo_id: str, revision: str) -> Path:
    folder = paths.cache_dir() / "hub" / repo_id.replace("/", "--")
    return folder / f"{quote(revision, safe='')}.json"


def _write_whole(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)
