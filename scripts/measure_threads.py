#!/usr/bin/env python3
"""Milliseconds for one text on an idle machine, by the threads of a run: what more cores for one text would bring.

    scripts/measure_threads.py MODEL_DIR TEXTS.jsonl [COUNT]

The worker runs every text on one thread, many texts beside each other. Prints median and 90th percentile, wall clock;
the ways alternate.
"""
import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import tokenizers

from sluice_export import feeds

WAYS = {"1 thread": (1, "0"), "2 threads, no spinning": (2, "0"), "2 threads, spinning": (2, "1")}


def session(path, threads, spinning):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.add_session_config_entry("optimization.disable_specified_optimizers", "SkipLayerNormFusion")
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def main(directory, texts, count=60):
    tokenizer = tokenizers.Tokenizer.from_file(str(Path(directory) / "tokenizer.json"))
    manifest = json.loads((Path(directory) / "manifest.json").read_text())
    lines = Path(texts).read_text(encoding="utf-8").splitlines()[:int(count)]
    rows = [tokenizer.encode(json.loads(line)["text"]).ids[:manifest["max_tokens"]] for line in lines]
    sessions = {way: session(str(Path(directory) / "model.onnx"), *how) for way, how in WAYS.items()}
    took = {way: [] for way in WAYS}
    for _ in range(3):
        for way, s in sessions.items():
            names = {i.name for i in s.get_inputs()}
            for row in rows:
                feed = feeds.packed([row]) if manifest["layout"] == "packed" else feeds.padded([row],
                        manifest["pad_token_id"])
                feed = {k: v for k, v in feed.items() if k in names}
                began = time.perf_counter()
                s.run(["logits"], feed)
                took[way].append(1000 * (time.perf_counter() - began))
    for way, ms in took.items():
        print(f"{way:24s} median {np.median(ms):.2f} ms, 90 % within {np.quantile(ms, 0.9):.2f} ms")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
