"""The registry keeps adapters whole, under names that are safe, and loses none."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from mobilellm_mlx.adapters import Registry, fits, model_sha256, read_info, registry
from mobilellm_mlx.adapters.registry import check_name
from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import AdapterError, ModelNotFound, StorageError
from tests.adapters.made import write_random_adapter
from tests.adapters.test_record import write


@pytest.fixture
def here(tmp_path: Path) -> Registry:
    """Holds ``pirate``; ``tools`` came with the program."""
    write(tmp_path / "pirate")
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    write(shipped / "tools")
    found = Registry(tmp_path / "root", shipped)
    found.add(tmp_path / "pirate", "pirate")
    return found


def files_in(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def names(found: Registry) -> list[str]:
    return [info.name for info in found.list()]


def test_what_was_added_is_found_beside_what_was_shipped(here: Registry) -> None:
    assert names(here) == ["pirate", "tools"]
    assert [info.shipped for info in here.list()] == [False, True]
    assert here.find("pirate").path == here.root / "pirate"


def test_a_directory_is_found_too(here: Registry, tmp_path: Path) -> None:
    assert here.find(str(write(tmp_path / "elsewhere"))).name == "elsewhere"


def test_a_name_that_is_nearly_one_is_suggested(here: Registry) -> None:
    with pytest.raises(AdapterError) as error:
        here.find("pirat")
    assert error.value.hint == "did you mean `pirate`?"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../up", "a/b", "/etc", ".hidden", "-rm", "a b", "a\nb", "ü", "x" * 65]
)
def test_a_name_that_is_a_way_somewhere_is_refused(name: str, here: Registry) -> None:
    for act in (check_name, lambda n: here.rename("pirate", n)):
        with pytest.raises(AdapterError, match="cannot be the name"):
            act(name)
    assert here.kept(name) is None
    assert names(here) == ["pirate", "tools"]


def test_a_name_is_given_once(here: Registry, tmp_path: Path) -> None:
    for taken in ("pirate", "Pirate", "tools"):
        with pytest.raises(AdapterError, match="already"):
            here.add(tmp_path / "pirate", taken)
    with pytest.raises(AdapterError, match="already"):
        here.rename("pirate", "TOOLS")
    assert here.rename("pirate", "Pirate").name == "Pirate"


def test_one_of_the_same_name_goes_when_it_may(here: Registry, tmp_path: Path) -> None:
    (tmp_path / "pirate" / "README.md").write_text("newer")
    here.add(tmp_path / "pirate", "pirate", replacing=True)
    assert (here.root / "pirate" / "README.md").read_text() == "newer"
    assert files_in(here.root) == ["pirate"]
    with pytest.raises(AdapterError, match="already"):
        here.add(tmp_path / "pirate", "tools", replacing=True)


def test_a_free_name_is_near_the_one_that_was_wanted(here: Registry) -> None:
    assert here.free_name("captain") == "captain"
    assert here.free_name("pirate") == "pirate-2"
    assert here.free_name("my data/ü (1)") == "my-data-1"
    assert here.free_name("...") == "adapter"


def test_what_was_shipped_is_not_changed(here: Registry) -> None:
    for act in (here.remove, lambda name: here.rename(name, "mine")):
        with pytest.raises(AdapterError, match="came with the program"):
            act("tools")
    assert names(here) == ["pirate", "tools"]


def test_a_removed_adapter_is_gone(here: Registry) -> None:
    here.remove("pirate")
    assert names(here) == ["tools"] and files_in(here.root) == []


def test_of_a_link_only_the_link_is_removed(here: Registry, tmp_path: Path) -> None:
    (here.root / "linked").symlink_to(tmp_path / "pirate")
    here.remove("linked")
    assert (tmp_path / "pirate" / "adapter_config.json").is_file()
    assert names(here) == ["pirate", "tools"]


def test_a_link_has_its_own_name_by_whatever_way_it_is_found(
    here: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = here.root / "linked"
    link.symlink_to(tmp_path / "pirate")
    found = (here.find("linked"), here.find(str(link)), read_info(link), here.kept("linked"))
    assert [info.name for info in found if info] == ["linked"] * 4
    monkeypatch.chdir(tmp_path / "pirate")
    assert read_info(Path()).name == "pirate"
    (tmp_path / "pirate" / "deeper").mkdir()
    assert read_info(Path("deeper/..")).name == "pirate"


@pytest.mark.parametrize("forbidden", ["root", "root/pirate", "pirate/adapters.safetensors"])
def test_what_may_not_be_looked_at_is_a_sentence(
    here: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forbidden: str
) -> None:
    stat = Path.stat

    def refuse(path: Path, **options: Any) -> os.stat_result:
        if path == tmp_path / forbidden:
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", refuse)
    asked = [lambda: read_info(tmp_path / "pirate")]
    if forbidden.startswith("root"):
        asked = [here.list, here.damaged, lambda: here.find("x"), lambda: here.free_name("x")]
    for ask in asked:
        with pytest.raises((AdapterError, StorageError), match="cannot be read: Permission"):
            ask()


def test_one_damaged_adapter_does_not_hide_the_others(here: Registry) -> None:
    write(here.root / "broken", [])
    assert names(here) == ["pirate", "tools"]
    assert list(here.damaged()) == ["broken"]
    here.remove("broken")
    assert here.damaged() == {}


def test_only_an_adapters_own_files_are_copied(here: Registry, tmp_path: Path) -> None:
    source = tmp_path / "pirate"
    (source / "secret.txt").write_text("mine")
    here.add(source, "copy")
    assert files_in(here.root / "copy") == ["adapter_config.json", "adapters.safetensors"]
    (source / "README.md").symlink_to(source / "secret.txt")
    with pytest.raises(AdapterError, match="link"):
        here.add(source, "another")
    assert files_in(here.root) == ["copy", "pirate"]  # nothing half-made is left


def test_an_export_is_a_directory_of_its_own(here: Registry, tmp_path: Path) -> None:
    assert here.export("tools", tmp_path / "out" / "tools").path == tmp_path / "out" / "tools"
    assert read_info(tmp_path / "out" / "tools").rank == 4
    with pytest.raises(StorageError, match="already"):
        here.export("tools", tmp_path / "out")


def test_what_only_we_can_use_is_not_exported(here: Registry, tmp_path: Path) -> None:
    write(here.root / "twice", manifest={"per_run": True})
    with pytest.raises(AdapterError, match="mlx-lm lacks"):
        here.export("twice", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_nothing_half_made(
    here: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(StorageError, match="No space left"):
        here.add(tmp_path / "pirate", "another")
    assert files_in(here.root) == ["pirate"]


def test_the_registry_lies_among_the_persons_data(home: Path) -> None:
    assert Registry().root == home / "data" / "adapters"
    assert Registry(shipped=home).list() == []
    assert registry.SHIPPED.name == "shipped"


# -------------------------------------------------------------------- whose adapter it is


def test_an_adapter_fits_its_base_wherever_that_lies(tiny_dir: Path, tmp_path: Path) -> None:
    info = write_random_adapter(tmp_path / "one", tiny_dir)
    shutil.copytree(tiny_dir, tmp_path / "copy")
    assert fits(info, tmp_path / "copy") is True
    (tmp_path / "copy" / "config.json").write_text("{}")
    assert fits(info, tmp_path / "copy") is False
    assert fits(read_info(write(tmp_path / "theirs")), tiny_dir) is None
    with pytest.raises(ModelNotFound):
        model_sha256(tmp_path)


def test_the_same_numbers_are_the_same_model_however_they_are_written(tmp_path: Path) -> None:
    config = {"model_type": "llama", "vocab_size": 8, "quantization": {"bits": 4}}
    arrays = {"b": mx.arange(6), "a": mx.ones((2, 3))}
    places = [tmp_path / name for name in ("one", "other", "third")]
    for place in places:
        place.mkdir()
    (places[0] / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(places[0] / "model.safetensors"), arrays)
    # Another order of keys and tensors, more said about the packing, and a manifest.
    other = {"quantization": {"bits": 4, "mode": "affine"}, "vocab_size": 8, "model_type": "llama"}
    (places[1] / "config.json").write_text(json.dumps(other, indent=2))
    mx.save_safetensors(
        str(places[1] / "model.safetensors"), dict(reversed(arrays.items())), {"made": "later"}
    )
    (places[1] / "mobilellm.json").write_text("{}")
    assert model_sha256(places[0]) == model_sha256(places[1])
    (places[2] / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(places[2] / "model.safetensors"), {**arrays, "b": mx.arange(1, 7)})
    assert model_sha256(places[2]) != model_sha256(places[0])
    (places[2] / "config.json").write_text(json.dumps({**config, "vocab_size": 9}))
    mx.save_safetensors(str(places[2] / "model.safetensors"), arrays)
    assert model_sha256(places[2]) != model_sha256(places[0])


@pytest.mark.parametrize("data", [b"", b"weights", b"\xff" * 40, b"\x02" + b"\0" * 7 + b"[]",
                                  b"\x15" + b"\0" * 7 + b'{"a": {"dtype": "x"}}'])  # fmt: skip
def test_a_file_that_is_no_table_of_tensors_is_taken_as_it_is(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "config.json").write_text("not json")
    (tmp_path / "model.safetensors").write_bytes(data)
    first = model_sha256(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(data + b"!")
    assert model_sha256(tmp_path) != first
