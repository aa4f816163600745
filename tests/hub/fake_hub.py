"""A Hugging Face hub on this machine, as far as models are read from it, that can be well or ill.

It answers ``/api/models/ID/revision/REVISION`` and ``/ID/resolve/REVISION/FILE`` with HEAD and GET,
as the official client and ours ask. Large files redirect to a second server on a port of its own,
which stands for the storage behind the hub. Every request is noted.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class Request:
    """What a server was asked."""

    server: str  # `hub` or `storage`
    method: str
    path: str
    headers: dict[str, str]


@dataclass
class FakeHub:
    """One repository with its history, and how the servers behave."""

    repo_id: str = "org/tiny"
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    lfs_endings: tuple[str, ...] = (".safetensors", ".bin", ".gguf", ".model")
    card: dict[str, Any] = field(default_factory=lambda: {"license": "apache-2.0"})
    gated: bool | str = False
    token: str | None = None
    """Needed for everything, or for the files alone when the repository is gated."""
    refuse: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    """Status and headers for paths that end so."""
    altered: dict[str, bytes] = field(default_factory=dict)
    """Sent in the place of the listed contents."""
    info_changes: dict[str, Any] = field(default_factory=dict)
    """Laid over the description of the repository."""
    breaks_after: list[int] = field(default_factory=list)
    """For each coming GET of a file, how many bytes to send before the connection breaks."""
    ranges: bool = True
    requests: list[Request] = field(default_factory=list)
    url: str = ""
    storage_url: str = ""

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """A new commit with exactly these files; the branch moves to it."""
        listing = "".join(f"{path} {git_oid(data)}\n" for path, data in files.items())
        oid = hashlib.sha1(f"{len(self.commits)}\n{listing}".encode()).hexdigest()
        self.commits[oid] = dict(files)
        self.branches[branch] = oid
        return oid

    def asked(self, server: str | None = None, method: str = "GET") -> list[str]:
        """The paths that were asked for."""
        return [
            request.path
            for request in self.requests
            if request.method == method and server in (None, request.server)
        ]

    def resolve(self, revision: str) -> str | None:
        """The commit that a branch or a commit's name means."""
        return revision if revision in self.commits else self.branches.get(revision)

    def info(self, commit: str) -> dict[str, Any]:
        """What `/api/models` says with `blobs=true`."""
        siblings = [self._sibling(*item) for item in self.commits[commit].items()]
        return {
            "id": self.repo_id,
            "sha": commit,
            "gated": self.gated,
            "cardData": self.card,
            "siblings": siblings,
            **self.info_changes,
        }

    def _sibling(self, path: str, data: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": git_oid(data)}
        if path.endswith(self.lfs_endings):
            sha256 = hashlib.sha256(data).hexdigest()
            entry["blobId"] = git_oid(f"pointer to {sha256}".encode())
            entry["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 130}
        return entry


def git_oid(data: bytes) -> str:
    """The name that git gives to a content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    name: str

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(Request(self.name, self.command, path, dict(self.headers.items())))
        for ending, (status, headers) in self.hub.refuse.items():
            if path.endswith(ending):
                return self.send(status, b"<html>no</html>", headers)
        if self.name == "storage":
            _, commit, file = path.split("/", 2)
            return self.send_file(commit, file)
        prefix = f"/api/models/{self.hub.repo_id}/revision/"
        if path.startswith(prefix):
            return self.send_info(path.removeprefix(prefix))
        if path.startswith(f"/{self.hub.repo_id}/resolve/"):
            revision, _, file = path.removeprefix(f"/{self.hub.repo_id}/resolve/").partition("/")
            return self.send_resolved(revision, file)
        self.send(404 if self.allowed() else 401, b"", {"X-Error-Code": "RepoNotFound"})

    def allowed(self) -> bool:
        token = self.headers.get("Authorization")
        return self.hub.token is None or token == f"Bearer {self.hub.token}"

    def send_info(self, revision: str) -> None:
        if not self.hub.gated and not self.allowed():
            return self.send(401, b"", {})
        commit = self.hub.resolve(revision)
        if commit is None:
            return self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        self.send(200, json.dumps(self.hub.info(commit)).encode(), {})

    def send_resolved(self, revision: str, file: str) -> None:
        if not self.allowed():
            status = 403 if "Authorization" in self.headers else 401
            code = {"X-Error-Code": "GatedRepo"} if self.hub.gated else {}
            return self.send(status, b"", code)
        commit = self.hub.resolve(revision)
        if commit is None or file not in self.hub.commits[commit]:
            return self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
        data = self.hub.commits[commit][file]
        if not file.endswith(self.hub.lfs_endings):
            return self.send_file(commit, file, {"ETag": f'"{git_oid(data)}"'})
        facts = {
            "X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Linked-Size": str(len(data)),
            "X-Repo-Commit": commit,
            "Location": f"{self.hub.storage_url}/{commit}/{file}",
        }
        self.send(302, b"", facts)

    def send_file(self, commit: str, file: str, headers: dict[str, str] | None = None) -> None:
        data = self.hub.altered.get(file, self.hub.commits[commit][file])
        headers = {"X-Repo-Commit": commit, **(headers or {})}
        wanted = self.headers.get("Range")
        if not wanted or not self.hub.ranges:
            return self.send(200, data, headers, breakable=True)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, stop = int(first), min(int(last) + 1 if last else len(data), len(data))
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        self.send(206, data[start:stop], headers, breakable=True)

    def send(
        self, status: int, data: bytes, headers: dict[str, str], breakable: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if breakable and self.hub.breaks_after:
            data = data[: self.hub.breaks_after.pop(0)]
            self.close_connection = True
        with suppress(ConnectionError):  # the client may have seen enough
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serve(hub: FakeHub) -> Iterator[FakeHub]:
    """Run both servers; ``hub.url`` is what HF_ENDPOINT should be."""
    servers = {}
    for name in ("hub", "storage"):
        handler = type("Handler", (_Handler,), {"hub": hub, "name": name})
        server = servers[name] = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    hub.url, hub.storage_url = (
        f"http://127.0.0.1:{server.server_port}" for server in servers.values()
    )
    try:
        yield hub
    finally:
        for server in servers.values():
            server.shutdown()
            server.server_close()
