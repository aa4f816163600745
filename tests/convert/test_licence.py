"""The licence of a checkpoint goes where its weights go."""

from pathlib import Path

import pytest

from convert.licence import find_licence
from mobilellm_mlx.huggingface import readme_licence


def card(head: str) -> str:
    return f"---\n{head}\n---\n# Model\n"


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        (card("license: apache-2.0"), "apache-2.0"),
        (card("tags: [x]\nlicense:   'cc-by-nc-4.0'  \nlanguage: en"), "cc-by-nc-4.0"),
        (card('license: other\nlicense_name: "fair-nc"'), "fair-nc"),
        (card("license_name: fair-nc\nlicense: other"), "fair-nc"),
        (card("license: other"), "other"),
        ("\ufeff" + card("license: mit"), "mit"),
        ("---\nlicense: mit\n---", "mit"),
        (card("license: " + "x" * 500), "x" * 100),
        (card("extra:\n  license: mit"), None),
        ("# Model\nlicense: mit\n", None),
        ("---\nlicense: mit\n", None),
        ("", None),
    ],
)
def test_the_head_of_a_model_card_names_it(text, licence) -> None:
    assert readme_licence((text).encode()) == licence


@pytest.mark.parametrize(
    ("head", "licence"),
    [
        ("license:\n- mit\ntags: x", "mit"),
        ("license:\ntags: x", None),
        ("license: unknown", None),
        ("license: mit\x1b[31m", "mit[31m"),
        ("license: mit  # really", "mit"),
    ],
)
def test_odd_heads_are_read_as_for_the_hub(head, licence) -> None:
    assert readme_licence((card(head)).encode()) == licence


def test_line_ends_of_windows_are_line_ends(tmp_path) -> None:
    (tmp_path / "README.md").write_bytes(b"---\r\nlicense: mit\r\ntags:\r\n---\r\n")
    assert find_licence(tmp_path).name == "mit"


def test_the_texts_are_found_and_code_is_not_among_them(tmp_path) -> None:
    wanted = [
        "LICENSE",
        "LICENCE.txt",
        "LICENSE-MODEL.md",
        "NOTICE",
        "USE_POLICY.md",
        "license.txt",
    ]
    for name in [*wanted, "LICENSE.py", "LICENSE.json", "README.md", "MY_LICENSE"]:
        (tmp_path / name).write_text("x")
    (tmp_path / "LICENSES").mkdir()
    assert sorted(path.name for path in find_licence(tmp_path).files) == sorted(wanted)


def test_a_directory_without_any_says_nothing(tmp_path) -> None:
    found = find_licence(tmp_path)
    assert found.name is None and found.files == ()


def test_what_is_far_too_large_is_neither_read_nor_carried_along(tmp_path) -> None:
    (tmp_path / "README.md").write_text(card("license: mit") + "x" * 2_000_000)
    (tmp_path / "LICENSE").write_text("x" * 2_000_000)
    found = find_licence(tmp_path)
    assert found.files == () and found.name is None


def test_a_readme_that_is_not_text_says_nothing(tmp_path) -> None:
    (tmp_path / "README.md").write_bytes(b"\xff\xfe\0\0" * 100)
    assert find_licence(tmp_path).name is None
    (tmp_path / "README.md").unlink()
    (tmp_path / "README.md").mkdir()
    assert find_licence(tmp_path).name is None


def secret(tmp_path: Path) -> Path:
    path = tmp_path / "id_ed25519"
    path.write_text("PRIVATE")
    return path


def test_a_link_to_a_file_of_the_person_s_own_is_no_licence(tmp_path) -> None:
    home = tmp_path / "model"
    home.mkdir()
    (home / "LICENSE").symlink_to(secret(tmp_path))
    assert find_licence(home).files == ()


def test_a_link_inside_a_hub_cache_is_a_licence(tmp_path) -> None:
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "123").write_text("do as you like")
    (snapshot / "LICENSE").symlink_to(Path("../../blobs/123"))
    assert [path.name for path in find_licence(snapshot).files] == ["LICENSE"]


def test_a_link_to_nothing_or_to_itself_is_no_licence(tmp_path) -> None:
    (tmp_path / "LICENSE").symlink_to(tmp_path / "gone")
    (tmp_path / "NOTICE").symlink_to(tmp_path / "NOTICE")
    (tmp_path / "README.md").symlink_to(tmp_path / "README.md")
    assert find_licence(tmp_path).files == ()
