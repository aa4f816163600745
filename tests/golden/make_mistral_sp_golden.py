"""Make a sentencepiece golden: token ids and decoded texts of one sentencepiece model.

Reference: sentencepiece 0.2.3. The texts come from smollm2_tokenizer.json (every third of a group,
every second of some). No seed: nothing is random.
Run: python make_mistral_sp_golden.py MODEL smollm2_tokenizer.json OUT.json

Made with it: mistral_sp.json from mistral_common/data/tokenizer.model.v1 in the wheel of
mistral-common 1.13.1, and botchan_sp.json from botchan_en_bpe_1000.model, which lies beside it.
"cases": {"group", "text", "ids" (no BOS or EOS added), "decoded"}; "decode": {"ids", "decoded"},
with ids cut off at either end, or control ids among them. "model": size, SHA-256 and special ids.
"""

import hashlib
import json
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor

SECOND = ("spaces", "digits", "control", "cjk")
CUT = ("emoji", "cjk", "accents")


def main(model: str, texts: str, out: str) -> None:
    data = Path(model).read_bytes()
    processor = SentencePieceProcessor(model_proto=data)
    source = json.loads(Path(texts).read_text(encoding="ascii"))["cases"]
    cases: list[dict[str, Any]] = []
    cuts: list[list[int]] = [[], [1], [2], [1, 2], [0]]
    for group, rows in groupby(source, key=lambda row: row["group"]):
        for row in list(rows)[:: 2 if group in SECOND else 3]:
            ids = processor.encode(row["text"])
            decoded = processor.decode(ids)
            cases.append({"group": group, "text": row["text"], "ids": ids, "decoded": decoded})
            if group in CUT:
                cuts += [ids[1:], ids[:-1], [1, *ids, 2]]
    facts = {
        "name": Path(model).name,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "vocab_size": processor.vocab_size(),
        "unk_id": processor.unk_id(),
        "bos_id": processor.bos_id(),
        "eos_id": processor.eos_id(),
        "pad_id": processor.pad_id(),
    }
    parts = [f'"model": {json.dumps(facts)}']
    decode = [{"ids": ids, "decoded": processor.decode(ids)} for ids in cuts]
    for key, lines in (("cases", cases), ("decode", decode)):
        parts.append(f'"{key}": [\n' + ",\n".join(json.dumps(line) for line in lines) + "\n]")
    Path(out).write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="ascii")
    print(f"{len(cases)} cases, {len(decode)} decode rows, {facts}")


if __name__ == "__main__":
    main(*sys.argv[1:])
