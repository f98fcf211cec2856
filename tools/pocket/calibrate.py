"""From a cosine to a probability: reference statistics and the fitted slope, on training rows; measured on test rows.

The scene is a collection of photos of one class each, asked for the names of 100 classes that are there and of 100 that are
not. The best hit of a query is right when it shows the class; ``a`` and ``b`` are the logistic regression of that on its z.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from binderclip.engine.calibration import Calibration
from pocket import names
from pocket.figures import Space, Split
from pocket.inputs import hash_order, is_test
from pocket.rows import in_fold

NAMES = 100


def statistics(space: Space, per_table: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    """``mu [D]`` and ``Sigma [D, D]`` of a mix: photos, small pictures, cut-out objects, each with a third of the weight."""
    moments = []
    for table in ("imagenet1k_photos", "tiny_imagenet", "stamps"):
        vectors, _ = space.rows(table, lambda i: not is_test(i), [])
        vectors = vectors[:: max(len(vectors) // per_table, 1)].astype(np.float64)
        moments.append((vectors.mean(0), vectors.T @ vectors / len(vectors)))
    mean = np.mean([m for m, _ in moments], axis=0)
    second = np.mean([s for _, s in moments], axis=0)
    return mean.astype(np.float32), (second - np.outer(mean, mean)).astype(np.float32)


def scene(space: Space, split: Split, seed: str, count: int = NAMES) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A collection and its queries.

    Returns:
        photos ``[N, D]``; queries ``[2 count, D]``; for each query the number of its photo, or -1 (the last ``count``).
    """
    vectors, rows = space.rows("imagenet1k_photos", split, ["wnid"])
    place = {row["wnid"]: i for i, row in enumerate(rows)}
    spelt = {c.wnid: c.name for c in names.imagenet(space.paths)}
    present = [w[len(seed) :] for w in hash_order([seed + w for w in spelt if w in place])[:count]]
    absent = [w[len(seed) :] for w in hash_order([seed + w for w in spelt if w not in place])[:count]]
    queries = space.encode([spelt[w] for w in present + absent])
    return vectors, queries, np.array([place[w] for w in present] + [-1] * len(absent))


def best_hits(space: Space, plain: Calibration, split: Split, seed: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each query of a scene: z of the best hit, whether it is right, z of its own photo (nan where there is none)."""
    photos, queries, truth = scene(space, split, seed)
    z = np.stack([plain.z(q, photos @ q) for q in queries])  # [Q, N]
    top = z.argmax(1)
    own = np.where(truth >= 0, z[np.arange(len(z)), truth], np.nan)
    return z.max(1), top == truth, own


def logistic(x: np.ndarray, y: np.ndarray, rounds: int = 100) -> tuple[float, float]:
    """Slope and offset of ``P(y | x)``, by Newton's method with a faint pull towards zero."""
    features = np.stack([x, np.ones_like(x)], 1)
    w = np.zeros(2)
    for _ in range(rounds):
        p = 1 / (1 + np.exp(-features @ w))
        gradient = features.T @ (p - y) + 1e-3 * w
        hessian = features.T @ (features * (p * (1 - p))[:, None]) + 1e-3 * np.eye(2)
        w -= np.linalg.solve(hessian, gradient)
    return float(w[0]), float(w[1])


def fit(space: Space, halves: Sequence[Space], scenes: int = 20) -> Calibration:
    """Statistics of the model itself, then ``a`` and ``b`` over scenes of 145 training photos of which the fit knew none.

    Args:
        space: the model.
        halves: embeddings of the photos by two fits, of which fit ``n`` never saw the photos of ``in_fold(id) == n``.
        scenes: how many a half.
    """
    mean, covariance = statistics(space)
    plain = Calibration(mean, covariance, 1.0, 0.0)
    xs, ys = [], []
    for fold, half in enumerate(halves):
        kept = [i for i in half.images["imagenet1k_photos"][0] if not is_test(i) and in_fold(i) == fold]
        for n in range(scenes):
            chosen = {i.removeprefix(str(n)) for i in hash_order([f"{n}{i}" for i in kept])[:145]}
            z, right, _ = best_hits(half, plain, chosen.__contains__, f"scene{n} ")
            xs.append(z)
            ys.append(right)
    a, b = logistic(np.concatenate(xs), np.concatenate(ys).astype(float))
    return Calibration(mean, covariance, a, b)


def expected_error(probability: np.ndarray, right: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error over equal-width bins (Guo et al. 2017, arXiv 1706.04599)."""
    place = np.minimum((probability * bins).astype(int), bins - 1)
    parts = [(place == i) for i in range(bins) if (place == i).any()]
    return float(sum(m.mean() * abs(probability[m].mean() - right[m].mean()) for m in parts))


def judge(space: Space, calibration: Calibration, split: Split = is_test) -> dict[str, Any]:
    """Absent names that match nothing, present ones that keep their photo, and the error of the best hits' probability."""
    z, right, own = best_hits(space, calibration, split, "judge ")
    p = 1 / (1 + np.exp(-(calibration.a * z + calibration.b)))
    p_own = 1 / (1 + np.exp(-(calibration.a * own + calibration.b)))
    there = ~np.isnan(own)
    return {
        "photos": len(scene(space, split, "judge ")[0]),
        "absent_says_nothing": float((p[~there] < 0.5).mean()),
        "present_keeps_photo": float((p_own[there] >= 0.5).mean()),
        "present_best_is_right": float(right[there].mean()),
        "ece_best_hit": expected_error(p, right),
    }


__all__ = ["best_hits", "expected_error", "fit", "judge", "logistic", "scene", "statistics"]
