"""What two models' answers are worth: accuracy, entity F1, errors and correlation of values, agreement, differences."""
import re
from dataclasses import dataclass

import numpy as np

from . import labelled as files
from .errors import ExportError
from .source import TOKEN


@dataclass
class Labelled:
    """Labelled texts. truth: label id (single label), list of 0/1 (multi-label), list of numbers (regression), or one
    tag a word; starts: where each word begins.
    """
    texts: list
    truth: list
    starts: list


def read_labelled(path, source):
    """Labelled texts of a file, with what the source's task needs."""
    if source.task == TOKEN:
        return _read_entities(path, source)
    form = files.VALUES if source.regression else files.LABELS if source.multi_label else files.LABEL
    rows, truth = files.read(path, form), []
    for row in rows:
        if source.regression:
            if len(row.truth) != len(source.labels):
                raise ExportError(f"{path}:{row.line}: has {len(row.truth)} values, and the model gives "
                                  f"{len(source.labels)} ({', '.join(source.labels)}); write one for each, in this "
                                  f"order")
            truth.append(row.truth)
            continue
        if isinstance(row.truth, files.Cell):
            row.truth = row.truth.of(source.labels)
        found = files.resolve(path, row, source.labels)
        truth.append([int(i in found) for i in range(len(source.labels))] if source.multi_label else found[0])
    return Labelled([row.text for row in rows], truth, None)


def _read_entities(path, source):
    """Sentences with a tag a word. Entities of JSON lines become the tags of the words that they touch."""
    rows, truth, starts = files.read(path, files.ENTITIES), [], []
    for row in rows:
        if row.words is None:
            words = list(re.finditer(r"\S+", row.text))
            tags, begins = _tags(path, row, words, source.labels), [m.start() for m in words]
        else:
            tags, begins = [t for _, t in row.words], list(np.cumsum([0] + [len(w) + 1 for w, _ in row.words])[:-1])
        if wrong := sorted(set(tags) - {"O"} - set(source.labels)):
            raise ExportError(f"{path}:{row.line}: tags {', '.join(wrong)} are not labels of the model "
                              f"({', '.join(source.labels)}); give texts labelled with the model's own tags")
        truth.append(tags)
        starts.append(begins)
    return Labelled([row.text for row in rows], truth, starts)


def _tags(path, row, words, labels):
    """The tags of words, which are matches. A word has the tag of the entity that it touches first."""
    known = sorted({re.sub(r"^[BI]-", "", t) for t in labels} - {"O"})
    out, begun = [], None
    for m in words:
        touched = next((e for e in row.truth if e[1] < m.end() and e[2] > m.start()), None)
        tag = "O"
        if touched:
            at = files.name_of(touched[0], known)
            if at is None:
                raise ExportError(f"{path}:{row.line}: {touched[0]!r} is none of the model's labels "
                                  f"({', '.join(known)}); correct it, or name another model")
            group = known[at]
            forms = ("I-" + group, group) if touched is begun else ("B-" + group, "I-" + group, group)
            tag = next(t for t in forms + ("B-" + group,) if t in labels)
        begun = touched
        out.append(tag)
    return out


def score(source, labelled, encodings, logits):
    """Numbers of one model on labelled texts: {"accuracy"} or {"entity_f1", ...} or, multi-label, {"accuracy",
    "<label>_f1", ...} or, of a regression, {"mse", "pearson", "spearman"}, with several outputs also of each by name.
    """
    if source.regression:
        return regression_figures(source.labels, np.array(labelled.truth, np.float64), np.array(logits, np.float64))
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


def regression_figures(names, truth, said):
    """Mean squared error, and Pearson's and Spearman's correlation (ties have their mean rank), of [texts, outputs];
    the correlations are the means over outputs. One of a constant is not defined, and left out.
    """
    out = {"mse": float(((truth - said) ** 2).mean())}
    for figure, of in (("pearson", lambda v: v), ("spearman", _ranks)):
        each = {n: _correlation(of(truth[:, i]), of(said[:, i])) for i, n in enumerate(names)}
        if None not in each.values():
            out[figure] = float(np.mean(list(each.values())))
        if len(names) > 1:
            out |= {f"{n}_{figure}": r for n, r in each.items() if r is not None}
    if len(names) > 1:
        out |= {f"{n}_mse": float(((truth[:, i] - said[:, i]) ** 2).mean()) for i, n in enumerate(names)}
    return out


def _correlation(x, y):
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum() / scale) if scale > 0 else None


def _ranks(values):
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


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
    return "entity_f1" if source.task == TOKEN else "pearson" if source.regression else "accuracy"


def mean_gap(measured):
    """How far two models' answers are apart on average, as compare measures it."""
    return measured["mean_difference"] if "mean_difference" in measured else measured["mean_dp"]


def compare(source, encodings, ours, theirs):
    """Agreement of two models' answers: share of equal labels and differences of probability.

    Single label: a text counts once. Multi-label: each label of a text, decided at 0.5. Tokens: every token but the
    special ones. A regression has no labels: agreement is the share of the other model's variance that ours has (R²,
    the least of the outputs), and the differences are of values.
    """
    if source.regression:
        return _compare_values(np.array(ours, np.float64), np.array(theirs, np.float64))
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


def _compare_values(ours, theirs):
    gaps = np.abs(ours - theirs)
    lost, spread = (gaps ** 2).sum(0), ((theirs - theirs.mean(0)) ** 2).sum(0)
    kept = [1 - a / b if b > 0 else float(a == 0) for a, b in zip(lost, spread)]
    return {"agreement": float(max(0.0, min(kept))), "max_difference": float(gaps.max()),
            "mean_difference": float(gaps.mean()), "decisions": int(gaps.size)}


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
