"""What the Hugging Face Hub and the disk can refuse, and hostile answers: one sentence each."""

import errno
import json
import shutil
import socket

import pytest

from mobilellm_mlx import huggingface
from mobilellm_mlx.errors import (
    DownloadError,
    MobileLLMError,
    ModelNotFound,
    StorageError,
)
from mobilellm_mlx.huggingface import (
    fetch_small,
    inspect_repo,
)
from tests.hub.tiny_repo import finish

pytestmark = pytest.mark.usefixtures("settings")


def refused(**question) -> MobileLLMError:
    with pytest.raises(MobileLLMError) as caught:
        finish(inspect_repo("org/tiny", **question))
    assert "\n" not in caught.value.message
    return caught.value


def test_a_private_model_without_a_token(hub) -> None:
    hub.token = "hf_right"
    error = refused()
    assert isinstance(error, ModelNotFound)
    assert "or it is private" in error.message and "`hf auth login`" in str(error.hint)


def test_a_token_that_is_not_taken(hub, monkeypatch) -> None:
    hub.token = "hf_right"
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "does not take the access token" in refused().message


def test_the_right_token_opens_a_private_model(hub, monkeypatch) -> None:
    hub.token = "hf_right"
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    finish(inspect_repo("org/tiny"))


def test_the_token_goes_to_the_hub_alone_and_nothing_tells_who_asks(hub, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    finish(inspect_repo("org/tiny"))
    assert hub.asked("storage") == [f"/{hub.branches['main']}/{n}" for n in
                                    ("tokenizer.model", "model.safetensors")]  # fmt: skip
    for request in hub.requests:
        assert ("Authorization" in request.headers) == (request.server == "hub")
        assert request.headers["User-Agent"] == "mobilellm-mlx"


def test_the_token_can_be_kept_at_home(hub, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    inspect_repo("org/tiny")
    assert "Authorization" not in hub.requests[0].headers


def test_a_token_with_strange_signs_is_not_sent(hub, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_ä")
    assert "signs that no token has" in refused().message
    assert hub.requests == []


@pytest.mark.parametrize("token", [None, "hf_other"])
def test_a_gated_model_names_the_page_where_its_terms_are_accepted(hub, monkeypatch, token) -> None:
    hub.gated, hub.token = "auto", "hf_right"
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    error = refused()
    assert "is gated" in error.message
    assert f"{hub.url}/org/tiny" in str(error.hint) and "`hf auth login`" in str(error.hint)


def test_a_model_that_does_not_exist(hub) -> None:
    with pytest.raises(ModelNotFound, match="has no model `org/nothing`"):
        inspect_repo("org/nothing")


def test_a_revision_that_does_not_exist(hub) -> None:
    with pytest.raises(ModelNotFound, match="`org/tiny` has no revision `v9`"):
        inspect_repo("org/tiny", "v9")


def test_a_file_that_is_not_listed_brings_up_close_ones(hub) -> None:
    repo = inspect_repo("org/tiny")
    with pytest.raises(DownloadError, match=r"no file `config\.jsn`") as caught:
        fetch_small(repo, ["config.jsn"])
    assert "`config.json`" in str(caught.value.hint)


def test_a_listed_file_that_the_hub_does_not_have(hub) -> None:
    hub.refuse["config.json"] = (404, {"X-Error-Code": "EntryNotFound"})
    assert "has no `config.json` of `org/tiny`, though it lists it" in refused().message


@pytest.mark.parametrize(
    "headers", [{"Retry-After": "77"}, {"RateLimit": '"api";r=0;t=77'}, {"Retry-After": "soon"}]
)
def test_too_many_requests_say_how_long_to_wait(hub, headers) -> None:
    hub.refuse["/main"] = (429, headers)
    error = refused()
    assert "too many requests" in error.message
    assert ("later" if headers == {"Retry-After": "soon"} else "in 77 s") in str(error.hint)


@pytest.mark.parametrize(
    ("status", "said"), [(500, "status 500"), (503, "in trouble"), (403, "refuses"), (418, "418")]
)
def test_other_refusals_name_the_status_or_what_it_means(hub, status, said) -> None:
    hub.refuse["model.safetensors"] = (status, {})
    assert said in refused().message


def test_a_hub_that_cannot_be_reached(monkeypatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
    error = refused()
    assert "cannot be reached" in error.message and "HTTPS_PROXY" in str(error.hint)


def test_a_proxy_that_is_down_or_of_an_unknown_kind(hub, monkeypatch) -> None:
    from huggingface_hub import close_session

    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert "HTTPS_PROXY" in str(refused().hint)
    close_session()
    monkeypatch.setenv("HTTP_PROXY", "carrier-pigeon://127.0.0.1:9")
    error = refused()
    assert "network settings are not usable" in error.message
    assert hub.requests == []


def test_a_certificate_that_is_not_trusted(hub, monkeypatch) -> None:
    import httpx2

    def send(*_: object, **__: object) -> None:
        raise httpx2.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate")

    monkeypatch.setattr(httpx2.Client, "send", send)
    error = refused()
    assert "is not trusted" in error.message and "SSL_CERT_FILE" in str(error.hint)


@pytest.mark.parametrize("url", ["ftp://host", "huggingface.co", "http://a:b:c", "http://"])
def test_an_endpoint_that_is_no_address(monkeypatch, url) -> None:
    monkeypatch.setenv("HF_ENDPOINT", url)
    assert "HF_ENDPOINT" in str(refused().hint)


@pytest.mark.parametrize(
    "answer", [b"<html>", b"[]", b"{}", b"null", b'{"sha": "../../x"}', b"[" * 9999]
)
def test_a_server_that_is_no_hub(hub, monkeypatch, answer) -> None:
    monkeypatch.setattr(json, "dumps", lambda *a, **k: answer.decode())
    assert "does not answer like a Hugging Face hub" in refused().message


def test_a_server_that_leads_in_circles(hub) -> None:
    hub.refuse["/main"] = (302, {"Location": f"{hub.url}/api/models/org/tiny/revision/main"})
    assert "leads nowhere" in refused().message


def test_an_endless_answer_is_cut(hub, monkeypatch) -> None:
    monkeypatch.setattr(huggingface.fetch, "_MAX_ANSWER_BYTES", 500)
    assert "sends more than 500 bytes" in refused().message


# The disk


def test_a_full_disk_is_said_before_anything_is_fetched(hub, monkeypatch) -> None:
    repo = inspect_repo("org/tiny")
    hub.requests.clear()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 1_000_000))
    with pytest.raises(StorageError, match="are free") as caught:
        finish(repo)
    assert "HF_HOME" in str(caught.value.hint) and hub.requests == []


def test_a_disk_that_fills_up_on_the_way(hub, monkeypatch) -> None:
    def append(self: object, block: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface.cache.Part, "append", append)
    with pytest.raises(StorageError, match="is full"):
        finish(inspect_repo("org/tiny"))


def test_a_cache_that_is_a_file(hub, tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="cannot be used: Not a directory"):
        finish(inspect_repo("org/tiny"))


# Hostile names


@pytest.mark.parametrize(
    "name",
    [
        *("../evil", "/etc/evil", "a/../../evil", "a\\..\\evil", "", "a//b", "./a", "a\0b", "a\nb"),
        *("\x1b[2J", "\udc80", "x" * 300, None, 7),
    ],
)
def test_a_name_that_leaves_the_directory_refuses_the_model(hub, name) -> None:
    entry = {"rfilename": name, "size": 1, "blobId": "a" * 40}
    hub.info_changes["siblings"] = [entry]
    assert "a file with an impossible name" in refused().message


@pytest.mark.parametrize("change", [{"blobId": "../" * 13 + "a"}, {"lfs": {"sha256": "../x"}}])
def test_a_hash_that_is_a_path_is_refused(hub, change) -> None:
    entry = {"rfilename": "config.json", "size": 1, "blobId": "a" * 40, **change}
    hub.info_changes["siblings"] = [entry]
    assert "no hash" in refused().message
