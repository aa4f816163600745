"""Looking a model up and fetching it: one question, then files by their commit."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from mobilellm_mlx.errors import ChecksumError, DownloadError, StorageError
from mobilellm_mlx.events import Event, Progress
from mobilellm_mlx.hub import require_free_space
from mobilellm_mlx.huggingface import cache, client
from mobilellm_mlx.huggingface.names import check_name
from mobilellm_mlx.huggingface.repo import RemoteFile, RemoteRepo, parse_info

_MAX_ANSWER_BYTES = 64 << 20
_MAX_SMALL_BYTES = 64 << 20
_MAX_HEADER_BYTES = 25_000_000
_FIRST_BYTES = 64 << 10  # holds the header of most models, so that one request is enough
_SLACK_BYTES = 8_000_000
_TELL_BYTES = 1 << 20  # an event for each of the blocks that come would be too many
_ATTEMPTS = 10
_PAUSE_S = 1.0
_MORE_ROOM = "free some space, or point HF_HOME to another disk"


def inspect_repo(repo_id: str, revision: str | None = None, offline: bool = False) -> RemoteRepo:
    """Ask the hub about a model; without the network, answer as the hub did last time.

    Args:
        repo_id: ``org/name``.
        revision: a branch, tag or commit; the main branch by default.
        offline: open no socket, as HF_HUB_OFFLINE=1 does.

    Raises:
        InvalidInput: when the name cannot be one.
        ModelNotFound: no such model or revision, or offline and never asked before.
        DownloadError: the hub cannot be reached or refuses.
        StorageError: its answer cannot be kept.
    """
    check_name(repo_id, revision)
    revision, endpoint = revision or "main", client.endpoint()
    if client.is_offline(offline):
        return cache.read_record(repo_id, revision, endpoint)
    about = client.Subject(endpoint, repo_id, revision)
    url = f"{endpoint}/api/models/{repo_id}/revision/{quote(revision, safe='')}?blobs=true"
    with client.get(url, about, {}) as response:
        answer = b"".join(_bounded(response.iter_bytes(), _MAX_ANSWER_BYTES, about))
    try:
        data = json.loads(answer)
    except (ValueError, RecursionError):
        data = None  # which `parse_info` refuses
    repo = parse_info(data, repo_id, revision, endpoint)
    with _storage_errors():
        cache.write_record(repo)
    return repo


def fetch_small(repo: RemoteRepo, paths: Iterable[str]) -> dict[str, bytes]:
    """The verified contents of a few small files, by path.

    Raises:
        DownloadError: also when a file does not exist or is not small.
        ChecksumError: when one is not what the hub lists.
        StorageError: when they cannot be kept.
    """
    files = [repo.file(path) for path in paths]
    for file in files:
        if file.bytes > _MAX_SMALL_BYTES:
            raise DownloadError(
                f"`{file.path}` of `{repo.repo_id}` has {file.bytes:,} bytes, too many for such a "
                "file"
            )
    for _ in fetch_repo(repo, files):
        pass
    snapshot = cache.Place(repo).snapshot
    with _storage_errors():
        return {file.path: (snapshot / file.path).read_bytes() for file in files}


def fetch_repo(repo: RemoteRepo, files: Iterable[RemoteFile]) -> Generator[Event, None, Path]:
    """Put files into the shared cache, all of them verified, also those that lay there.

    What an interrupted call had of a file is kept and the next one goes on from there. Other tools
    may have put other files of the same commit into the directory: those are not verified.

    Args:
        repo: from ``inspect_repo``; its commit is what is fetched, whatever the branch does.
        files: some of ``repo.files``.

    Yields:
        ``Progress`` in bytes over all files.

    Returns:
        The directory that holds them under their names.

    Raises:
        DownloadError: the hub does not give them, or offline and some are missing.
        ChecksumError: a file is not what the hub lists; it is removed from the cache.
        StorageError: no room, no permission, or another process is fetching the same.
    """
    files, place = tuple(files), cache.Place(repo)
    task, total, done = f"fetching {repo.repo_id}", sum(file.bytes for file in files), 0
    with _storage_errors():
        if missing := [file for file in files if not place.find(file)]:
            _prepare(repo, place, missing)
        yield Progress(task, 0, total)
        for file in files:
            work = _check(repo, place, file) if place.find(file) else _fetch(repo, place, file)
            for count in work:
                yield Progress(task, done + count, total)
            done += file.bytes
            place.link(file)
        if missing:
            place.write_ref(repo)
    return place.snapshot


def read_header(repo: RemoteRepo, file: RemoteFile) -> bytes:
    """The beginning of a safetensors file: 8 bytes of length, then the table of its tensors.

    Of a file that is not in the cache only this much is fetched, so it is not verified.

    Raises:
        DownloadError: the hub does not give it, or the length is impossible.
        StorageError: the cached file cannot be read.
    """
    about = client.Subject(repo.endpoint, repo.repo_id, repo.revision, file.path)
    start = _read_start(repo, file, about, 0, min(_FIRST_BYTES, file.bytes)) if file.bytes else b""
    length = 8 + int.from_bytes(start[:8], "little")
    if not 10 <= length <= min(file.bytes, 8 + _MAX_HEADER_BYTES):
        raise DownloadError(f"{about} is not a safetensors file: its header claims {length - 8:,} "
                            f"of {file.bytes:,} bytes")  # fmt: skip
    if length > len(start):
        start += _read_start(repo, file, about, len(start), length)
    return start[:length]


def _read_start(
    repo: RemoteRepo, file: RemoteFile, about: client.Subject, start: int, stop: int
) -> bytes:
    with _storage_errors():
        cached = cache.Place(repo).find(file)
        data = _slice(cached, start, stop) if cached else None
    if data is None and repo.offline:
        raise DownloadError(
            f"{about} is not in the cache, and offline it cannot be looked at",
            "look at it once with the network, without HF_HUB_OFFLINE",
        )
    if data is None:
        data = _receive_slice(_url(repo, file), about, start, stop)
    if len(data) < stop - start:
        raise DownloadError(f"{about} ended after {start + len(data):,} of {file.bytes:,} bytes")
    return data


def _slice(path: Path, start: int, stop: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(stop - start)


def _receive_slice(url: str, about: client.Subject, start: int, stop: int) -> bytes:
    data = bytearray()
    with client.get(url, about, {"Range": f"bytes={start}-{stop - 1}"}) as response:
        skipped = 0 if response.status_code == 206 else start  # it may send the file from 0
        for block in response.iter_raw():
            data += block
            if len(data) >= skipped + stop - start:
                break
    return bytes(data[skipped : skipped + stop - start])


def _prepare(repo: RemoteRepo, place: cache.Place, missing: list[RemoteFile]) -> None:
    """Refuse what cannot succeed before anything is fetched."""
    if repo.offline:
        names = ", ".join(f"`{file.path}`" for file in missing[:5])
        raise DownloadError(
            f"the cache lacks {names} of `{repo.repo_id}` at commit {repo.commit[:8]}, and offline "
            "nothing is fetched",
            "convert it once with the network, without HF_HUB_OFFLINE",
        )
    place.blobs.mkdir(parents=True, exist_ok=True)
    kept = sum(place.part(file).stat().st_size for file in missing if place.part(file).is_file())
    try:
        require_free_space(place.blobs, sum(file.bytes for file in missing) - kept + _SLACK_BYTES)
    except StorageError as error:
        raise StorageError(error.message, _MORE_ROOM) from error


def _check(repo: RemoteRepo, place: cache.Place, file: RemoteFile) -> Iterator[int]:
    """Verify a file that lay in the cache."""
    path = place.find(file)
    assert path is not None
    digest, done = cache.new_hash(file), 0
    for block in cache.read_blocks(path):
        digest.update(block)
        done += len(block)
        yield min(done, file.bytes)
    try:
        hint = "the copy in the cache was damaged and is removed: try again to fetch it anew"
        cache.verify(digest, done, file, repo, hint)
    except ChecksumError:
        place.remove(file)
        raise


def _fetch(repo: RemoteRepo, place: cache.Place, file: RemoteFile) -> Iterator[int]:
    """Fetch what is missing of a file, verify the whole, and only then give it its name."""
    with cache.Part(place.part(file), file) as part:
        yield from part.read_kept()
        for attempt in range(_ATTEMPTS):
            before = part.size
            if before == file.bytes:
                break
            try:
                yield from _receive(repo, file, part)
            except client.Interrupted:
                if part.size <= before or attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(_PAUSE_S)
            else:
                break
        hint = "a mirror may serve an altered file; check HF_ENDPOINT and try again"
        part.publish(place.blob(file), repo, hint)


def _receive(repo: RemoteRepo, file: RemoteFile, part: cache.Part) -> Iterator[int]:
    """Append what the hub sends from the part's end on."""
    about = client.Subject(repo.endpoint, repo.repo_id, repo.revision, file.path)
    start = part.size
    headers = {"Range": f"bytes={start}-"} if start else {}
    with client.get(_url(repo, file), about, headers) as response:
        if start and response.status_code == 200:  # it sends the file from 0
            part.restart()
        elif start and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise DownloadError(f"{repo.endpoint} sent another part of {about} than was asked for")
        told = part.size
        for block in response.iter_raw():  # as it comes: larger blocks would be lost half full
            part.append(block)
            if part.size > file.bytes:
                break  # `publish` says how it is wrong
            if part.size - told >= _TELL_BYTES:
                yield (told := part.size)
        yield min(part.size, file.bytes)


def _url(repo: RemoteRepo, file: RemoteFile) -> str:
    return f"{repo.endpoint}/{repo.repo_id}/resolve/{repo.commit}/{quote(file.path)}"


def _bounded(blocks: Iterable[bytes], most: int, about: client.Subject) -> Iterator[bytes]:
    done = 0
    for block in blocks:
        done += len(block)
        if done > most:
            raise DownloadError(f"{about.endpoint} sends more than {most:,} bytes about {about}")
        yield block


@contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError("the disk of the model cache is full", _MORE_ROOM) from error
        where = f" at `{error.filename}`" if error.filename else ""
        raise StorageError(
            f"the cache of the hub{where} cannot be used: {error.strerror or error}",
            "check its permissions, or point HF_HOME to another directory",
        ) from error
