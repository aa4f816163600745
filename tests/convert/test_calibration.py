"""Text to calibrate with: ours by default, a person's own within bounds, cut into windows."""

import re
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convert.learning import calibration
from convert.learning.calibration import calibration_text, held_out_text, samples
from mobilellm_mlx.errors import ConvertError


def paragraphs(text: str) -> list[str]:
    return [part.strip() for part in text.split("\n\n") if part.strip()]


def sentences(text: str) -> set[str]:
    """Pieces of at least six words, so that `Thanks!` may be in both texts."""
    pieces = re.split(r"(?<=[.!?])\s+|\n", text)
    return {piece.strip() for piece in pieces if len(piece.split()) >= 6}


def test_our_text_is_long_enough_to_calibrate_and_to_judge_with() -> None:
    assert len(calibration_text().split()) > 6500
    assert len(held_out_text().split()) > 1000


def test_what_we_judge_with_is_not_in_what_we_calibrate_with() -> None:
    assert not sentences(calibration_text()) & sentences(held_out_text())


@pytest.mark.parametrize("name", ["calibration.txt", "held_out.txt"])
def test_our_texts_repeat_nothing(name) -> None:
    text = resources.files("convert.learning").joinpath("text", name).read_text(encoding="utf-8")
    parts = paragraphs(text)
    assert len(parts) == len(set(parts)) and len(parts) > 20
    words = text.lower().split()
    runs = [tuple(words[i : i + 12]) for i in range(len(words) - 12)]
    repeated = len(runs) - len(set(runs))
    assert repeated == 0


def test_a_person_s_own_text_is_taken_as_it_is(tmp_path) -> None:
    path = tmp_path / "own.txt"
    path.write_bytes("\ufeffGrüße,\nzwölf Boxkämpfer".encode())
    assert calibration_text(path) == "Grüße,\nzwölf Boxkämpfer"


def test_text_that_is_not_utf_8_is_refused_with_the_byte(tmp_path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"gr\xfc\xdfe")
    with pytest.raises(ConvertError, match=r"`latin\.txt` is not UTF-8 text: byte 2 "):
        calibration_text(path)


@pytest.mark.parametrize("name", ["missing.txt", "", "nul\0l"], ids=["missing", "folder", "null"])
def test_a_file_that_cannot_be_read_is_an_error_for_people(tmp_path, name) -> None:
    with pytest.raises(ConvertError, match="cannot be read"):
        calibration_text(tmp_path / name)


def test_a_file_above_the_bound_is_refused_and_one_at_it_is_not(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(calibration, "_MOST_BYTES", 1000)
    path = tmp_path / "long.txt"
    path.write_text("a" * 1000)
    assert len(calibration_text(path)) == 1000
    path.write_text("a" * 1001)
    with pytest.raises(ConvertError, match=r"`long\.txt` is larger than 1 kB"):
        calibration_text(path)


def test_windows_begin_with_the_prefix_and_go_on_where_the_last_one_ended() -> None:
    windows = samples(range(10, 20), 4, prefix=(1,))
    assert windows == [[1, 10, 11, 12], [1, 13, 14, 15], [1, 16, 17, 18]]


def test_fewer_windows_are_spread_over_the_text() -> None:
    windows = samples(range(100), 10, at_most=4)
    assert [window[0] for window in windows] == [0, 20, 50, 70]


def test_a_text_that_is_too_short_is_refused_with_both_lengths() -> None:
    with pytest.raises(ConvertError, match="is 29 tokens long, expected at least 30") as caught:
        samples(range(29), 11, prefix=(1,), at_least=3)
    assert "longer text" in str(caught.value.hint)


@given(
    count=st.integers(1, 300),
    length=st.integers(2, 40),
    begun=st.booleans(),
    at_most=st.none() | st.integers(1, 20),
)
def test_windows_never_overlap_and_all_have_the_length(count, length, begun, at_most) -> None:
    prefix = (1000,) if begun else ()
    inner = length - len(prefix)
    if count < inner:
        with pytest.raises(ConvertError):
            samples(range(count), length, prefix=prefix, at_most=at_most)
        return
    windows = samples(range(count), length, prefix=prefix, at_most=at_most)
    assert all(len(window) == length for window in windows)
    assert all(tuple(window[: len(prefix)]) == prefix for window in windows)
    text = [token for window in windows for token in window[len(prefix) :]]
    assert text == sorted(set(text)) and set(text) <= set(range(count))
    assert len(windows) == min(count // inner, at_most or count)
