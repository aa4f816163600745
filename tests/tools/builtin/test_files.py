"""Files are read below granted folders and nowhere else, whatever a path says."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import RecordedRunner, by_name

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.tools.builtin import Surroundings, files, folders
from mobilellm_mlx.tools.builtin.folders import Folders, open_place
from mobilellm_mlx.tools.tool import Scope, Tool

Use = Callable[..., str]


@pytest.fixture
def ground(tmp_path: Path) -> Path:
    """A granted folder, with a secret beside it."""
    root = tmp_path / "Documents"
    (root / "taxes").mkdir(parents=True)
    (root / "todo.txt").write_text("buy milk\nfix the Boiler valve\n")
    (root / "taxes" / "2025.md").write_text("# Taxes\nthe boiler was 900 euros\n")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_text("the boiler code is 1234")
    return root


def around(*granted: Path, home: Path | None = None) -> Surroundings:
    return Surroundings(folders=granted, home=home or Path("/nobody"), runner=RecordedRunner({}))


@pytest.fixture
def offered(ground: Path) -> dict[str, Tool]:
    return by_name(files.tools(around(ground)))


@pytest.fixture
def use(offered: dict[str, Tool]) -> Use:
    def run(name: str, **arguments: Any) -> str:
        return offered[name].run(arguments, threading.Event())

    return run


def refuse(use: Use, path: str) -> str:
    with pytest.raises(ToolError) as caught:
        use("read_file", path=path)
    assert "1234" not in str(caught.value) + str(caught.value.hint)
    return caught.value.message


def test_files_are_listed_read_and_found(use: Use) -> None:
    assert use("list_files", folder="Documents") == "Documents holds:\ntaxes/\ntodo.txt (30 B)"
    assert use("read_file", path="Documents/todo.txt").startswith("buy milk")
    assert use("search_files", words="boiler") == (
        "Documents/todo.txt:2: fix the Boiler valve\n"
        "Documents/taxes/2025.md:2: the boiler was 900 euros"
    )
    assert "todo" not in use("search_files", words="BOILER 900", folder="Documents/taxes")
    assert use("search_files", words="tax") == (
        "Documents/taxes/\nDocuments/taxes/2025.md:1: # Taxes"
    )
    assert use("search_files", words="nowhere") == (
        "Nothing in the granted folders mentions 'nowhere'."
    )


def test_a_path_may_be_said_in_several_ways(use: Use, ground: Path) -> None:
    said = ["Documents/taxes/2025.md", "taxes/2025.md", str(ground / "taxes" / "2025.md")]
    said += ["Documents/taxes/../taxes/2025.md", "taxes//./2025.md"]
    assert len({use("read_file", path=path) for path in said}) == 1
    at_home = by_name(files.tools(around(ground, home=ground.parent)))["read_file"]
    assert at_home.run({"path": "~/Documents/todo.txt"}, threading.Event()).startswith("buy")


def test_nothing_outside_is_read(use: Use, ground: Path) -> None:
    outside = ground.parent / "outside" / "secret.txt"
    for path in (
        "../outside/secret.txt",
        "Documents/../../outside/secret.txt",
        "Documents/../outside/secret.txt",
        "taxes/../../outside/secret.txt",
        "../Documents/../outside/secret.txt",
        str(outside),
        f"//{outside}",
        "/etc/passwd",
        "/",
        "..",
        "~root/x",
        "~/.ssh/id_rsa",
        "/dev/zero",
        "/proc/self/environ",
    ):
        assert "there is no" in refuse(use, path), path
    for path in ("todo.txt\0.md", "todo\n.txt", "\x1b[2J", "x" * 10_000, "a/" * 1_900, "\u202ea"):
        refuse(use, path)


def test_a_link_leads_out_of_the_folder_for_nobody(
    use: Use, offered: dict[str, Tool], ground: Path
) -> None:
    outside = ground.parent / "outside"
    (ground / "innocent.txt").symlink_to(outside / "secret.txt")
    (ground / "way").symlink_to(outside)
    (ground / "loop").symlink_to("loop")
    (ground / "up").symlink_to("..")
    for path in (
        "innocent.txt",
        "way/secret.txt",
        "Documents/way/secret.txt",
        "loop",
        "up/outside",
    ):
        assert "there is no" in refuse(use, path)
    assert "secret" not in use("list_files", folder="Documents")
    assert "1234" not in use("search_files", words="boiler")
    with pytest.raises(ToolError):
        use("list_files", folder="Documents/way")
    assert sorted(offered["read_file"].live["path"]()) == [
        "Documents/taxes/2025.md",
        "Documents/todo.txt",
    ]


def test_a_link_to_a_file_inside_is_that_file(use: Use, ground: Path) -> None:
    (ground / "now.txt").symlink_to(ground / "todo.txt")
    assert use("read_file", path="now.txt").startswith("buy milk")


def test_a_link_put_in_place_after_the_check_does_not_open(ground: Path) -> None:
    granted = Folders([ground], Path("/nobody"))
    file, deep = granted.find("todo.txt"), granted.find("taxes/2025.md")
    outside = ground.parent / "outside"
    (ground / "todo.txt").unlink()
    (ground / "todo.txt").symlink_to(outside / "secret.txt")
    (ground / "taxes" / "2025.md").rename(outside / "2025.md")
    (ground / "taxes").rmdir()
    (ground / "taxes").symlink_to(outside)
    for place in (file, deep):
        with pytest.raises(ToolError):
            open_place(place, is_folder=False)


def test_a_folder_exchanged_for_a_link_while_walking_gives_nothing(ground: Path) -> None:
    granted = Folders([ground], Path("/nobody"))
    met = []
    for found in granted.walk():
        met.append(found.place.parts)
        if found.is_folder:
            (ground / "taxes").rename(ground.parent / "moved")
            (ground / "taxes").symlink_to(ground.parent / "outside")
    assert ("taxes", "secret.txt") not in met and ("taxes",) in met


def test_hidden_and_private_files_do_not_exist(
    use: Use, offered: dict[str, Tool], ground: Path
) -> None:
    names = [".env", ".ssh/id_ed25519", ".git/config", "node_modules/a.js", "server.key"]
    names += ["id_rsa", "Keychains/login.txt", "prod.env", "KEYS.PEM", "credentials"]
    for name in names:
        (ground / name).parent.mkdir(exist_ok=True)
        (ground / name).write_text("the boiler code is 1234")
    for name in names:
        assert "hidden or private" in refuse(use, name)
    (ground / "linked.txt").symlink_to(ground / ".env")
    refuse(use, "linked.txt")
    assert use("list_files", folder="Documents") == "Documents holds:\ntaxes/\ntodo.txt (30 B)"
    assert "1234" not in use("search_files", words="boiler")
    assert len(offered["read_file"].live["path"]()) == 2
    assert offered["list_files"].live["folder"]() == ["Documents", "Documents/taxes"]


def test_the_library_stays_closed_where_home_is_granted(tmp_path: Path) -> None:
    mail = tmp_path / "Library" / "Mail"
    mail.mkdir(parents=True)
    (mail / "inbox.txt").write_text("1234")
    (tmp_path / "a.txt").write_text("a")
    home = Folders([tmp_path], tmp_path)
    assert [found.place.parts for found in home.walk()] == [("a.txt",)]
    with pytest.raises(ToolError, match="hidden or private"):
        home.find("Library/Mail/inbox.txt")
    assert Folders([mail], tmp_path).find("inbox.txt").label == "Mail/inbox.txt"


@pytest.mark.parametrize("name", ["pipe", "taxes"])
def test_what_is_not_a_plain_file_is_refused_at_once(use: Use, ground: Path, name: str) -> None:
    os.mkfifo(ground / "pipe")
    started = time.monotonic()
    assert "not a" in refuse(use, name)
    assert "pipe" not in use("list_files", folder="Documents")
    assert use("search_files", words="pipe").startswith("Nothing")
    assert time.monotonic() - started < 2


def test_a_file_exchanged_for_a_pipe_does_not_hang(ground: Path) -> None:
    place = Folders([ground], Path("/nobody")).find("todo.txt")
    (ground / "todo.txt").unlink()
    os.mkfifo(ground / "todo.txt")
    with pytest.raises(ToolError, match="not a plain file"):
        open_place(place, is_folder=False)


@pytest.mark.parametrize("exchange", [os.mkfifo, lambda path: path.symlink_to("/etc/passwd")])
def test_what_came_between_the_look_and_the_opening_is_refused(
    ground: Path, exchange: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Folders([ground], Path("/nobody")).find("todo.txt")
    plain = os.stat(ground / "todo.txt")  # noqa: PTH116
    (ground / "todo.txt").unlink()
    exchange(ground / "todo.txt")
    monkeypatch.setattr(folders.os, "stat", lambda *_, **__: plain)
    with pytest.raises(ToolError, match=r"not a plain file|cannot be read"):
        open_place(place, is_folder=False)


def test_a_huge_file_is_read_in_part(use: Use, ground: Path) -> None:
    with (ground / "huge.txt").open("wb") as file:
        file.write(b"first words\n" * 10_000)
        file.truncate(50_000_000_000)  # sparse: takes no room
    text = use("read_file", path="huge.txt")
    assert text.startswith("The first 64 kB of 50.00 GB of Documents/huge.txt:\nfirst words")
    assert len(text) < 65_000


def test_a_file_that_ends_in_the_middle_of_a_letter_is_text(use: Use, ground: Path) -> None:
    (ground / "long.txt").write_text("ü" * 40_000 + "x" + "ü" * 40_000)
    assert "\ufffd" not in use("read_file", path="long.txt")


def test_what_is_no_text_is_refused(use: Use, ground: Path) -> None:
    (ground / "picture.jpg").write_bytes(bytes(range(256)) * 40)
    (ground / "noise.bin").write_bytes(b"\xff\xfa\x81\x90" * 500)
    for name in ("picture.jpg", "noise.bin"):
        assert "is not a text file" in refuse(use, name)


def test_old_and_wide_texts_are_read(use: Use, ground: Path) -> None:
    (ground / "old.txt").write_bytes("Ein Käfer auf der Fensterbank".encode("latin-1"))
    (ground / "wide.txt").write_bytes("Käfer".encode("utf-16"))
    (ground / "marked.txt").write_bytes(b"\xef\xbb\xbfK")
    (ground / "empty.txt").write_bytes(b"")
    assert use("read_file", path="old.txt") == "Ein K\ufffdfer auf der Fensterbank"
    assert use("read_file", path="wide.txt") == "Käfer"
    assert use("read_file", path="marked.txt") == "K"
    assert use("read_file", path="empty.txt") == "Documents/empty.txt is empty."


def test_what_may_not_be_read_says_so(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def closed(path: Any, *rest: Any, **more: Any) -> int:
        if path == "todo.txt":
            raise PermissionError(13, "Permission denied")
        return real(path, *rest, **more)

    monkeypatch.setattr(folders.os, "open", closed)
    assert refuse(use, "todo.txt") == (
        "the file `Documents/todo.txt` cannot be read: Permission denied"
    )
    assert use("search_files", words="boiler").startswith("Documents/taxes/2025.md")


def test_odd_names_are_left_out(use: Use, ground: Path) -> None:
    for name in (b"\xff\xfe.txt", b"a\x1b[31m.txt", b"two\nlines.txt", "\u202etxt.exe".encode()):
        try:
            (ground / os.fsdecode(name)).write_text("boiler")
        except OSError:  # some file systems want UTF-8
            continue
    assert use("list_files", folder="Documents") == "Documents holds:\ntaxes/\ntodo.txt (30 B)"
    assert use("search_files", words="boiler").count("\n") == 1


def test_a_big_tree_gives_its_upper_part(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "MAX_ENTRIES", 50)
    for number in range(200):
        (ground / f"{number:03}.txt").touch()
    deep = ground
    for level in range(12):
        deep = deep / f"d{level}"
    deep.mkdir(parents=True)
    granted = Folders([ground], Path("/nobody"))
    assert len(list(granted.walk())) <= 50
    monkeypatch.setattr(folders, "MAX_ENTRIES", 5_000)
    assert max(len(found.place.parts) for found in granted.walk()) == folders.MAX_DEPTH
    assert list(granted.walk(seconds=-1)) == []


def test_the_files_that_changed_last_are_named_first(
    offered: dict[str, Tool], ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_LIVE", 200)
    for number in range(300):
        (ground / f"{number:03}.txt").touch()
        os.utime(ground / f"{number:03}.txt", (0, number))
    names = offered["read_file"].live["path"]()
    assert len(names) == files.MAX_LIVE
    assert names[2] == "Documents/299.txt" and "Documents/000.txt" not in names
    listed = by_name(files.tools(around(ground)))["list_files"]
    assert listed.run({"folder": "Documents"}, threading.Event()).endswith("\nand 202 more")


def test_a_search_stops_when_nobody_waits(offered: dict[str, Tool]) -> None:
    stopped = threading.Event()
    stopped.set()
    assert offered["search_files"].run({"words": "boiler"}, stopped).startswith("Nothing")


def test_a_search_gives_no_more_than_it_should(use: Use, ground: Path) -> None:
    (ground / "log.txt").write_text(("x" * 500 + " needle " + "y" * 5_000 + "\n") * 1_000)
    hits = use("search_files", words="needle").splitlines()
    assert len(hits) == files.MAX_HITS
    assert all("needle" in hit and len(hit) < 250 for hit in hits)


def test_a_call_reaches_the_folder_that_it_names(offered: dict[str, Tool], ground: Path) -> None:
    assert offered["list_files"].scope({"folder": "Documents/taxes"}) == Scope(
        "folder", str(ground / "taxes")
    )
    assert offered["read_file"].scope({"path": "todo.txt"}) == Scope("folder", str(ground))
    assert offered["search_files"].scope({"words": "x"}) == Scope("folder", str(ground))
    with pytest.raises(ToolError):
        offered["read_file"].scope({"path": "../outside/secret.txt"})
    both = by_name(files.tools(around(ground, ground.parent / "outside")))
    assert both["search_files"].scope({"words": "x"}) == Scope()


def test_without_folders_the_tools_say_how_to_grant_one(tmp_path: Path) -> None:
    for granted in ((), (tmp_path / "gone",), (Path("\0"),), (Path("~nobody-here/x"),)):
        for tool in files.tools(around(*granted)):
            assert "tools.folders" in tool.missing
            wanted = "path" if tool.name == "read_file" else "folder"
            words = {"words": "x"} if tool.name == "search_files" else {}
            with pytest.raises(ToolError, match="no folder is granted"):
                tool.run({wanted: "/etc", **words}, threading.Event())
            if words:
                assert tool.run(words, threading.Event()).startswith("Nothing")


def test_two_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for owner in ("a", "b"):
        (tmp_path / owner / "notes").mkdir(parents=True)
        (tmp_path / owner / "notes" / "who.txt").write_text(owner)
    granted = (tmp_path / "a" / "notes", tmp_path / "b" / "notes", tmp_path / "a" / "notes")
    offered = by_name(files.tools(around(*granted, home=tmp_path)))
    names = offered["read_file"].live["path"]()
    assert set(names) == {"notes/who.txt", "~/b/notes/who.txt"}
    said = {name: offered["read_file"].run({"path": name}, threading.Event()) for name in names}
    assert said == {"notes/who.txt": "a", "~/b/notes/who.txt": "b"}


def test_a_granted_link_grants_what_it_leads_to(ground: Path, tmp_path: Path) -> None:
    (tmp_path / "short").symlink_to(ground)
    offered = by_name(files.tools(around(tmp_path / "short")))
    assert offered["list_files"].live["folder"]()[0] == "Documents"


def test_no_descriptors_are_left(use: Use, ground: Path) -> None:
    where = "/dev/fd" if not Path("/proc/self/fd").exists() else "/proc/self/fd"
    before = len(os.listdir(where))  # noqa: PTH208
    (ground / "log.txt").write_text("needle\n" * 100)
    for path in ("todo.txt", "taxes", "../x", "Documents/taxes/2025.md"):
        try:
            use("read_file", path=path)
        except ToolError:
            continue
    use("search_files", words="needle")
    assert len(os.listdir(where)) == before  # noqa: PTH208


@pytest.fixture(scope="module")
def shared_ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("granted") / "Documents"
    (root / "a").mkdir(parents=True)
    (root / "a" / "b.txt").write_text("b")
    (root / "out").symlink_to("/etc")
    (root / "up").symlink_to("../..")
    yield root


@given(
    st.lists(
        st.sampled_from(
            ["..", ".", "a", "b.txt", "out", "up", "Documents", "passwd", "", "~", "/", "etc"]
        ),
        max_size=8,
    )
)
def test_no_path_leads_outside(shared_ground: Path, parts: list[str]) -> None:
    granted = Folders([shared_ground], Path("/nobody"))
    try:
        place = granted.find("/".join(parts))
    except ToolError:
        return
    assert place.path.resolve() == place.path
    assert place.path.is_relative_to(shared_ground.resolve())
    mode = place.path.stat().st_mode
    descriptor = open_place(place, is_folder=stat.S_ISDIR(mode))
    os.close(descriptor)


def test_the_library_stays_private_where_home_is_a_link(tmp_path: Path) -> None:
    real, home = tmp_path / "data" / "anna", tmp_path / "home"
    for folder in ("Library/Mail", "Documents"):
        (real / folder).mkdir(parents=True)
        (real / folder / "a.txt").write_text("text")
    home.symlink_to(real)
    for granted in (home, real):
        folders_ = Folders([granted], home)
        seen = [str(found.place.path.relative_to(real)) for found in folders_.walk()]
        assert sorted(seen) == ["Documents", "Documents/a.txt"]
        assert folders_.find("Documents/a.txt").path == real / "Documents" / "a.txt"
        for path in ("~/Library/Mail/a.txt", "Library/Mail/a.txt", "library/Mail", "anna/Library"):
            with pytest.raises(ToolError):
                folders_.find(path)


@pytest.mark.parametrize(
    ("name", "is_private"),
    [
        ("id_rsa.bak", True),
        ("id_rsa.pub", True),
        ("ID_ED25519.old", True),
        ("prod.env.local", True),
        ("SSH.PEM", True),
        ("key.pem.bak", True),
        (".env", True),
        ("identity.txt", False),
        ("environment.md", False),
        ("report.2025.txt", False),
    ],
)
def test_copies_of_keys_and_secrets_are_private_too(
    ground: Path, use: Use, name: str, is_private: bool
) -> None:
    (ground / name).write_text("code 1234")
    assert (name in use("list_files", folder="Documents")) is not is_private
    if is_private:
        refuse(use, name)
        assert name not in use("search_files", words="code")
    else:
        assert use("read_file", path=name) == "code 1234"
