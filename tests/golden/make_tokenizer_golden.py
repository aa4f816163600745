"""Make smollm2_tokenizer.json: token ids and decoded texts of the SmolLM2 tokenizer.

Reference: tokenizers 0.23.3, a byte-level BPE built from the tokens and merges of
SmolLM2-135M-Instruct.Q4_1.gguf (read by gguf 0.19.0) with the pre-tokenizer of the original
tokenizer.json: Sequence[Digits(individual_digits=true), ByteLevel(add_prefix_space=false,
trim_offsets=true, use_regex=true)]. With --llama-cpp every result is checked against llama.cpp
(xllamacpp 2026.10.11549). No seed: nothing is random.
Run: python make_tokenizer_golden.py MODEL.gguf OUT.json [--llama-cpp]

"cases": {"group", "text", "ids" (special tokens parsed), "decoded" (of ids), "decoded_skip_special"
and, where they differ from ids, "ids_plain" (special-token text read as plain text)}. No BOS or EOS
is ever added. "decode": {"ids", "decoded"}: ids that end inside a character; U+FFFD stands for each
broken part.
"""

import json
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gguf import GGUFReader
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

Post = Callable[[str, dict[str, Any]], dict[str, Any]]
CONTROL = 3  # tokenizer.ggml.token_type
TEXTS: dict[str, list[str]] = {
    "empty": [""],
    "english": [
        "Hello, world!",
        "Once upon a time",
        "The quick brown fox jumps over the lazy dog.",
        "Once upon a time, there was a little girl who lived in a village near the forest.",
        "HELLO hello Hello hELLO",
        "a",
        "I",
        "Dr. Smith (Ph.D.), e.g., at 5 p.m. -- wasn't in; see http://example.com/a?b=c&d=e#f.",
        "state-of-the-art / and/or \\ back\\slash",
        "“Curly quotes” and ‘single’ — an em dash… and an ellipsis",
        "user.name+tag@example.co.uk",
        "snake_case camelCase PascalCase kebab-case SCREAMING_CASE",
    ],
    "contractions": [
        "I'm you're he's we've they'll I'd don't",
        "I'M YOU'RE HE'S WE'VE THEY'LL I'D DON'T",
        "I’m you’re it’s",
        "'s 't 're 've 'm 'll 'd",
        "rock'n'roll o'clock 'tis ''quoted''",
        "it's'll",
    ],
    "digits": [
        "12345 3.14",
        "0",
        "1234567890",
        "In 1999, 2 of 3 (66.7%) paid $1,234.56.",
        " 1 22 333",
        "  1",
        "   42",
        "\n7",
        "\n\n\t 8",
        "x1y2z3",
        "a1 b22  c333",
        "1 000 000",
        "v1.2.3-rc4+build5",
        "2024-02-22T10:30:00Z",
        "+1 (555) 010-9999",
        "0xDEADBEEF 1e-5 6.02e23",
        "1st 2nd 3rd 4th",
        "'90s '1s 5's",
        "½ ¼ ² ³ ₁ Ⅷ ① ⑩",
        "٠١٢٣ ०१२ 一二三 １２３",
        "৪২ ௧௨ 𝟘𝟙𝟚",
        "100% 50/50 #1 @2",
    ],
    "code": [
        "def f(x):\n    return x + 1\n",
        "def f(x):\n\treturn x\n",
        "for (int i = 0; i < n; ++i) {\n\t\tsum += a[i];\n}\n",
        "if x==y!=z<=w>=v:=u->t=>s::r",
        '<div class="a">&nbsp;</div>\n<!-- c -->',
        "#include <stdio.h>\r\nint main(void) { return 0; }\r\n",
        '{"key": [1, 2.5, null, true], "k": {}}',
        "SELECT * FROM t WHERE a = 'b' AND c <> 10;",
        '$ pip install torch==2.13.0 && echo "ok" | tee -a log.txt',
        "lambda x: (x**2, x//3, x%4, ~x, x^y, x|y, x&y)",
        "        deep = indent\n            deeper = indent\n",
        "// comment\n/* block\n * comment\n */",
        "import numpy as np\n\n\nclass A(object):\n    pass\n",
        "\\n is not \n and \\t is not \t",
        "```python\nprint('hi')\n```",
        "E = mc^2; $\\frac{a}{b}$ \\(x_1\\)",
    ],
    "spaces": [
        " ",
        "  ",
        "   ",
        "    ",
        " a",
        "a ",
        " a ",
        "  a  ",
        "a  b",
        "a   b    c     d",
        "\n",
        "\n\n",
        "\n\n\n",
        " \n",
        "\n ",
        " \n \n ",
        "a\nb",
        "a \n b",
        "a\n\n  b",
        "\t",
        "\t\t",
        " \t ",
        "a\tb",
        "a\t\tb",
        "\r\n",
        "a\r\nb\rc",
        "trailing newline\n",
        "trailing spaces   ",
        "   leading spaces",
        "no\u00a0break\u2003em\u2009thin\u200bzero\u3000wide\ufeffbom",
        "\u2028line\u2029paragraph\u0085nel\u000bvt\u000cff",
    ],
    "cjk": [
        "你好，世界！",
        "今天天气很好，我们去公园吧。",
        "日本語のテキストです。カタカナ、ひらがな、漢字。",
        "안녕하세요 세계",
        "中文English混合text測試123",
        "𠮷野家",
    ],
    "scripts": [
        "مرحبا بالعالم",
        "السَّلامُ عَلَيْكُمْ",
        "שלום עולם",
        "Привет, мир!",
        "Γειά σου Κόσμε",
        "नमस्ते दुनिया",
        "สวัสดีชาวโลก",
        "Tiếng Việt có dấu",
        "Größe, naïve, façade, Ærøskøbing, Łódź, İstanbul",
        "Kraków ’ß ſ ǆ ﬁ ﬀ Ǆ",
        "ગુજરાતી বাংলা தமிழ்",
        "ქართული հայերեն አማርኛ",
    ],
    "emoji": [
        "😀",
        "Hello 😀 world 🌍!",
        "👩‍👩‍👧‍👦 family",
        "👍🏽 thumbs",
        "🏳️‍🌈🇫🇷🇯🇵",
        "❤️ ☃ ☃︎ ✈️",
        "🤖🤖🤖",
        "1️⃣ 2️⃣",
        "∀x∈ℝ: ⌈x⌉ ≠ ∞ ∑ √",
        "→ ← ⇒ ▁▂▃ █ ░",
        "𝒜𝓁𝓅𝒽𝒶 𝔹𝕖𝕥𝕒",
    ],
    "accents": [
        "e\u0301 cafe\u0301 cafe",
        "caf\u00e9",
        "n\u0303 \u00f1",
        "Z\u0351\u036b\u0343a\u030a\u0322l\u0334g\u0335o\u0336",
        "\u0301 alone",
        "\u1e9b\u0323 \u212b A\u030a",
    ],
    "control": [
        "\x00",
        "a\x00b",
        "\x00\x01\x02\x03\x04\x05\x06\x07\x08\x0e\x0f",
        "\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f",
        "\x1b[31mred\x1b[0m",
        "\x7f del \x80 \x9f c1",
        "\u200e\u200f\u202a\u202e bidi",
        "\ufffd replacement \ufffe \uffff \ue000",
        "\U0010ffff \U000e0041",
        "ÀÁõö÷øùúûüýþÿ",
        "a\x04b\U00040000c\U00080000d",
        "Ġ Ċ ĉ Ā ġ Ń",
    ],
    "special": [
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        "a<|im_end|>b",
        " <|im_start|> ",
        "<|im_start|><|im_start|><|im_end|>",
        "<repo_name>x<file_sep>y<filename>z",
        "<reponame><gh_stars><issue_start><issue_comment><issue_closed>",
        "<jupyter_start><jupyter_text><jupyter_code><jupyter_output><jupyter_script><empty_output>",
        "<|im_start",
        "<|IM_START|>",
        "<| im_start |>",
        "<|im_start|",
        "<<|im_end|>>",
        "<s></s><unk><pad>[INST]<0x0A>",
        "1<|im_end|>2",
        "a \n<|im_end|>\n b",
    ],
    "long": [
        "supercalifragilisticexpialidocious",
        "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
        "a" * 300,
        "ab" * 120,
        "xQzJ" * 50,
        " " * 100,
        "\n" * 40,
        "=" * 80,
        "the " * 40,
        "0123456789" * 8,
        "哈" * 60,
        "😀" * 30,
    ],
}
CUT = ["😀", "👩‍👩‍👧‍👦", "你好，世界！", "𠮷", "é😀", "नमस्ते", "caf\u00e9 😀 ok"]


