"""What a model has read of a chat, on disk and back: the same, or nothing."""

import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import LLAMA, MOBILELLM, write_model

from mobilellm_mlx.backend import mx
from mobilellm_mlx.decoding import Generator
from mobilellm_mlx.decoding import snapshot as snapshot_module
from mobilellm_mlx.events import CacheSummary, Event, GenerationSummary
from mobilellm_mlx.loading import LoadedModel, load_model
from mobilellm_mlx.options import GenerationOptions, LoadOptions
from tests.models.test_layer_kinds import FLASH, PRO

CHUNKED = PRO | {
    "layer_types": ["chunked_attention", "full_attention"] * 2,
    "attention_chunk_size": 8,
}
NETWORKS = {
    "full": LLAMA,
    "shared": MOBILELLM,
    "window": PRO,
    "chunked": CHUNKED,
    "gaps": FLASH,
}
PROMPT = [(7 * n + n // 5) % 256 for n in range(30)]
GREEDY = GenerationOptions(max_tokens=30)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def loaded(directory: Path) -> LoadedModel:
    return load_model(directory)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kv" / "chat.safetensors"


def answer(generator: Generator, prompt: list[int]) -> GenerationSummary:
    *_, summary = generator.generate(prompt, GREEDY)
    assert isinstance(summary, GenerationSummary)
    return summary


def only(events: Iterator[Event]) -> CacheSummary:
    (summary,) = events
    assert isinstance(summary, CacheSummary) and summary.status == "ok"
    return summary


def saved(
    loaded: LoadedModel, path: Path, prompt: list[int] = PROMPT
) -> tuple[Generator, list[int]]:
    """A generator that has answered and was saved, and the tokens that it knows."""
    generator = Generator(loaded)
    summary = answer(generator, prompt)
    assert only(generator.save_cache(path)).reason is None
    return generator, [*prompt, *summary.tokens[:-1]]


def refusal(loaded: LoadedModel, path: Path) -> str:
    """Why nothing was restored; the generator goes on as if nothing had been tried."""
    generator = Generator(loaded)
    before = answer(generator, PROMPT[:5])
    summary = only(generator.restore_cache(path))
    assert (summary.tokens, summary.bytes) == (0, 0)
    again = answer(generator, PROMPT[:5])
    assert (again.tokens, again.cached_tokens) == (before.tokens, 4)
    assert summary.reason
    return summary.reason


# There and back


@pytest.mark.parametrize("length", [30, 250, 300])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_restored_chat_goes_on_like_the_live_one(
    tmp_path: Path, path: Path, name: str, length: int
) -> None:
    loaded = load_model(write_model(tmp_path / "model", NETWORKS[name]))
    live, known = saved(loaded, path, (PROMPT * 10)[:length])
    restored = Generator(load_model(tmp_path / "model"))
    summary = only(restored.restore_cache(path))
    assert (summary.tokens, summary.bytes) == (len(known), path.stat().st_size)
    more = [*known, *b" and then?"]
    wanted, got = answer(live, more), answer(restored, more)
    assert got.tokens == wanted.tokens
    assert got.cached_tokens == wanted.cached_tokens == len(known)


def test_a_restored_answer_can_be_cut_back(loaded: LoadedModel, path: Path) -> None:
    saved(loaded, path)
    restored = Generator(loaded)
    only(restored.restore_cache(path))
    again = answer(restored, PROMPT)
    assert again.tokens == answer(Generator(loaded), PROMPT).tokens
    assert again.cached_tokens == len(PROMPT) - 1


def test_sixteen_bit_caches_come_back_too(tmp_path: Path, path: Path) -> None:
    for dtype in (mx.float16, mx.bfloat16):
        model = load_model(write_model(tmp_path / "model", dtype=dtype))
        network = model.model
        network.set_dtype(dtype)
        live, known = saved(model, path)
        restored = Generator(model)
        assert only(restored.restore_cache(path)).tokens == len(known)
        assert restored._chat.caches[0].arrays[0].dtype == dtype
        more = [*known, 1, 2]
        assert answer(restored, more).tokens == answer(live, more).tokens


def test_only_what_is_held_is_written(loaded: LoadedModel, path: Path) -> None:
    _, known = saved(loaded, path)
    values = len(known) * loaded.info.kv_bytes_per_token
    assert values < path.stat().st_size < values + 2000


def test_saving_again_replaces_the_file_and_leaves_nothing_beside(
    loaded: LoadedModel, path: Path
) -> None:
    generator, known = saved(loaded, path)
    answer(generator, [*known, *b"more"])
    longer = only(generator.save_cache(path))
    assert longer.tokens > len(known)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert only(Generator(loaded).restore_cache(path)).tokens == longer.tokens


def test_nobody_else_may_read_it(loaded: LoadedModel, path: Path) -> None:
    saved(loaded, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_model_that_has_read_nothing_writes_nothing(loaded: LoadedModel, path: Path) -> None:
    summary = only(Generator(loaded).save_cache(path))
    assert (summary.tokens, summary.reason) == (0, "the model has read nothing yet")
    assert not path.exists()


def test_a_link_is_replaced_and_not_followed(loaded: LoadedModel, path: Path) -> None:
    target = path.parent.parent / "precious"
    target.write_text("mine")
    path.parent.mkdir()
    path.symlink_to(target)
    saved(loaded, path)
    assert (target.read_text(), path.is_symlink()) == ("mine", False)


def test_a_directory_that_cannot_be_written_is_said(loaded: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "kv").write_text("a file where the directory should be")
    generator = Generator(loaded)
    answer(generator, PROMPT)
    summary = only(generator.save_cache(tmp_path / "kv" / "chat.safetensors"))
    assert summary.reason and "cannot be written" in summary.reason
    assert (tmp_path / "kv").read_text() == "a file where the directory should be"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("broken")])
def test_a_full_disk_leaves_the_old_file_and_no_rest(
    loaded: LoadedModel, path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    generator, known = saved(loaded, path)

    def fail(file: Any, *_: Any) -> None:
        file.write(b"half")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(snapshot_module.mx, "save_safetensors", fail)
        summary = only(generator.save_cache(path))
    assert summary.reason and "cannot be written" in summary.reason
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert only(Generator(loaded).restore_cache(path)).tokens == len(known)


# Nothing, with the reason


def test_a_file_that_is_not_there_restores_nothing(loaded: LoadedModel, path: Path) -> None:
    assert refusal(loaded, path) == "nothing was kept of this chat"


def test_another_model_s_file_restores_nothing(
    loaded: LoadedModel, path: Path, tmp_path: Path
) -> None:
    other = load_model(write_model(tmp_path / "other", seed=1))
    saved(other, path)
    assert "another model" in refusal(loaded, path)


def test_a_chat_longer_than_the_context_restores_nothing(
    loaded: LoadedModel, directory: Path, path: Path
) -> None:
    saved(loaded, path)
    assert "longer than the context" in refusal(
        load_model(directory, LoadOptions(context=50)), path
    )


def test_a_link_restores_nothing(loaded: LoadedModel, path: Path) -> None:
    saved(loaded, path)
    link = path.with_name("link.safetensors")
    link.symlink_to(path)
    assert "no plain file" in refusal(loaded, link)


def test_a_pipe_does_not_keep_anyone_waiting(loaded: LoadedModel, path: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path)
    assert "no plain file" in refusal(loaded, path)


@pytest.mark.parametrize("cut", [0, 4, 8, 60, 700, -1])
def test_a_file_that_was_cut_off_restores_nothing(
    loaded: LoadedModel, path: Path, cut: int
) -> None:
    saved(loaded, path)
    path.write_bytes(path.read_bytes()[:cut])
    refusal(loaded, path)


def test_a_flipped_bit_restores_nothing(loaded: LoadedModel, path: Path) -> None:
    saved(loaded, path)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    assert "damaged" in refusal(loaded, path)


Change = Callable[[dict[str, Any]], Any]


def meta(name: str, value: Any) -> Change:
    return lambda header: header["__metadata__"].update({name: value})


CHANGES: dict[str, Change] = {
    "no metadata": lambda header: header.pop("__metadata__"),
    "metadata of another kind": lambda header: header.update(__metadata__=[1]),
    "another version": meta("format", "mobilellm-cache-2"),
    "no tokens": meta("tokens", "[]"),
    "tokens that are no list": meta("tokens", '{"a": 1}'),
    "tokens that are no JSON": meta("tokens", "[1, 2"),
    "tokens that are no text": meta("tokens", 5),
    "nested beyond all": meta("tokens", "[" * 100_000),
    "a token too large": meta("tokens", json.dumps([258] * 59)),
    "a negative token": meta("tokens", json.dumps([-1] * 59)),
    "a token that is true": meta("tokens", json.dumps([True] * 59)),
    "fewer tokens": meta("tokens", json.dumps([1] * 58)),
    "another kind of cache": meta("caches", '[["window", 59], ["all", 59]]'),
    "another offset": meta("caches", '[["all", 58], ["all", 59]]'),
    "another checksum": meta("checksum", "00000000"),
    "a tensor less": lambda header: header.pop("1.values"),
    "a tensor too many": lambda header: header.update(
        {"2.keys": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}
    ),
    "another shape": lambda header: header["0.keys"].update(shape=[1, 59, 2, 8]),
    "fewer dimensions": lambda header: header["0.keys"].update(shape=[1, 2, 59 * 8]),
    "another type": lambda header: header["0.keys"].update(dtype="U32"),
    "offsets beyond the file": lambda header: header["0.keys"].update(data_offsets=[0, 1 << 40]),
    "keys and values exchanged": lambda header: header.update(
        {"0.keys": header["0.values"], "0.values": header["0.keys"]}
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_file_that_is_not_what_was_written_restores_nothing(
    loaded: LoadedModel, path: Path, change: Change
) -> None:
    saved(loaded, path)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    refusal(loaded, path)


@pytest.mark.parametrize("shape", [b"[1,59,2,8]", b"[1,2,472 ]"])
def test_what_does_not_fit_is_refused_before_it_is_loaded(
    loaded: LoadedModel, path: Path, monkeypatch: pytest.MonkeyPatch, shape: bytes
) -> None:
    saved(loaded, path)
    data = path.read_bytes()
    assert data.count(b"[1,2,59,8]") == 4
    path.write_bytes(data.replace(b"[1,2,59,8]", shape, 1))
    monkeypatch.setattr(snapshot_module.mx, "load", lambda *_, **__: pytest.fail("it was loaded"))
    assert "another shape" in refusal(loaded, path)


def test_a_file_exchanged_while_it_is_read_restores_nothing(
    loaded: LoadedModel, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(loaded, path)
    monkeypatch.setattr(
        snapshot_module.mx, "load", lambda *_, **__: {"0.keys": mx.zeros((1, 2, 9999, 8))}
    )
    assert "damaged" in refusal(loaded, path)


def test_running_out_of_memory_restores_nothing(
    loaded: LoadedModel, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(loaded, path)

    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(snapshot_module.mx, "load", fail)
    assert "out of memory" in refusal(loaded, path)
