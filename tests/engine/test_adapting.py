"""Adapters are put on and taken off while the model stays in memory, and one always answers."""

import json
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import CHATML, MOBILELLM, write_model

from mobilellm_mlx.adapters import model_sha256
from mobilellm_mlx.chat import Session
from mobilellm_mlx.engine import Engine
from mobilellm_mlx.errors import AdapterError, TemplateError, WeightsError
from mobilellm_mlx.events import CacheSummary, ModelLoaded, Notice
from mobilellm_mlx.messages import Message
from mobilellm_mlx.options import GenerationOptions, LoadOptions
from tests.adapters.made import write_random_adapter
from tests.engine.test_engine import PATIENCE_S, read, summary_of, within
from tests.engine.test_switching import ROOM, leave_room, needed

HI = [Message("user", "hi there")]
SHORT = GenerationOptions(max_tokens=8)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path) -> Path:
    """Two adapters of the tiny model; not to be written to."""
    place = tmp_path_factory.mktemp("adapters")
    write_random_adapter(place / "pirate", tiny_dir)
    write_random_adapter(place / "tools", tiny_dir, method="dora", seed=1)
    return place


@pytest.fixture
def engine(tiny_dir: Path) -> Iterator[Engine]:
    engine = Engine(tiny_dir)
    yield engine
    within(PATIENCE_S, engine.close)


def tokens(engine: Engine, **told: Any) -> list[int]:
    return summary_of(engine.chat(HI, SHORT, **told)).tokens


def model_of(engine: Engine) -> Any:
    assert engine._worker._generator is not None
    return engine._worker._generator.loaded.model


def test_an_adapter_changes_the_answers_until_it_is_taken_off(engine: Engine, made: Path) -> None:
    bare = tokens(engine)
    network = model_of(engine)
    worn = read(engine.adapt(made / "pirate"))[-1]
    assert isinstance(worn, ModelLoaded) and worn == engine.info
    assert worn.adapter == "pirate"
    assert tokens(engine) != bare
    read(engine.adapt(None))
    assert engine.info is not None and engine.info.adapter is None
    assert tokens(engine) == bare
    assert model_of(engine) is network  # nothing was loaded again


def test_each_adapter_has_a_fingerprint_of_its_own(engine: Engine, made: Path) -> None:
    found = []
    for path in (None, made / "pirate", made / "tools", None, made / "pirate"):
        *_, loaded = read(engine.adapt(path))
        found.append(loaded.fingerprint)
    assert found[0] == found[3] and found[1] == found[4]
    assert len(set(found)) == 3


def test_an_engine_can_begin_with_an_adapter(tiny_dir: Path, made: Path, engine: Engine) -> None:
    with Engine(tiny_dir, adapter=made / "pirate") as dressed:
        there = tokens(dressed)  # the first job need not be to load
        assert dressed.info is not None and dressed.info.adapter == "pirate"
    read(engine.adapt(made / "pirate"))
    assert tokens(engine) == there


def test_what_was_read_with_one_adapter_is_not_known_with_another(
    engine: Engine, made: Path
) -> None:
    tokens(engine)
    read(engine.adapt(made / "pirate"))
    assert summary_of(engine.chat(HI, SHORT)).cached_tokens == 0
    assert summary_of(engine.chat(HI, SHORT)).cached_tokens > 0
    read(engine.adapt(made / "pirate"))  # it is on already
    assert summary_of(engine.chat(HI, SHORT)).cached_tokens > 0


def test_a_snapshot_is_of_the_adapter_that_read_it(
    engine: Engine, made: Path, tmp_path: Path
) -> None:
    read(engine.adapt(made / "pirate"))
    tokens(engine)
    read(engine.save_cache(tmp_path / "chat"))
    read(engine.adapt(None))
    refused = read(engine.restore_cache(tmp_path / "chat"))[-1]
    assert isinstance(refused, CacheSummary) and refused.tokens == 0 and refused.reason
    read(engine.adapt(made / "pirate"))
    assert read(engine.restore_cache(tmp_path / "chat"))[-1].tokens > 0


def test_a_question_aside_may_have_another_adapter_and_the_conversation_keeps_its_cache(
    engine: Engine, made: Path
) -> None:
    alone = {}
    for path in (None, made / "tools", made / "pirate"):
        read(engine.adapt(path))
        alone[path] = tokens(engine)
    assert len({tuple(each) for each in alone.values()}) == 3
    for path in (made / "tools", None, made / "tools"):
        assert tokens(engine, aside=True, adapter=path) == alone[path]
        again = summary_of(engine.chat(HI, SHORT))
        assert again.tokens == alone[made / "pirate"]
        assert again.cached_tokens > 0
    assert engine.info is not None and engine.info.adapter == "pirate"


