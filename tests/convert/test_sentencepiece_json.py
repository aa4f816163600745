"""Sentencepiece's vocabulary as ``tokenizer.json``: the same ids, or a reason."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from tiny import GOLDEN
from tokenizers import Tokenizer

from convert.tokenizer.sentencepiece_json import (
    Added,
    Difference,
    battery,
    compare,
    obstacle,
    tokenizer_json,
)
from convert.tokenizer.sentencepiece_model import Kind, read_pieces
from mobilellm_mlx.errors import ConvertError
from tests.convert import sentencepiece_writer as sp

BOTCHAN = GOLDEN / "botchan_en_bpe_1000.model"
ODD_TEXTS = st.one_of(
    st.text(max_size=40),
    st.text("ab=h \n\t1\u2581", max_size=60),
    st.lists(st.sampled_from([*sp.WORDS, "\U0001f642", "\0", "\r\n", "\u00e9"]), max_size=12).map(
        "".join
    ),
    st.tuples(
        st.text("abh= \n", min_size=1, max_size=4), st.integers(1, 20), st.text(max_size=3)
    ).map(lambda parts: parts[0] * parts[1] + parts[2]),
)


def save(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    return path


def differences(path: Path, texts: list[str] | None = None) -> list[Difference]:
    pieces, settings = read_pieces(path)
    return compare(tokenizer_json(pieces, settings), path, texts or battery(pieces))


@pytest.fixture(scope="module")
def llama_like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as MobileLLM v1 has one, only small."""
    options = {**sp.LLAMA_LIKE, "allow_whitespace_only_pieces": True, "split_by_whitespace": False}
    return save(tmp_path_factory.mktemp("llama"), sp.train(**options))


@pytest.fixture(scope="module")
def written(llama_like: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_str(tokenizer_json(*read_pieces(llama_like)))
    tokenizer.encode_special_tokens = True
    return tokenizer


@pytest.mark.parametrize("name", ["trained", "botchan"])
def test_pieces_are_what_sentencepiece_says(name: str, llama_like: Path) -> None:
    path = BOTCHAN if name == "botchan" else llama_like
    model, (pieces, _) = SentencePieceProcessor(model_file=str(path)), read_pieces(path)
    assert [piece.text for piece in pieces] == [model.id_to_piece(i) for i in range(len(pieces))]
    assert [piece.score for piece in pieces] == [model.get_score(i) for i in range(len(pieces))]
    for i, piece in enumerate(pieces):
        assert (piece.kind is Kind.CONTROL) == model.is_control(i)
        assert (piece.kind is Kind.UNKNOWN) == model.is_unknown(i)
        assert (piece.kind is Kind.BYTE) == model.is_byte(i)
    assert len(pieces) == model.vocab_size()


def test_the_settings_are_those_of_training(tmp_path: Path) -> None:
    options = {**sp.LLAMA_LIKE, "add_dummy_prefix": False, "bos_piece": "<begin>", "pad_id": 3}
    _, settings = read_pieces(save(tmp_path, sp.train(**options)))
    assert settings.algorithm == "bpe"
    assert settings.byte_fallback
    assert not settings.add_dummy_prefix
    assert not settings.remove_extra_whitespaces
    assert settings.escape_whitespaces
    assert not settings.treat_whitespace_as_suffix
    assert settings.normaliser == "identity"
    assert settings.names == {"bos": "<begin>", "eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
    _, settings = read_pieces(save(tmp_path, sp.train(vocab_size=60)))
    assert (settings.normaliser, settings.byte_fallback) == ("nmt_nfkc", False)
    assert settings.remove_extra_whitespaces
    assert settings.add_dummy_prefix


@pytest.mark.parametrize("length", [0, 1, 2, 50, 1_000, 4_000, 4_999])
def test_a_truncated_model_is_refused(tmp_path: Path, llama_like: Path, length: int) -> None:
    with pytest.raises(ConvertError, match=r"tokenizer\.model") as caught:
        read_pieces(save(tmp_path, llama_like.read_bytes()[:length]))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x0b", "wire type 3"),
        (b"\x80" * 11, "longer than 64 bits"),
        (b"\x0a\xff\xff\xff\xff\x0f", "are announced at byte 6 of 6"),
        (b"\x08\x01", "a number stands where bytes are expected"),
        (sp.write([("<unk>", 0.0, 9)]), "piece 0 has an impossible score or kind"),
        (sp.write([("<unk>", float("nan"), 2)]), "piece 0 has the score nan"),
        (sp.message(1, sp.message(1, b"\xff")), "not a sentencepiece model"),
        (sp.write([]), "holds no pieces"),
        (sp.write([*sp.START, *sp.START]), "cannot be loaded"),
    ],
)
def test_a_damaged_model_is_refused_with_what_is_wrong(
    tmp_path: Path, content: bytes, words: str
) -> None:
    with pytest.raises(ConvertError, match=words):
        read_pieces(save(tmp_path, content))


