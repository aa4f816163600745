"""The tokenizer files of a converted model: what is kept, what is written anew, what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor
from tiny import CHATML, GOLDEN, write_byte_tokenizer, write_json

from convert.tokenizer.files import plan_tokenizer, write_tokenizer
from convert.tokenizer.sentencepiece_json import battery
from convert.tokenizer.sentencepiece_model import read_pieces
from mobilellm_mlx.errors import ConvertError, MobileLLMError, TokenizerError
from mobilellm_mlx.tokenizer import (
    ByteLevelTokenizer,
    SentencePieceTokenizer,
    SpacePieceTokenizer,
    Tokenizer,
    load_tokenizer,
)
from tests.convert import sentencepiece_writer as sp

OF_META = {
    "bos_token": "",
    "eos_token": "",
    "model_max_length": 1000000000000000019884624838656,
    "tokenizer_class": "LlamaTokenizer",
    "unk_token": "",
}
"""The whole ``tokenizer_config.json`` of MobileLLM v1."""
MODEL = sp.train(**sp.LLAMA_LIKE)
COUNT = 340
CONFIG = {"vocab_size": COUNT, "max_position_embeddings": 2048}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The tokenizer files that MobileLLM v1 comes with."""
    directory = tmp_path / "source"
    directory.mkdir()
    (directory / "tokenizer.model").write_bytes(MODEL)
    write_json(directory / "tokenizer_config.json", OF_META)
    return directory


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def converted(source: Path, target: Path, **config: Any) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer read back, and its configuration; nothing was worth a notice."""
    assert write_tokenizer(source, target, {**CONFIG, **config}) == []
    written = json.loads((target / "tokenizer_config.json").read_text(encoding="utf-8"))
    return load_tokenizer(target, written), written


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def peer(directory: Path, texts: list[str], scratch: Path) -> dict[str, Any]:
    write_json(scratch / "texts.json", texts)
    done = subprocess.run(
        [
            sys.executable,
            str(Path(__file__).with_name("tokenizer_peer.py")),
            str(directory),
            str(scratch / "texts.json"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    content: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return content


def test_the_files_of_mobilellm_v1_become_ones_that_others_can_read(
    source: Path, target: Path
) -> None:
    tokenizer, written = converted(source, target)
    assert names(target) == ["tokenizer.json", "tokenizer.model", "tokenizer_config.json"]
    assert (target / "tokenizer.model").read_bytes() == MODEL
    signs = {"0": "<unk>", "1": "<s>", "2": "</s>"}
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    assert written == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
        "added_tokens_decoder": {
            i: {"content": name, **flags, "special": True} for i, name in signs.items()
        },
    }
    assert type(tokenizer) is SentencePieceTokenizer
    assert tokenizer.prefix == (1,)


def test_mlx_lm_reads_them_with_the_same_ids_and_texts(
    source: Path, target: Path, tmp_path: Path
) -> None:
    write_json(source / "added_tokens.json", {"[PAD]": COUNT, "<think>": COUNT + 1})
    write_json(source / "special_tokens_map.json", {"pad_token": {"content": "[PAD]"}})
    tokenizer, _ = converted(source, target, vocab_size=COUNT + 2)
    write_json(target / "config.json", {"model_type": "llama", "eos_token_id": 2})
    texts = ["<think>so\n\n  <think>", "</s>[PAD]a", "    return  x", " ", "\U0001f642\0\r\n "]
    plain = battery(read_pieces(target / "tokenizer.model")[0])
    texts += [text for text in plain if not any(sign in text for sign in tokenizer.special)][::3]
    theirs = peer(target, texts, tmp_path)
    assert theirs["ids"] == [tokenizer.encode_template(text) for text in texts]
    model = SentencePieceProcessor(model_file=str(source / "tokenizer.model"))
    assert theirs["ids"][5:] == [model.encode(text) for text in texts[5:]]
    for text, row, shown, stream in zip(
        texts, theirs["ids"], theirs["texts"], theirs["streams"], strict=True
    ):
        if not {0, 2, COUNT} & set(row) and "\u2581" not in text:
            assert shown == tokenizer.decode(row)
            assert stream.lstrip(" ") == shown.lstrip(" ")  # a stream drops all of the first spaces
    assert theirs["start"] == [1]
    assert theirs["roles"] == [1, 2, COUNT]
    assert theirs["ends"] == [2]
    assert theirs["detokenizer"] == "SPMStreamingDetokenizer"


def test_bos_is_left_out_where_the_checkpoint_says_so(source: Path, target: Path) -> None:
    write_json(source / "tokenizer_config.json", {**OF_META, "add_bos_token": False})
    tokenizer, written = converted(source, target)
    assert written["add_bos_token"] is False
    assert tokenizer.prefix == ()


def test_tokens_of_a_fine_tune_are_known_by_both_files(source: Path, target: Path) -> None:
    decoder = {
        "1": {"content": "<s>", "special": True},
        str(COUNT): {"content": "[PAD]", "special": True},
        str(COUNT + 1): {"content": "<think>", "special": False},
    }
    write_json(
        source / "tokenizer_config.json", {"added_tokens_decoder": decoder, "pad_token": "[PAD]"}
    )
    tokenizer, written = converted(source, target, vocab_size=COUNT + 2)
    assert tokenizer.special["[PAD]"] == COUNT
    assert tokenizer.encode("<think>") == [COUNT + 1]
    assert written["pad_token"] == "[PAD]"
    (target / "tokenizer.model").unlink()
    described = load_tokenizer(target, written)
    assert type(described) is SpacePieceTokenizer
    assert described.special == tokenizer.special
    assert described.encode("a<think>") == tokenizer.encode("a<think>")


def test_a_token_without_a_row_in_the_model_is_left_out(source: Path, target: Path) -> None:
    """Padding that was added to the words and not to the network."""
    write_json(source / "added_tokens.json", {"[PAD]": COUNT})
    write_json(source / "special_tokens_map.json", {"pad_token": "[PAD]"})
    notices = write_tokenizer(source, target, CONFIG)
    assert len(notices) == 2
    assert "'[PAD]' is left out: its id is 340, the model has 340 tokens" in notices[0]
    assert "the pad token '[PAD]' is not in the vocabulary" in notices[1]
    assert load_tokenizer(target, {}).vocab_size == COUNT


@pytest.mark.parametrize(
    ("added", "reason"),
    [({"[PAD]": COUNT + 3}, "leave gaps"), ({"\u2581the": COUNT}, "in the vocabulary already")],
)
def test_added_tokens_that_do_not_follow_the_pieces_keep_tokenizer_json_away(
    source: Path, target: Path, added: dict[str, int], reason: str
) -> None:
    write_json(source / "added_tokens.json", added)
    (notice,) = write_tokenizer(source, target, {"vocab_size": COUNT + 9})
    assert reason in notice
    assert names(target) == ["tokenizer.model", "tokenizer_config.json"]
    written = json.loads((target / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert "tokenizer_class" not in written
    assert load_tokenizer(target, written).token_bytes(max(added.values())) != b"x"


def test_a_model_that_tokenizer_json_cannot_say_is_kept_as_it_is(
    source: Path, target: Path
) -> None:
    content = (GOLDEN / "botchan_en_bpe_1000.model").read_bytes()
    (source / "tokenizer.model").write_bytes(content)
    (notice,) = write_tokenizer(source, target, {"vocab_size": 1000})
    assert "rules `nmt_nfkc`" in notice
    assert names(target) == ["tokenizer.model", "tokenizer_config.json"]
    assert load_tokenizer(target, {}).vocab_size == 1000


def test_a_difference_to_sentencepiece_is_said(source: Path, target: Path) -> None:
    content = sp.write(sp.vocabulary({"bc": -1.0, "ab": -1.0}))
    (source / "tokenizer.model").write_bytes(content)
    (notice,) = write_tokenizer(source, target, {})
    assert "`tokenizer.json` gives other tokens than `tokenizer.model`" in notice
    assert "tokenizer.json" in names(target)


def test_a_tokenizer_json_rebuilt_by_others_is_replaced_and_its_tokens_kept(
    source: Path, target: Path
) -> None:
    write_json(source / "added_tokens.json", {"[PAD]": COUNT})
    write_tokenizer(source, target, {"vocab_size": COUNT + 1})
    content = json.loads((target / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"]["merges"] = []  # as wrong as can be
    write_json(source / "tokenizer.json", content)
    (source / "added_tokens.json").unlink()
    tokenizer, _ = converted(source, target, vocab_size=COUNT + 1)
    written = json.loads((target / "tokenizer.json").read_text(encoding="utf-8"))
    assert len(written["model"]["merges"]) > 40
    assert written["added_tokens"][-1]["content"] == "[PAD]"
    assert tokenizer.vocab_size == COUNT + 1


def test_a_damaged_tokenizer_json_gives_way_to_tokenizer_model(source: Path, target: Path) -> None:
    (source / "tokenizer.json").write_text("{")
    (notice,) = write_tokenizer(source, target, CONFIG)
    assert "cannot be read" in notice
    assert "`tokenizer.model` is used instead" in notice
    assert json.loads((target / "tokenizer.json").read_text(encoding="utf-8"))["model"]


@pytest.fixture
def byte_level(tmp_path: Path) -> Path:
    directory = tmp_path / "bytes"
    directory.mkdir()
    write_byte_tokenizer(directory)
    return directory


def test_a_byte_level_tokenizer_json_stays_as_it_is(byte_level: Path, target: Path) -> None:
    write_json(
        byte_level / "tokenizer_config.json",
        {
            "tokenizer_class": "GPT2Tokenizer",
            "auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]},
            "eos_token": {"content": "<|im_end|>", "lstrip": False},
            "pad_token": None,
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<|nowhere|>", 7],
            "model_max_length": 8192,
            "padding_side": "left",
            "chat_template": CHATML,
            "add_prefix_space": True,
            "clean_up_tokenization_spaces": True,
        },
    )
    tokenizer, written = converted(byte_level, target)
    assert (target / "tokenizer.json").read_bytes() == (byte_level / "tokenizer.json").read_bytes()
    assert type(tokenizer) is ByteLevelTokenizer
    assert written == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "additional_special_tokens": ["<|im_start|>"],
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 8192,
        "padding_side": "left",
        "chat_template": CHATML,
    }


def test_roles_come_from_the_models_configuration_if_nothing_else_names_them(
    byte_level: Path, target: Path
) -> None:
    (byte_level / "tokenizer_config.json").unlink()
    _, written = converted(byte_level, target, bos_token_id=256, eos_token_id=[257, 256])
    assert (written["bos_token"], written["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert written["add_bos_token"] is False


def test_a_file_that_puts_bos_before_a_text_is_said_to(byte_level: Path, target: Path) -> None:
    """Llama 3 says it in ``tokenizer.json`` alone."""
    from tokenizers import Tokenizer as Rust
    from tokenizers.processors import TemplateProcessing

    path = str(byte_level / "tokenizer.json")
    rust = Rust.from_file(path)
    bos = "<|im_start|>"
    rust.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 256)])
    rust.save(path)
    write_json(byte_level / "tokenizer_config.json", {"bos_token": bos})
    tokenizer, written = converted(byte_level, target)
    assert written["add_bos_token"] is True
    assert tokenizer.prefix == (256,)


def test_a_tokenizer_json_of_sentencepieces_kind_alone_stays_as_it_is(
    source: Path, target: Path, tmp_path: Path
) -> None:
    write_tokenizer(source, target, CONFIG)
    alone, again = tmp_path / "alone", tmp_path / "again"
    alone.mkdir()
    again.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (alone / name).write_bytes((target / name).read_bytes())
    tokenizer, written = converted(alone, again)
    assert type(tokenizer) is SpacePieceTokenizer
    assert names(again) == ["tokenizer.json", "tokenizer_config.json"]
    assert (written["bos_token"], written["add_bos_token"]) == ("<s>", True)


def test_a_tokenizer_larger_than_the_model_is_refused(byte_level: Path, source: Path) -> None:
    with pytest.raises(TokenizerError, match="has 258 tokens, the model only 257"):
        plan_tokenizer(byte_level, {"vocab_size": 257})
    with pytest.raises(TokenizerError, match="has 340 tokens, the model only 339"):
        plan_tokenizer(source, {"vocab_size": 339})


def test_a_directory_without_a_tokenizer_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"`tokenizer\.json` or `tokenizer\.model`"):
        plan_tokenizer(tmp_path, {})


def test_a_role_that_is_no_token_is_left_out_and_said(byte_level: Path) -> None:
    write_json(byte_level / "tokenizer_config.json", {"eos_token": "<|nowhere|>"})
    files = plan_tokenizer(byte_level, {})
    assert files.notices == ["the eos token '<|nowhere|>' is not in the vocabulary: left out"]
    assert "eos_token" not in json.loads(files.contents["tokenizer_config.json"])


@pytest.mark.parametrize("limit", [-5, 0, 10**30, "many", None, True, 1.5])
def test_a_senseless_length_is_replaced_by_the_models(byte_level: Path, limit: Any) -> None:
    write_json(byte_level / "tokenizer_config.json", {"model_max_length": limit})
    files = plan_tokenizer(byte_level, {"max_position_embeddings": 4096})
    assert json.loads(files.contents["tokenizer_config.json"])["model_max_length"] == 4096


@pytest.mark.parametrize(
    "template", ["", " ", 5, {"a": 1}, [1], [{"name": "x"}], [{"name": "x", "template": 5}], None]
)
def test_what_is_no_chat_template_is_left_out(byte_level: Path, template: Any) -> None:
    write_json(byte_level / "tokenizer_config.json", {"chat_template": template})
    written = json.loads(plan_tokenizer(byte_level, {}).contents["tokenizer_config.json"])
    assert not written.get("chat_template")


def test_a_chat_template_comes_along(byte_level: Path, target: Path) -> None:
    (byte_level / "chat_template.jinja").write_text("{{ 'é' }}", encoding="utf-8")
    named = [{"name": "default", "template": CHATML}]
    write_json(byte_level / "tokenizer_config.json", {"chat_template": named})
    _, written = converted(byte_level, target)
    assert (target / "chat_template.jinja").read_text(encoding="utf-8") == "{{ 'é' }}"
    assert written["chat_template"] == named


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
    ],
)
@pytest.mark.parametrize("kind", ["outside", "loop", "directory", "pipe"])
def test_what_is_no_file_of_the_checkpoint_is_not_read(
    source: Path, tmp_path: Path, name: str, kind: str
) -> None:
    (tmp_path / "secret").write_text("{}")
    path = source / name
    path.unlink(missing_ok=True)
    if kind == "outside":
        path.symlink_to(tmp_path / "secret")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(ConvertError, match=name.replace(".", r"\.")):
        plan_tokenizer(source, CONFIG)


def test_the_links_of_a_hugging_face_cache_are_followed(source: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--x--y" / "snapshots" / "abc"
    blobs = tmp_path / "models--x--y" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name in ("tokenizer.model", "tokenizer_config.json"):
        (source / name).rename(blobs / name)
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    assert plan_tokenizer(snapshot, CONFIG).contents["tokenizer.model"] == MODEL


def test_a_huge_file_is_refused(source: Path) -> None:
    with (source / "chat_template.jinja").open("wb") as file:
        file.truncate(9_000_000)
    with pytest.raises(ConvertError, match="expected at most 8,000,000"):
        plan_tokenizer(source, CONFIG)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", b"["),
        ("tokenizer_config.json", b"[]"),
        ("tokenizer_config.json", b"[" * 100_000),
        ("tokenizer_config.json", b'{"chat_template": "\\ud800"}'),
        ("tokenizer_config.json", b'{"added_tokens_decoder": 5}'),
        ("special_tokens_map.json", b"\xff"),
        ("added_tokens.json", b'{"a": 1e400}'),
        ("added_tokens.json", b'{"a": "b"}'),
        ("chat_template.jinja", b"\xff"),
        ("tokenizer.model", b"no model"),
    ],
)
def test_a_damaged_file_is_an_error_of_ours(source: Path, name: str, content: bytes) -> None:
    (source / name).write_bytes(content)
    with pytest.raises(MobileLLMError, match=r"`.*`"):
        plan_tokenizer(source, CONFIG)
