"""What stock mlx-lm makes of tokenizer files, as JSON on stdout.

    python tokenizer_peer.py DIRECTORY TEXTS

In a process of its own, because importing mlx-lm loads transformers, takes seconds and warns.
"""

import json
import sys
from pathlib import Path

from mlx_lm.utils import load_tokenizer

directory, texts = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
tokenizer = load_tokenizer(directory)
ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
streams = []
for row in ids:
    detokenizer = tokenizer.detokenizer
    detokenizer.reset()
    for token in row:
        detokenizer.add_token(token)
    detokenizer.finalize()
    streams.append(detokenizer.text)
print(
    json.dumps(
        {
            "ids": ids,
            "texts": [tokenizer.decode(row) for row in ids],
            "streams": streams,
            "start": tokenizer.encode("")[:1],
            "roles": [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id],
            "ends": sorted(tokenizer.eos_token_ids),
            "detokenizer": type(tokenizer.detokenizer).__name__,
        }
    )
)
