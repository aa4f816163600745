"""The Hugging Face Hub as a source, against a hub on this machine."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mobilellm_mlx import huggingface, paths
from mobilellm_mlx.errors import (
    ChecksumError,
    DownloadError,
    InvalidInput,
    ModelNotFound,
    StorageError,
)
from mobilellm_mlx.events import Progress
from mobilellm_mlx.huggingface import (
    fetch_repo,
    fetch_small,
    inspect_repo,
    is_repo_id,
    read_header,
    split_file,
    split_revision,
)
from tests.hub.tiny_repo import FILES, HEADER, WANTED, WEIGHTS, finish, no_sockets, place

pytestmark = pytest.mark.usefixtures("settings")


# Names


@pytest.mark.parametrize(
    "text",
    [
        "facebook/MobileLLM-125M",
        "org/a.b_c-d",
        "org/name@main",
        "org/name@refs/pr/8",
        "org/name@v1.0:q4.gguf",
        "org/name:sub/q4.gguf",
    ],
)
def test_names_of_the_hub_are_known(text) -> None:
    assert is_repo_id(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "name", "./org/name", "/org/name", "~/name", "org/name/more", "../name", "org/.."),
        *(
            "org/-name",
            "org/name.",
            "org/a--b",
            "org/a..b",
            "org/name.git",
            "órg/name",
            "org /name",
        ),
        *(
            "org/model.gguf",
            "models/weights.safetensors",
            "org/name@",
            "org/name@../x",
            "org/name:",
        ),
        *("org/name@a..b", "org/name@-x", "org/name@a//b", "https://huggingface.co/org/name"),
        "o" * 97 + "/name",
    ],
)
def test_other_texts_are_not_taken_for_names_of_the_hub(text) -> None:
    assert not is_repo_id(text)


def test_what_exists_on_disk_is_a_path(tmp_path, monkeypatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not is_repo_id("org/name")
    assert is_repo_id("org/other")
    assert is_repo_id("org/other:" + "x" * 5000)  # longer than a path can be


def test_revision_and_file_are_split_off() -> None:
    assert split_file("org/name@v1:a.gguf") == ("org/name@v1", "a.gguf")
    assert split_file("org/name") == ("org/name", None)
    assert split_revision("org/name@refs/pr/1") == ("org/name", "refs/pr/1")
    assert split_revision("org/name") == ("org/name", None)
    with pytest.raises(InvalidInput, match="not a revision"):
        split_revision("org/name@../../etc")


# The way it should go


def test_the_wanted_files_arrive_whole_under_their_commit(hub, tmp_path) -> None:
    repo = inspect_repo("org/tiny")
    _, directory = finish(repo)
    assert repo.commit == hub.branches["main"] == directory.name
    assert sorted(path.name for path in directory.iterdir()) == sorted(
        [*WANTED, "model.safetensors"]
    )
    assert all((directory / name).read_bytes() == FILES[name] for name in WANTED)
    assert (directory / "model.safetensors").read_bytes() == WEIGHTS
    assert not list(place(tmp_path).rglob("*.incomplete"))


def test_progress_counts_the_bytes_of_all_files_to_one_total(hub) -> None:
    events, _ = finish(inspect_repo("org/tiny"))
    total = len(WEIGHTS) + sum(len(FILES[name]) for name in WANTED)
    assert all(isinstance(event, Progress) and event.total == total for event in events)
    counts = [event.done for event in events]
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] == total
    assert len([count for count in counts if count > total - len(WEIGHTS)]) > 2


def test_a_second_time_nothing_is_fetched_but_everything_is_counted(hub) -> None:
    repo = inspect_repo("org/tiny")
    finish(repo)
    hub.requests.clear()
    events, directory = finish(repo)
    assert hub.requests == []
    assert events[-1].done == events[-1].total
    assert (directory / "model.safetensors").read_bytes() == WEIGHTS


def test_one_question_tells_all_about_a_model(hub) -> None:
    hub.gated = "manual"
    repo = inspect_repo("org/tiny")
    assert hub.asked() == ["/api/models/org/tiny/revision/main"]
    assert (repo.gated, repo.licence, repo.revision) == ("manual", "apache-2.0", "main")
    weights = repo.file("model.safetensors")
    assert (weights.bytes, weights.sha256) == (len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest())
    assert repo.file("config.json").sha256 is None


def test_what_is_fetched_is_the_commit_that_was_looked_up(hub) -> None:
    repo = inspect_repo("org/tiny")
    hub.commit({**FILES, "config.json": b'{"model_type": "other"}'})
    _, directory = finish(repo)
    assert directory.name != hub.branches["main"]
    assert (directory / "config.json").read_bytes() == FILES["config.json"]
    newer = inspect_repo("org/tiny")
    assert newer.commit == hub.branches["main"]
    assert fetch_small(newer, ["config.json"]) == {"config.json": b'{"model_type": "other"}'}


def test_a_revision_can_be_a_branch_or_a_commit(hub) -> None:
    first = hub.branches["main"]
    hub.commit({**FILES, "config.json": b"{}"}, branch="refs/pr/8")
    assert (
        fetch_small(inspect_repo("org/tiny", "refs/pr/8"), ["config.json"])["config.json"] == b"{}"
    )
    assert inspect_repo("org/tiny", first).commit == first


def test_another_commit_than_the_one_asked_for_is_refused(hub) -> None:
    hub.info_changes["sha"] = "a" * 40
    with pytest.raises(DownloadError, match=f"gave commit {'a' * 40}"):
        inspect_repo("org/tiny", hub.branches["main"])


def test_the_official_client_finds_in_its_cache_what_was_fetched(hub, tmp_path) -> None:
    from huggingface_hub import hf_hub_download

    _, directory = finish(inspect_repo("org/tiny"))
    found = hf_hub_download(
        "org/tiny", "config.json", cache_dir=tmp_path / "hf" / "hub", local_files_only=True
    )
    assert Path(found).samefile(directory / "config.json")


def test_what_the_official_client_fetched_is_not_fetched_again(hub, tmp_path) -> None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    for name in ("config.json", "model.safetensors"):
        hf_hub_download(
            "org/tiny", name, cache_dir=tmp_path / "hf" / "hub", endpoint=hub.url, token=False
        )
    repo = inspect_repo("org/tiny")
    hub.requests.clear()
    finish(repo, "config.json", "model.safetensors")
    assert hub.requests == []


# Going on


def test_a_stopped_download_goes_on_where_it_was(hub, tmp_path) -> None:
    repo = inspect_repo("org/tiny")
    work = fetch_repo(repo, [repo.file("model.safetensors")])
    while next(work).done < 1 << 20:
        pass
    work.close()  # what Ctrl-C does
    (part,) = place(tmp_path).rglob("*.incomplete")
    kept = part.stat().st_size
    assert 1 << 20 <= kept < len(WEIGHTS)
    hub.requests.clear()
    _, directory = finish(repo, "model.safetensors")
    assert hub.requests[-1].headers["Range"] == f"bytes={kept}-"
    assert (directory / "model.safetensors").read_bytes() == WEIGHTS


def test_a_killed_download_goes_on_in_another_process(hub, tmp_path) -> None:
    script = (
        "import os; from mobilellm_mlx.huggingface import *\n"
        "repo = inspect_repo('org/tiny')\n"
        "for event in fetch_repo(repo, [repo.file('model.safetensors')]):\n"
        "    if event.done > 1 << 20: os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    (part,) = place(tmp_path).rglob("*.incomplete")
    kept = part.stat().st_size
    assert kept >= 1 << 20
    _, directory = finish(inspect_repo("org/tiny"), "model.safetensors")
    assert hub.requests[-1].headers["Range"] == f"bytes={kept}-"
    assert (directory / "model.safetensors").read_bytes() == WEIGHTS


def test_a_connection_that_breaks_is_taken_up_again(hub) -> None:
    hub.breaks_after = [100_000, 200_000]
    _, directory = finish(inspect_repo("org/tiny"), "model.safetensors")
    ranges = [r.headers.get("Range") for r in hub.requests if r.server == "storage"]
    assert ranges == [None, "bytes=100000-", "bytes=300000-"]
    assert (directory / "model.safetensors").read_bytes() == WEIGHTS


def test_a_connection_that_always_breaks_is_given_up_and_what_came_is_kept(hub, tmp_path) -> None:
    hub.breaks_after = [100_000, 0]
    with pytest.raises(DownloadError, match="broke off") as caught:
        finish(inspect_repo("org/tiny"), "model.safetensors")
    assert "goes on where it stopped" in str(caught.value.hint)
    (part,) = place(tmp_path).rglob("*.incomplete")
    assert part.stat().st_size == 100_000


def test_a_hub_without_ranges_sends_the_file_anew(hub) -> None:
    hub.ranges = False
    hub.breaks_after = [100_000]
    _, directory = finish(inspect_repo("org/tiny"), "model.safetensors")
    assert len(hub.asked("storage")) == 2
    assert (directory / "model.safetensors").read_bytes() == WEIGHTS


def test_a_damaged_beginning_is_found_and_thrown_away(hub, tmp_path) -> None:
    repo = inspect_repo("org/tiny")
    part = place(tmp_path) / "blobs" / f"{repo.file('model.safetensors').oid}.mobilellm.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 5000)
    with pytest.raises(ChecksumError):
        finish(repo, "model.safetensors")
    assert not part.exists()
    finish(repo, "model.safetensors")


def test_two_processes_do_not_write_to_one_file(hub) -> None:
    repo = inspect_repo("org/tiny")
    first = fetch_repo(repo, [repo.file("model.safetensors")])
    while next(first).done == 0:
        pass
    with pytest.raises(StorageError, match="another process"):
        finish(repo, "model.safetensors")
    first.close()


# Hashes


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_an_altered_file_never_gets_its_name(hub, tmp_path, name) -> None:
    hub.altered[name] = bytes(reversed(FILES[name]))
    repo = inspect_repo("org/tiny")
    with pytest.raises(ChecksumError, match=f"`{name}` of `org/tiny` is not the file") as caught:
        finish(repo, name)
    kind = "SHA-256" if name == "model.safetensors" else "git hash"
    assert kind in caught.value.message and repo.file(name).oid in caught.value.message
    left = [path for path in place(tmp_path).rglob("*") if path.is_file() or path.is_symlink()]
    assert left == []


@pytest.mark.parametrize("sent", [WEIGHTS[:-1], WEIGHTS + b"x", WEIGHTS * 2])
def test_a_file_of_another_size_is_refused(hub, sent) -> None:
    hub.altered["model.safetensors"] = sent
    with pytest.raises(ChecksumError, match=rf"bytes, expected {len(WEIGHTS):,}"):
        finish(inspect_repo("org/tiny"), "model.safetensors")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_file_of_the_cache_is_found_and_removed(hub, tmp_path, name) -> None:
    repo = inspect_repo("org/tiny")
    _, directory = finish(repo, name)
    blob = (directory / name).resolve()
    blob.write_bytes(FILES[name][:-1] + b"?")
    with pytest.raises(ChecksumError, match="is not the file") as caught:
        finish(repo, name)
    assert "removed" in str(caught.value.hint)
    assert not blob.exists() and not (directory / name).is_symlink()
    finish(repo, name)
    assert (directory / name).read_bytes() == FILES[name]


def test_a_damaged_content_shared_by_repositories_is_removed_as_well(hub, tmp_path) -> None:
    repo = inspect_repo("org/tiny")
    oid = repo.file("model.safetensors").oid
    shared = tmp_path / "hf" / "hub" / "blobs" / "ab" / "abcd"
    shared.parent.mkdir(parents=True)
    shared.write_bytes(b"damaged")
    blob = place(tmp_path) / "blobs" / oid
    blob.parent.mkdir(parents=True)
    blob.symlink_to(shared)
    with pytest.raises(ChecksumError):
        finish(repo, "model.safetensors")
    assert not blob.is_symlink() and not shared.exists()


def test_a_hub_that_tells_no_hashes_is_refused(hub) -> None:
    hub.info_changes["siblings"] = [{"rfilename": "config.json"}]
    with pytest.raises(DownloadError, match=r"no size or no hash for `config\.json`"):
        inspect_repo("org/tiny")


# Without the network


@pytest.mark.parametrize("way", ["option", "HF_HUB_OFFLINE"])
def test_offline_everything_comes_verified_from_the_cache(hub, monkeypatch, way) -> None:
    finish(inspect_repo("org/tiny"))
    no_sockets(monkeypatch)
    if way != "option":
        monkeypatch.setenv(way, "1")
    repo = inspect_repo("org/tiny", offline=way == "option")
    assert repo.offline and repo.licence == "apache-2.0"
    _, directory = finish(repo)
    assert (directory / "model.safetensors").read_bytes() == WEIGHTS
    assert read_header(repo, repo.file("model.safetensors")) == WEIGHTS[: 8 + len(HEADER)]
    assert inspect_repo("org/tiny", repo.commit, offline=True).files == repo.files
    (directory / "config.json").resolve().write_bytes(b"altered")
    with pytest.raises(ChecksumError):
        finish(repo)


def test_offline_the_missing_files_are_named(hub, monkeypatch) -> None:
    fetch_small(inspect_repo("org/tiny"), ["config.json"])
    no_sockets(monkeypatch)
    repo = inspect_repo("org/tiny", offline=True)
    assert fetch_small(repo, ["config.json"])["config.json"] == FILES["config.json"]
    with pytest.raises(DownloadError, match=r"the cache lacks `model\.safetensors` of"):
        finish(repo, "config.json", "model.safetensors")
    with pytest.raises(DownloadError, match="offline it cannot be looked at"):
        read_header(repo, repo.file("model.safetensors"))


def test_offline_a_model_never_asked_for_is_unknown(hub, monkeypatch) -> None:
    no_sockets(monkeypatch)
    with pytest.raises(ModelNotFound, match="was not looked up on this machine"):
        inspect_repo("org/tiny", offline=True)


def test_a_damaged_record_is_refused(hub) -> None:
    inspect_repo("org/tiny")
    (paths.cache_dir() / "hub" / "org--tiny" / "main.json").write_text('{"sha": 7}')
    with pytest.raises(DownloadError):
        inspect_repo("org/tiny", offline=True)


# Looking without fetching


def test_a_header_is_read_without_the_weights(hub, tmp_path) -> None:
    repo = inspect_repo("org/tiny")
    head = read_header(repo, repo.file("model.safetensors"))
    assert head == WEIGHTS[: 8 + len(HEADER)]
    assert hub.requests[-1].headers["Range"] == "bytes=0-65535"
    assert not place(tmp_path).exists()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_long_header_takes_a_second_request(hub, ranges) -> None:
    head = (100_000).to_bytes(8, "little") + os.urandom(100_000)
    hub.commit({"model.safetensors": head + bytes(1000)})
    hub.ranges = ranges
    repo = inspect_repo("org/tiny")
    assert read_header(repo, repo.file("model.safetensors")) == head
    assert hub.requests[-1].headers["Range"] == "bytes=65536-100007"


@pytest.mark.parametrize(
    "data", [b"", b"\x00", (2).to_bytes(8, "little"), b"\xff" * 100, b"PK\3\4" * 9]
)
def test_what_is_no_safetensors_file_has_no_header(hub, data) -> None:
    hub.commit({"model.safetensors": data})
    repo = inspect_repo("org/tiny")
    with pytest.raises(DownloadError, match="not a safetensors file"):
        read_header(repo, repo.file("model.safetensors"))


@pytest.mark.parametrize("cached", [True, False])
def test_a_header_that_ends_early_is_said(hub, cached) -> None:
    repo = inspect_repo("org/tiny")
    if cached:
        _, directory = finish(repo, "model.safetensors")
        (directory / "model.safetensors").resolve().write_bytes(WEIGHTS[:50])
    hub.altered["model.safetensors"] = WEIGHTS[:50]
    with pytest.raises(DownloadError, match="ended after 50 of"):
        read_header(repo, repo.file("model.safetensors"))


def test_a_small_file_that_is_large_is_not_fetched(hub, monkeypatch) -> None:
    repo = inspect_repo("org/tiny")
    monkeypatch.setattr(huggingface.fetch, "_MAX_SMALL_BYTES", 1000)
    hub.requests.clear()
    with pytest.raises(DownloadError, match="too many for such a file"):
        fetch_small(repo, ["config.json", "model.safetensors"])
    assert hub.requests == []


def test_importing_the_room_imports_nothing_heavy() -> None:
    script = (
        "import sys, mobilellm_mlx.huggingface\n"
        "assert not {'huggingface_hub', 'httpx2', 'mlx', 'mlx.core'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