def test_a_missing_or_huge_model_is_refused(
    tmp_path: Path, llama_like: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConvertError, match="cannot be read"):
        read_pieces(tmp_path / "tokenizer.model")
    monkeypatch.setattr("convert.tokenizer.sentencepiece_model.MAX_MODEL_BYTES", 100)
    with pytest.raises(ConvertError, match="expected at most 100"):
        read_pieces(llama_like)


def test_a_damaged_model_never_raises_another_error(tmp_path: Path, llama_like: Path) -> None:
    content, rng = llama_like.read_bytes(), random.Random(0)
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(content))] = rng.randrange(256)
        try:
            pieces, settings = read_pieces(save(tmp_path, bytes(damaged)))
            tokenizer_json(pieces, settings)
        except ConvertError as error:
            assert error.message


def test_a_trained_vocabulary_has_sentencepieces_ids(llama_like: Path) -> None:
    assert differences(llama_like) == []


@given(ODD_TEXTS)
def test_any_text_has_sentencepieces_ids(llama_like: Path, written: Tokenizer, text: str) -> None:
    model = SentencePieceProcessor(model_file=str(llama_like))
    assert written.encode(text, add_special_tokens=False).ids == model.encode(text)


@given(ODD_TEXTS)
def test_any_text_comes_back(written: Tokenizer, text: str) -> None:
    ids = written.encode(text, add_special_tokens=False).ids
    assert written.decode(ids) == text.replace("\u2581", " ")


@pytest.mark.parametrize(
    "options",
    [
        {"split_by_whitespace": False},
        {"byte_fallback": False, "vocab_size": 60},
        {"add_dummy_prefix": False},
        {"add_dummy_prefix": False, "user_defined_symbols": ["<x>", "\u2581y", "==="]},
        {"split_digits": True, "control_symbols": ["<c>"]},
    ],
)
def test_other_ways_to_train_have_sentencepieces_ids(
    tmp_path: Path, options: dict[str, object]
) -> None:
    path = save(tmp_path, sp.train(**{**sp.LLAMA_LIKE, **options}))
    rng = random.Random(0)
    parts = [*sp.WORDS, "<x>", " y", "====", "<c>", " ", "\u00e9\u00e9"]
    texts = ["".join(rng.choice(parts) for _ in range(8)) for _ in range(500)]
    assert differences(path) + differences(path, texts) == []


@pytest.mark.parametrize("letters", ["a", "ab", "abc", "\u2581a"])
@pytest.mark.parametrize("seed", range(8))
def test_vocabularies_that_no_training_would_give_have_sentencepieces_ids(
    tmp_path: Path, letters: str, seed: int
) -> None:
    """Any pieces in any order: only the scores must differ."""
    rng = random.Random(seed)
    pieces = {"".join(rng.choices(letters, k=rng.randint(2, 8))) for _ in range(20)}
    order = rng.sample(sorted(pieces), len(pieces))
    path = save(tmp_path, sp.write(sp.vocabulary({t: -float(i) for i, t in enumerate(order)})))
    texts = ["".join(rng.choices(letters, k=rng.randint(2, 30))) for _ in range(300)]
    texts += ["".join(rng.choices(order, k=4)) for _ in range(100)]
    assert differences(path) + differences(path, texts) == []


def test_a_piece_is_joined_in_one_way_only(llama_like: Path) -> None:
    merges = json.loads(tokenizer_json(*read_pieces(llama_like)))["model"]["merges"]
    joined = ["".join(pair) for pair in merges]
    assert len(joined) > 40
    assert len(set(joined)) == len(joined)


