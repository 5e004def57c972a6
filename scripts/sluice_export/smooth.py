"""Two ways to lose less in int8.

Smoothing (SmoothQuant, Xiao et al. 2022, arXiv 2211.10438). All channels of an activation share one step of u8, so the
channel with the largest values sets it for all. Dividing each channel by a factor before rounding, and multiplying the
matrix's column by it, brings the channels nearer to each other and changes nothing else. The factor of channel c is
amax_x[c]^alpha / amax_w[c]^(1-alpha); percentiles instead of largest values were measured and lose. The output matrix
of attention takes its factors for nothing, as attention is linear in V: V's rows are divided instead. Before the other
matrices the graph has a Mul (Plan.scale).

Correction of biases, free at run time: rounding moves the mean of a matrix's output over ordinary tokens. What it moves
on the calibration texts is taken from the bias.
"""
from dataclasses import replace

import numpy as np

from . import graph
from .source import TOKEN


def factors(encoder, observed, alpha, names):
    """linear name -> positive factor a channel, geometric mean 1. observed: linear name -> [rows, channels]."""
    out = {}
    for name in names:
        x = np.abs(observed[name]).max(axis=0).astype(np.float64)
        # A channel that was quiet on the calibration texts must not be stretched so far that any other text would clip
        # it.
        x = np.maximum(x, max(0.1 * np.median(x), 1e-6))
        w = np.abs(matrix(encoder, name)[0]).max(axis=0).astype(np.float64)
        w = np.maximum(w, max(0.1 * np.median(w), 1e-6))
        f = x ** alpha / w ** (1 - alpha)
        out[name] = (f / np.exp(np.log(f).mean())).astype(np.float32)
    return out


def smoothed(encoder, chosen):
    """(encoder whose columns are multiplied by the factors, Plan.scale for it)."""
    layers = [dict(w) for w in encoder.layers]
    for name, f in chosen.items():
        w = layers[int(name[1:].split(".")[0])]
        kind = name.split(".")[1]
        for m in _parts(kind):
            w[m] = (w[m][0] * f[None, :], w[m][1])
        if kind == "o":
            w["v"] = (w["v"][0] / f[:, None], w["v"][1] / f)
    return replace(encoder, layers=layers), {n: 1 / f for n, f in chosen.items() if not n.endswith(".o")}


def seen(observed, chosen):
    """What the matrices of a smoothed encoder take in, from what those of the plain one do."""
    return {n: x / chosen[n] if n in chosen else x for n, x in observed.items()}


def ordinary(task, layers, observed, encodings):
    """The rows of observed that biases are corrected by: tokens that are not special, and in a last layer that works on
    first tokens only, those.

    [CLS] and [SEP] have values so large that their error, mostly that of being cut off, would be the mean's.
    """
    special = np.concatenate([np.array(e.special_tokens_mask) for e in encodings]).astype(bool)
    lengths = np.array([len(e.ids) for e in encodings])
    rows = np.flatnonzero(~special) if not special.all() else np.arange(len(special))
    first = np.cumsum(lengths) - lengths
    last = () if task == TOKEN else tuple(f"l{layers - 1}.{m}" for m in ("o", "f1", "f2"))
    return {n: first if n in last else rows for n in observed}


def corrected(encoder, observed, ranges, names):
    """An encoder whose biases take back what rounding moves the mean of the named matrices' outputs by."""
    layers = [dict(w) for w in encoder.layers]
    for name in names:
        weight, _ = matrix(encoder, name)
        step, zero = graph.steps_u8(*ranges[name])
        x = observed[name]
        rounded = (np.clip(np.rint(x / step) + np.float32(zero), 0, 255) - np.float32(zero)).mean(axis=0,
                dtype=np.float64) * step
        s8, scales = graph.weights_s8(weight)
        moved = (s8.astype(np.float64) * scales[:, None]) @ rounded - weight.astype(np.float64) @ x.mean(axis=0,
                dtype=np.float64)
        w = layers[int(name[1:].split(".")[0])]
        parts = _parts(name.split(".")[1])
        for m, part in zip(parts, np.split(moved, len(parts))):
            w[m] = (w[m][0], (w[m][1] - part).astype(np.float32))
    return replace(encoder, layers=layers)


def matrix(encoder, name):
    """(weight, bias) of one of graph.linears; qkv joined."""
    w = encoder.layers[int(name[1:].split(".")[0])]
    return tuple(np.concatenate([w[m][j] for m in _parts(name.split(".")[1])]) for j in (0, 1))


def _parts(kind):
    return tuple(kind) if kind == "qkv" else (kind,)
