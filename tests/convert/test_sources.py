"""A model of the hub as a source, against a hub on this machine."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from convert import sources
from convert.plan import ConvertOptions
from convert.sources import HubName, convert_any, inspect_any, local_directory, parse_hub_name
from mobilellm_mlx import huggingface, paths
from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import ConvertError, DownloadError, MobileLLMError, StorageError
from mobilellm_mlx.loading import load_model
from mobilellm_mlx.paths import MANIFEST
from tests.convert import gguf_writer
from tests.convert.checkpoints import FAST, WIDE, checkpoint, proof, run, same_bits, tensors
from tests.hub.fake_hub import FakeHub
from tests.hub.tiny_repo import no_sockets, own_settings, running_hub

DEFAULT = ConvertOptions()


@pytest.fixture
def files(tmp_path) -> dict[str, bytes]:
    """What the repository holds."""
    source = checkpoint(tmp_path / "tiny")
    (source / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (source / "modeling_evil.py").write_text("raise SystemExit")
    return {path.name: path.read_bytes() for path in source.iterdir()}


@pytest.fixture
def hub(tmp_path, monkeypatch, files) -> Iterator[FakeHub]:
    with own_settings(tmp_path, monkeypatch), running_hub(files, monkeypatch) as running:
        yield running


def weight_requests(hub: FakeHub) -> list[str | None]:
    """The range of every request for the weights."""
    return [r.headers.get("Range") for r in hub.requests if r.server == "storage"]


# Names


def test_a_name_of_the_hub_is_taken_apart(tmp_path, monkeypatch) -> None:
    assert parse_hub_name("org/name") == HubName("org/name", None, None)
    assert parse_hub_name("org/name@v1:sub/q4.gguf") == HubName("org/name", "v1", "sub/q4.gguf")
    for path in ("./org/name", "name", "/org/name", "org/name/more", "models/x.gguf"):
        assert parse_hub_name(path) is None
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert parse_hub_name("org/name") is None


def test_every_name_has_a_directory_of_its_own_inside_the_cache() -> None:
    names = ["org/a", "org/b", "org/a@v1", "org/a@refs/pr/1", "org/a:q4.gguf", "org/a@v1:q4.gguf",
             "org/a:sub/q4.gguf", "org/a:../../../../x.gguf"]  # fmt: skip
    found = [local_directory(name) for name in names]
    assert len(set(found)) == len(names)
    assert all(path is not None and path.parent == paths.models_dir() / "hub" for path in found)
    assert all(path is not None and path.resolve() == path for path in found)
    assert local_directory("./a/path") is None


@pytest.mark.parametrize("look", [True, False])
def test_a_path_that_is_not_there_is_said_without_asking_anyone(
    tmp_path, monkeypatch, look
) -> None:
    no_sockets(monkeypatch)
    with pytest.raises(ConvertError, match=r"there is no `\./nowhere`") as caught:
        if look:
            inspect_any("./nowhere", DEFAULT)
        list(convert_any("./nowhere", tmp_path / "t", DEFAULT))
    assert "facebook/MobileLLM-125M" in str(caught.value.hint)


# Converting


def test_a_model_of_the_hub_becomes_what_its_files_become(hub, tmp_path) -> None:
    summary = list(convert_any("org/tiny", tmp_path / "t", DEFAULT))[-1]
    assert (summary.licence, summary.status) == ("apache-2.0", "ok")
    run(tmp_path / "tiny", tmp_path / "by hand")
    ours, theirs = tensors(tmp_path / "t"), tensors(tmp_path / "by hand")
    assert all(same_bits(ours[name], theirs[name]) for name in theirs)
    found = proof(tmp_path / "t")["source"]
    assert (found["name"], found["hub"]) == ("tiny", "org/tiny")
    assert found["revision"] == hub.branches["main"] and found["licence"] == "apache-2.0"
    listed = hub.info(hub.branches["main"])["siblings"]
    (weights,) = [entry for entry in listed if entry["rfilename"] == "model.safetensors"]
    assert found["files"][0]["sha256"] == weights["lfs"]["sha256"]
    manifest = json.loads((tmp_path / "t" / MANIFEST).read_text())
    assert manifest["source"]["hub"] == "org/tiny"
    assert not any("evil" in path for path in hub.asked())


def test_the_weights_that_the_hub_means_are_read_and_not_others_beside_them(hub, tmp_path) -> None:
    list(convert_any("org/tiny", tmp_path / "first", FAST))
    (snapshot,) = (tmp_path / "hf" / "hub" / "models--org--tiny" / "snapshots").iterdir()
    (snapshot / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone"}}')
    list(convert_any("org/tiny", tmp_path / "second", FAST))
    first, second = tensors(tmp_path / "first"), tensors(tmp_path / "second")
    assert all(same_bits(first[name], second[name]) for name in first)


def test_a_named_gguf_is_converted(hub, files, tmp_path) -> None:
    path = gguf_writer.write_tiny_gguf(tmp_path / "q4.gguf")
    hub.commit({**files, "q4.gguf": path.read_bytes()})
    list(convert_any("org/tiny:q4.gguf", tmp_path / "t", FAST))
    assert proof(tmp_path / "t")["source"]["format"] == "gguf"
    assert not any(path.endswith(".safetensors") for path in hub.asked())


def test_a_second_conversion_takes_the_files_from_the_cache_offline_too(
    hub, tmp_path, monkeypatch
) -> None:
    list(convert_any("org/tiny", tmp_path / "a", FAST))
    hub.requests.clear()
    list(convert_any("org/tiny", tmp_path / "b", FAST))
    assert hub.asked() == ["/api/models/org/tiny/revision/main"]
    no_sockets(monkeypatch)
    list(convert_any("org/tiny", tmp_path / "c", FAST, offline=True))
    assert (tmp_path / "c" / MANIFEST).is_file()


def test_altered_weights_leave_nothing(hub, tmp_path) -> None:
    hub.altered["model.safetensors"] = b"x" * 100
    with pytest.raises(DownloadError):
        list(convert_any("org/tiny", tmp_path / "t", FAST))
    assert not (tmp_path / "t").exists()


def test_a_target_in_the_way_is_said_before_anything_is_fetched(hub, tmp_path) -> None:
    run(tmp_path / "tiny", tmp_path / "t")
    with pytest.raises(StorageError, match="is there already"):
        list(convert_any("org/tiny", tmp_path / "t", FAST))
    assert weight_requests(hub) == []


def test_a_licence_that_only_the_hub_knows_is_not_lost(hub, files, tmp_path) -> None:
    hub.commit({**files, "README.md": b"# Tiny\n"})
    list(convert_any("org/tiny", tmp_path / "t", FAST))
    assert proof(tmp_path / "t")["source"]["licence"] == "apache-2.0"


# Looking


def test_looking_fetches_the_header_and_nothing_of_the_weights(hub, files, tmp_path) -> None:
    found = inspect_any("org/tiny", DEFAULT)
    here = inspect_any(str(tmp_path / "tiny"), DEFAULT).to_dict()
    there = found.to_dict()
    assert there.pop("name") == f"org/tiny@{hub.branches['main'][:8]}"
    assert here.pop("name") == "tiny" and here == there
    assert weight_requests(hub) == ["bytes=0-65535"]
    assert not list((tmp_path / "hf").rglob("*.safetensors"))


def test_of_a_large_file_only_the_header_is_asked_for(hub, files) -> None:
    data = files["model.safetensors"]
    sizes = [len(r) for r in weight_requests(hub)]
    inspect_any("org/tiny", DEFAULT)
    begin = 8 + int.from_bytes(data[:8], "little")
    (asked,) = weight_requests(hub)
    assert begin < 65536 < len(data) and asked == "bytes=0-65535" and sizes == []


def test_pickled_weights_are_described_by_their_configuration(hub, files) -> None:
    kept = {name: data for name, data in files.items() if name != "model.safetensors"}
    hub.commit({**kept, "pytorch_model.bin": b"x" * 5000})
    found = inspect_any("org/tiny", DEFAULT)
    assert (found.format, found.parameters, found.tensors) == ("pytorch", 90_560, 20)
    assert weight_requests(hub) == []


def test_the_size_of_pickled_weights_is_the_hub_s(hub, files) -> None:
    kept = {name: data for name, data in files.items() if name != "model.safetensors"}
    hub.commit({**kept, "pytorch_model.bin": b"x" * 5000})
    assert inspect_any("org/tiny", DEFAULT).source_bytes == 5000


def test_a_head_that_cannot_be_compared_from_afar_is_said_to_be(hub, files, tmp_path) -> None:
    rows = tensors(tmp_path / "tiny")["model.embed_tokens.weight"]
    other = checkpoint(tmp_path / "other", WIDE, {"lm_head.weight": rows})
    hub.commit({**files, "model.safetensors": (other / "model.safetensors").read_bytes()})
    left_out = inspect_any("org/tiny", DEFAULT).left_out
    assert left_out == {"lm_head.weight": "compared with the embedding when it is converted"}


def test_a_packed_model_is_known_from_afar(hub, tmp_path) -> None:
    packed = checkpoint(tmp_path / "packed", packed=True, dtype=mx.float16)
    hub.commit({path.name: path.read_bytes() for path in packed.iterdir()})
    found = inspect_any("org/tiny", DEFAULT)
    assert found.packings["4-bit, groups of 32"] == 14 and found.parameters == 90_560


def test_a_gguf_is_not_looked_into_from_afar(hub, files) -> None:
    hub.commit({**files, "q4.gguf": b"GGUF"})
    with pytest.raises(ConvertError, match="cannot be inspected without downloading"):
        inspect_any("org/tiny:q4.gguf", DEFAULT)
    assert weight_requests(hub) == []


@pytest.mark.parametrize("text", [b"[]", b'{"model_type": "gpt2"}', b"{}"])
def test_a_configuration_from_afar_that_is_none_is_refused(hub, files, text) -> None:
    hub.commit({**files, "config.json": text})
    with pytest.raises(MobileLLMError):
        inspect_any("org/tiny", DEFAULT)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"\xff", b"[" * 100_000], ids=["", "open", "ff", "deep"]
)
def test_a_configuration_from_afar_that_is_no_json_is_refused(hub, files, text) -> None:
    hub.commit({**files, "config.json": text})
    with pytest.raises(MobileLLMError):
        inspect_any("org/tiny", DEFAULT)


def test_a_named_configuration_counts_from_afar_too(hub, tmp_path) -> None:
    with pytest.raises(MobileLLMError):
        inspect_any("org/tiny", DEFAULT, config=tmp_path / "gone.json")


@pytest.mark.parametrize("data", [b"", b"\xff" * 100, (10).to_bytes(8, "little") + b"[" * 100])
def test_a_damaged_header_from_afar_is_refused(hub, files, data) -> None:
    hub.commit({**files, "model.safetensors": data})
    with pytest.raises(MobileLLMError):
        inspect_any("org/tiny", DEFAULT)


def test_two_shards_with_one_tensor_are_refused_from_afar_as_here(hub, files) -> None:
    weights = files.pop("model.safetensors")
    shards = {f"model-0000{n}-of-00002.safetensors": weights for n in (1, 2)}
    index = {"weight_map": {"x": "model-00001-of-00002.safetensors"}}
    hub.commit({**files, **shards, "model.safetensors.index.json": json.dumps(index).encode()})
    with pytest.raises(ConvertError, match="is stored in two files"):
        list(convert_any("org/tiny", Path("unused"), FAST))


# By name, as `chat -m org/name` has it


def test_a_model_of_the_hub_is_made_once_and_then_asked_nobody_for(
    hub, monkeypatch, capsys
) -> None:
    from mobilellm_mlx.cli.shared import resolve_model

    first = resolve_model("org/tiny")
    assert first == local_directory("org/tiny") and load_model(first).info.bits == 4
    assert "is fetched from the Hugging Face Hub" in capsys.readouterr().err
    hub.requests.clear()
    no_sockets(monkeypatch)
    monkeypatch.setattr(huggingface, "inspect_repo", lambda *_: pytest.fail("asked"))
    assert resolve_model("org/tiny") == first
    assert hub.requests == [] and capsys.readouterr().err == ""


def test_a_model_that_failed_is_tried_again(hub, files) -> None:
    from mobilellm_mlx.cli.shared import resolve_model

    hub.commit({**files, "tokenizer.json": b"{}"})
    with pytest.raises(MobileLLMError):
        resolve_model("org/tiny")
    directory = local_directory("org/tiny")
    assert directory is not None and not directory.exists()
    hub.commit(files)
    assert resolve_model("org/tiny") == directory


def test_only_names_of_the_hub_are_converted_so() -> None:
    with pytest.raises(MobileLLMError, match="not the name of a model"):
        list(sources.ensure_converted("./path"))