def test_asides_with_one_adapter_know_what_they_have_read(engine: Engine, made: Path) -> None:
    tokens(engine)
    first = summary_of(engine.chat(HI, SHORT, aside=True, adapter=made / "tools"))
    second = summary_of(engine.chat(HI, SHORT, aside=True, adapter=made / "tools"))
    assert first.cached_tokens == 0 and second.cached_tokens > 0


def test_only_a_question_aside_names_an_adapter(engine: Engine, made: Path) -> None:
    with pytest.raises(ValueError, match="adapt"):
        engine.chat(HI, SHORT, adapter=made / "tools")


def test_after_a_damaged_adapter_the_one_before_answers(
    engine: Engine, made: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(made / "pirate", broken)
    whole = (broken / "adapters.safetensors").read_bytes()
    (broken / "adapters.safetensors").write_bytes(whole[:-4])
    read(engine.adapt(made / "tools"))
    before, info = tokens(engine), engine.info
    for job in (engine.adapt(broken), engine.chat(HI, SHORT, aside=True, adapter=broken)):
        with pytest.raises(AdapterError):
            read(job)
        again = summary_of(engine.chat(HI, SHORT))
        assert again.tokens == before and again.cached_tokens > 0
        assert engine.info == info


def test_a_damaged_adapter_at_the_start_leaves_the_model(
    tiny_dir: Path, tmp_path: Path, engine: Engine
) -> None:
    with Engine(tiny_dir, adapter=tmp_path / "nothing") as other:
        with pytest.raises(AdapterError):
            read(other.load())
        assert tokens(other) == tokens(engine)


def test_an_adapter_whose_files_go_away_stays_on(
    engine: Engine, made: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "pirate"
    shutil.copytree(made / "pirate", kept)
    read(engine.adapt(kept))
    before = tokens(engine)
    shutil.rmtree(kept)
    tokens(engine, aside=True, adapter=made / "tools")
    assert tokens(engine) == before


def test_an_adapter_that_was_trained_further_is_read_again(
    engine: Engine, tiny_dir: Path, tmp_path: Path
) -> None:
    place = tmp_path / "pirate"
    write_random_adapter(place, tiny_dir)
    read(engine.adapt(place))
    before = tokens(engine)
    shutil.rmtree(place)
    write_random_adapter(place, tiny_dir, seed=9)
    aside = tokens(engine, aside=True, adapter=place)
    assert tokens(engine) == before != aside
    read(engine.adapt(place))
    assert tokens(engine) == aside


def test_an_adapter_of_another_model_is_refused_unless_forced(
    engine: Engine, tmp_path: Path
) -> None:
    other = write_model(tmp_path / "other", seed=4)
    write_random_adapter(tmp_path / "theirs", other)
    bare = tokens(engine)
    with pytest.raises(AdapterError, match=r"`theirs` is not for `tiny`.*`other`"):
        read(engine.adapt(tmp_path / "theirs"))
    assert tokens(engine) == bare
    *said, worn = read(engine.adapt(tmp_path / "theirs", force=True))
    assert worn.adapter == "theirs"
    assert any(isinstance(event, Notice) and "other" in event.text for event in said)
    assert tokens(engine) != bare


def test_an_adapter_without_a_base_is_used_and_that_is_said(
    engine: Engine, made: Path, tmp_path: Path
) -> None:
    shutil.copytree(made / "pirate", tmp_path / "theirs")
    (tmp_path / "theirs" / "mobilellm.json").unlink()
    notice, worn = read(engine.adapt(tmp_path / "theirs"))
    assert isinstance(notice, Notice) and "theirs" in notice.text
    assert worn.adapter == "theirs"


def test_packed_and_dense_are_the_same_base(tmp_path: Path) -> None:
    base = write_model(tmp_path / "packed", packed=True)
    write_random_adapter(tmp_path / "one", base)
    for compute in ("packed", "dense"):
        with Engine(base, LoadOptions(compute=compute)) as engine:  # type: ignore[arg-type]
            assert read(engine.adapt(tmp_path / "one"))[-1].adapter == "one"
            assert summary_of(engine.chat(HI, SHORT)).tokens


def test_switching_the_model_takes_the_adapter_off(
    engine: Engine, made: Path, tmp_path: Path
) -> None:
    other = write_model(tmp_path / "other", seed=4)
    read(engine.adapt(made / "pirate"))
    notice, loaded = read(engine.load(other))
    assert isinstance(notice, Notice) and "pirate" in notice.text
    assert (loaded.model, loaded.adapter) == ("other", None)
    with Engine(other) as fresh:
        assert tokens(engine) == tokens(fresh)


def test_a_copy_of_the_model_keeps_the_adapter_on(
    engine: Engine, made: Path, tiny_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_dir, tmp_path / "copy")
    read(engine.adapt(made / "pirate"))
    before = tokens(engine)
    assert read(engine.load(tmp_path / "copy"))[-1].adapter == "pirate"
    assert tokens(engine) == before


def test_a_model_that_cannot_be_loaded_leaves_the_adapter_on(
    engine: Engine, made: Path, tmp_path: Path
) -> None:
    read(engine.adapt(made / "pirate"))
    before = tokens(engine)
    broken = write_model(tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(Exception, match=r"model\.safetensors"):
        read(engine.load(broken))
    assert tokens(engine) == before
    assert engine.info is not None and engine.info.adapter == "pirate"


def test_a_forced_adapter_is_on_again_when_the_model_had_to_make_way(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_model(tmp_path / "other", seed=4)
    write_random_adapter(tmp_path / "theirs", other)
    read(engine.adapt(tmp_path / "theirs", force=True))
    before = tokens(engine)
    broken = write_model(tmp_path / "broken")
    whole = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(whole.replace(b"k_proj", b"x_proj"))
    leave_room(monkeypatch, needed(broken) - 1, ROOM)
    with pytest.raises(WeightsError):
        read(engine.load(broken))
    assert engine._worker._generator is None  # there was no room for both
    assert tokens(engine) == before
    assert engine.info is not None and engine.info.adapter == "theirs"


def test_an_adapter_makes_a_base_model_chat(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", template=None)
    write_random_adapter(tmp_path / "talker", base, template=CHATML, stop_token="<|im_start|>")
    with Engine(base) as engine:
        read(engine.load())
        assert engine.info is not None and not engine.info.chat
        with pytest.raises(TemplateError):
            read(engine.chat(HI, SHORT))
        assert read(engine.adapt(tmp_path / "talker"))[-1].chat
        assert engine.template == CHATML
        assert engine.count_tokens(HI) > 0
        assert tokens(engine)
        assert engine._worker._generator is not None
        assert 256 in engine._worker._generator.loaded.stop_tokens
        read(engine.adapt(None))
        assert engine.template is None
        with pytest.raises(TemplateError):
            read(engine.chat(HI, SHORT))


@pytest.mark.parametrize(
    "told", [{"template": "{% for %}"}, {"stop_token": "<|no_such|>"}], ids=["template", "stop"]
)
def test_words_that_cannot_be_used_are_refused(
    engine: Engine, tiny_dir: Path, tmp_path: Path, told: dict[str, Any]
) -> None:
    write_random_adapter(tmp_path / "odd", tiny_dir, **told)
    bare = tokens(engine)
    with pytest.raises((AdapterError, TemplateError)):
        read(engine.adapt(tmp_path / "odd"))
    assert tokens(engine) == bare


def test_the_adapter_before_the_last_one_is_let_go(engine: Engine, made: Path) -> None:
    read(engine.adapt(made / "pirate"))
    assert engine._worker._wardrobe is not None
    modules = engine._worker._wardrobe._outfits[0].modules
    old = weakref.ref(modules["model.layers.0.self_attn.q_proj"])
    del modules
    read(engine.adapt(made / "tools"))
    assert old() is not None  # one may change one's mind
    read(engine.adapt(None))
    assert old() is None


def test_the_session_notes_which_adapter_answered(engine: Engine, made: Path) -> None:
    session = Session(engine, overrides={"max_tokens": 4})
    assert session.adapter is None
    read(session.send("hi"))
    read(engine.adapt(made / "pirate"))
    read(session.send("and now?"))
    made_with = [m.made[-1].adapter for m in session.branch if m.made]
    assert made_with == [None, "pirate"]


def test_a_shared_block_may_have_an_adapter_for_each_run(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", MOBILELLM)
    found = []
    for per_run in (False, True):
        write_random_adapter(tmp_path / f"{per_run}", base, per_run=per_run)
        with Engine(base, adapter=tmp_path / f"{per_run}") as engine:
            found.append(tokens(engine))
    assert found[0] != found[1]
    manifest = tmp_path / "True" / "mobilellm.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "per_run": False}))
    with Engine(base) as engine, pytest.raises(AdapterError, match="this model wants"):
        read(engine.adapt(tmp_path / "True"))


def test_the_hash_of_a_model_is_of_its_files(tiny_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_dir, tmp_path / "copy")
    assert model_sha256(tmp_path / "copy") == model_sha256(tiny_dir)
    weights = tmp_path / "copy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    assert model_sha256(tmp_path / "copy") != model_sha256(tiny_dir)
