"""The logistic fit against scikit-learn, and a calibration that tells present from absent."""

from __future__ import annotations

import numpy as np
import pytest

from binderclip.engine.fitting import fit_calibration, logistic
from binderclip.errors import InputError


def test_logistic_equals_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    x = rng.normal(size=300)
    y = rng.random(300) < 1 / (1 + np.exp(-(2 * x - 1)))
    reference = LogisticRegression(C=np.inf, tol=1e-10).fit(x[:, None], y)
    assert logistic(x, y, ridge=0) == pytest.approx((reference.coef_[0, 0], reference.intercept_[0]), rel=1e-4)


def test_separable_classes_stay_finite() -> None:
    a, b = logistic([0, 1, 2, 3], [0, 0, 1, 1])
    assert np.isfinite([a, b]).all()
    assert a > 0
    assert -b / a == pytest.approx(1.5, abs=0.1)


def test_present_and_absent_classes_are_told_apart() -> None:
    """Classes are directions, pictures noisy copies: held-out classes meet the rates wanted of the embedded model."""
    rng = np.random.default_rng(1)
    queries = rng.normal(size=(160, 64)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    owner = np.repeat(np.arange(160), 8)
    images = queries[owner] + 0.12 * rng.normal(size=(1280, 64)).astype(np.float32)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    calibration = fit_calibration(images[owner < 80], owner[owner < 80], queries[:80])
    scene = images[(owner >= 80) & (owner < 120)]
    best = np.array([calibration.probability(q, scene @ q).max() for q in queries[80:]])
    assert (best[:40] >= 0.5).mean() >= 0.8  # present: found
    assert (best[40:] < 0.5).mean() >= 0.7  # absent: nothing matches


def test_too_little_to_fit_on() -> None:
    with pytest.raises(InputError, match="too few"):
        fit_calibration(np.eye(3, dtype=np.float32), np.arange(3), np.eye(3, dtype=np.float32))
