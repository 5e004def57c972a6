"""The command line of scripts/export_model.py: reads, builds, compares, measures, and only then writes."""
import argparse
import hashlib
import itertools
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from . import (calibrate, evaluate, feeds, folder, golden, graph, labelled as files, other, reference, smooth,
               source as sources)
from .errors import ExportError
from .row import Row
from .source import TOKEN

EXAMPLE = """example:
  scripts/export_model.py distilbert/distilbert-base-uncased-finetuned-sst-2-english models/sst2 \\
      --revision 714eb0f --precision int8 --calibration texts.txt --labelled dev.tsv

SOURCE is a local Hugging Face folder (config.json, model.safetensors, tokenizer.json) or a hub id.
DIR gets model.onnx, tokenizer.json, config.json and manifest.json, or is not made at all.
Exit status: 0 done, 1 the export failed or disagrees with its source, 2 wrong usage or input."""

CALIBRATION_TEXTS = 400     # texts that set ranges; more move nothing
HELD_OUT_TEXTS = 400        # texts that choose the method and, without --labelled, measure agreement
LEAST_TEXTS = 32
ALPHAS = (0.8, 0.7, 0.9)    # of smoothing, the likeliest first
CLEARLY = 0.9               # share of another's mean difference of probability under which a way is clearly better
LADDER_WAYS = 4             # of those tried, how many are given a chance before matrices stay in fp32
FIGURE_LOSS = 0.003         # accuracy or F1 that int8 may lose before more matrices stay fp32
GROUPS = {"ffn1": "f1", "ffn2": "f2"}
# What the worker's self-test allows on another CPU, as part of the largest golden logit; int8 has more, see
# golden_rows.
TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "int8": 1e-2}
GOLDEN_TEXTS = 8            # of the candidates in golden.py, those that rounding moves least


