"""Broken model directories: one sentence, a hint, exit code 1, and nothing touched."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

Change = Callable[[Path], object]


@pytest.fixture
def broken(tiny_dir, tmp_path) -> Path:
    """A copy of the tiny model, to be broken."""
    return Path(shutil.copytree(tiny_dir, tmp_path / "broken"))


def edit_json(name: str, **changes: object) -> Change:
    """Sets fields of a JSON file; None removes one."""

    def change(directory: Path) -> None:
        path = directory / name
        values = json.loads(path.read_text()) if path.exists() else {}
        values |= changes
        path.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))

    return change


def config(**changes: object) -> Change:
    return edit_json("config.json", **changes)


def write(name: str, content: str | bytes) -> Change:
    data = content.encode() if isinstance(content, str) else content
    return lambda directory: (directory / name).write_bytes(data)


def remove(name: str) -> Change:
    return lambda directory: (directory / name).unlink()


def truncate(name: str, share: float) -> Change:
    def change(directory: Path) -> None:
        data = (directory / name).read_bytes()
        (directory / name).write_bytes(data[: int(len(data) * share)])

    return change


def weights(edit: Callable[[dict], None]) -> Change:
    """Rewrites the header of the weights, the data left as they are."""

    def change(directory: Path) -> None:
        path = directory / "model.safetensors"
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        edit(header)
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])

    return change


def grow_first(header: dict) -> None:
    name = next(name for name in header if name != "__metadata__")
    header[name]["shape"][0] += 1


def point_outside(header: dict) -> None:
    name = next(name for name in header if name != "__metadata__")
    start, stop = header[name]["data_offsets"]
    header[name]["data_offsets"] = [start + 10**9, stop + 10**9]


def rename_norm(header: dict) -> None:
    header["model.norme.weight"] = header.pop("model.norm.weight")


def add_token(directory: Path) -> None:
    path = directory / "tokenizer.json"
    values = json.loads(path.read_text())
    values["added_tokens"].append({**values["added_tokens"][-1], "id": 258, "content": "<|new|>"})
    path.write_text(json.dumps(values))


BAD: dict[str, tuple[Change, str]] = {
    "no config": (remove("config.json"), "has no `config.json`"),
    "config is not JSON": (write("config.json", "{half"), "is not valid JSON"),
    "config is a list": (write("config.json", "[]"), "expected a JSON object"),
    "config is not text": (write("config.json", b"\xff\xfe\x00"), "is not valid JSON"),
    "config nested too deep": (write("config.json", "[" * 100_000), "is not valid JSON"),
    "no architecture": (config(model_type=None), "`model_type` is missing"),
    "unknown architecture": (config(model_type="lama"), "`model_type` is 'lama'"),
    "no hidden size": (config(hidden_size=None), "`hidden_size` is missing"),
    "hidden size is text": (config(hidden_size="32"), "`hidden_size` is '32'"),
    "negative layers": (config(num_hidden_layers=-1), "`num_hidden_layers` is -1"),
    "no layers": (config(num_hidden_layers=0), "`num_hidden_layers` is 0"),
    "a million layers": (config(num_hidden_layers=10**6), "`num_hidden_layers` is 1000000"),
    "no heads": (config(num_attention_heads=0), "`num_attention_heads` is 0"),
    "heads not divisible": (config(num_key_value_heads=3), "`num_key_value_heads` is 3"),
    "odd head size": (config(head_dim=3), "`head_dim` is 3"),
    "no vocabulary": (config(vocab_size=0), "`vocab_size` is 0"),
    "no epsilon": (config(rms_norm_eps=0), "`rms_norm_eps` is 0"),
    "infinite theta": (config(rope_theta=float("inf")), "rope_theta"),
    "theta is not a number": (config(rope_theta=float("nan")), "rope_theta"),
    "other activation": (config(hidden_act="gelu"), "`hidden_act` is 'gelu'"),
    "biases": (config(attention_bias=True), "`attention_bias` is true"),
    "rope scaling": (config(rope_scaling={"rope_type": "yarn"}), "'yarn' scaling"),
    "rope parameters are text": (config(rope_parameters="yes"), "`rope_parameters` is 'yes'"),
    "other width than the weights": (config(hidden_size=64, head_dim=8), "of the wrong shape"),
    "fewer layers than weights": (config(num_hidden_layers=1), "unexpected"),
    "more layers than weights": (config(num_hidden_layers=3), "missing"),
    "beyond all memory": (config(intermediate_size=2**31 - 1), "the model needs "),
    "packing of 7 bits": (config(quantization={"bits": 7, "group_size": 32}), "bits 7"),
    "packing is text": (config(quantization="4bit"), "`quantization` is '4bit'"),
    "other packing": (
        config(quantization={"bits": 4, "group_size": 32, "mode": "nf4"}),
        "'nf4'",
    ),
    "no weights": (remove("model.safetensors"), "no weights in "),
    "empty weights": (write("model.safetensors", b""), "is truncated or damaged"),
    "weights cut in the header": (truncate("model.safetensors", 0.005), "is truncated or damaged"),
    "weights cut in the data": (truncate("model.safetensors", 0.6), "does not fit the "),
    "weights are a web page": (write("model.safetensors", "<html>" * 99), "truncated or damaged"),
    "a shape beyond its data": (weights(grow_first), "does not fit the "),
    "a tensor outside the file": (weights(point_outside), "does not fit the "),
    "a renamed tensor": (weights(rename_norm), "model.norm.weight"),
    "weights of another kind": (weights(lambda h: h.clear()), "missing"),
    "index names no file": (
        write("model.safetensors.index.json", '{"weight_map": {"a": "gone.safetensors"}}'),
        "`gone.safetensors` is listed",
    ),
    "index leads outside": (
        write("model.safetensors.index.json", '{"weight_map": {"a": "../x.safetensors"}}'),
        "outside the model directory",
    ),
    "index is a list": (write("model.safetensors.index.json", "[]"), "is not a readable index"),
    "no tokenizer": (remove("tokenizer.json"), "no tokenizer in "),
    "tokenizer is not JSON": (write("tokenizer.json", "{"), "`"),
    "tokenizer is empty JSON": (write("tokenizer.json", "{}"), "cannot be read"),
    "tokenizer cut": (truncate("tokenizer.json", 0.5), "cannot be read"),
    "tokenizer too large": (add_token, "the tokenizer has 259 tokens, the model only 258"),
    "sentencepiece of another kind": (
        lambda d: (d / "tokenizer.json").rename(d / "tokenizer.model"),
        "is not a readable sentencepiece model",
    ),
    "tokenizer settings are not JSON": (write("tokenizer_config.json", "{"), "is not valid JSON"),
    "template with broken syntax": (
        write("chat_template.jinja", "{% for %}"),
        "the chat template is broken at line 1",
    ),
    "template that fails": (
        write("chat_template.jinja", "{{ messages[0]['content'] / 0 }}"),
        "the chat template failed: TypeError",
    ),
    "template that refuses": (
        write("chat_template.jinja", "{{ raise_exception('no users here') }}"),
        "refuses this conversation: no users here",
    ),
    "template that climbs out": (
        write("chat_template.jinja", "{{ ''.__class__.__mro__[1].__subclasses__() }}"),
        "the chat template failed: SecurityError",
    ),
    "template that is not UTF-8": (write("chat_template.jinja", b"\xff"), "chat_template.jinja"),
    "sampling that is impossible": (
        edit_json("generation_config.json", do_sample=True, temperature=-1),
        "`generation_config.json`",
    ),
    "sampling that is text": (
        edit_json("generation_config.json", do_sample=True, temperature="hot"),
        "`generation_config.json`",
    ),
}


def digests(directory: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()
    }


@pytest.mark.parametrize("case", BAD)
def test_a_broken_directory_is_one_sentence_and_1(run, broken, home, case) -> None:
    change, said = BAD[case]
    change(broken)
    before = digests(broken)
    result = run("generate", "-m", str(broken), "-p", "hi", "--max-tokens", "2")
    assert (result.code, result.out) == (1, "")
    error, *rest = result.err.splitlines()
    assert error.startswith("error: ") and said in error
    assert "internal error" not in error
    assert all(line.startswith("hint: ") for line in rest[:1]) and len(rest) <= 1
    assert digests(broken) == before and not home.exists()


@pytest.mark.parametrize(
    "case", ["no config", "weights cut in the data", "no tokenizer", "template that fails"]
)
def test_the_causes_that_people_meet_come_with_a_hint(run, broken, case) -> None:
    BAD[case][0](broken)
    assert "\nhint: " in run("generate", "-m", str(broken), "-p", "hi").err


def test_a_broken_template_does_not_stop_raw_text(run, broken) -> None:
    write("chat_template.jinja", "{{ 1 / 0 }}")(broken)
    args = ("generate", "-m", str(broken), "-p", "hi", "--max-tokens", "2")
    assert "generate --raw" in run(*args).err
    assert run(*args, "--raw").code == 0


def test_a_template_with_broken_syntax_does_not_stop_raw_text(run, broken) -> None:
    write("chat_template.jinja", "{% for %}")(broken)
    args = ("generate", "-m", str(broken), "-p", "hi", "--max-tokens", "2")
    assert "generate --raw" in run(*args).err
    assert run(*args, "--raw").code == 0


@pytest.mark.parametrize("name", ["model.gguf", "./model.gguf"])
def test_a_file_is_not_a_model_directory(run, tmp_path, monkeypatch, name) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    result = run("generate", "-m", name, "-p", "hi")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("error: there is no ") and "\nhint: " in result.err


@settings(max_examples=60)
@given(data=st.data())
def test_no_damage_to_any_file_is_an_internal_error(data, tiny_dir, tmp_path_factory) -> None:
    """Any byte range of any file replaced: it loads, or it is explained."""
    from mobilellm_mlx.errors import MobileLLMError
    from mobilellm_mlx.loading import load_model

    names = ["config.json", "tokenizer_config.json", "tokenizer.json", "chat_template.jinja"]
    name = data.draw(st.sampled_from([*names, "model.safetensors"]))
    content = (tiny_dir / name).read_bytes()
    # Of the weights only the header: any data are numbers.
    limit = 8 + int.from_bytes(content[:8], "little") if name.endswith("tensors") else len(content)
    start = data.draw(st.integers(0, limit - 1))
    length = data.draw(st.integers(0, 40))
    damage = data.draw(st.binary(max_size=40))
    directory = tmp_path_factory.mktemp("damaged")
    for path in tiny_dir.iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    (directory / name).write_bytes(content[:start] + damage + content[start + length :])
    try:
        load_model(directory)
    except MobileLLMError as error:
        assert error.message
    finally:
        shutil.rmtree(directory)
