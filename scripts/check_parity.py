#!/usr/bin/env python3
"""Measures what models/MODELS.md claims. Prints a table row for each check.

    scripts/check_parity.py fp32 CHECKPOINT TEXTS...      fp32 graphs, padded and packed, against transformers (needs
                                                          torch)
    scripts/check_parity.py batches MODEL_DIR TEXTS...    an exported model: each text alone and in 32 random batches

TEXTS are files as --calibration takes them; the first 1,000 texts of each count together.
"""
import json
import random
import sys
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from sluice_export import feeds, graph, labelled, reference, source as sources

COUNT = 1000


def texts_of(paths):
    each = max(1, COUNT // len(paths))
    return [t for p in paths for t in labelled.texts(p)[:each]]


def fp32(checkpoint, paths):
    """Largest difference of logits to transformers, for both layouts, each text alone and in batches of 16."""
    s = sources.read(checkpoint)
    s.tokenizer.enable_truncation(s.max_tokens)
    encoder = sources.encoder(s)
    ids = [s.tokenizer.encode(t).ids for t in texts_of(paths)]
    wanted = reference.transformers_logits(s.folder, s.task, ids)
    scale = max(float(np.abs(w).max()) for w in wanted)
    for layout in ("padded", "packed"):
        session = feeds.session(graph.build(encoder, s.task, len(s.labels), graph.Plan(layout, "fp32")))
        for batch in (1, 16):
            got = feeds.run(session, ids, layout, s.task, s.pad_token_id, batch=batch, sort=False)
            gap = max(float(np.abs(a - b).max()) for a, b in zip(got, wanted))
            print(f"| {Path(checkpoint).name} | {layout}, batch {batch} | {len(ids)} | {gap:.1e} | {scale:.1f} |",
                  flush=True)


def batches(directory, paths):
    """Bit-identity of a text's logits alone and in 32 random batchings of 2 to 32 texts."""
    directory = Path(directory)
    manifest = json.loads((directory / "manifest.json").read_text())
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.enable_truncation(manifest["max_tokens"])
    ids = [tokenizer.encode(t).ids for t in texts_of(paths)][:400]
    session = feeds.session(str(directory / "model.onnx"))

    def run(rows, batch):
        return feeds.run(session, rows, manifest["layout"], manifest["task"], manifest["pad_token_id"], batch=batch,
                         sort=False)

    alone = run(ids, 1)
    rng = random.Random(5)
    same, total, largest = 0, 0, 0.0
    for _ in range(32):
        chosen = rng.sample(range(len(ids)), rng.randint(2, 32))
        for i, got in zip(chosen, run([ids[i] for i in chosen], len(chosen))):
            total += 1
            same += bool(np.array_equal(got.view(np.uint32), alone[i].view(np.uint32)))
            largest = max(largest, float(np.abs(got - alone[i]).max()))
    print(f"| {directory.name} | {manifest['precision']} {manifest['layout']} | {total} texts in 32 random batches | "
          f"{100 * same / total:.1f} % bit-identical | {largest:.1e} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 4 or sys.argv[1] not in ("fp32", "batches"):
        sys.exit(__doc__)
    {"fp32": fp32, "batches": batches}[sys.argv[1]](sys.argv[2], sys.argv[3:])
