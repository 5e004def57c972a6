#!/usr/bin/env python3
"""Tokens per second of one core for the graphs that a checkpoint can be exported to, in alternation. Prints Markdown
tables.

    scripts/measure_graph.py CHECKPOINT TEXTS [--peak GMACS] [--rounds N] [--part engines|budgets]

CHECKPOINT is a Hugging Face folder, TEXTS a file as --calibration takes it: its words are cut into 256 rows of 5 to 128
tokens (lognormal, mean about 24). Time is the CPU time of one pinned thread, so neighbours on the machine disturb
little; figures are medians over the rounds, ratios are to the first row of the same round. --peak: what `sluice bench`
or ort.PeakInt8 measured. Graphs of OpenVINO are measured too where the Python package openvino is installed.
"""
import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from sluice_export import calibrate, feeds, graph, labelled, source as sources
from sluice_export.source import TOKEN

CORE = min(os.sched_getaffinity(0))


def rows_of(s, texts, count=256):
    rng = np.random.RandomState(7)
    lengths = np.clip(np.round(rng.lognormal(np.log(20), 0.65, count)), 5, 128).astype(int)
    special = s.tokenizer.encode("a").ids
    stream = [t for x in texts for t in s.tokenizer.encode(x, add_special_tokens=False).ids]
    stream *= 1 + int(lengths.sum()) // len(stream)
    rows, at = [], 0
    for n in lengths:
        rows.append([special[0]] + stream[at:at + n - 2] + [special[-1]])
        at += n - 2
    return rows


def cut(rows, budget):
    """Batches of at most so many tokens, in order; 0: one row each."""
    out, tokens = [], 0
    for r in rows:
        if not out or tokens + len(r) > budget:
            out, tokens = out + [[]], 0
        out[-1].append(r)
        tokens += len(r)
    return out


def windows(rows, window, budget):
    """Of every so many waiting rows, sorted by length, batches of at most so many tokens."""
    return [b for at in range(0, len(rows), window) for b in cut(sorted(rows[at:at + window], key=len), budget)]


class OpenVino:
    """Looks like a session of ONNX Runtime."""

    def __init__(self, model, hint):
        import openvino
        self.compiled = openvino.Core().compile_model(openvino.Core().read_model(model.SerializeToString()), "CPU",
                                                      {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1,
                                                       "INFERENCE_PRECISION_HINT": hint})
        self.request = self.compiled.create_infer_request()

    def get_inputs(self):
        return [type("Input", (), {"name": i.any_name}) for i in self.compiled.inputs]

    def run(self, _, feed):
        return [self.request.infer(feed, share_inputs=True)[self.compiled.output(0)].copy()]


def builder(s):
    """(build(layout, precision, ops) -> model, encoder), calibrated."""
    encoder = sources.encoder(s)
    texts = s.calibration[:400]
    ranges = calibrate.ranges("least-squares", calibrate.observe(encoder, s.task, len(s.labels),
            [s.tokenizer.encode(t).ids for t in texts], lambda *_: None))

    def build(layout, precision, ops="contrib"):
        return graph.build(encoder, s.task, len(s.labels), graph.Plan(layout, precision, ranges=ranges, ops=ops))
    return build, encoder


def only_ours(s):
    build, encoder = builder(s)
    return {"ours: packed, static int8": (feeds.session(build("packed", "int8")), "packed")}, encoder


def engines(s):
    """({name: (session, layout)}, encoder)"""
    build, encoder = builder(s)
    out = {
        "ours: packed, static int8": (feeds.session(build("packed", "int8")), "packed"),
        "padded, static int8": (feeds.session(build("padded", "int8")), "padded"),
        "padded, static int8, QDQ of ONNX operators": (feeds.session(build("padded", "int8", "standard")), "padded"),
        "packed, fp32": (feeds.session(build("packed", "fp32")), "packed"),
    }
    from onnxruntime.quantization import QuantType, quantize_dynamic
    with tempfile.TemporaryDirectory() as d:
        # What a plain export gives: ONNX operators, all rows in the last layer, then ONNX Runtime's dynamic
        # quantization.
        plain = graph.build(encoder, s.task, len(s.labels), graph.Plan("padded", "fp32", ops="standard", watch=True))
        del plain.graph.output[1:]
        onnx.save(plain, f"{d}/plain.onnx")
        quantize_dynamic(f"{d}/plain.onnx", f"{d}/dynamic.onnx", weight_type=QuantType.QInt8, per_channel=True)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        out["plain export, dynamic int8"] = (onnxruntime.InferenceSession(f"{d}/dynamic.onnx", options,
                providers=["CPUExecutionProvider"]), "padded")
    try:
        import openvino
    except ImportError:
        return out, encoder
    for name, precision, hint in (("int8", "int8", "f32"), ("bf16", "fp32", "bf16"), ("fp32", "fp32", "f32")):
        out[f"OpenVINO {openvino.__version__.split('-')[0]}, padded, {name}"] = (OpenVino(build("padded", precision,
                "standard"), hint), "padded")
    return out, encoder


