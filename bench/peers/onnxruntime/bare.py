#!/usr/bin/env python3
"""The peer's loop without Kafka, JSON and tokenizing: its ceiling. bare.py MODEL TEXTS.jsonl SECONDS prints
{"Messages": a second, "Tokens": a second}.
"""
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

from peer import LONGEST, batches, feed, load


def loop(core, model, texts, seconds, barrier, out):
    os.sched_setaffinity(0, {core})
    session, tokenizer = load(Path(model))
    ids = [e.ids for e in tokenizer.encode_batch_fast(texts)]
    runs = []
    for at in range(0, len(ids), 256):
        window = ids[at:at + 256]
        for batch in batches([len(i) for i in window], 8, LONGEST * 8):
            rows = [window[i] for i in batch]
            runs.append((feed(rows), len(rows), sum(map(len, rows))))
    session.run(["logits"], runs[0][0])
    barrier.wait()
    began, messages, tokens, at = time.perf_counter(), 0, 0, 0
    while time.perf_counter() - began < seconds:
        inputs, rows, count = runs[at * 7919 % len(runs)]      # spread over lengths, the same every time
        session.run(["logits"], inputs)
        messages, tokens, at = messages + rows, tokens + count, at + 1
    took = time.perf_counter() - began
    out.put((messages / took, tokens / took))


def main():
    model, file, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    texts = [json.loads(line)["text"] for line in Path(file).read_text(encoding="utf-8").splitlines()]
    context, cores = multiprocessing.get_context("spawn"), 2
    barrier, out = context.Barrier(cores), context.Queue()
    processes = [context.Process(target=loop, args=(c, model, texts[c::cores][:2048], seconds, barrier, out))
                 for c in range(cores)]
    for p in processes:
        p.start()
    results = [out.get(timeout=seconds + 120) for _ in processes]
    for p in processes:
        p.join()
    print(json.dumps({"Messages": sum(r[0] for r in results), "Tokens": sum(r[1] for r in results)}))


if __name__ == "__main__":
    main()
