"""Requests to the hub: what goes out, and the one sentence that a refusal comes down to."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mobilellm_mlx.errors import DownloadError, MobileLLMError, ModelNotFound

if TYPE_CHECKING:
    from httpx2 import Client, Response

_TIMEOUT_S = 30.0
_TRUE = ("1", "ON", "YES", "TRUE")
_RESET = re.compile(r";\s*t\s*=\s*(\d{1,6})")
_LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


@dataclass(frozen=True, slots=True)
class Subject:
    """What a request is about, in the words of its errors."""

    endpoint: str
    repo_id: str
    revision: str
    file: str | None = None

    def __str__(self) -> str:
        return f"`{self.file}` of `{self.repo_id}`" if self.file else f"`{self.repo_id}`"


class Interrupted(DownloadError):
    """The network failed rather than the hub, so that going on may help."""


def endpoint() -> str:
    """The hub in use. Read at every call: the official client looks only when it is imported."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def is_offline(asked: bool) -> bool:
    """Whether no socket may be opened, by option or by the variables of the official client."""
    said = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return asked or said.upper() in _TRUE


@contextmanager
def get(url: str, about: Subject, headers: Mapping[str, str]) -> Iterator[Response]:
    """A streamed GET that follows redirects; the token does not follow them to other hosts.

    Errors while the body is read inside the ``with`` block are translated too.

    Raises:
        Interrupted: the hub cannot be reached or the connection broke off.
        DownloadError: it refuses, is busy or is broken.
        ModelNotFound: it has no such model or revision, or shows it only to others.
    """
    client = _client(about)
    import httpx2  # behind the official client, which brings it

    token = _token(about)
    sent = {"User-Agent": "mobilellm-mlx", "Accept-Encoding": "identity", **headers}
    if token:
        sent["Authorization"] = f"Bearer {token}"
    try:
        with client.stream(
            "GET", url, headers=sent, timeout=_TIMEOUT_S, follow_redirects=True
        ) as response:
            if response.status_code not in (200, 206):
                raise _refusal(response, about, with_token=bool(token))
            yield response
    except (httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
        raise DownloadError(
            f"{about} cannot be fetched from {about.endpoint!r}: {error}",
            "check HF_ENDPOINT and the proxy variables",
        ) from error
    except httpx2.TooManyRedirects as error:
        raise DownloadError(f"{about} cannot be fetched: {about.endpoint} leads nowhere") from error
    except httpx2.HTTPError as error:
        raise _unreachable(error, about) from error


def _client(about: Subject) -> Client:
    # Before the import, which is when it is read; it concerns this process and its children alone.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import get_session

    try:
        return get_session()
    except (ImportError, ValueError, OSError) as error:  # a proxy or a certificate it cannot use
        raise DownloadError(
            f"{about} cannot be fetched: the network settings are not usable: {error}",
            "check HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE",
        ) from error


def _token(about: Subject) -> str | None:
    """The person's token, by the rules of the official client."""
    from huggingface_hub import get_token

    if os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() in _TRUE:
        return None
    try:
        token = get_token()
    except Exception as error:  # reading may renew it, with whatever can go wrong on the way
        raise DownloadError(
            f"the access token for {about.endpoint} cannot be read: {str(error)[:200]}",
            f"set HF_TOKEN, or {_LOG_IN.partition(' or ')[0]} again",
        ) from error
    if token and not (token.isascii() and token.isprintable()):
        raise DownloadError(
            f"the access token for {about.endpoint} holds signs that no token has",
            "copy it again into HF_TOKEN",
        )
    return token


def _unreachable(error: Exception, about: Subject) -> Interrupted:
    import httpx2

    if isinstance(error, httpx2.ProxyError):
        return Interrupted(
            f"{about} cannot be fetched: the proxy does not lead to {about.endpoint}",
            "check HTTPS_PROXY, HTTP_PROXY and NO_PROXY",
        )
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return Interrupted(
            f"{about} cannot be fetched: the certificate of {about.endpoint} is not trusted",
            "where a company's proxy opens TLS, point SSL_CERT_FILE to its certificate",
        )
    if isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout)):
        return Interrupted(
            f"{about} cannot be fetched: {about.endpoint} cannot be reached",
            "check the network, HTTPS_PROXY and HF_ENDPOINT; once fetched, no network is needed",
        )
    return Interrupted(
        f"{about} cannot be fetched: the connection to {about.endpoint} broke off",
        "check the network and try again: it goes on where it stopped",
    )


def _refusal(response: Response, about: Subject, *, with_token: bool) -> MobileLLMError:
    """The error for an answer that is none. What the server says in words is not repeated."""
    status, code = response.status_code, response.headers.get("X-Error-Code", "")
    page = f"{about.endpoint}/{about.repo_id}"
    if code == "GatedRepo":
        return DownloadError(
            f"`{about.repo_id}` is gated: its terms must be accepted before it can be fetched",
            f"accept them at {page}, then {_LOG_IN}",
        )
    if code == "RevisionNotFound":
        return ModelNotFound(
            f"`{about.repo_id}` has no revision `{about.revision}`",
            f"the branches and tags are listed at {page}/tree/main",
        )
    if code == "EntryNotFound" or (status == 404 and about.file):
        return DownloadError(f"{about.endpoint} has no {about}, though it lists it", "try again")
    if status == 401 and with_token:
        return ModelNotFound(
            f"{about.endpoint} does not take the access token for `{about.repo_id}`",
            f"it may have expired: {_LOG_IN}",
        )
    if status in (401, 404) or code == "RepoNotFound":
        return ModelNotFound(
            f"{about.endpoint} has no model `{about.repo_id}`, or it is private",
            f"check the spelling; for a private model, {_LOG_IN}",
        )
    if status == 403:
        return DownloadError(
            f"{about.endpoint} refuses {about} to you",
            f"see {page}; the access token may lack the right to read it",
        )
    if status == 429:
        wait = _wait_s(response)
        return DownloadError(
            f"{about.endpoint} answers too many requests for now",
            f"try again {f'in {wait:,} s' if wait else 'later'}; with a token it allows more",
        )
    if status >= 500:
        return DownloadError(
            f"{about} cannot be fetched: {about.endpoint} is in trouble, status {status}",
            "try again later: it goes on where it stopped",
        )
    return DownloadError(
        f"{about} cannot be fetched: {about.endpoint} answered with status {status}"
    )


def _wait_s(response: Response) -> int | None:
    """Seconds to wait, from ``Retry-After`` or from the draft header ``RateLimit``."""
    after = response.headers.get("Retry-After", "").strip()
    if after.isdecimal() and len(after) < 7:
        return int(after)
    found = _RESET.search(response.headers.get("RateLimit", ""))
    return int(found[1]) if found else None
