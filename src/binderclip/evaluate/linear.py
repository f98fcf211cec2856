"""Linear classifiers on frozen vectors: scikit-learn's L-BFGS, and the AdamW that CLIP_benchmark trains with."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binderclip.errors import NeedsExtraError

__all__ = ["adamw", "lbfgs"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def lbfgs(B: Any, y: Ints, X: Any, decay: float, K: int, max_iter: int = 1000) -> tuple[Floats, bool]:
    """Logits ``[N, K]`` of a logistic regression on ``B, y`` (-inf for a class without rows), and whether it converged.

    Raises:
        NeedsExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise NeedsExtraError("the linear probe by L-BFGS", "learn") from None
    model = LogisticRegression(C=1.0 / (max(decay, 1e-12) * len(y)), max_iter=max_iter)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(B, y)
    logits = np.asarray(model.decision_function(X), np.float64)
    if logits.ndim == 1:  # two classes: one logit
        logits = np.stack([-logits, logits], axis=1) / 2.0
    out = np.full((len(logits), K), -np.inf)
    out[:, model.classes_] = logits
    return out, not any(issubclass(w.category, ConvergenceWarning) for w in caught)


def adamw(
    B: Any, y: Ints, K: int, decay: float, *, lr: float = 0.1, epochs: int = 10, batch: int = 64, seed: int = 0
) -> tuple[Floats, Floats]:
    """Weights ``[K, D]`` and bias ``[K]`` after AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) on the cross-entropy.

    With gradient ``g``, moments ``m, v`` and their corrections: ``w <- w - lr_t lambda w - lr_t m^ / (sqrt v^ + 1e-8)``;
    ``lr_t`` follows half a cosine from `lr` to 0 over all steps, without warm-up.

    Args:
        B: ``[N, D]``.
        y: ``[N]``.
        K: classes.
        decay: lambda, on weights and bias.
        lr: learning rate at the start.
        epochs: passes over the rows, each in a drawn order.
        batch: rows of a step; the last one of an epoch may be smaller.
        seed: of the first weights (uniform in ``+- 1/sqrt D``) and of the orders.
    """
    x = np.asarray(B, np.float64)
    rng = np.random.default_rng(seed)
    N, D = x.shape
    # the bias is one more column of ones
    x = np.concatenate([x, np.ones((N, 1))], axis=1)
    w = rng.uniform(-1.0, 1.0, (K, D + 1)) / math.sqrt(D)
    m, v, step = np.zeros_like(w), np.zeros_like(w), 0
    total = epochs * math.ceil(N / batch)
    for _ in range(epochs):
        order = rng.permutation(N)
        for start in range(0, N, batch):
            rows = order[start : start + batch]
            rate = 0.5 * lr * (1.0 + math.cos(math.pi * step / total))
            step += 1
            g = gradient(w, x[rows], y[rows])
            m = 0.9 * m + 0.1 * g
            v = 0.999 * v + 0.001 * g**2
            w = w * (1.0 - rate * decay)
            w = w - rate * (m / (1.0 - 0.9**step)) / (np.sqrt(v / (1.0 - 0.999**step)) + 1e-8)
    return w[:, :D], w[:, D]


def gradient(w: Floats, x: Floats, y: Ints) -> Floats:
    """Of the mean cross-entropy of ``softmax(x w^T)``, ``[K, D]``."""
    z = x @ w.T
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(y)), y] -= 1.0
    out: Floats = p.T @ x / len(y)
    return out
