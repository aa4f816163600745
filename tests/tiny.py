"""Tiny models for tests: random weights, a byte tokenizer, and a model that says what it is told.

Nothing here reads the network or the user's files; everything is made from a seed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mobilellm_mlx.backend import mx, nn, tree_flatten
from mobilellm_mlx.loading import LoadedModel
from mobilellm_mlx.models import KVCache, LanguageModel, build_config
from mobilellm_mlx.options import GenerationOptions
from mobilellm_mlx.templates import ChatTemplate
from mobilellm_mlx.testing import SCRIPTED_MODEL, ByteTokenizer

GOLDEN = Path(__file__).parent / "golden"

START, END = 256, 257
"""Ids of ``<|im_start|>`` and ``<|im_end|>`` in the tokenizer of ``write_model``."""

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 258,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
MOBILELLM: dict[str, Any] = {
    **{name: value for name, value in LLAMA.items() if name != "tie_word_embeddings"},
    "model_type": "mobilellm",
    "share_embedding": True,
    "layer_sharing": True,
}
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
    "message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def random_weights(raw: Mapping[str, Any], seed: int = 0) -> dict[str, mx.array]:
    """float32 weights for a configuration, large enough that every block matters."""
    rng = np.random.default_rng(seed)
    weights: dict[str, mx.array] = {}
    for name, array in tree_flatten(LanguageModel(build_config(raw)).parameters()):
        if array.ndim == 1:
            values = rng.normal(1.0, 0.2, array.shape)
        else:
            values = rng.normal(0.0, 1.5 / np.sqrt(array.shape[-1]), array.shape)
        weights[name] = mx.array(values.astype(np.float32))
    return weights


def make_model(raw: Mapping[str, Any], seed: int = 0) -> LanguageModel:
    """A network with ``random_weights``."""
    model = LanguageModel(build_config(raw))
    model.load_weights(list(random_weights(raw, seed).items()), strict=True)
    return model


def pack(model: LanguageModel, *, group_size: int = 32, bits: int = 4) -> LanguageModel:
    """The same network, its matrices packed; in place."""
    nn.quantize(model, group_size=group_size, bits=bits)
    return model


def write_byte_tokenizer(directory: Path, **config: Any) -> None:
    """A ``tokenizer.json`` with one token a byte, and the two signs of ChatML."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    signs = ("<|im_start|>", "<|im_end|>")
    tokenizer.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in signs])
    tokenizer.save(str(directory / "tokenizer.json"))
    write_json(directory / "tokenizer_config.json", {"eos_token": "<|im_end|>", **config})


def write_json(path: Path, value: Any) -> None:
    """A JSON file."""
    path.write_text(json.dumps(value), encoding="utf-8")


def write_model(
    directory: Path,
    raw: Mapping[str, Any] = LLAMA,
    *,
    packed: bool = False,
    dtype: mx.Dtype = mx.float32,
    template: str | None = CHATML,
    generation: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Path:
    """A complete model directory with a random tiny network.

    Args:
        directory: made when it is not there.
        raw: its ``config.json``.
        packed: 4-bit weights in groups of 32, 8-bit embedding, as in the default model.
        dtype: of everything that is not packed.
        template: chat template; None makes a base model.
        generation: its ``generation_config.json``, if any.
        seed: of the weights.
    """
    directory.mkdir(parents=True, exist_ok=True)
    model, config = make_model(raw, seed), dict(raw)
    model.set_dtype(dtype)
    if packed:
        embedding = {"group_size": 32, "bits": 8}

        def packing(path: str, module: nn.Module) -> bool | dict[str, int]:
            return hasattr(module, "to_quantized") and (embedding if "embed" in path else True)

        nn.quantize(model, group_size=32, bits=4, class_predicate=packing)
        config["quantization"] = {"group_size": 32, "bits": 4, "model.embed_tokens": embedding}
    tensors = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(directory / "model.safetensors"), tensors, {"format": "mlx"})
    write_json(directory / "config.json", config)
    write_byte_tokenizer(directory)
    if template is not None:
        (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
    if generation is not None:
        write_json(directory / "generation_config.json", generation)
    return directory


class ScriptModel:
    """A model whose next token depends on the position alone: after ``p`` comes ``script[p]``.

    It has one real cache, so everything about caching, limits and look-ahead can be watched.

    Args:
        script: next tokens by position; the last one repeats.
        vocab_size: of its logits.
    """

    def __init__(self, script: Sequence[int], vocab_size: int = 257):
        self._script = mx.array(list(script))
        self._vocab = mx.arange(vocab_size)
        self.config = build_config({**LLAMA, "vocab_size": vocab_size})
        self.fed: list[list[int]] = []
        """Every piece of tokens it was given, in order."""
        self.fail_after: int | None = None
        """Raise when this many pieces were given."""

    def make_cache(self, limit: int | None = None) -> list[KVCache]:
        return [KVCache(limit)]

    def hidden(self, tokens: mx.array, caches: Sequence[KVCache]) -> mx.array:
        """Ids (1, L) to positions (1, L, 1)."""
        if self.fail_after is not None and len(self.fed) >= self.fail_after:
            raise RuntimeError("[malloc] Unable to allocate 12345 bytes.")
        self.fed.append([int(token) for token in tokens[0].tolist()])
        start, length = caches[0].offset, tokens.shape[1]
        nothing = mx.zeros((1, 1, length, 2))
        caches[0].update(nothing, nothing)
        return mx.arange(start, start + length).reshape(1, length, 1)

    def head(self, hidden: mx.array, rows: mx.array | None = None) -> mx.array:
        """Positions (..., 1) to logits (..., V), or (..., C) of the ``rows`` (C,) alone."""
        positions = mx.minimum(hidden[..., 0], self._script.size - 1)
        vocab = self._vocab if rows is None else rows
        return mx.where(vocab == self._script[positions][..., None], 10.0, 0.0)


def script_loaded(
    answer: str | bytes | Sequence[int],
    *,
    prompt: str = "Say it.",
    context_limit: int = 512,
) -> LoadedModel:
    """A loaded ``ScriptModel`` that answers ``prompt`` with ``answer`` and then ends its turn."""
    told = answer.encode() if isinstance(answer, str) else answer
    model = ScriptModel([0] * (len(prompt.encode()) - 1) + list(told) + [256])
    return LoadedModel(
        model=model,  # type: ignore[arg-type]
        tokenizer=ByteTokenizer(),
        template=ChatTemplate("{% for m in messages %}{{ m.content }}<|end|>{% endfor %}"),
        stop_tokens=frozenset({256}),
        defaults=GenerationOptions(),
        context_limit=context_limit,
        info=replace(SCRIPTED_MODEL, model="script", context_limit=context_limit),
    )
