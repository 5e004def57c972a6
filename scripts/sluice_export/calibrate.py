"""Activation ranges for static int8: what values the input of each matrix takes on real texts.

Four ways to turn them into a range: min-max; percentile 99.999; least squares (the scaled min-max range whose 255 steps
lose least, in mean squared error); the same with either end scaled apart. Which is best differs from model to model by
less than small sets can tell, so the command line tries all four. Percentile 99.9, S8S8 and dynamic ranges were
measured and are not offered: they cost points of accuracy, are slower than fp32, or let a text's verdict depend on its
batch neighbours.
"""
import numpy as np

from . import feeds, graph

METHODS = ("least-squares", "least-squares-apart", "minmax", "percentile")
SAMPLE = 200_000        # values a matrix for the least-squares search: enough for four digits of its error


def observe(encoder, task, labels, ids, progress):
    """linear name -> [rows, channels], its input over the texts, a row a token."""
    model = graph.build(encoder, task, labels, graph.Plan("packed", "fp32", watch=True))
    session = feeds.session(model)
    names = [o.name for o in session.get_outputs() if o.name.startswith("watch:")]
    wanted = {i.name for i in session.get_inputs()}
    seen = {n: [] for n in names}
    for at in range(0, len(ids), 16):
        feed = {k: v for k, v in feeds.packed(ids[at:at + 16]).items() if k in wanted}
        for n, values in zip(names, session.run(names, feed)):
            seen[n].append(values.reshape(-1, values.shape[-1]))
        progress(min(at + 16, len(ids)), len(ids))
    return {n.removeprefix("watch:"): np.concatenate(v) for n, v in seen.items()}


def ranges(method, observed):
    """linear name -> (low, high) by one of METHODS."""
    return {n: _RANGE[method](v.ravel()) for n, v in observed.items()}


def _minmax(v):
    return float(v.min()), float(v.max())


def _percentile(v):
    low, high = np.percentile(v, [0.001, 99.999])
    return float(low), float(high)


def _sample(v):
    return v[np.random.RandomState(0).randint(0, len(v), SAMPLE)] if len(v) > SAMPLE else v


def _least_squares(v):
    low, high = _minmax(v)
    v = _sample(v)
    best = None
    for part in np.linspace(0.15, 1.0, 40):
        a, b = low * part, high * part
        step = max((b - a) / 255, 1e-8)
        error = float(((np.clip(np.rint((v - a) / step), 0, 255) * step + a - v) ** 2).mean())
        if best is None or error < best[0]:
            best = (error, a, b)
    return best[1], best[2]


def _least_squares_apart(v):
    low, high = min(float(v.min()), 0.0), max(float(v.max()), 0.0)
    v = _sample(v)

    def error(a, b):
        step, zero = graph.steps_u8(low * a, high * b)
        zero = np.float32(zero)
        return float(((((np.clip(np.rint(v / step) + zero, 0, 255) - zero) * step) - v) ** 2).mean())
    a = b = 1.0
    parts = np.linspace(0.3, 1.0, 29)
    for _ in range(3):      # one end after the other: the two hardly depend on each other
        b = float(min(parts, key=lambda part: error(a, part)))
        a = float(min(parts, key=lambda part: error(part, b)))
    return low * a, high * b


_RANGE = {"least-squares-apart": _least_squares_apart, "minmax": _minmax, "percentile": _percentile,
          "least-squares": _least_squares}
