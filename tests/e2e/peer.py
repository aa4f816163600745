"""What stock mlx-lm makes of a model directory, as JSON on stdout.

    python peer.py DIRECTORY COUNT MESSAGES

In a process of its own, because importing mlx-lm loads transformers, takes seconds and warns. Its
floating-point parameters are widened to float32: MLX emulates 16-bit arithmetic on x86, some thirty
times slower; the packed codes stay what they are.
"""

import json
import sys

from mobilellm_mlx.backend import mx  # first: the fast BLAS, for both sides

mx.set_default_device(mx.cpu)

from mlx.utils import tree_map  # noqa: E402
from mlx_lm import load  # noqa: E402
from mlx_lm.generate import generate_step  # noqa: E402

directory, count, messages = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
model, tokenizer = load(directory)
packed = sorted(
    {type(m).__name__ for _, m in model.named_modules() if "Quantized" in type(m).__name__}
)


def widen(array: mx.array) -> mx.array:
    return array.astype(mx.float32) if mx.issubdtype(array.dtype, mx.floating) else array


model.update(tree_map(widen, model.parameters()))
ids = list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True))
text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
tokens = [int(token) for token, _ in generate_step(mx.array(ids), model, max_tokens=count)]
print(
    json.dumps(
        {
            "ids": ids,
            "text": text,
            "tokens": tokens,
            "packed": packed,
            "eos": sorted(tokenizer.eos_token_ids),
        }
    )
)
