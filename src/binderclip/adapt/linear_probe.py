"""Linear probe: logistic regression on frozen picture vectors (Radford et al. 2021, arXiv 2103.00020, appendix A.3)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from binderclip.adapt.base import Adapter, Few
from binderclip.adapt.parts import PHOTO, Floats, unit
from binderclip.cards import Card
from binderclip.errors import InputError, NeedsExtraError

__all__ = ["COARSE", "LinearProbe", "search"]

CARD = Card(
    slug="linear_probe",
    name="Linear probe",
    title="Learning Transferable Visual Models From Natural Language Supervision",
    arxiv="2103.00020",
    year=2021,
    room="adapt",
    provides="LinearProbe",
    kind="Adapter",
    verb="fit",
    needs=("embeddings",),
    baseline=True,
    must_show={
        "C is found in a coarse list, then in eight halvings, left on ties": (
            "tests/adapt/test_baselines.py::test_search_of_c"
        ),
        "the fit is scikit-learn's own": "tests/adapt/test_baselines.py::test_linear_probe_is_logistic_regression",
    },
)

#: What is tried first, in this order.
COARSE = (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6)


class LinearProbe(Adapter):
    """``min C sum_i -log p(y_i | f_i) + 1/2 |V|^2`` by L-BFGS, on the embeddings f (CLIP's paper: before the projection).

    It starts from nothing, so that it is below zero-shot at one to four shots; that is no fault. Of views, each is a sample.

    Args:
        encoder: see `Adapter`.
        classes: see `Adapter`.
        templates: without effect.
        seed: without effect: the solution is unique.
        C: inverse strength of the regularisation; None chooses it on the validation set, 0.316 without one.
        max_iter: of L-BFGS.

    Raises:
        NeedsExtraError: scikit-learn is not installed.
    """

    learned = ("coef_", "intercept_")

    def __init__(
        self,
        encoder: Any,
        classes: Sequence[str],
        *,
        templates: str | Sequence[str] = PHOTO,
        seed: int = 0,
        C: float | None = None,
        max_iter: int = 1000,
    ) -> None:
        super().__init__(encoder, classes, templates=templates, seed=seed)
        self.C, self.max_iter = C, max_iter

    def _fit(self, few: Few) -> None:
        X, y = few.labelled()
        f, marks = unit(X).reshape(-1, X.shape[2]), np.repeat(y, X.shape[1])
        if len(np.unique(y)) < 2:
            raise InputError("all pictures are of one class: give at least two")
        if self.C is not None and not self.C > 0:
            raise InputError(f"C is {self.C}: give a positive number")

        def score(C: float) -> float:
            self._solve(f, marks, C)
            return float((self._logits(few.X_val).argmax(axis=1) == few.y_val).mean())  # type: ignore[arg-type]

        C = self.C or (0.316 if few.X_val is None else search(score))
        self._solve(f, marks, C)
        self.hyper_ = {"C": C}

    def _solve(self, f: Floats, y: Any, C: float) -> None:
        try:
            from sklearn.linear_model import LogisticRegression
        except ImportError:
            raise NeedsExtraError("the linear probe", "learn") from None
        model = LogisticRegression(C=C, max_iter=self.max_iter)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it has not converged; few rows for so many classes
            model.fit(f, y)
        seen, V, b = model.classes_, model.coef_, model.intercept_
        if len(seen) == 2:  # one logit: half of it for each, so that the softmax is the sigmoid
            V, b = np.concatenate([-V, V]) / 2, np.concatenate([-b, b]) / 2
        self.coef_ = np.zeros((len(self.classes), f.shape[1]))
        self.intercept_ = np.full(len(self.classes), -np.inf)  # a class without pictures is never the answer
        self.coef_[seen], self.intercept_[seen] = V, b

    def _logits(self, f: Floats) -> Floats:
        out: Floats = f @ self.coef_.T + self.intercept_
        return out


def search(score: Callable[[float], float], steps: int = 8) -> float:
    """The best of seven values of C, the first of equals, then of steps in [C / 10, 10 C].

    Each step fits at both ends and keeps the half (cut at the geometric mean) beside the better one, the left one on ties;
    the better end of the last step is the result.
    """
    known: dict[float, float] = {}

    def at(C: float) -> float:
        if C not in known:
            known[C] = score(C)
        return known[C]

    best = max(COARSE, key=at)
    low, high = best / 10, best * 10
    for step in range(steps):
        left = at(low) >= at(high)
        if step == steps - 1:
            break
        middle = math.sqrt(low * high)
        low, high = (low, middle) if left else (middle, high)
    return low if left else high
