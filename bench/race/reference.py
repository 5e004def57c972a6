#!/usr/bin/env python3
"""The fp32 model's labels and token counts of a file of texts: what agreement is measured against.

    reference.py SOURCE TEXTS.jsonl OUT.json

The graph is the exporter's in fp32, which the export holds against the source model to 1e-4.
"""
import hashlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from sluice_export import feeds, graph, source      # noqa: E402


def main():
    folder, file, out = sys.argv[1:4]
    data = Path(file).read_bytes()
    s = source.read(folder, None, 128)
    s.tokenizer.enable_truncation(s.max_tokens)
    session = feeds.session(graph.build(source.encoder(s), s.task, len(s.labels), graph.Plan("packed", "fp32")))
    ids = [s.tokenizer.encode(json.loads(line)["text"]).ids for line in data.decode().splitlines()]
    parts = [ids[at:at + 256] for at in range(0, len(ids), 256)]
    labels, done = [], 0
    with ThreadPoolExecutor(2) as pool:     # a run leaves Python's lock
        for logits in pool.map(lambda part: feeds.run(session, part, "packed", s.task, s.pad_token_id), parts):
            labels += [s.labels[int(row.argmax())] for row in logits]
            done += 1
            if done % 20 == 0:
                print(f"reference: {len(labels)} of {len(ids)}", file=sys.stderr, flush=True)
    Path(out).write_text(json.dumps({"texts_sha256": hashlib.sha256(data).hexdigest(), "labels": labels,
                                     "tokens": [len(i) for i in ids]}))


if __name__ == "__main__":
    main()
