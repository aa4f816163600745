"""The tokenizer inside a GGUF file."""

import json

import pytest

from convert.gguf import import_gguf
from mobilellm_mlx.tokenizer import load_tokenizer
from tests.convert import gguf_writer as gguf


@pytest.fixture(scope="module")
def tokenizer(imported, tmp_path_factory):
    """The imported tokenizer, read back as the program reads it."""
    directory = tmp_path_factory.mktemp("tokenizer")
    (directory / "tokenizer.json").write_text(imported.tokenizer_json, encoding="utf-8")
    return load_tokenizer(directory, imported.tokenizer_config)


TOKENS = gguf.tiny_metadata()["tokenizer.ggml.tokens"]


def test_every_token_keeps_its_id(imported) -> None:
    from tokenizers import Tokenizer

    rust = Tokenizer.from_str(imported.tokenizer_json)
    assert [rust.id_to_token(i) for i in range(len(TOKENS))] == TOKENS
    assert rust.get_vocab_size() == len(TOKENS)


def test_merges_apply_in_their_order(tokenizer) -> None:
    names = [TOKENS[i] for i in tokenizer.encode("he the t")]
    assert names == ["he", "\u0120the", "\u0120t"]


def test_every_digit_is_a_token_of_its_own(tokenizer) -> None:
    assert [TOKENS[i] for i in tokenizer.encode("2024")] == ["2", "0", "2", "4"]


@pytest.mark.parametrize("text", ["", " ", "a b", "Grüße, 世界 👩‍👧\n\t", "\x00\x7f", " the  the "])
def test_text_comes_back_byte_for_byte(tokenizer, text) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_control_tokens_are_signs_and_user_tokens_are_text(tokenizer) -> None:
    assert tokenizer.special == {name: TOKENS.index(name) for name in gguf.SIGNS}
    think = TOKENS.index("<think>")
    assert tokenizer.token_bytes(think) == b"<think>"
    assert tokenizer.encode("a<think>b") == [*tokenizer.encode("a"), think, *tokenizer.encode("b")]


def test_signs_in_plain_text_stay_text(tokenizer) -> None:
    ids = tokenizer.encode("<|im_end|>")
    assert len(ids) == len("<|im_end|>") and tokenizer.special["<|im_end|>"] not in ids


def test_the_settings_name_the_special_tokens(imported) -> None:
    config = imported.tokenizer_config
    assert (config["bos_token"], config["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert (config["unk_token"], config["pad_token"]) == ("<|endoftext|>", "<|im_end|>")
    assert config["model_max_length"] == 512 and config["add_bos_token"] is False
    assert json.loads(json.dumps(config)) == config


def test_a_file_that_wants_a_first_token_gets_it(tmp_path) -> None:
    path = gguf.write_tiny_gguf(tmp_path / "bos.gguf", tokenizer__ggml__add_bos_token=True)
    model = import_gguf(path)
    (tmp_path / "tokenizer.json").write_text(model.tokenizer_json, encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path, model.tokenizer_config)
    assert tokenizer.prefix == (TOKENS.index("<|im_start|>"),)


def test_ids_that_the_file_does_not_name_are_left_out(tmp_path) -> None:
    path = gguf.write_tiny_gguf(tmp_path / "few.gguf", tokenizer__ggml__padding_token_id=None)
    model = import_gguf(path)
    assert "pad_token_id" not in model.config and "pad_token" not in model.tokenizer_config


def test_a_file_without_a_template_has_none(tmp_path, imported) -> None:
    assert imported.chat_template == gguf.CHATML
    path = gguf.write_tiny_gguf(tmp_path / "base.gguf", tokenizer__chat_template=None)
    assert import_gguf(path).chat_template is None
