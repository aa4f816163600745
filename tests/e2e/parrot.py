"""A tiny model whose answers are known, for tests that read them off a screen."""

from pathlib import Path

from tokenizers import Tokenizer

from mobilellm_mlx.backend import mx
from tests.tiny import LLAMA, write_model


def write_parrot(directory: Path, text: str) -> Path:
    """A model that says ``text`` again and again, in which no character may stand twice.

    Nothing is left of its network but the way from the embedding to the head, where each character
    finds the one that follows.
    """
    raw = {**LLAMA, "max_position_embeddings": 100_000, "tie_word_embeddings": False}
    path = str(write_model(directory, raw) / "model.safetensors")
    tensors, tokenizer = mx.load(path), Tokenizer.from_file(str(directory / "tokenizer.json"))
    circle = tokenizer.encode(text).ids
    vectors = mx.random.normal((len(circle), LLAMA["hidden_size"]), key=mx.random.key(7))
    vectors /= mx.linalg.norm(vectors, axis=1, keepdims=True)
    embedding = [vectors[-1]] * LLAMA["vocab_size"]  # behind anything else it begins
    head = [mx.zeros(LLAMA["hidden_size"])] * LLAMA["vocab_size"]
    for n, token in enumerate(circle):
        embedding[token] = vectors[n]
        head[token] = vectors[n - 1]
    for name, tensor in tensors.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            tensors[name] = mx.zeros_like(tensor)
        elif name.endswith("norm.weight"):
            tensors[name] = mx.ones_like(tensor)
    tensors["model.embed_tokens.weight"] = mx.stack(embedding)
    tensors["lm_head.weight"] = mx.stack(head)
    mx.save_safetensors(path, tensors, {"format": "mlx"})
    return directory
