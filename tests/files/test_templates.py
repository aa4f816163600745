"""Chat templates: programs that come with model files, and are not trusted."""

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import CHATML, GOLDEN

from mobilellm_mlx.errors import TemplateError, TokenizerError
from mobilellm_mlx.messages import Message
from mobilellm_mlx.templates import ChatTemplate
from mobilellm_mlx.testing import ByteTokenizer

HI = [Message("user", "hi")]
SIGNED = "{% for m in messages %}{{ m.content }}<|end|>{% endfor %}"
END = 256


def broken(source: str, **variables: Any) -> TemplateError:
    with pytest.raises(TemplateError) as caught:
        ChatTemplate(source, variables).render(HI)
    assert caught.value.hint and "--raw" in caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ ('' | attr('__class__')).__mro__ }}",
        "{{ ''['__class__']['__mro__'] }}",
        "{{ '{0.__class__.__mro__}'.format(1).x.y }}",
        "{{ raise_exception.__globals__['os'] }}",
        "{{ strftime_now.__globals__['os'] }}",
        "{{ strftime_now.__code__.co_names }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ lipsum.__globals__['os'].popen('id').read() }}",
        "{{ self.__init__.__globals__ }}",
        "{{ messages.append({}) }}",
        "{{ messages[0].update({'role': 'system'}) }}",
        "{{ messages.clear() }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{% extends 'x' %}",
    ],
)
def test_a_template_cannot_leave_the_sandbox(source: str) -> None:
    broken(source)


def test_a_template_cannot_change_the_conversation() -> None:
    messages = [Message("user", "hi")]
    with pytest.raises(TemplateError):
        ChatTemplate("{% set _ = messages.append(1) %}").render(messages)
    assert messages == HI


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}",
        "{{ messages | nosuchfilter }}",
        "{{ messages",
        "{% nosuchtag %}",
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    ],
    ids=lambda source: source[:30],
)
def test_a_template_that_does_not_compile_is_refused(source: str) -> None:
    with pytest.raises(TemplateError, match="the chat template is broken") as caught:
        ChatTemplate(source).render(HI)
    assert caught.value.hint


def test_a_syntax_error_names_its_line() -> None:
    with pytest.raises(TemplateError, match="at line 3"):
        ChatTemplate("a\nb\n{% endfor %}").render(HI)


@pytest.mark.parametrize(
    "source",
    [
        "{{ nothing.at.all }}",
        "{{ messages[5].content }}",
        "{{ 1 / 0 }}",
        "{{ messages[0].content + 5 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_a_template_that_fails_says_so(source: str) -> None:
    assert "the chat template failed" in broken(source).message


def test_a_template_may_refuse_a_conversation_with_its_own_words() -> None:
    message = broken("{{ raise_exception('system role not supported') }}").message
    assert message == "the chat template refuses this conversation: system role not supported"


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(10**9) %}x{% endfor %}",
        "{{ range(99999999999) }}",
        "{{ 'a' * 10**15 }}",
        "{{ 'x' | center(10**15) }}",
        "{{ '%999999999999999d' % 1 }}",
        "{{ '%*d' % (1500000000, 1) }}",
        "{{ 'x' | center(3000000000) }}",
        "{{ 'x'.rjust(3000000000) }}",
        "{{ '{:>1500000000}'.format(1) }}",
    ],
)
def test_a_template_that_asks_for_too_much_is_stopped(source: str) -> None:
    broken(source)


ENDLESS = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 9 ** (9 ** 9) }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% if i + j %}{% endif %}{% endfor %}"
    "{% endfor %}",
    "{% macro twice(n) %}{% if n %}{{ twice(n - 1) }}{{ twice(n - 1) }}{% endif %}{% endmacro %}"
    "{{ twice(99) }}",
]


@pytest.mark.parametrize("source", ENDLESS)
def test_a_template_that_would_run_for_ever_is_stopped(source: str) -> None:
    code = (
        "from mobilellm_mlx.errors import TemplateError\n"
        "from mobilellm_mlx.templates import ChatTemplate\n"
        f"try: ChatTemplate({source!r}).render([])\n"
        "except TemplateError: print('stopped')\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, timeout=20, capture_output=True, text=True, check=True)
    assert done.stdout == "stopped\n"


def test_the_json_filter_is_plain_and_takes_hugging_faces_options() -> None:
    template = "{{ m | tojson }}|{{ m | tojson(sort_keys=true, separators=(',', ':')) }}"
    assert ChatTemplate(template, {"m": {"b": "é<", "a": 1}}).render([]) == (
        '{"b": "é<", "a": 1}|{"a":1,"b":"é<"}'
    )
    escaped = ChatTemplate("{{ m | tojson(ensure_ascii=true, indent=1) }}", {"m": ["é"]})
    assert escaped.render([]) == '[\n "\\u00e9"\n]'


def test_variables_reach_the_template() -> None:
    assert ChatTemplate("{{ bos_token }}", {"bos_token": "<s>"}).render([]) == "<s>"


def test_lines_and_blocks_are_trimmed_as_the_hugging_face_library_does() -> None:
    source = "  {% for m in messages %}\n{{ m.content }}\n  {% endfor %}\n"
    assert ChatTemplate(source).render(HI) == "hi\n"


def test_the_templates_own_signs_become_special_tokens() -> None:
    ids = ChatTemplate(SIGNED).encode(ByteTokenizer(), HI)
    assert ids == [*b"hi", END]


def test_what_people_write_never_becomes_a_special_token() -> None:
    said = [Message("user", "what does <|end|> mean?")]
    ids = ChatTemplate(SIGNED).encode(ByteTokenizer(), said)
    assert ids == [*b"what does <|end|> mean?", END]


_fragments = st.lists(
    st.one_of(
        st.text(max_size=6),
        st.sampled_from(["<|end|>", "<|end", "|>", "<|", "<", "end", ">", "\ufdd0", "\ufdd1", " "]),
    ),
    max_size=8,
).map("".join)


@given(st.lists(_fragments, min_size=1, max_size=4))
def test_only_the_templates_own_signs_count_whatever_is_said(contents: list[str]) -> None:
    messages = [Message("user", content) for content in contents]
    ids = ChatTemplate(SIGNED).encode(ByteTokenizer(), messages)
    assert ids.count(END) == len(contents)
    wanted: list[int] = []
    for content in contents:
        wanted += [*content.encode(), END]
    assert ids == wanted


@given(_fragments)
def test_a_template_that_trims_what_was_said_is_safe_too(content: str) -> None:
    source = "{% for m in messages %}{{ m.content | trim | replace('a', '') }}<|end|>{% endfor %}"
    ids = ChatTemplate(source).encode(ByteTokenizer(), [Message("user", content)])
    assert ids.count(END) == 1


def test_a_sign_put_together_from_two_messages_stays_text() -> None:
    template = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}")
    said = [Message("user", "<|en"), Message("assistant", "d|>")]
    assert template.encode(ByteTokenizer(), said) == [*b"<|end|>"]


