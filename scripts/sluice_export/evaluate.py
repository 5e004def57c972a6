"""Texts from files, and what two models' answers are worth: accuracy, entity F1, agreement, differences of probability.
"""
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import ExportError
from .source import TOKEN


@dataclass
class Labelled:
    """Labelled texts. truth: label id (single label), list of 0/1 (multi-label), or one tag a word; starts: where each
    word begins.
    """
    texts: list
    truth: list
    starts: list


def read_texts(path):
    """Texts of a calibration file: a line each; a `text` column in .tsv; a `text` member in .jsonl; sentences in .iob2.
    """
    path = Path(path)
    lines = _lines(path)
    if path.suffix == ".tsv":
        column = _columns(path, lines, "text")["text"]
        texts = [r.split("\t")[column] for r in lines[1:] if len(r.split("\t")) > column]
    elif path.suffix == ".jsonl":
        texts = []
        for n, line in enumerate(lines, 1):
            try:
                texts.append(json.loads(line)["text"])
            except (ValueError, KeyError, TypeError):
                raise ExportError(f"{path}:{n}: not a JSON object with a member \"text\"") from None
    elif path.suffix == ".iob2":
        texts = [" ".join(w for w, _ in s) for s in _sentences(path, lines)]
    else:
        texts = lines
    texts = [t.strip() for t in texts if t.strip()]
    if not texts:
        raise ExportError(f"{path} holds no texts; give a text a line, or a .tsv or .jsonl with a column \"text\"")
    return texts


def read_labelled(path, source):
    """Labelled texts of a file: .tsv with columns label and text, or word<TAB>tag lines (IOB2) for
    token-classification.
    """
    path = Path(path)
    lines = _lines(path)
    if source.task == TOKEN:
        sentences = list(_sentences(path, lines))
        known, used = set(source.labels), {t for s in sentences for _, t in s}
        if not used - {"O"} <= known:
            raise ExportError(f"{path}: tags {', '.join(sorted(used - known - {'O'}))} are not labels of the model "
                              f"({', '.join(source.labels)}); give texts labelled with the model's own tags")
        starts = []
        for s in sentences:
            lengths = [0] + [len(w) + 1 for w, _ in s]
            starts.append(list(np.cumsum(lengths)[:-1]))
        return Labelled([" ".join(w for w, _ in s) for s in sentences], [[t for _, t in s] for s in sentences], starts)
    where = _columns(path, lines, "label", "text")
    ids = {l.lower(): i for i, l in enumerate(source.labels)}
    texts, truth = [], []
    for n, row in enumerate(lines[1:], 2):
        cells = row.split("\t")
        if len(cells) <= max(where.values()):
            raise ExportError(f"{path}:{n}: fewer columns than the header has")
        names = [x.strip().lower() for x in cells[where["label"]].split(",")
                 if x.strip()] if source.multi_label else [cells[where["label"]].strip().lower()]
        for x in names:
            if x not in ids and not (x.isdigit() and int(x) < len(ids)):
                raise ExportError(f"{path}:{n}: label {x!r} is not one of the model's: {', '.join(source.labels)}")
        found = [ids[x] if x in ids else int(x) for x in names]
        texts.append(cells[where["text"]])
        truth.append([int(i in found) for i in range(len(ids))] if source.multi_label else found[0])
    if not texts:
        raise ExportError(f"{path} holds no labelled texts")
    return Labelled(texts, truth, None)


def score(source, labelled, encodings, logits):
    """Numbers of one model on labelled texts: {"accuracy"} or {"entity_f1", ...} or, multi-label, {"accuracy",
    "<label>_f1", ...}.
    """
    if source.task == TOKEN:
        predicted = [word_tags(source, text, e, z, starts) for text, e, z, starts in zip(labelled.texts, encodings,
                logits, labelled.starts)]
        return entity_f1(labelled.truth, predicted)
    if source.multi_label:
        truth, said = np.array(labelled.truth), np.array([z > 0 for z in logits])
        out = {"accuracy": float((truth == said).mean())}
        for i, label in enumerate(source.labels):
            hit, all_ = int((truth[:, i] & said[:, i]).sum()), int(truth[:, i].sum() + said[:, i].sum())
            out[f"{label}_f1"] = 2 * hit / all_ if all_ else 0.0
        return out
    return {"accuracy": float(np.mean([int(z.argmax()) == y for z, y in zip(logits, labelled.truth)]))}


