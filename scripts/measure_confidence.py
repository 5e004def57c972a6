#!/usr/bin/env python3
"""Which number of its tokens tells best whether all entities of a text are right.

    .venv/bin/python scripts/measure_confidence.py models/ner FILE.jsonl...

FILE holds lines {"text", "entities": [{"entity_group", "start", "end"}]}. Prints, for two aggregations and every
candidate, AUROC, the share of wrong texts among the surer half, and the area under the risk-coverage curve. Scores are
calibrated by the manifest's temperature where it has one.
"""
import json
import sys
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from sluice_export import feeds


def group(pieces):
    """Entities of [label, start, end] lists: neighbours of one group are one, B- begins another."""
    out, last = [], None
    for label, start, end in pieces:
        prefix, name = (label[0], label[2:]) if label[:2] in ("B-", "I-") else ("I", label)
        if out and name == last and prefix != "B":
            out[-1][2] = end
        else:
            out.append([name, start, end])
        last = name
    return [tuple(e) for e in out if e[0] != "O"]


def judge(labels, encoding, logits, temperature):
    """(candidates, entities with aggregation simple, with aggregation first) of one text."""
    z = logits.astype(np.float64) / temperature
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    top, ordered = p.max(1), np.sort(p, 1)
    entropy = -(p * np.log(np.maximum(p, 1e-300))).sum(1) / np.log(p.shape[1])
    keep = [i for i, special in enumerate(encoding.special_tokens_mask) if not special]
    first = [i for i in keep if len(encoding.tokens[i]) == encoding.offsets[i][1] - encoding.offsets[i][0]
             or encoding.tokens[i] == "[UNK]"]
    named = [[labels[p[i].argmax()], *encoding.offsets[i]] for i in keep]
    words = []
    for i, piece in zip(keep, named):
        if i in first or not words:
            words.append(list(piece))
        else:
            words[-1][2] = piece[2]
    simple = group(named)
    inside = [top[i] for i in keep if labels[p[i].argmax()] != "O"]
    scores = [np.mean([top[i] for i in keep if s <= encoding.offsets[i][0] < e]) for _, s, e in simple]
    least = lambda x: min(x) if len(x) else 1.0  # noqa: E731
    return {
        "least top probability, all tokens": least(top[keep]), "least, first tokens of words": least(top[first]),
        "product, all tokens": np.log(top[keep]).sum(), "product, first tokens": np.log(top[first]).sum(),
        "mean, all tokens": top[keep].mean(), "geometric mean, all tokens": np.log(top[keep]).mean(),
        "least margin, all tokens": least(ordered[keep, -1] - ordered[keep, -2]), "largest entropy, "
        "all tokens": -entropy[keep].max(),
        "least, tokens in entities": least(inside), "least entity score": least(scores),
        "mean entity score": np.mean(scores) if scores else 1.0,
    }, simple, group(words)


def auroc(score, right):
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    n = right.sum()
    return (rank[right].sum() - n * (n + 1) / 2) / (n * (len(right) - n))


def main(directory, files):
    directory = Path(directory)
    manifest = json.loads((directory / "manifest.json").read_text())
    id2label = json.loads((directory / "config.json").read_text())["id2label"]
    labels = [id2label[str(i)] for i in range(len(id2label))]
    temperature = manifest.get("calibration", {}).get("temperature", 1.0)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.enable_truncation(manifest["max_tokens"])
    session = feeds.session(str(directory / "model.onnx"))
    for file in files:
        rows = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()]
        encodings = [tokenizer.encode(r["text"]) for r in rows]
        logits = feeds.run(session, [e.ids for e in encodings], manifest["layout"], manifest["task"],
                           manifest["pad_token_id"], batch=8, sort=True)
        judged = [(*judge(labels, e, z, temperature), [(x["entity_group"], x["start"], x["end"])
                                                       for x in r["entities"]]) for r, e,
                  z in zip(rows, encodings, logits) if len(e.ids) > 2]
        for at, aggregation in ((1, "simple"), (2, "first")):
            right = np.array([j[at] == j[3] for j in judged])
            print(f"{Path(file).name}, {len(judged)} texts, temperature {temperature}, aggregation {aggregation}: "
                  f"{100 * right.mean():.2f} % right")
            for name in judged[0][0]:
                score = np.array([j[0][name] for j in judged])
                risk = np.cumsum(~right[np.argsort(-score, kind="stable")]) / np.arange(1, len(right) + 1)
                print(f"  {name:36s} AUROC {auroc(score, right):.4f}  wrong in the surer half "
                      f"{100 * risk[len(risk) // 2 - 1]:6.2f} %  AURC {risk.mean():.4f}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