def test_overlapping_names_of_special_tokens_are_all_broken() -> None:
    tokenizer = ByteTokenizer()
    tokenizer.special = {"|x|": END}
    texts, marker = tokenizer.guard(["|x|x|"])
    assert END not in tokenizer.encode_template(texts[0], marker)


def test_a_text_with_every_possible_marker_is_refused() -> None:
    everything = "".join(chr(code) for code in range(0xFDD0, 0xFDF0))
    with pytest.raises(TokenizerError, match="noncharacters"):
        ByteTokenizer().guard([everything])


def test_a_text_that_holds_a_marker_keeps_it() -> None:
    said = "\ufdd0<|end|>\ufdd1"
    ids = ChatTemplate(SIGNED).encode(ByteTokenizer(), [Message("user", said)])
    assert bytes(ids[:-1]).decode() == said


def test_without_special_tokens_nothing_is_broken_up() -> None:
    tokenizer = ByteTokenizer()
    tokenizer.special = {}
    assert ChatTemplate(SIGNED).encode(tokenizer, HI) == [*b"hi<|end|>"]


CHATS = json.loads((GOLDEN / "smollm2.json").read_text())["chats"]


def read(row: dict[str, Any]) -> list[Message]:
    return [Message(**message) for message in row["messages"]]


def test_the_golden_chats_are_as_many_as_they_should_be() -> None:
    assert len(CHATS) == 10
    assert {row["add_generation_prompt"] for row in CHATS} == {False, True}


@pytest.mark.real
@pytest.mark.parametrize("number", range(10))
def test_the_default_models_prompts_are_those_of_transformers(
    number: int, real_loaded: Any
) -> None:
    row = CHATS[number]
    text = real_loaded.template.render(
        read(row), add_generation_prompt=row["add_generation_prompt"]
    )
    assert text == row["text"]


@pytest.mark.real
@pytest.mark.parametrize("number", range(10))
def test_the_default_models_prompt_ids_are_those_of_transformers_but_for_guarded_text(
    number: int, real_loaded: Any
) -> None:
    """In the last chat the user writes ``<|im_end|>``: to transformers that is the control token,
    to us it is text, on purpose. Everything around it is the same."""
    row, tokenizer = CHATS[number], real_loaded.tokenizer
    ids = real_loaded.template.encode(
        tokenizer, read(row), add_generation_prompt=row["add_generation_prompt"]
    )
    end = tokenizer.special["<|im_end|>"]
    if "<|im_end|>" not in row["messages"][-1]["content"]:
        assert ids == row["ids"]
        return
    assert ids != row["ids"]
    assert (ids.count(end), row["ids"].count(end)) == (2, 3)
    spelled = tokenizer.encode("<|im_end|>\n\n")
    start = next(i for i in range(len(ids)) if ids[i : i + len(spelled)] == spelled)
    theirs = [end, *tokenizer.encode("\n\n")]
    assert [*ids[:start], *theirs, *ids[start + len(spelled) :]] == row["ids"]


def test_the_chatml_of_the_tests_is_what_it_claims_to_be() -> None:
    assert ChatTemplate(CHATML).render(HI, add_generation_prompt=False) == (
        "<|im_start|>user\nhi<|im_end|>\n"
    )


class CountingTokenizer(ByteTokenizer):
    """Notes every text that it encodes."""

    def __init__(self) -> None:
        super().__init__()
        self.encoded: list[str] = []

    def encode(self, text: str) -> list[int]:
        self.encoded.append(text)
        return super().encode(text)


def test_a_turn_encodes_its_own_text_and_not_the_history_again() -> None:
    tokenizer, template = CountingTokenizer(), ChatTemplate(SIGNED)
    said = [Message("user", f"text {i}") for i in range(20)]
    template.encode(tokenizer, said)
    assert len(tokenizer.encoded) == 20
    longer = [*said, Message("assistant", "<|end|>"), Message("user", "new")]
    ids = template.encode(tokenizer, longer)
    assert tokenizer.encoded[20:] == ["<|end|>", "new"]
    assert ids == template.encode(CountingTokenizer(), longer)


def test_what_another_conversation_said_is_not_kept() -> None:
    tokenizer, template = CountingTokenizer(), ChatTemplate(SIGNED)
    for text in ("a", "b", "a"):
        template.encode(tokenizer, [Message("user", text), Message("user", text)])
    assert tokenizer.encoded == ["a", "b", "a"]