def word_tags(source, text, encoding, logits, starts):
    """One tag a word: that of the word's first token; "O" where the text was truncated before it."""
    first = {}
    for row, ((a, b), special) in enumerate(zip(encoding.offsets, encoding.special_tokens_mask)):
        # byte-level tokens may begin with, or be, the blank before a word
        a += len(text[a:b]) - len(text[a:b].lstrip())
        if not special and b > a:
            first.setdefault(int(np.searchsorted(starts, a, side="right")) - 1, row)
    return [source.labels[int(logits[first[w]].argmax())] if w in first else "O" for w in range(len(starts))]


def entity_f1(truth, predicted):
    """Exact-span entity precision, recall and F1 over sentences of IOB tags (as conlleval counts them)."""
    gold = [(n, *e) for n, tags in enumerate(truth) for e in _entities(tags)]
    said = [(n, *e) for n, tags in enumerate(predicted) for e in _entities(tags)]
    hits = len(set(gold) & set(said))
    precision, recall = hits / len(said) if said else 0.0, hits / len(gold) if gold else 0.0
    return {"entity_f1": 2 * precision * recall / (precision + recall) if hits else 0.0, "entity_precision": precision,
            "entity_recall": recall}


def main_figure(source):
    """The name of the figure that an export must keep."""
    return "entity_f1" if source.task == TOKEN else "accuracy"


def compare(source, encodings, ours, theirs):
    """Agreement of two models' answers: share of equal labels and differences of probability.

    Single label: a text counts once. Multi-label: each label of a text, decided at 0.5. Tokens: every token but the
    special ones.
    """
    same, gaps = [], []
    for e, a, b in zip(encodings, ours, theirs):
        if source.multi_label:
            same.append((a > 0) == (b > 0))
            gaps.append(np.abs(_sigmoid(a) - _sigmoid(b)))
            continue
        if source.task == TOKEN:
            keep = np.array(e.special_tokens_mask) == 0
            a, b = a[keep], b[keep]
        same.append(np.atleast_1d(a.argmax(-1) == b.argmax(-1)))
        gaps.append(np.atleast_1d(np.abs(_softmax(a) - _softmax(b)).max(-1)))
    same, gaps = np.concatenate([np.ravel(x) for x in same]), np.concatenate([np.ravel(x) for x in gaps])
    return {"agreement": float(same.mean()), "max_dp": float(gaps.max()), "mean_dp": float(gaps.mean()),
            "decisions": int(same.size)}


def _entities(tags):
    """(type, first word, last word) of each entity. I- after another type, or after O, begins one, as in conlleval."""
    out, begin, kind = [], None, None
    for i, tag in enumerate(list(tags) + ["O"]):
        prefix, _, name = tag.partition("-")
        if kind is not None and (prefix != "I" or name != kind):
            out.append((kind, begin, i - 1))
            kind = None
        if tag != "O" and kind is None:
            begin, kind = i, name
    return out


def _softmax(z):
    z = np.exp(z - z.max(-1, keepdims=True))
    return z / z.sum(-1, keepdims=True)


def _sigmoid(z):
    return 1 / (1 + np.exp(-np.asarray(z, np.float64)))


def _lines(path):
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\n").split("\n")
    except FileNotFoundError:
        raise ExportError(f"{path} is missing; give an existing file") from None
    except (UnicodeDecodeError, OSError) as e:
        raise ExportError(f"{path} cannot be read as UTF-8 text: {e}") from None


def _columns(path, lines, *names):
    header = [h.strip().lower() for h in lines[0].split("\t")]
    missing = [n for n in names if n not in header]
    if missing:
        raise ExportError(f"{path}: no column {' or '.join(missing)}; the first line must be a header with "
                          f"{' and '.join(names)}, separated by tabs (it has: {', '.join(header)})")
    return {n: header.index(n) for n in names}


def _sentences(path, lines):
    sentence = []
    for n, line in enumerate(lines + [""], 1):
        if line.strip():
            cells = line.split("\t")
            if len(cells) < 2:
                raise ExportError(f"{path}:{n}: expected word<TAB>tag (IOB2), an empty line between sentences")
            sentence.append((cells[0], cells[-1].strip()))
        elif sentence:
            yield sentence
            sentence = []
