"""Make checkpoints/: whole tiny models as torch and transformers write them, with their logits.

Writers: torch 2.13.0+cpu (torch.save), transformers 5.23.0 (save_pretrained), huggingface_hub
2.4.0 (shards of .bin), safetensors 0.8.0, sentencepiece 0.2.3 (tokenizers), numpy 2.4.6. Seeds
start at 301, one a set of weights. Two runs give the same bytes: torch puts no times into its
archives.
Run: python make_checkpoints.py OUT_DIRECTORY

logits.npz holds "NAME/ids" int32 (2, 17) and "NAME/logits" float32 (2, 17, vocab) by transformers'
LlamaForCausalLM (float32, eager attention) with the weights read back from the files. Checkpoints
of the same weights share one entry; "same" (JSON text) says which. "tensors" (JSON text) lists the
names in the files of each.

v1-tied          as facebook/MobileLLM-125M: float16 .bin, share_embedding, no head
v1-head-shared   the same with lm_head.weight in the storage of the embedding
v1-head-copy     the same with lm_head.weight as an equal copy (the sizes of 600M and 1B say so)
v1-head-differs  lm_head.weight is another matrix: reference by an untied Llama
untied           as MobileLLM-1.5B: model_type llama, a head of its own, bfloat16 .bin
shared-layers    layer_sharing: reference by a Llama of twice the layers
sharded-bin      two .bin files and an index
sharded-safe     safetensors files and an index by save_pretrained(max_shard_size=...)
transposed       every matrix a transposed view, under "state_dict", names begin with "module."
bf16-safe        one bfloat16 safetensors file by save_pretrained
fp64             float64, on no grid
grown            a vocabulary of 96 grown by one token with resize_token_embeddings
"""

import argparse
import json
from collections import OrderedDict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

State = dict[str, torch.Tensor]

V1: dict[str, Any] = {  # the keys and their order of facebook/MobileLLM-125M
    "architectures": ["MobileLLMForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_mobilellm.MobileLLMConfig",
        "AutoModelForCausalLM": "modeling_mobilellm.MobileLLMForCausalLM",
    },
    "bos_token_id": 1,
    "eos_token_id": 2,
    "head_dim": 16,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 64,
    "layer_sharing": False,
    "max_position_embeddings": 64,
    "mlp_bias": False,
    "model_type": "mobilellm",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "share_embedding": True,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.41.2",
    "use_cache": True,
    "vocab_size": 296,
}
SMALL = {
    "head_dim": 4,
    "hidden_size": 24,
    "intermediate_size": 24,
    "num_attention_heads": 6,
    "vocab_size": 96,
}
V1_SMALL = V1 | SMALL
LLAMA = {k: v for k, v in V1_SMALL.items() if k not in ("auto_map", "share_embedding")} | {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "bfloat16",
}
del LLAMA["layer_sharing"]
TOKENIZER_CONFIG = (  # of facebook/MobileLLM-125M, to the letter
    '{"bos_token": "", "eos_token": "", "model_max_length": 1000000000000000019884624838656, '
    '"tokenizer_class": "LlamaTokenizer", "unk_token": ""}'
)
CORPUS = """the ferry left at seven with nine cars and a van full of apples
nobody on the quay could say which box held the brown jug
a quick walk up the hill gave us a fine view over the bay
they fixed the engine with wire and a good deal of hope
we had soup bread and jam and then the rain began again
my zebra puzzle is a maze of very small wooden pieces
the keeper of the light wrote down the hour and the wind
""".splitlines()
STD = {"embed_tokens": 0.2, "lm_head": 0.2, "q_proj": 0.25, "k_proj": 0.25, "v_proj": 0.15}
SEED = 301


def train_tokenizer(vocab_size: int, byte_fallback: bool) -> bytes:
    """Sentencepiece BPE with Llama's signs and its missing normalisation."""
    model = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        byte_fallback=byte_fallback,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def network(config: dict[str, Any], *, tied: bool, runs: int = 1) -> LlamaForCausalLM:
    """transformers' Llama of a configuration, with each block ``runs`` times."""
    known = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "head_dim",
             "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "bos_token_id",
             "eos_token_id")  # fmt: skip
    options = {name: config[name] for name in known}
    options |= {
        "num_hidden_layers": config["num_hidden_layers"] * runs,
        "tie_word_embeddings": tied,
        "rope_parameters": {"rope_type": "default", "rope_theta": config["rope_theta"]},
        "attn_implementation": "eager",
    }
    return LlamaForCausalLM(LlamaConfig(**options)).eval()


