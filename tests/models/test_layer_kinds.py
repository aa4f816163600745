"""Every kind of block: windows, chunks, no positions, no attention, several runs.

The reference is ``twin.py``, which is itself held against transformers in ``test_llama4.py``.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from tiny import LLAMA, MOBILELLM, make_model, pack
from tolerances import FP32_REORDERED, assert_close

from mobilellm_mlx.backend import mx, tree_flatten
from mobilellm_mlx.errors import ConfigError
from mobilellm_mlx.models import (
    KVCache,
    LanguageModel,
    LayerConfig,
    ModelConfig,
    RopeConfig,
    RotatingKVCache,
    TemperatureConfig,
    build_config,
)
from tests.models import twin
from tests.models.test_incremental import feed

WINDOW = 8
PRO: dict[str, Any] = {
    "architectures": ["MobileLLMP1ForCausalLM"],
    "model_type": "llama4_text",
    "vocab_size": 258,
    "hidden_size": 32,
    "intermediate_size": 64,
    "intermediate_size_mlp": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_chunk_size": 8192,
    "attn_scale": 0.1,
    "attn_temperature_tuning": False,
    "floor_scale": 8192,
    "interleave_moe_layer_step": 0,
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
    "max_position_embeddings": 1024,
    "moe_layers": [],
    "no_rope_layers": [1, 1, 1, 1],
    "num_local_experts": 0,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "rope_theta": 500_000.0,
    "sliding_window": WINDOW,
    "tie_word_embeddings": True,
    "use_qk_norm": True,
}
FLASH: dict[str, Any] = MOBILELLM | {
    "layer_sharing": False,
    "num_hidden_layers": 4,
    "layer_types": ["full_attention", "none", "none", "full_attention"],
}


def checkpoint(raw: Mapping[str, Any]) -> tuple[LanguageModel, list[twin.Kind]]:
    """The network of a ``config.json``, and what the twin makes of each of its blocks."""
    count = raw["num_hidden_layers"]
    llama4 = raw["model_type"] == "llama4_text"
    kinds = [
        twin.Kind(
            attention=kind.removesuffix("_attention"),
            size=raw.get("sliding_window", 0),
            theta=raw.get("rope_theta", 10_000.0) if rope else None,
            interleaved=llama4,
            qk_norm=bool(llama4 and rope),
            runs=raw.get("layer_runs", 2 if raw.get("layer_sharing") else 1),
        )
        for kind, rope in zip(
            raw.get("layer_types", ["full_attention"] * count),
            raw.get("no_rope_layers", [1] * count),
            strict=True,
        )
    ]
    return make_model(raw), kinds


def network(*layers: LayerConfig) -> tuple[LanguageModel, list[twin.Kind]]:
    """A network of these blocks, whatever family has them, and the same for the twin."""
    config = ModelConfig("any", 258, 32, 64, 4, 2, 8, 1024, layers)
    model, rng = LanguageModel(config), np.random.default_rng(3)
    weights = {}
    for name, array in tree_flatten(model.parameters()):
        mean, spread = (1.0, 0.2) if array.ndim == 1 else (0.0, 1.5 / np.sqrt(array.shape[-1]))
        weights[name] = mx.array(rng.normal(mean, spread, array.shape).astype(np.float32))
    model.load_weights(list(weights.items()), strict=True)
    kinds = [
        twin.Kind(
            attention=layer.attention,
            size=layer.window or 0,
            theta=layer.rope.theta if layer.rope else None,
            interleaved=bool(layer.rope and layer.rope.traditional),
            qk_norm=layer.qk_norm,
            temperature=layer.temperature
            and (layer.temperature.floor_scale, layer.temperature.attn_scale),
            runs=layer.runs,
        )
        for layer in layers
    ]
    return model, kinds


def by_twin(model: LanguageModel, kinds: list[twin.Kind], ids: mx.array) -> np.ndarray:
    config = model.config
    return twin.forward(
        np.array(ids),
        {name: np.array(array) for name, array in tree_flatten(model.parameters())},
        kinds,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        eps=config.rms_norm_eps,
        feed_forward=config.feed_forward_name,
    )


def tokens(length: int, batch: int = 1) -> mx.array:
    return mx.random.randint(0, 258, (batch, length), key=mx.random.key(11))


INTERLEAVED = RopeConfig(500_000.0, traditional=True)
SLIDING = LayerConfig("sliding", WINDOW)
NETWORKS = {
    "pro": lambda: checkpoint(PRO),
    "pro-without-positions": lambda: checkpoint(PRO | {"no_rope_layers": [0, 1, 0, 1]}),
    "flash": lambda: checkpoint(FLASH),
    "flash-that-begins-without": lambda: checkpoint(
        FLASH | {"layer_types": ["none", "full_attention", "full_attention", "none"]}
    ),
    "flash-twice": lambda: checkpoint(FLASH | {"layer_sharing": True}),
    "one-run": lambda: checkpoint(MOBILELLM | {"layer_sharing": False}),
    "layer-sharing": lambda: checkpoint(MOBILELLM),
    "three-runs": lambda: checkpoint(MOBILELLM | {"layer_sharing": False, "layer_runs": 3}),
    "four-runs": lambda: checkpoint(MOBILELLM | {"layer_sharing": False, "layer_runs": 4}),
    "only-windows": lambda: network(SLIDING, LayerConfig("sliding", 3, INTERLEAVED)),
    "window-of-one": lambda: network(LayerConfig("sliding", 1), LayerConfig()),
    "window-run-twice": lambda: network(LayerConfig("sliding", WINDOW, runs=2), LayerConfig()),
    "windows-and-chunks": lambda: network(
        LayerConfig("sliding", WINDOW, INTERLEAVED, qk_norm=True),
        LayerConfig("chunked", 5),
        LayerConfig("sliding", 300, None, temperature=TemperatureConfig(30, 0.2)),
    ),
    "everything": lambda: network(
        LayerConfig("sliding", WINDOW, INTERLEAVED, qk_norm=True, runs=2),
        LayerConfig("none", runs=3),
        LayerConfig("chunked", 5, INTERLEAVED, qk_norm=True),
        LayerConfig("full", rope=None, temperature=TemperatureConfig(4, 0.5)),
        LayerConfig("sliding", 3, None, temperature=TemperatureConfig(3, 0.2)),
        LayerConfig("full", runs=4),
    ),
}
Case = tuple[LanguageModel, list[twin.Kind]]


@pytest.fixture(params=NETWORKS)
def case(request: pytest.FixtureRequest) -> Case:
    return NETWORKS[request.param]()


# The same as the twin, however the tokens are given


@pytest.mark.parametrize("length", [1, WINDOW - 1, WINDOW, WINDOW + 1, 40])
def test_a_network_equals_the_twin_below_at_and_beyond_the_window(case: Case, length: int) -> None:
    model, kinds = case
    ids = tokens(length, batch=2)
    assert_close(model(ids), by_twin(model, kinds, ids), FP32_REORDERED, f"{length} tokens")


@pytest.mark.parametrize("prefill", [WINDOW - 1, WINDOW, WINDOW + 1, 31])
def test_one_token_at_a_time_after_a_prompt_equals_the_twin(case: Case, prefill: int) -> None:
    model, kinds = case
    ids = tokens(40)
    got = feed(model, ids, [prefill] + [1] * (40 - prefill))
    assert_close(got, by_twin(model, kinds, ids), FP32_REORDERED, f"{prefill}, then one by one")


@pytest.mark.parametrize(
    "pieces", [[3] * 13 + [1], [8] * 5, [11, 11, 11, 7], [20, 1, 19], [1, 39], [9, 2, 1, 1, 27]]
)
def test_a_prompt_in_pieces_equals_the_twin(case: Case, pieces: list[int]) -> None:
    model, kinds = case
    ids = tokens(40, batch=2)
    got = feed(model, ids, pieces)
    assert_close(got, by_twin(model, kinds, ids), FP32_REORDERED, f"pieces {pieces}")


@pytest.mark.parametrize("pieces", [[200] + [1] * 70, [300, 1, 120, 4], [250, 11, 50], [255, 1, 9]])
@pytest.mark.parametrize("name", ["pro", "windows-and-chunks"])
def test_far_beyond_the_window_it_still_equals_the_twin(name: str, pieces: list[int]) -> None:
    """Long enough that the buffer of a window is used up and its tokens move to the front."""
    model, kinds = NETWORKS[name]()
    ids = tokens(sum(pieces))
    got = feed(model, ids, pieces)
    assert_close(got, by_twin(model, kinds, ids), FP32_REORDERED, f"{name}, {pieces[:2]}...")


@pytest.mark.parametrize("name", ["pro", "flash", "everything"])
def test_packed_in_four_bits_in_pieces_equals_all_at_once(name: str) -> None:
    model = pack(NETWORKS[name]()[0])
    ids = tokens(40)
    got = feed(model, ids, [11, 1, 8, 20])
    assert_close(got, model(ids), FP32_REORDERED, f"{name} packed")


# What a token sees


def changes(layer: LayerConfig, length: int) -> list[int]:
    """Which of the tokens matter to the last one, in a network of this one block."""
    model, _ = network(layer)
    ids = tokens(length)
    last = np.array(model(ids)[:, -1])
    matter = []
    for position in range(length):
        step = mx.where(mx.arange(length) == position, 1, 0)
        if np.abs(np.array(model((ids + step) % 258)[:, -1]) - last).max() > 1e-4:
            matter.append(position)
    return matter


def test_a_window_of_eight_is_a_token_and_the_seven_before_it() -> None:
    assert changes(SLIDING, 20) == list(range(12, 20))


def test_a_chunk_begins_at_a_multiple_of_its_size() -> None:
    assert changes(LayerConfig("chunked", 8), 20) == list(range(16, 20))
    assert changes(LayerConfig("chunked", 8), 17) == [16]
    assert changes(LayerConfig("chunked", 8), 16) == list(range(8, 16))


def test_full_attention_sees_everything_and_none_only_the_token_itself() -> None:
    assert changes(LayerConfig(), 20) == list(range(20))
    assert changes(LayerConfig("none"), 20) == [19]


# Names and numbers of parameters and caches


def test_a_block_without_attention_has_no_parameters_of_attention() -> None:
    model, _ = checkpoint(FLASH)
    names = {n for n, _ in tree_flatten(model.parameters()) if n.startswith("model.layers.1.")}
    assert names == {
        "model.layers.1.post_attention_layernorm.weight",
        "model.layers.1.mlp.gate_proj.weight",
        "model.layers.1.mlp.up_proj.weight",
        "model.layers.1.mlp.down_proj.weight",
    }


@pytest.mark.parametrize(("name", "caches"), [("flash", 2), ("flash-twice", 4), ("four-runs", 8)])
def test_there_is_one_cache_for_each_run_of_attention(name: str, caches: int) -> None:
    model, _ = NETWORKS[name]()
    assert len(model.make_cache()) == model.config.attention_runs == caches


def test_only_blocks_with_a_window_get_a_rotating_cache() -> None:
    kinds = [type(cache) for cache in checkpoint(PRO)[0].make_cache()]
    assert kinds == [KVCache, RotatingKVCache, RotatingKVCache, KVCache]


def test_the_configuration_counts_the_parameters_that_the_network_holds(case: Case) -> None:
    model, _ = case
    stored = sum(array.size for _, array in tree_flatten(model.parameters()))
    assert model.config.parameter_count() == stored


def test_more_runs_store_no_more_parameters() -> None:
    plain = MOBILELLM | {"layer_sharing": False}
    counts = {build_config(plain | {"layer_runs": n}).parameter_count() for n in (1, 2, 3, 4)}
    assert counts == {build_config(plain).parameter_count()}


# Settings


def pro(**changed: Any) -> dict[str, Any]:
    return PRO | changed


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        (pro(sliding_window=0), "window"),
        (pro(sliding_window=-1), "`sliding_window`"),
        (pro(sliding_window=True), "`sliding_window`"),
        (pro(layer_types=["full_attention"] * 3), "`layer_types`"),
        (pro(layer_types=["sliding"] * 4), "`layer_types`"),
        (FLASH | {"layer_types": ["full_attention", "none"]}, "`layer_types`"),
        (FLASH | {"layer_types": ["full_attention", "nothing"] * 2}, "`layer_types`"),
        (FLASH | {"layer_types": "none"}, "`layer_types`"),
        (MOBILELLM | {"layer_sharing": False, "layer_runs": 0}, "runs"),
        (MOBILELLM | {"layer_sharing": False, "layer_runs": -1}, "`layer_runs`"),
        (MOBILELLM | {"layer_sharing": False, "layer_runs": True}, "`layer_runs`"),
        (MOBILELLM | {"layer_sharing": False, "layer_runs": 1.5}, "`layer_runs`"),
    ],
)
def test_a_setting_that_cannot_be_obeyed_is_refused_by_name(
    raw: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        build_config(raw)


def test_layer_sharing_is_two_runs() -> None:
    plain = {name: value for name, value in MOBILELLM.items() if name != "layer_sharing"}
    assert build_config(MOBILELLM) == build_config(plain | {"layer_runs": 2})
    assert build_config(plain) == build_config(plain | {"layer_runs": 1})


def test_a_llama_without_layer_types_is_what_it_was() -> None:
    assert build_config(LLAMA).layers == (LayerConfig(),) * 2


@pytest.mark.parametrize(
    "layer",
    [
        LayerConfig("sliding", 0),
        LayerConfig("sliding", None),
        LayerConfig("chunked", -1),
        LayerConfig("full", 8),
        LayerConfig("none", 8),
        LayerConfig(runs=0),
        LayerConfig(rope=RopeConfig(theta=0.0)),
    ],
)
def test_an_impossible_block_is_refused(layer: LayerConfig) -> None:
    with pytest.raises(ConfigError):
        ModelConfig("any", 258, 32, 64, 4, 2, 8, 1024, (LayerConfig(), layer))


# The published networks, built lazily: nothing is evaluated

FULL_OF_PRO = (0, 4, 8, 12, 16, 20, 24, 28, 29)


def pro_config() -> ModelConfig:
    """MobileLLM-Pro; its `rope_theta` and `use_qk_norm` are not known, and change no count."""
    return build_config(
        pro(
            vocab_size=202_048,
            hidden_size=1280,
            intermediate_size=6144,
            intermediate_size_mlp=6144,
            num_hidden_layers=30,
            num_attention_heads=20,
            num_key_value_heads=4,
            head_dim=64,
            sliding_window=512,
            max_position_embeddings=131_072,
            no_rope_layers=[1] * 30,
            layer_types=[
                "full_attention" if layer in FULL_OF_PRO else "sliding_attention"
                for layer in range(30)
            ],
        )
    )


def test_pro_has_exactly_its_published_parameters() -> None:
    config = pro_config()
    stored = tree_flatten(LanguageModel(config).parameters())
    assert sum(array.size for _, array in stored) == 1_084_453_120
    assert config.parameter_count() == 1_084_453_120


def test_windows_cut_the_keys_and_values_of_pro_from_117_to_40_mebibytes() -> None:
    config, mebibyte = pro_config(), 2**20
    assert config.kv_bytes(8000, 1) == (9 * 8000 + 21 * 512) * 2 * 4 * 64
    assert config.kv_bytes(8000, 1) / mebibyte == pytest.approx(40.4, abs=0.05)
    assert 8000 * config.kv_bytes_per_token(1) / mebibyte == pytest.approx(117, abs=0.5)
    assert config.kv_bytes(8000, 2) == 2 * config.kv_bytes(8000, 1)


@pytest.mark.parametrize("held", [0, 1, 511, 512])
def test_up_to_the_window_of_pro_all_blocks_hold_the_same(held: int) -> None:
    config = pro_config()
    assert config.kv_bytes(held, 1) == held * config.kv_bytes_per_token(1)
    assert config.kv_bytes(513, 1) == 512 * config.kv_bytes_per_token(1) + 9 * 2 * 4 * 64


FLASHES = {
    "350m": (12, 1024, 4096, (0, 1, 3, 6, 7, 9, 11)),
    "650m": (13, 1280, 6144, (0, 2, 3, 5, 7, 8, 9, 10)),
    "1.4b": (16, 2048, 8192, tuple(range(16))),
}


@pytest.mark.parametrize("name", FLASHES)
def test_a_flash_attends_and_caches_in_the_published_blocks_only(name: str) -> None:
    """Its counts of parameters are not published (nor its vocabulary): only its blocks are."""
    layers, dim, ffn, attending = FLASHES[name]
    model = LanguageModel(
        build_config(
            FLASH
            | {
                "hidden_size": dim,
                "intermediate_size": ffn,
                "num_hidden_layers": layers,
                "num_attention_heads": 32,
                "num_key_value_heads": 8,
                "head_dim": 64,
                "max_position_embeddings": 8192,
                "layer_types": [
                    "full_attention" if layer in attending else "none" for layer in range(layers)
                ],
            }
        )
    )
    names = [name for name, _ in tree_flatten(model.parameters())]
    queries = [name for name in names if name.endswith("q_proj.weight")]
    assert len(queries) == len(model.make_cache()) == len(attending)
    assert {int(name.split(".")[2]) for name in queries} == set(attending)
    assert model.config.kv_bytes(100, 2) == 100 * len(attending) * 2 * 8 * 64 * 2
    stored = sum(array.size for _, array in tree_flatten(model.parameters()))
    assert model.config.parameter_count() == stored


@pytest.mark.parametrize("prompt", [511, 512, 513, 700])
def test_the_published_window_is_exact_at_its_edges_and_beyond(prompt: int) -> None:
    """Pro's window of 512, a prompt in pieces of 256 as on a CPU, then one token at a time."""
    raw = PRO | {"sliding_window": 512, "max_position_embeddings": 1024}
    model = make_model(raw)
    tokens = mx.array([[(7 * i) % raw["vocab_size"] for i in range(prompt + 4)]])
    whole = model(tokens)
    caches = model.make_cache()
    pieces = [model(tokens[:, i : min(i + 256, prompt)], caches) for i in range(0, prompt, 256)]
    pieces += [model(tokens[:, i : i + 1], caches) for i in range(prompt, prompt + 4)]
    assert_close(mx.concatenate(pieces, axis=1), whole, FP32_REORDERED, "in pieces")
