"""From ids to text that ends where it should and shows nothing it should not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilellm_mlx.decoding.text import StopStrings, TextStream
from mobilellm_mlx.testing import ByteTokenizer

words = st.text("ab", max_size=12)
stops = st.text("ab", min_size=1, max_size=4)


def run(pieces: list[str], stop: tuple[str, ...]) -> tuple[str, bool]:
    """Everything shown, and whether a stop string was found."""
    strings, shown = StopStrings(stop), ""
    for piece in pieces:
        shown += strings.add(piece)
        if strings.found:
            return shown, True
    return shown + strings.finish(), strings.found


def first_stop(text: str, stop: tuple[str, ...]) -> int | None:
    """Where to cut, read off letter by letter: the slow twin of ``StopStrings``."""
    for end in range(1, len(text) + 1):
        hits = [at for s in stop if (at := text[:end].find(s)) >= 0]
        if hits:
            return min(hits)
    return None


@given(st.lists(words, max_size=6), stops)
def test_text_is_shown_up_to_the_first_stop_string_however_it_arrives(
    pieces: list[str], stop: str
) -> None:
    text = "".join(pieces)
    assert run(pieces, (stop,)) == (text.split(stop)[0], stop in text)


@given(st.text("abc", max_size=20), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_of_several_stop_strings_the_first_to_be_complete_counts(
    text: str, several: list[str]
) -> None:
    cut = first_stop(text, tuple(several))
    assert run(list(text), tuple(several)) == (text[:cut], cut is not None)


@given(st.lists(words, max_size=6), stops)
def test_no_part_of_a_stop_string_is_ever_shown(pieces: list[str], stop: str) -> None:
    strings, shown, target = StopStrings((stop,)), "", "".join(pieces).split(stop)[0]
    for piece in pieces:
        shown += strings.add(piece)
        assert target.startswith(shown)


@given(st.lists(words, max_size=6), st.lists(stops, min_size=1, max_size=3))
def test_nothing_is_held_back_that_could_not_become_a_stop_string(
    pieces: list[str], several: list[str]
) -> None:
    strings, shown, given_ = StopStrings(several), "", ""
    for piece in pieces:
        shown, given_ = shown + strings.add(piece), given_ + piece
        if strings.found:
            return
        assert given_.startswith(shown)
        held = given_[len(shown) :]
        assert any(stop.startswith(held) for stop in several)


def test_without_stop_strings_everything_is_shown_at_once() -> None:
    strings = StopStrings(())
    assert [strings.add("<"), strings.add("|"), strings.finish()] == ["<", "|", ""]


def test_nothing_is_shown_after_a_stop_string() -> None:
    strings = StopStrings(("END",))
    assert [strings.add("aEN"), strings.add("Db"), strings.add("c")] == ["a", "", ""]
    assert strings.found
    assert strings.finish() == ""


def stream(data: bytes, stop: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    """The pieces shown for bytes that come one by one."""
    text = TextStream(ByteTokenizer(), {256}, stop)
    return [text.add(byte).text for byte in data], text


def test_characters_appear_when_they_are_complete() -> None:
    assert stream("é😀!".encode())[0] == ["", "é", "", "", "", "😀", "!"]


def test_a_stop_string_split_over_bytes_is_found() -> None:
    pieces, text = stream("schön 😀 gut".encode(), ("😀",))
    assert "".join(pieces) == "schön "
    assert text.stopped


def test_a_stop_string_that_does_not_come_to_its_end_is_shown() -> None:
    pieces, text = stream(b"1 < 2 <| 3", ("<|end|>",))
    assert "".join(pieces) == "1 < 2 <| 3"
    assert not text.stopped


@pytest.mark.parametrize(("data", "rest"), [(b"a<|e", "<|e"), ("aé".encode()[:-1], "\ufffd")])
def test_what_is_held_back_is_shown_when_no_more_comes(data: bytes, rest: str) -> None:
    pieces, text = stream(data, ("<|end|>",))
    assert ("".join(pieces), text.finish().text) == ("a", rest)


@pytest.mark.parametrize(("data", "rest"), [(b"a<|e", "<|e"), ("aé".encode()[:-1], "\ufffd")])
def test_what_is_held_back_is_shown_at_a_stop_token(data: bytes, rest: str) -> None:
    pieces, text = stream(data, ("<|end|>",))
    assert ("".join(pieces), text.add(256).text, text.stopped) == ("a", rest, True)


@given(st.text(max_size=30), st.text(min_size=1, max_size=3))
def test_a_streamed_text_is_the_text_before_the_stop_string(text: str, stop: str) -> None:
    pieces, end = stream(text.encode(), (stop,))
    shown = "".join(pieces) + ("" if end.stopped else end.finish().text)
    assert (shown, end.stopped) == (text.split(stop)[0], stop in text)