def draw(config: dict[str, Any], seed: int, *, tied: bool, grid: bool) -> LlamaForCausalLM:
    """A network of random weights, on a grid that float16 and bfloat16 hold exactly, or on none."""
    rng = np.random.default_rng(seed)
    model = network(config, tied=tied).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # a tied lm_head is not listed
            shape = tuple(parameter.shape)
            mean, std, steps = 0.0, STD.get(name.split(".")[-2], 0.2), 256
            if len(shape) == 1:
                mean, std, steps = 1.0, 0.2, 128
            values = rng.normal(mean, std, shape)
            if grid:
                values = np.clip(np.round(values * steps), -256, 256) / steps
            parameter.copy_(torch.from_numpy(values))
    return model


def state_of(model: LlamaForCausalLM, dtype: torch.dtype, *, head: bool) -> State:
    """The state dict as ``Module.state_dict`` gives it, with its ``_metadata``."""
    state = model.to(dtype).state_dict()
    if not head:
        del state["lm_head.weight"]
    assert isinstance(state, OrderedDict) and hasattr(state, "_metadata")
    return state


class Checkpoints:
    """The directories, and one set of logits for every set of weights."""

    def __init__(self, out: Path):
        self.out = out
        self.arrays: dict[str, np.ndarray] = {}
        self.same: dict[str, str] = {}
        self.tensors: dict[str, list[str]] = {}
        self.tokenizers = {296: train_tokenizer(296, True), 96: train_tokenizer(96, False)}

    def directory(self, name: str, config: dict[str, Any] | None) -> Path:
        """A new directory with the words and, unless another writes it, the configuration."""
        path = self.out / name
        path.mkdir(parents=True, exist_ok=True)
        (path / "tokenizer_config.json").write_text(TOKENIZER_CONFIG)
        size = (config or SMALL)["vocab_size"]
        (path / "tokenizer.model").write_bytes(self.tokenizers[size])
        if config is not None:
            (path / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        return path

    def add_bin(self, name: str, config: dict[str, Any], state: Any, **how: Any) -> None:
        """One ``pytorch_model.bin``."""
        torch.save(state, self.directory(name, config) / "pytorch_model.bin")
        self.refer(name, config, **how)

    def refer(self, name: str, config: dict[str, Any], *, like: str = "", **how: Any) -> None:
        """Logits of the weights as stored; checked to be another's where they should be."""
        state = read_back(self.out / name)
        self.tensors[name] = sorted(state)
        ids, logits = reference(state, config, **how)
        print(f"{name:<16} std {logits.std():.2f}")
        if like:
            assert np.array_equal(logits, self.arrays[f"{like}/logits"]), name
            self.same[name] = like
            return
        assert 0.5 < logits.std() < 6
        self.arrays |= {f"{name}/ids": ids, f"{name}/logits": logits}
        self.same[name] = name


def read_back(path: Path) -> State:
    """All tensors that torch and safetensors find in a directory, under the names in the files."""
    state: State = {}
    for file in sorted(path.glob("*.bin")):
        loaded = torch.load(file, weights_only=True)
        state |= loaded.get("state_dict", loaded)
    for file in sorted(path.glob("*.safetensors")):
        state |= load_file(file)
    return state


def reference(
    state: State, config: dict[str, Any], *, tied: bool = True, runs: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Ids and logits of the weights as they were stored."""
    wanted: State = {}
    for name, tensor in state.items():
        parts = name.removeprefix("module.").split(".")
        stored = parts[2] if parts[1] == "layers" else ""
        for turn in range(runs if parts[1] == "layers" else 1):
            if parts[1] == "layers":
                parts[2] = str(int(stored) * runs + turn)
            wanted[".".join(parts)] = tensor
    if tied:
        wanted["lm_head.weight"] = wanted["model.embed_tokens.weight"]
    model = network(config, tied=tied, runs=runs)
    model.load_state_dict({k: v.float() for k, v in wanted.items()}, strict=True)
    ids = np.random.default_rng(SEED).integers(0, config["vocab_size"], (2, 17), dtype=np.int32)
    with torch.no_grad():
        return ids, model(torch.from_numpy(ids).long(), use_cache=False).logits.numpy()


def add_mobilellm(made: Checkpoints) -> None:
    """MobileLLM v1 in all the forms in which its head and its layers come."""
    tied = draw(V1, SEED, tied=True, grid=False)
    made.add_bin("v1-tied", V1, state_of(tied, torch.float16, head=False))

    state = state_of(draw(V1_SMALL, SEED + 1, tied=True, grid=True), torch.float16, head=True)
    embedding = state["model.embed_tokens.weight"]
    assert state["lm_head.weight"].data_ptr() == embedding.data_ptr()
    made.add_bin("v1-head-shared", V1_SMALL, state)
    state["lm_head.weight"] = embedding.clone()
    made.add_bin("v1-head-copy", V1_SMALL, state, like="v1-head-shared")

    own = draw(V1_SMALL, SEED + 2, tied=False, grid=True)
    state = state_of(own, torch.float16, head=True)
    made.add_bin("v1-head-differs", V1_SMALL, state, tied=False)
    state = state_of(own, torch.bfloat16, head=True)
    made.add_bin("untied", LLAMA, state, tied=False, like="v1-head-differs")

    config = V1_SMALL | {"layer_sharing": True, "use_cache": False}
    state = state_of(draw(config, SEED + 3, tied=True, grid=True), torch.float16, head=False)
    made.add_bin("shared-layers", config, state, runs=2)


def add_containers(made: Checkpoints) -> None:
    """The weights of v1-head-shared in other files."""
    model = draw(V1_SMALL, SEED + 1, tied=True, grid=True)
    like = {"like": "v1-head-shared"}
    path = made.directory("sharded-bin", V1_SMALL)
    state = dict(state_of(model, torch.float16, head=False))
    save_torch_state_dict(state, path, safe_serialization=False, max_shard_size="12KB")
    assert len(list(path.glob("*.bin"))) == 2
    made.refer("sharded-bin", V1_SMALL, **like)

    turned = {k: v.t().contiguous().t() if v.ndim == 2 else v for k, v in state.items()}
    assert not turned["model.embed_tokens.weight"].is_contiguous()
    nested = {
        "epoch": 3,
        "global_step": 1200,
        "state_dict": OrderedDict((f"module.{name}", tensor) for name, tensor in turned.items()),
    }
    made.add_bin("transposed", V1_SMALL, nested, **like)

    model = model.to(torch.bfloat16)
    for name, limit in (("bf16-safe", "1GB"), ("sharded-safe", "10KB")):
        path = made.directory(name, None)
        model.save_pretrained(path, max_shard_size=limit)
        assert (len(list(path.glob("*.safetensors"))) > 1) == (name == "sharded-safe")
        made.refer(name, V1_SMALL, **like)


def add_others(made: Checkpoints) -> None:
    """Double precision, and a vocabulary that grew."""
    config = V1_SMALL | {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 4}
    config["torch_dtype"] = "float64"
    model = draw(config, SEED + 4, tied=True, grid=False)
    made.add_bin("fp64", config, state_of(model, torch.float64, head=False))

    model = draw(LLAMA, SEED + 5, tied=True, grid=True).float()
    torch.manual_seed(SEED)
    model.resize_token_embeddings(97)
    path = made.directory("grown", None)
    model.half().save_pretrained(path)
    (path / "added_tokens.json").write_text(json.dumps({"[PAD]": 96}))
    signs = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "[PAD]", "unk_token": "<unk>"}
    (path / "special_tokens_map.json").write_text(json.dumps(signs))
    decoder = {
        str(i): {"content": name, "lstrip": False, "normalized": False, "rstrip": False,
                 "single_word": False, "special": True}
        for i, name in ((0, "<unk>"), (1, "<s>"), (2, "</s>"), (96, "[PAD]"))
    }  # fmt: skip
    words = {"added_tokens_decoder": decoder, "tokenizer_class": "LlamaTokenizer"} | signs
    (path / "tokenizer_config.json").write_text(json.dumps(words, indent=2) + "\n")
    made.refer("grown", LLAMA | {"vocab_size": 97})


def main(out: Path) -> None:
    torch.set_num_threads(1)
    made = Checkpoints(out)
    add_mobilellm(made)
    add_containers(made)
    add_others(made)
    texts = {"same": json.dumps(made.same), "tensors": json.dumps(made.tensors)}
    arrays: dict[str, Any] = made.arrays | {key: np.array(text) for key, text in texts.items()}
    np.savez_compressed(out / "logits.npz", **arrays)
    print(f"{sum(f.stat().st_size for f in out.rglob('*') if f.is_file()):,} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    main(parser.parse_args().out)