def load_tokenizer(path: str) -> Tokenizer:
    fields = GGUFReader(path).fields
    tokens, merges, kinds, pre, add_bos = (
        fields[f"tokenizer.ggml.{name}"].contents()
        for name in ("tokens", "merges", "token_type", "pre", "add_bos_token")
    )
    assert pre == "smollm" and not add_bos
    pairs = [tuple(merge.split(" ")) for merge in merges]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    digits = pre_tokenizers.Digits(individual_digits=True)
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    control = [t for t, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in control])
    assert tokenizer.get_vocab_size() == len(tokens)
    return tokenizer


def encode(tokenizer: Tokenizer, text: str, parse_special: bool) -> list[int]:
    tokenizer.encode_special_tokens = not parse_special
    return tokenizer.encode(text, add_special_tokens=False).ids


def make_cases(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    cases = []
    for group, texts in TEXTS.items():
        for text in texts:
            ids, plain = (encode(tokenizer, text, parse) for parse in (True, False))
            case = {"group": group, "text": text, "ids": ids}
            case["decoded"] = tokenizer.decode(ids, skip_special_tokens=False)
            case["decoded_skip_special"] = tokenizer.decode(ids, skip_special_tokens=True)
            cases.append(case if plain == ids else case | {"ids_plain": plain})
    return cases


def make_cuts(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    cuts = []
    for text in CUT:
        ids = encode(tokenizer, text, True)
        for piece in [ids[:end] for end in range(1, len(ids))] + [ids[1:]]:
            decoded = tokenizer.decode(piece, skip_special_tokens=False)
            if "\ufffd" in decoded:
                cuts.append({"ids": piece, "decoded": decoded})
    return cuts


def serve_llama_cpp(path: str) -> tuple[object, Post]:
    import xllamacpp  # only for --llama-cpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.warmup = path, 256, False
    server = xllamacpp.Server(params)

    def post(route: str, data: dict[str, Any]) -> dict[str, Any]:
        body, header = json.dumps(data).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(server.listening_address + route, body, header)
        with urllib.request.urlopen(request) as reply:
            return json.load(reply)

    return server, post


def check_llama_cpp(cases: list[dict[str, Any]], post: Post) -> int:
    wrong = 0
    for case in cases:
        for key, parse in (("ids", True), ("ids_plain", False)):
            expected = case.get(key, case["ids"])
            query = {"content": case["text"], "add_special": True, "parse_special": parse}
            got = post("/tokenize", query)["tokens"]
            if got != expected:
                wrong += 1
                print(f"llama.cpp {key} {case['text']!r}\n  here {expected}\n  there {got}")
        if (text := post("/detokenize", {"tokens": case["ids"]})["content"]) != case["decoded"]:
            wrong += 1
            print(f"llama.cpp decodes {case['decoded']!r} as {text!r}")
    return wrong


def main(path: str, out: str, *options: str) -> None:
    tokenizer = load_tokenizer(path)
    cases, cuts = make_cases(tokenizer), make_cuts(tokenizer)
    lines = ['"reference": "tokenizers 0.23.3, Digits + ByteLevel"']
    for key, rows in (("cases", cases), ("decode", cuts)):
        lines.append(f'"{key}": [\n' + ",\n".join(json.dumps(row) for row in rows) + "\n]")
    Path(out).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="ascii")
    print(f"{len(cases)} cases, {len(cuts)} cuts")
    if "--llama-cpp" in options:
        server, post = serve_llama_cpp(path)
        print(f"{check_llama_cpp(cases, post)} differ from llama.cpp")
        del server


if __name__ == "__main__":
    main(*sys.argv[1:])
