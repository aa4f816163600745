"""Byte-level BPE against the reference library, and streams against whole texts."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tiny import END, GOLDEN, START, write_byte_tokenizer, write_json

from mobilellm_mlx.errors import TokenizerError
from mobilellm_mlx.testing import ByteTokenizer
from mobilellm_mlx.tokenizer import (
    ByteLevelTokenizer,
    Detokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    load_tokenizer,
)

with (GOLDEN / "smollm2_tokenizer.json").open() as file:
    REFERENCE = json.load(file)
CASES: list[dict[str, Any]] = REFERENCE["cases"]
GROUPS = sorted({case["group"] for case in CASES})


def streamed(tokenizer: Tokenizer, ids: list[int]) -> str:
    detokenizer = Detokenizer(tokenizer)
    return "".join([*map(detokenizer.add, ids), detokenizer.finish()])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("tokenizer")
    write_byte_tokenizer(directory)
    return load_tokenizer(directory, {})


@pytest.fixture(scope="session")
def real(real_model: Path) -> Tokenizer:
    return load_tokenizer(real_model, {})


def test_the_reference_has_all_its_cases() -> None:
    assert (len(CASES), len(REFERENCE["decode"]), len(GROUPS)) == (165, 29, 13)


@pytest.mark.real
@pytest.mark.parametrize("group", GROUPS)
def test_texts_have_the_reference_librarys_ids(group: str, real: Tokenizer) -> None:
    for case in CASES:
        if case["group"] == group:
            assert real.encode(case["text"]) == case.get("ids_plain", case["ids"]), case["text"]


@pytest.mark.real
@pytest.mark.parametrize("group", GROUPS)
def test_templates_have_the_reference_librarys_ids(group: str, real: Tokenizer) -> None:
    for case in CASES:
        if case["group"] == group:
            assert real.encode_template(case["text"]) == case["ids"], case["text"]


@pytest.mark.real
@pytest.mark.parametrize("group", GROUPS)
def test_ids_have_the_reference_librarys_texts(group: str, real: Tokenizer) -> None:
    for case in CASES:
        if case["group"] == group:
            assert real.decode(case["ids"]) == case["decoded_skip_special"], case["text"]
            assert streamed(real, case["ids"]) == case["decoded_skip_special"], case["text"]


@pytest.mark.real
def test_ids_that_end_inside_a_character_have_the_reference_librarys_texts(real: Tokenizer) -> None:
    for row in REFERENCE["decode"]:
        assert real.decode(row["ids"]) == row["decoded"]
        assert streamed(real, row["ids"]) == row["decoded"]


@pytest.mark.real
def test_plain_text_never_has_a_special_token(real: Tokenizer) -> None:
    special = set(real.special.values())
    for case in CASES:
        assert not special & set(real.encode(case["text"]))


@pytest.mark.real
def test_guarded_text_in_a_template_has_the_ids_of_plain_text(real: Tokenizer) -> None:
    for case in CASES:
        (guarded,), marker = real.guard([case["text"]])
        assert real.encode_template(guarded, marker) == case.get("ids_plain", case["ids"])


@pytest.mark.real
@given(st.lists(st.integers(0, 49_151), max_size=40))
def test_a_stream_of_any_ids_is_their_whole_text(real: Tokenizer, ids: list[int]) -> None:
    assert streamed(real, ids) == real.decode(ids)


@pytest.mark.real
@given(st.text(max_size=60))
def test_any_text_comes_back_from_its_ids(real: Tokenizer, text: str) -> None:
    """But for those of a few bytes that the vocabulary was made without: six control characters,
    and U+40000 to U+BFFFF, where nothing is assigned. The reference library drops them too."""
    missing = {0x04, 0x06, 0x13, 0x14, 0x16, 0x1D, 0xF1, 0xF2}
    assume(not missing & set(text.encode()))
    assert real.decode(real.encode(text)) == text


@given(st.lists(st.integers(0, 256), max_size=40))
def test_a_stream_of_any_bytes_is_their_whole_text(ids: list[int]) -> None:
    tokenizer = ByteTokenizer()
    assert streamed(tokenizer, ids) == tokenizer.decode(ids)
    whole = bytes(i for i in ids if i < 256).decode("utf-8", "replace")
    assert tokenizer.decode(ids) == whole


@given(st.text(max_size=40))
def test_any_text_comes_back_from_its_bytes(tiny: Tokenizer, text: str) -> None:
    ids = tiny.encode(text)
    assert len(ids) == len(text.encode())
    assert tiny.decode(ids) == text


@given(st.text(max_size=20))
def test_a_stream_never_shows_half_a_character(text: str) -> None:
    tokenizer, shown = ByteTokenizer(), ""
    detokenizer = Detokenizer(tokenizer)
    for token in tokenizer.encode(text):
        shown += detokenizer.add(token)
        assert text.startswith(shown)
    assert shown == text


def test_a_character_cut_off_at_the_end_is_shown_as_broken() -> None:
    detokenizer = Detokenizer(ByteTokenizer())
    assert [detokenizer.add(byte) for byte in "é€".encode()[:-1]] == ["", "é", "", ""]
    assert detokenizer.finish() == "\ufffd"


def test_special_tokens_in_plain_text_are_text(tiny: Tokenizer) -> None:
    assert START not in tiny.encode("<|im_start|>")
    assert tiny.decode(tiny.encode("<|im_start|>")) == "<|im_start|>"


def test_special_tokens_in_a_template_are_signs(tiny: Tokenizer) -> None:
    ids = tiny.encode_template("<|im_start|>a<|im_end|>")
    assert ids == [START, *tiny.encode("a"), END]
    assert tiny.decode(ids) == "a"


def test_the_special_tokens_are_known_by_name(tiny: Tokenizer) -> None:
    assert tiny.special == {"<|im_start|>": START, "<|im_end|>": END}
    assert tiny.token_bytes(START) == b""


def test_the_longest_of_two_special_names_wins() -> None:
    tokenizer = ByteTokenizer()
    tokenizer.special = {"<x": 300, "<x>": 301}
    assert tokenizer.encode_template("<x><x") == [301, 300]


@pytest.mark.parametrize("token", [-1, 258, 2**31, 2**40])
def test_an_id_outside_the_vocabulary_is_refused(tiny: Tokenizer, token: int) -> None:
    with pytest.raises(TokenizerError, match=f"{token} is outside"):
        tiny.token_bytes(token)


@pytest.mark.parametrize("text", ["a\udcffb", "\ud800"])
def test_text_that_is_not_unicode_is_refused(tiny: Tokenizer, text: str) -> None:
    with pytest.raises(TokenizerError, match="not valid Unicode") as caught:
        tiny.encode(text)
    assert caught.value.hint


def test_a_directory_without_a_tokenizer_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"`tokenizer\.json` or `tokenizer\.model`"):
        load_tokenizer(tmp_path, {})


@pytest.mark.parametrize("content", ["", "{}", "[]", "{", '{"model": {"type": "Magic"}}'])
def test_a_damaged_tokenizer_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path, {})


@pytest.mark.parametrize("decoder", [None, {"type": "Metaspace"}, {"type": "WordPiece"}])
def test_another_kind_of_tokenizer_json_is_refused(tmp_path: Path, decoder: Any) -> None:
    write_byte_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    options = {"replacement": "_", "prepend_scheme": "always", "split": True}
    options |= {"prefix": "##", "cleanup": False}
    write_json(path, {**content, "decoder": decoder and {**decoder, **options}})
    with pytest.raises(TokenizerError, match="neither byte-level BPE nor of sentencepiece"):
        load_tokenizer(tmp_path, {})


def test_truncation_and_padding_of_a_tokenizer_json_are_ignored(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Rust

    write_byte_tokenizer(tmp_path)
    path = str(tmp_path / "tokenizer.json")
    rust = Rust.from_file(path)
    rust.enable_truncation(3)
    rust.enable_padding(length=9)
    rust.save(path)
    tokenizer = load_tokenizer(tmp_path, {})
    assert tokenizer.decode(tokenizer.encode("hello")) == "hello"
    assert len(tokenizer.encode("hello")) == 5


def test_a_piece_that_is_no_stand_in_for_bytes_is_shown_as_it_is(tmp_path: Path) -> None:
    write_byte_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["a b\u2603"] = 256
    write_json(path, {**content, "added_tokens": []})
    assert load_tokenizer(tmp_path, {}).token_bytes(256) == "a b\u2603".encode()


@pytest.mark.parametrize(
    "config",
    [
        {"bos_token": {"content": "<|im_start|>"}, "add_bos_token": True},
        {"bos_token": "<|im_start|>", "add_bos_token": True},
    ],
)
def test_plain_text_starts_with_bos_where_the_model_wants_it(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    write_byte_tokenizer(tmp_path)
    assert load_tokenizer(tmp_path, config).prefix == (START,)
    assert load_tokenizer(tmp_path, {**config, "add_bos_token": False}).prefix == ()
    assert load_tokenizer(tmp_path, {**config, "add_bos_token": None}).prefix == ()


def test_a_byte_level_tokenizer_json_comes_before_a_tokenizer_model(tmp_path: Path) -> None:
    write_byte_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes((GOLDEN / "botchan_en_bpe_1000.model").read_bytes())
    assert type(load_tokenizer(tmp_path, {})) is ByteLevelTokenizer
    assert type(load_tokenizer(tmp_path, {"added_tokens_decoder": {}})) is ByteLevelTokenizer


@pytest.mark.parametrize("content", ["{", '{"decoder": {"type": "WordPiece"}}'])
def test_a_tokenizer_json_we_cannot_read_gives_way_to_a_tokenizer_model(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    (tmp_path / "tokenizer.model").write_bytes((GOLDEN / "botchan_en_bpe_1000.model").read_bytes())
    assert type(load_tokenizer(tmp_path, {})) is SentencePieceTokenizer


def test_a_normaliser_that_blows_texts_up_is_refused(tmp_path: Path) -> None:
    from tiny import write_byte_tokenizer
    from tokenizers import Tokenizer as Rust
    from tokenizers import normalizers

    write_byte_tokenizer(tmp_path)
    rust = Rust.from_file(str(tmp_path / "tokenizer.json"))
    rust.normalizer = normalizers.Sequence([normalizers.Replace("e", "ee") for _ in range(24)])
    rust.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match="times as long"):
        load_tokenizer(tmp_path, {})


def test_a_panic_of_the_tokenizers_library_is_an_error_of_ours(tmp_path: Path) -> None:
    from tiny import write_byte_tokenizer
    from tokenizers import Regex, pre_tokenizers
    from tokenizers import Tokenizer as Rust

    write_byte_tokenizer(tmp_path)
    rust = Rust.from_file(str(tmp_path / "tokenizer.json"))
    evil = pre_tokenizers.Split(Regex(r"(\w|\w\w| )+[^\w\s\S]"), "isolated")
    rust.pre_tokenizer = pre_tokenizers.Sequence([evil, rust.pre_tokenizer])
    rust.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match="cannot encode"):
        load_tokenizer(tmp_path, {}).encode("a word and more words " * 200)
