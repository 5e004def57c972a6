#!/usr/bin/env python3
"""Writes transformers_logits.json: what transformers (with torch) gives for the tiny models of tiny_models.py.

Format: {"versions": {...}, "cases": {CASE: [{"input_ids": [n], "logits": [labels] or [n][labels]}, ... one for each of
TEXTS]}}
"""
import json
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
import tiny_models
from sluice_export import reference, source


def main():
    import torch
    import transformers
    cases = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in tiny_models.CASES:
            s = source.read(tiny_models.make(case, Path(folder) / case))
            s.tokenizer.enable_truncation(s.max_tokens)
            ids = [s.tokenizer.encode(t).ids for t in tiny_models.TEXTS]
            logits = reference.transformers_logits(s.folder, s.task, ids)
            cases[case] = [{"input_ids": i, "logits": json.loads(json.dumps(z.tolist()),
                    parse_float=lambda x: float(f"{float(x):.7g}"))} for i, z in zip(ids, logits)]
    lines = ",\n".join(f"  {json.dumps(c)}: {json.dumps(rows, separators=(',', ':'))}" for c, rows in cases.items())
    versions = json.dumps({"torch": torch.__version__, "transformers": transformers.__version__})
    (Path(__file__).parent / "transformers_logits.json").write_text(f'{{"versions": {versions}, "cases": '
            f'{{\n{lines}\n}}}}\n')


if __name__ == "__main__":
    main()
