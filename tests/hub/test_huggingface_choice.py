"""Which files of a repository are taken, and under which licence."""

import pytest

from mobilellm_mlx.errors import (
    DownloadError,
)
from mobilellm_mlx.huggingface import (
    RemoteRepo,
    inspect_repo,
    readme_licence,
    wanted_files,
)
from tests.hub.fake_hub import FakeHub

pytestmark = pytest.mark.usefixtures("settings")


def listed(hub: FakeHub, *names: str) -> RemoteRepo:
    hub.commit({name: name.encode() for name in names})
    return inspect_repo("org/tiny")


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        ("model.safetensors pytorch_model.bin q4.gguf", "model.safetensors"),
        ("pytorch_model.bin q4.gguf", "pytorch_model.bin"),
        ("q4.gguf training_args.bin optimizer.bin", "q4.gguf"),
        ("adapter_model.safetensors pytorch_model.bin", "pytorch_model.bin"),
        (
            "model-00001-of-00002.safetensors model-00002-of-00002.safetensors "
            "model.safetensors.index.json",
            "model.safetensors.index.json model-00001-of-00002.safetensors "
            "model-00002-of-00002.safetensors",
        ),
        ("pytorch_model-00001-of-00001.bin", "pytorch_model-00001-of-00001.bin"),
        (
            "LICENSE LICENSE.txt LICENSE.py evil.py tokenizer.json tokenizer.py vocab.txt "
            "special_tokens_map.json chat_template.jinja original/model.safetensors "
            "config.json.bak model.safetensors",
            "LICENSE LICENSE.txt tokenizer.json special_tokens_map.json chat_template.jinja "
            "model.safetensors",
        ),
    ],
)
def test_the_best_weights_are_chosen_and_never_code(hub, there, chosen) -> None:
    repo = listed(hub, *there.split())
    assert [file.path for file in wanted_files(repo)] == chosen.split()


def test_several_ggufs_are_listed_with_their_sizes(hub) -> None:
    repo = listed(hub, "q4.gguf", "q8_0.gguf", "config.json")
    with pytest.raises(
        DownloadError, match=r"2 GGUF files: q4\.gguf \(7 B\), q8_0\.gguf"
    ) as caught:
        wanted_files(repo)
    assert "`org/tiny:q4.gguf`" in str(caught.value.hint)
    assert [file.path for file in wanted_files(repo, "q8_0.gguf")] == ["config.json", "q8_0.gguf"]


def test_a_named_file_must_be_there_and_hold_weights(hub) -> None:
    repo = listed(hub, "q4.gguf", "evil.py")
    with pytest.raises(DownloadError, match=r"no file `q5\.gguf`"):
        wanted_files(repo, "q5.gguf")
    with pytest.raises(DownloadError, match="not a weight file"):
        wanted_files(repo, "evil.py")


def test_no_weights_and_missing_parts_are_said(hub) -> None:
    with pytest.raises(DownloadError, match=r"holds no weights: .* found config\.json"):
        wanted_files(listed(hub, "config.json"))
    with pytest.raises(DownloadError, match=r"1 of 3 parts .*: model-00001-of-00003\.safetensors"):
        wanted_files(listed(hub, "model-00002-of-00003.safetensors"))
    with pytest.raises(DownloadError, match="a part of other weights"):
        wanted_files(listed(hub, "model-00001-of-00001.safetensors",
                            "model-00002-of-00003.safetensors"))  # fmt: skip


# Licences


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ({"license": "mit"}, "mit"),
        ({"license": "other", "license_name": "fair-nc"}, "fair-nc"),
        ({"license": "other"}, "other"),
        ({"license": ["mit", "bsd"]}, "mit, bsd"),
        ({"license": "\x1b[31mred"}, "[31mred"),
        ({"license": 7}, None),
        ({}, None),
        (None, None),
    ],
)
def test_the_licence_is_what_the_card_says(hub, card, licence) -> None:
    hub.card = card
    assert inspect_repo("org/tiny").licence == licence


@pytest.mark.parametrize(
    ("readme", "licence"),
    [
        (b"---\nlicense: mit\n---\n", "mit"),
        (b"---\r\ntags:\r\n- x\r\nlicense: 'cc-by-nc-4.0'\r\n---\r\n", "cc-by-nc-4.0"),
        (b'---\nlicense: other\nlicense_name: "fair-nc"\n---\n', "fair-nc"),
        (b"---\nlicense:\n- mit\ntags:\n- y\n---\n", "mit"),
        (b"---\nextra:\n  license: mit\n---\n", None),
        (b"# No head\nlicense: mit\n", None),
        (b"---\nlicense: mit\n", None),
        (b"\xff\xfe", None),
        (b"", None),
    ],
)
def test_the_licence_is_found_in_the_head_of_a_readme(readme, licence) -> None:
    assert readme_licence(readme) == licence
