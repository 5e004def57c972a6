#!/usr/bin/env python3
"""Makes model/calibrate/testdata/witness.json: made-up logits, and what numpy, SciPy and scikit-learn say of them.

    pip install numpy scipy scikit-learn && make_calibration_goldens.py > model/calibrate/testdata/witness.json

The temperature is SciPy's minimum of the log loss, the isotonic pools are those of scikit-learn's IsotonicRegression,
the expected calibration error is counted with numpy.digitize. None of it shares code with the Go program.
"""
import json

import numpy as np
import scipy
import sklearn
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, log_softmax, softmax
from sklearn.isotonic import IsotonicRegression

BINS = 15


def ece(p, right, edges=None):
    """Mean distance of score and share that is right; equal width (lo, hi], or equal size where edges is None."""
    if edges is None:
        order = np.argsort(p, kind="stable")
        parts = [order[i * len(p) // BINS:(i + 1) * len(p) // BINS] for i in range(BINS)]
    else:
        which = np.clip(np.digitize(p, edges, right=True) - 1, 0, BINS - 1)
        parts = [np.flatnonzero(which == b) for b in range(BINS)]
    return float(sum(len(i) * abs(p[i].mean() - right[i].mean()) for i in parts if len(i)) / len(p))


def measures(p, right, nll):
    return {"ece": ece(p, right, np.linspace(0, 1, BINS + 1)), "ece_adaptive": ece(p, right), "nll": float(nll)}


def pools(p, right):
    """Pools of the isotonic fit: mean score and share that is right."""
    fitted = IsotonicRegression().fit_transform(p, right)
    values = np.unique(np.round(fitted, 12))
    members = [np.isclose(fitted, v, atol=1e-11) for v in values]
    return {"x": [float(p[m].mean()) for m in members], "y": [float(right[m].mean()) for m in members]}


def exclusive(rng, n=400, k=3, sharper=2.3):
    honest = rng.normal(0, 1.3, (n, k))
    truth = np.array([rng.choice(k, p=softmax(z)) for z in honest])
    z = np.round(honest * sharper, 3)

    def at(t):
        p = softmax(z / t, axis=1)
        top = z.argmax(1)
        return p[np.arange(n), top], (top == truth).astype(float), -log_softmax(z / t, axis=1)[np.arange(n),
                truth].mean()

    t = minimize_scalar(lambda t: at(t)[2], bounds=(0.05, 100), method="bounded", options={"xatol": 1e-10}).x
    return {"independent": False, "logits": z.tolist(), "truth": (np.arange(k) == truth[:, None]).tolist(),
            "temperature": t,
            "before": measures(*at(1)), "after": measures(*at(t)), "accuracy": float((z.argmax(1) == truth).mean()),
            "pools": pools(*at(1)[:2])}


def independent(rng, n=300, k=2, sharper=0.6):
    honest = rng.normal(-0.5, 2, (n, k))
    truth = rng.random((n, k)) < expit(honest)
    z = np.round(honest * sharper, 3)

    def at(t):
        loss = -np.where(truth, log_expit(z / t), log_expit(-z / t)).mean()
        return expit(z / t).ravel(), truth.ravel().astype(float), loss

    t = minimize_scalar(lambda t: at(t)[2], bounds=(0.05, 100), method="bounded", options={"xatol": 1e-10}).x
    return {"independent": True, "logits": z.tolist(), "truth": truth.tolist(), "temperature": t,
            "before": measures(*at(1)), "after": measures(*at(t)),
            "accuracy": float(((expit(z) >= 0.5) == truth).mean()), "pools": pools(*at(1)[:2])}


rng = np.random.default_rng(7)
print(json.dumps({"numpy": np.__version__, "scipy": scipy.__version__, "scikit_learn": sklearn.__version__,
                  "cases": [exclusive(rng), independent(rng)]}))