def race(engines, batches, s, rounds):
    feed = {}
    for name, (session, layout) in engines.items():
        wanted = {i.name for i in session.get_inputs()}
        feed[name] = [{k: v for k, v in (feeds.packed(b) if layout == "packed"
                                         else feeds.padded(b, s.pad_token_id)).items() if k in wanted} for b in batches]
        for f in feed[name]:        # shapes are new to some engines only once
            session.run(["logits"], f)
    tokens, took = sum(len(r) for b in batches for r in b), {name: [] for name in engines}
    for n in range(rounds):
        for name in (list(engines) if n % 2 == 0 else list(engines)[::-1]):
            began = time.thread_time()
            for f in feed[name]:
                engines[name][0].run(["logits"], f)
            took[name].append(tokens / (time.thread_time() - began))
    return took


def engines_table(runners, rows, s, a, macs):
    ways = {"one by one": cut(rows[:48], 0), "arrival, 128 tokens": cut(rows[:128], 128), "32 waiting, sorted, "
            "128 tokens": windows(rows[:128], 32, 128),
            "32 waiting, sorted, 256 tokens": windows(rows[:128], 32, 256),
            "8 rows of 32": [[(r * 7)[:32] for r in rows[k:k + 8]] for k in range(0, 32, 8)]}
    results = {way: race(runners, batches, s, a.rounds) for way, batches in ways.items()}
    print("| graph | " + " | ".join(ways) + " |\n| --- |" + " --- |" * len(ways))
    for n in runners:
        cells = []
        for way in ways:
            mine, first = results[way][n], next(iter(results[way].values()))
            ratios = [x / y for x, y in zip(mine, first)]
            cells.append(f"{np.median(mine):,.0f}" + ("" if mine is first else f" ({np.median(ratios):.2f}, "
                                                      f"{min(ratios):.2f}-{max(ratios):.2f})"))
        print(f"| {n} | " + " | ".join(cells) + " |")
    if a.peak:
        shares = [np.median(next(iter(results[w].values()))) * macs / 1e9 / a.peak for w in ways]
        print(f"| ours, share of the int8 peak ({a.peak:.0f} GMAC/s) | "
              + " | ".join(f"{100 * s:.0f} %" for s in shares) + " |")


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("checkpoint")
    p.add_argument("texts")
    p.add_argument("--peak", type=float, help="GMAC/s of one core")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--part", choices=("engines", "budgets", "both"), default="both", help="engines against each other, "
                   "token budgets of our graph, or both")
    a = p.parse_args()
    os.sched_setaffinity(0, {CORE})
    s = sources.read(a.checkpoint)
    s.tokenizer.enable_truncation(s.max_tokens)
    s.calibration = labelled.texts(a.texts)
    rows = rows_of(s, s.calibration)
    runners, e = engines(s) if a.part != "budgets" else only_ours(s)
    inner = e.layers[0]["f1"][0].shape[0]
    layer = 4 * e.width ** 2 + 2 * e.width * inner
    macs = len(e.layers) * layer
    if s.task != TOKEN:       # of the last layer, keys and values of all rows, the rest of one row in a text
        mean = np.mean([len(r) for r in rows])
        macs += (2 * e.width ** 2 - layer) + (layer - 2 * e.width ** 2) / mean
    name = next((l.split(":")[1].strip() for l in Path("/proc/cpuinfo").read_text().splitlines()
                 if l.startswith("model name")), "unknown CPU")
    print(f"## {Path(a.checkpoint).name}: {len(e.layers)} x {e.width}\n\n{name}, one pinned core; ONNX Runtime "
          f"{onnxruntime.__version__}; 256 rows, {sum(map(len, rows)) / 256:.1f} tokens in the mean; "
          f"our graph does {macs / 1e6:.1f} M multiply-accumulates a token. Tokens/s, median of {a.rounds} rounds "
          f"(ratio to the first row, range).\n")
    if a.part != "budgets":
        engines_table(runners, rows, s, a, macs)
    if a.part == "engines":
        return
    print("\nToken budget of our graph:\n\n| tokens a run | in order of arrival | 32 waiting, sorted | 256 waiting, "
          "sorted |\n| --- | --- | --- | --- |")
    ours = {"ours": next(iter(runners.values()))}
    for budget in (0, 32, 64, 128, 256, 512):
        print(f"| {budget or 'one text'} | " + " | ".join(f"{np.median(race(ours, b, s, a.rounds)['ours']):,.0f}"
                                                          for b in (cut(rows[:192], budget),
                                                                  windows(rows[:192], 32, budget),
                                                                  windows(rows, 256, budget))) + " |", flush=True)
    print()


if __name__ == "__main__":
    main()