def parser():
    p = argparse.ArgumentParser(prog="export_model.py", description="Export a Hugging Face text or token classifier to "
                                "a model directory of Sluice.",
                                epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("source", metavar="SOURCE", help="local folder or hub id")
    p.add_argument("directory", metavar="DIR", help="model directory to make")
    p.add_argument("--precision", choices=("fp32", "int8", "fp16"), default="fp32",
                   help="fp32; int8: static, 2-4 times faster on CPU, needs --calibration; fp16: for GPUs (default "
                        "%(default)s)")
    p.add_argument("--layout", choices=("packed", "padded"), help="packed: no padding in the arithmetic; padded: the "
                   "usual inputs (default packed; padded for architectures that go through optimum)")
    p.add_argument("--ops", choices=("contrib", "standard"), default="contrib",
                   help="contrib: ONNX Runtime's own operators where they are faster; standard: operators of ONNX "
                        "only, int8 as QuantizeLinear pairs, for device: openvino; padded layout (default %(default)s)")
    p.add_argument("--calibration", metavar="FILE", help="texts for int8, best like those to come: .txt (one a line), "
                                                         ".tsv, .csv or .jsonl with a column text, .iob2; also "
                                                         "compressed (.gz, .zst); 400 and more serve well")
    p.add_argument("--labelled", metavar="FILE", help="labelled texts: .tsv, .csv or .jsonl with label and text "
                                                      "(several labels: with commas, in .jsonl a list), or .iob2; "
                                                      "docs/files.md says more; prints accuracy, entity F1 or "
                                                      "correlation of source and export")
    p.add_argument("--max-tokens", type=int, metavar="N", help="longest row, special tokens included (default: what "
                                                               "the model has positions for)")
    p.add_argument("--special-tokens", choices=("text", "model"), help="what [SEP], or a marker that was added for the "
                   "model, is where it stands in a text: text, or the model's token as for transformers (default text, "
                   "with a warning where the model has markers of its own)")
    p.add_argument("--pairs", action="store_true", help="the model reads two texts (entailment, relevance): input.text "
                   "and input.text_pair of the worker; calibration pairs each text with the next one")
    p.add_argument("--name", help="name in the manifest (default: the last part of DIR)")
    p.add_argument("--license", help="licence of the model (default: the one in the source's README)")
    p.add_argument("--revision", help="commit, tag or branch of a hub id")
    p.add_argument("--keep-fp32", default="auto", metavar="WHAT",
                   help="int8: matrices that stay fp32: none, ffn1, ffn2, names such as l0.f2, several with commas; "
                        "auto: as few as agreement and --labelled allow (default %(default)s)")
    p.add_argument("--accept-agreement", type=float, default=98.5, metavar="PERCENT", help="least share of equal "
                   "labels for int8 and fp16 (default %(default)s)")
    p.add_argument("--force", action="store_true", help="replace DIR if it is a model directory")
    return p


def main(argv=None):
    """Runs the export; returns the exit status."""
    a = parser().parse_args(argv)
    try:
        run(a)
    except ExportError as e:
        print(f"export_model.py: {e}", file=sys.stderr)
        return e.code
    except KeyboardInterrupt:
        print("export_model.py: interrupted; nothing was written", file=sys.stderr)
        return 1
    return 0


class Progress:
    """Lines on stderr: what is being done, and how long the run has taken."""

    def __init__(self):
        self.start = self.last = time.monotonic()

    def __call__(self, line):
        self.last = time.monotonic()
        print(f"[{self.last - self.start:6.1f} s] {line}", file=sys.stderr, flush=True)

    def count(self, what):
        """A function (done, of) that reports at most every five seconds."""
        def step(done, of):
            if time.monotonic() - self.last > 5:
                self(f"{what}: {done} of {of}")
        return step


def run(a):
    """Everything between the arguments and the written directory."""
    say = Progress()
    folder.claim(a.directory, a.force)
    _check_usage(a)
    say(f"reading {a.source}")
    s = sources.read(a.source, a.revision, a.max_tokens, a.special_tokens, a.pairs)
    s.pretrained.check(golden.TEXTS)
    if s.pairs:
        s.pretrained.check_pairs(golden.pairs())
    for w in s.warnings:
        say(f"warning: {w}")
    layout = a.layout or ("packed" if s.direct and a.ops == "contrib" else "padded")
    if not s.direct and (layout == "packed" or a.precision != "fp32"):
        raise ExportError(f"{s.architecture} goes through optimum, which makes the padded layout in fp32 only; leave "
                          f"out --layout packed and --precision {a.precision}")
    kind = ("multi-label" if s.multi_label else "regression" if s.regression else
            "single label" if s.task != TOKEN else "tags")
    say(f"{s.architecture}, {s.task} ({kind}: {', '.join(s.labels)}), rows of at most {s.max_tokens} tokens")
    labelled = evaluate.read_labelled(a.labelled, s) if a.labelled else None
    calibration = files.texts(a.calibration) if a.calibration else []
    if s.pairs:
        calibration = list(zip(calibration, calibration[1:]))

    encoder = sources.encoder(s) if s.direct else None
    if s.direct:
        fp32 = graph.build(encoder, s.task, len(s.labels), graph.Plan(layout, "fp32", ops=a.ops)).SerializeToString()
    else:
        fp32 = other.export(s, say)
    difference = check_source(s, layout, fp32, say)
    quantization, evaluation = None, {"source_max_logit_difference": _round(difference["largest"]),
                                      "source_reference": difference["reference"]}

    trial = Trial(s, layout, fp32, labelled, calibration, say)
    model = fp32
    if a.precision == "int8":
        model, quantization, measured = quantize(a, s, encoder, layout, trial, calibration, say)
        evaluation |= measured
    else:
        if a.precision == "fp16":
            model = graph.build(encoder, s.task, len(s.labels), graph.Plan(layout, "fp16",
                    ops=a.ops)).SerializeToString()
        measured = trial.final(model)
        trial.show(measured)
        if a.precision == "fp16":
            check_fp16(a, s, layout, fp32, model, measured)
        evaluation |= measured

    texts, tolerance = golden_rows(s, layout, model, a.precision, say)
    folder.write(a.directory, s, model, {
        "name": a.name or Path(a.directory).absolute().name, "task": s.task, "architecture": s.architecture,
        "layout": layout, "precision": a.precision,
        "max_tokens": s.max_tokens, "pad_token_id": s.pad_token_id, **s.pretrained.manifest,
        "source": {"id": Path(a.source).name if Path(a.source).is_dir() else a.source, "revision": a.revision or "",
                   "files": s.files},
        "license": a.license or s.license, "exporter": folder.exporter(model), "quantization": quantization,
        "evaluation": evaluation,
        "golden": {"tolerance": tolerance, "texts": texts},
    })
    if not (a.license or s.license):
        say("warning: the source names no licence; say which with --license")
    say(f"wrote {a.directory}: {a.precision}, {layout}, {len(model) / 1e6:.1f} MB")


def _check_usage(a):
    if a.precision == "int8" and not a.calibration:
        raise ExportError("--precision int8 needs --calibration FILE: a few hundred texts like those to come (one a "
                          "line, or .tsv/.jsonl with a column text)")
    if a.ops == "standard" and a.layout == "packed":
        raise ExportError("--ops standard goes with --layout padded; leave out --layout packed")
    if a.precision != "int8" and a.calibration:
        raise ExportError(f"--calibration only goes with --precision int8, not with {a.precision}; leave it out")
    if a.pairs and a.labelled:
        raise ExportError("--labelled holds single texts, which a model of --pairs does not read; leave it out")
    if a.revision and Path(a.source).is_dir():
        raise ExportError("--revision goes with a hub id; a local folder is what it is")
    if not 0 <= a.accept_agreement <= 100:
        raise ExportError(f"--accept-agreement {a.accept_agreement}: give a percentage from 0 to 100")


def golden_texts(s):
    """Golden texts, or pairs of them."""
    return golden.pairs() if s.pairs else golden.TEXTS


def _row(s, encoding):
    return Row(encoding.ids, encoding.type_ids if s.pairs and s.pretrained.types else None)


def check_source(s, layout, fp32, say):
    """Holds the fp32 graph against the source model on the golden texts, in one batch and alone; refuses a difference.
    """
    ids = [s.pretrained.row(t) for t in golden_texts(s)]
    wanted, name = reference.logits(s, ids)
    session = feeds.session(fp32)
    scale = max(1.0, max(float(np.abs(w).max()) for w in wanted))
    largest = 0.0
    for batch in (1, len(ids)):
        for t, got, want in zip(golden_texts(s), feeds.run(session, ids, layout, s.task, s.pad_token_id, batch=batch),
                                wanted):
            if got.shape != want.shape:
                raise ExportError(f"the graph gives logits of shape {got.shape} where {name} gives {want.shape}; "
                                  f"nothing was written", code=1)
            gap = float(np.abs(got - want).max())
            largest = max(largest, gap)
            if not gap <= 1e-4 * scale:        # also true for NaN
                raise ExportError(f"the graph's logits differ from {name} by {gap:.2e} (allowed {1e-4 * scale:.1e}) on "
                                  f"{str(t)[:40]!r}; nothing was written. This is a fault of the exporter or of the "
                                  f"checkpoint: please report it", code=1)
    say(f"fp32 graph against {name}, {len(ids)} golden texts: largest difference of logits {largest:.2e} (logits up to "
        f"{scale:.1f})")
    return {"largest": largest, "reference": name}


class Trial:
    """Measures candidates against the fp32 graph, which stands for the source: check_source has just shown them equal.
    """

    def __init__(self, s, layout, fp32, labelled, calibration, say):
        self.s, self.layout, self.labelled, self.say = s, layout, labelled, say
        held_out = _held_out(calibration)
        self.held_out = [s.pretrained.encode(t) for t in held_out]
        self.encodings = [s.tokenizer.encode(t) for t in labelled.texts] if labelled else []
        session = feeds.session(fp32)
        self.held_out_logits = self._run(session, self.held_out, "source on held-out texts")
        self.logits = self._run(session, self.encodings, "source on labelled texts")
        self.source_score = evaluate.score(s, labelled, self.encodings, self.logits) if labelled else None

    def _run(self, session, encodings, what):
        if not encodings:
            return []
        step = self.say.count(what)
        out = []
        for at in range(0, len(encodings), 128):
            out += feeds.run(session, [_row(self.s, e) for e in encodings[at:at + 128]], self.layout, self.s.task,
                             self.s.pad_token_id)
            step(len(out), len(encodings))
        return out

    def held_out_agreement(self, model):
        """Agreement on calibration-file texts that set no range."""
        return evaluate.compare(self.s, self.held_out, self._run(feeds.session(model), self.held_out,
                "export on held-out texts"), self.held_out_logits)

    def final(self, model):
        """Numbers for the manifest, on the labelled texts where there are some."""
        out = {}
        if self.labelled:
            ours = self._run(feeds.session(model), self.encodings, "export on labelled texts")
            out = {"labelled_texts": len(self.encodings), "labelled_sha256": _texts_sha256(self.labelled.texts),
                   "source": _rounded(self.source_score), "export": _rounded(evaluate.score(self.s, self.labelled,
                           self.encodings, ours)),
                   **_rounded(evaluate.compare(self.s, self.encodings, ours, self.logits))}
        elif self.held_out:
            out = {"held_out_texts": len(self.held_out), **_rounded(self.held_out_agreement(model))}
        return out

    def show(self, m):
        """Source and export side by side."""
        if "source" in m:
            for figure, value in m["source"].items():
                theirs = m["export"].get(figure)
                if self.s.regression:
                    pair = f"source {value:.4g}, export " + ("undefined" if theirs is None else f"{theirs:.4g}")
                else:
                    pair = f"source {100 * value:.2f} %, export {100 * theirs:.2f} %"
                self.say(f"{figure.replace('_', ' ')} on {m['labelled_texts']} labelled texts: {pair}")
        if "mean_difference" in m:
            self.say(f"{100 * m['agreement']:.2f} % of the values' variance kept over {m['decisions']} values; "
                     f"difference of value: largest {m['max_difference']:.4f}, mean {m['mean_difference']:.5f}")
        elif "agreement" in m:
            self.say(f"label agreement {100 * m['agreement']:.2f} % of {m['decisions']} decisions; difference of "
                     f"probability: largest {m['max_dp']:.4f}, mean {m['mean_dp']:.5f}")


@dataclass(frozen=True)
class Way:
    """A way to quantize: how ranges are set, the alpha of smoothing (0: none), whether biases are corrected."""
    ranges: str
    alpha: float = 0.0
    corrected: bool = False

    def __str__(self):
        return self.ranges + (f", smoothed by {self.alpha}" if self.alpha else "") + (", biases corrected"
                if self.corrected else "")


def quantize(a, s, encoder, layout, trial, calibration, say):
    """Static int8: (model bytes, manifest's quantization, measured numbers). Tries the ways to quantize, then keeps
    matrices in fp32 if it must.
    """
    if len(calibration) < LEAST_TEXTS:
        raise ExportError(f"{a.calibration} holds {len(calibration)} texts; int8 needs at least {LEAST_TEXTS}, better "
                          f"400 and more")
    chosen = _calibration(calibration)
    say(f"calibrating on {len(chosen)} texts, choosing on {len(trial.held_out)} others")
    encodings = [s.pretrained.encode(t) for t in chosen]
    observed = calibrate.observe(encoder, s.task, len(s.labels), [_row(s, e) for e in encodings],
                                 say.count("calibrating"))
    rows = smooth.ordinary(s.task, len(encoder.layers), observed, encodings)

    def build(way, keep):
        """The int8 graph of a Way."""
        names = [n for n in graph.linears(encoder) if n not in keep]
        factors = smooth.factors(encoder, observed, way.alpha, names) if way.alpha else {}
        e, scale = smooth.smoothed(encoder, factors)
        r = {}
        for n in observed:      # one at a time: a copy of all would take as much memory again
            r |= calibrate.ranges(way.ranges, smooth.seen({n: observed[n]}, factors))
        if way.corrected:
            for n in names:
                e = smooth.corrected(e, smooth.seen({n: observed[n][rows[n]]}, factors), r, [n])
        plan = graph.Plan(layout, "int8", ranges=r, keep_fp32=frozenset(keep), scale=scale, ops=a.ops)
        return graph.build(e, s.task, len(s.labels), plan).SerializeToString()

    keep = set() if a.keep_fp32 == "auto" else _kept(encoder, a.keep_fp32)
    tried = {}

    def best(ways):
        """The Way of least mean difference of probability. Agreement of a few hundred texts moves by a quarter of a
        point from one text; this orders them far more finely.
        """
        for way in ways:
            if way not in tried:
                m = trial.held_out_agreement(build(way, keep))
                tried[way] = evaluate.mean_gap(m)
                say(f"{way} on {len(trial.held_out)} held-out texts: agreement {100 * m['agreement']:.2f} %, mean "
                    f"difference of {'value' if s.regression else 'probability'} {tried[way]:.5f}")
        return min(ways, key=tried.get)

    def best_of(alpha):
        way = best([Way(method, alpha, corrected=True) for method in calibrate.METHODS])
        return best([way, replace(way, corrected=False)])

    # A few hundred texts do not resolve a few percent: what is likelier, or costs less, stays unless another is clearly
    # better. Smoothing costs about 2 % of speed; the rest costs nothing at run time.
    plain, smoothed = best_of(0.0), best_of(ALPHAS[0])
    for alpha in ALPHAS[1:]:
        other_alpha = best([replace(smoothed, alpha=alpha)])
        if tried[other_alpha] < CLEARLY * tried[smoothed]:
            smoothed = other_alpha
    ways = sorted(tried, key=tried.get)[:LADDER_WAYS]
    first = smoothed if tried[smoothed] < CLEARLY * tried[plain] else plain
    ladder = [(way, keep) for way in [first] + [way for way in ways if way != first]]
    if a.keep_fp32 == "auto":
        # fp32 costs more: every Way comes first, then the matrices that lose most (the lower half's FFN2, all FFN2, the
        # whole FFN).
        ladder += [(ways[0], kept) for kept in (_kept(encoder, "ffn2", lower_half=True), _kept(encoder, "ffn2"),
                                                _kept(encoder, "ffn1,ffn2"))]
    else:
        ladder = ladder[:1]

    figure = evaluate.main_figure(s)
    for way, keep in ladder:
        model = build(way, keep)
        measured = trial.final(model)
        say(f"int8, {way}" + (f", {len(keep)} of {len(graph.linears(encoder))} matrices in fp32" if keep else ""))
        trial.show(measured)
        loss = sum(sign * measured.get(m, {}).get(figure, 0.0) for m, sign in (("source", 1), ("export", -1)))
        if 100 * measured["agreement"] >= a.accept_agreement and (loss <= FIGURE_LOSS or a.keep_fp32 != "auto"):
            return model, {"method": "static-u8s8", "calibration": way.ranges, "texts": len(chosen),
                           "texts_sha256": _texts_sha256(chosen),
                           "smoothing": {"method": "smoothquant", "alpha": way.alpha, "matrices": list(graph.KINDS)}
                           if way.alpha else None,
                           "bias_corrected": way.corrected, "embedding": "int8, one scale a row",
                           "kept_fp32": sorted(keep)}, measured
    if 100 * measured["agreement"] < a.accept_agreement:
        raise ExportError(f"int8 agrees with the source on {100 * measured['agreement']:.2f} % of labels, less than "
                          f"{a.accept_agreement} %; nothing was written. "
                          "Give more texts like those to come, keep more in fp32 (--keep-fp32 ffn1,ffn2), or accept "
                          "it: --accept-agreement X", code=1)
    raise ExportError(f"int8 loses {100 * loss:.2f} points of {figure.replace('_', ' ')} even with the FFN in fp32; "
                      f"nothing was written. Give more calibration texts, or take it as it is with --keep-fp32 none",
                      code=1)


def check_fp16(a, s, layout, fp32, model, measured):
    """fp16 must give the source's labels and nearly its logits on the golden texts; and agree on labelled ones where
    given.
    """
    ids = [s.pretrained.row(t) for t in golden_texts(s)]
    ours, theirs = (feeds.run(feeds.session(m), ids, layout, s.task, s.pad_token_id) for m in (model, fp32))
    scale = max(1.0, max(float(np.abs(t).max()) for t in theirs))
    gap = max(float(np.abs(x - y).max()) for x, y in zip(ours, theirs))
    if not gap <= TOLERANCE["fp16"] * scale:
        raise ExportError(f"fp16 logits differ from fp32 by {gap:.2e} (allowed {TOLERANCE['fp16'] * scale:.1e}); "
                          f"nothing was written. Values of this model leave the range of fp16: use fp32 or int8",
                          code=1)
    if 100 * measured.get("agreement", 1.0) < a.accept_agreement:
        raise ExportError(f"fp16 agrees with the source on {100 * measured['agreement']:.2f} % of labels, less than "
                          f"{a.accept_agreement} %; nothing was written. Use fp32, or --accept-agreement X", code=1)


def golden_rows(s, layout, model, precision, say):
    """(golden texts with the export's own logits, each run alone; the tolerance for them on other CPUs).

    int8 answers hang on rounding: noise of 1e-6 moves single logits by up to several percent of their scale. So the
    texts that noise moves least are taken, and three times what it moved them is allowed.
    """
    ids = [s.pretrained.row(t) for t in golden_texts(s)]

    def answers(m):
        return [np.atleast_2d(z) for z in feeds.run(feeds.session(m), ids, layout, s.task, s.pad_token_id, batch=1)]

    out = answers(model)
    if not all(np.isfinite(z).all() for z in out):
        raise ExportError("the export gives NaN or infinite logits on a golden text; nothing was written. Use fp32",
                          code=1)
    noise = [0.0] * len(out)
    if precision == "int8":
        proto = onnx.load_from_string(model)
        for seed in range(4):
            moved = answers(graph.jitter(proto, seed))
            noise = [max(n, float(np.abs(x - y).max())) for n, x, y in zip(noise, out, moved)]
    chosen = sorted(sorted(range(len(out)), key=lambda i: noise[i])[:GOLDEN_TEXTS])
    scale = max(1.0, max(float(np.abs(out[i]).max()) for i in chosen))
    worst = max(noise[i] for i in chosen)
    tolerance = float(f"{max(TOLERANCE[precision] * scale, 3 * worst):.2g}")
    say(f"{len(chosen)} golden texts, logits up to {scale:.1f}" + (f", moved by rounding noise by up to {worst:.3f}"
            if precision == "int8" else "") + f": self-test tolerance {tolerance}")
    texts = golden_texts(s)

    def described(i):
        if not s.pairs:
            return {"text": texts[i], "input_ids": ids[i]}
        return {"text": texts[i][0], "text_pair": texts[i][1], "input_ids": ids[i],
                "token_type_ids": ids[i].types or [0] * len(ids[i])}

    return [described(i) | {"logits": [[float(f"{x:.7g}") for x in row]
            for row in out[i].tolist()]} for i in chosen], tolerance


def _kept(encoder, what, lower_half=False):
    names = graph.linears(encoder)
    if lower_half:
        return {n for n in _kept(encoder, what) if int(n[1:].split(".")[0]) < (len(encoder.layers) + 1) // 2}
    out = set()
    for part in (p.strip() for p in what.split(",") if p.strip() and p.strip() != "none"):
        if part in GROUPS:
            out |= {n for n in names if n.endswith("." + GROUPS[part])}
        elif part in names:
            out.add(part)
        else:
            raise ExportError(f"--keep-fp32 {part}: not a matrix of this model; give none, auto, ffn1, ffn2, or names "
                              f"from {names[0]} to {names[-1]}")
    return out


def _calibration(texts):
    """The texts that set ranges: every second one of the file, at most CALIBRATION_TEXTS."""
    return list(itertools.islice(texts[::2], CALIBRATION_TEXTS))


def _held_out(texts):
    """The texts between them, at most HELD_OUT_TEXTS: they set no range."""
    return list(itertools.islice(texts[1::2], HELD_OUT_TEXTS))


def _texts_sha256(texts):
    return hashlib.sha256("\n".join(t if isinstance(t, str) else "\t".join(t) for t in texts).encode()).hexdigest()


def _round(x):
    return float(f"{x:.4g}") if isinstance(x, float) else x


def _rounded(numbers):
    return {k: _round(v) for k, v in numbers.items()}