def test_runs_of_spaces_that_share_a_score_grow_from_the_left(tmp_path: Path) -> None:
    """As in Mistral's vocabulary."""
    runs = {"\u2581" * n: -1e9 for n in (2, 7, 3, 5, 4, 6)}
    path = save(tmp_path, sp.write(sp.vocabulary({"\u2581a": -1.0, **runs})))
    assert differences(path, [f"{' ' * n}{end}" for n in range(60) for end in ("", "a", "b")]) == []


def test_other_pieces_that_share_a_score_are_found_out(tmp_path: Path) -> None:
    path = save(tmp_path, sp.write(sp.vocabulary({"bc": -1.0, "ab": -1.0})))
    found = differences(path)
    assert found
    model = SentencePieceProcessor(model_file=str(path))
    for difference in found:
        assert difference.expected == model.encode(difference.text) != difference.found


def test_a_long_text_without_spaces_has_sentencepieces_ids(llama_like: Path) -> None:
    rng = random.Random(0)
    texts = ["ab" * 50_000, " " * 100_000, "".join(rng.choices("abh=\u65e5", k=100_000))]
    assert differences(llama_like, texts) == []


def test_names_of_control_tokens_are_signs_unless_text_is_text(llama_like: Path) -> None:
    tokenizer = Tokenizer.from_str(tokenizer_json(*read_pieces(llama_like)))
    assert tokenizer.encode("</s>", add_special_tokens=False).ids == [2]
    tokenizer.encode_special_tokens = True
    assert 2 not in tokenizer.encode("</s>", add_special_tokens=False).ids


@pytest.mark.parametrize("add", [True, False])
def test_a_text_begins_with_bos_if_asked(llama_like: Path, add: bool) -> None:
    pieces, settings = read_pieces(llama_like)
    tokenizer = Tokenizer.from_str(tokenizer_json(pieces, settings, add_bos=add))
    assert tokenizer.encode("").ids == [1] * add


def test_added_tokens_follow_the_last_piece(llama_like: Path) -> None:
    pieces, settings = read_pieces(llama_like)
    added = [Added("[PAD]", True), Added("<think>", False)]
    tokenizer = Tokenizer.from_str(tokenizer_json(pieces, settings, added=added))
    ids = tokenizer.encode("[PAD]<think>", add_special_tokens=False).ids
    assert ids == [len(pieces), len(pieces) + 1]
    assert tokenizer.decode(ids) == "<think>"


@pytest.mark.real
def test_mistrals_vocabulary_has_sentencepieces_ids(mistral_tokenizer: Path) -> None:
    pieces, settings = read_pieces(mistral_tokenizer)
    text, rng = tokenizer_json(pieces, settings), random.Random(0)
    plain = [p.text.replace("\u2581", " ") for p in pieces if p.kind is Kind.NORMAL]
    periodic = [piece for piece in plain if len(set(piece)) < 3]
    texts = ["".join(rng.choices(chosen, k=8)) for chosen in (plain, periodic) for _ in range(4000)]
    assert compare(text, mistral_tokenizer, [*battery(pieces)[::4], *texts]) == []


# --- What cannot be written -----------------------------------------------------------------------

ENOUGH = sp.vocabulary({"ab": -1.0})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (sp.train(model_type="unigram", vocab_size=42), "unigram model"),
        (sp.train(model_type="char", vocab_size=42), "char model"),
        (sp.train(vocab_size=60), "rules `nmt_nfkc`"),
        (sp.train(**{**sp.LLAMA_LIKE, "remove_extra_whitespaces": True}), "keep the spaces"),
        (sp.write(ENOUGH, normaliser={5: 0}), "keep the spaces"),
        (sp.train(**sp.LLAMA_LIKE, treat_whitespace_as_suffix=True), "the space after a word"),
        (sp.train(**sp.LLAMA_LIKE, user_defined_symbols=["<x>"]), "user-defined pieces"),
        (sp.write([*ENOUGH, ("cc", -2.0, 5)]), "1 of its pieces are switched off"),
        (sp.write([*ENOUGH, ("xy", -2.0, 1)]), "characters that are not pieces"),
        (sp.write(sp.vocabulary({"a" * 5_000: -1.0})), "too long"),
    ],
)
def test_what_tokenizer_json_cannot_say_is_refused_with_a_reason(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    pieces, settings = read_pieces(save(tmp_path, content))
    assert reason in (obstacle(pieces, settings) or "")
    with pytest.raises(ConvertError, match=reason):
        tokenizer_json(pieces, settings)
