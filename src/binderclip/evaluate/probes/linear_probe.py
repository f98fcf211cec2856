"""Linear probe: logistic regression on frozen picture vectors (Radford et al. 2021, arXiv 2103.00020, appendix A.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binderclip.data.embeddings import uniform
from binderclip.errors import InputError
from binderclip.evaluate.base import Report, plain
from binderclip.evaluate.classifying import class_numbers, class_rows, confusion_chart, worst_errors
from binderclip.evaluate.data import Dataset, Sets
from binderclip.evaluate.linear import adamw, lbfgs
from binderclip.evaluate.metrics.classification import true_ranks
from binderclip.evaluate.vectors import Vectors

__all__ = ["GRID", "LinearProbe", "sweep"]

Ints = NDArray[np.int64]
#: Weight decays that are swept: 97, log-spaced from 1e-6 to 1e2.
GRID = np.logspace(-6, 2, 97)


@dataclass(frozen=True)
class LinearProbe:
    """Logistic regression; the weight decay is chosen on a validation set, never on the test rows.

    ``min mean_i -log p(y_i | x_i) + lambda / 2 |W|^2`` (scikit-learn's ``C = 1 / (lambda n)``). The sweep tries seven of 97
    values first, then the best one's neighbours at 8, 4, 2 and 1 steps. The final fit is on training and validation rows
    together, or on the k-shot rows alone. Vectors are unit rows and are not standardised.

    Args:
        weight_decay: lambda, where it is not to be swept.
        shots: rows of each class to learn from, the first in the order of the hash of their ids; None for all.
        held: share of each class kept aside as validation where no validation set is given.
        max_iter: of L-BFGS.
        seed: of the hashes, and of AdamW's first weights and orders.
        solver: "lbfgs" (the CLIP paper) or "adamw" (CLIP_benchmark: learning rate 0.1, cosine, 10 epochs, batch 64).
    """

    weight_decay: float | None = None
    shots: int | None = None
    held: float = 0.1
    max_iter: int = 1000
    seed: int = 0
    solver: str = "lbfgs"

    def run(self, vectors: Vectors, sets: Sets) -> Report:
        """Measure.

        Raises:
            InputError: no labels, one class only, or a class with fewer rows than `shots`.
            NeedsExtraError: L-BFGS without scikit-learn.
        """
        if self.solver not in ("lbfgs", "adamw"):
            raise InputError(f"no solver is called {self.solver!r}: use lbfgs or adamw")
        sets.test.labelled()
        learn, test, note = sets.to_learn(self.seed)
        learn, y_learn = learn.labelled()
        data, y = test.labelled()
        if len(np.unique(y_learn)) < 2:
            raise InputError(f"{learn.name} has training pictures of one class only: give at least two")
        if self.shots is not None:
            keep = few(learn, y_learn, self.shots, self.seed)
            learn, y_learn = learn.select(keep), y_learn[keep]
        B, X = vectors.images(learn.items), vectors.images(data.items)
        notes = [f"learnt from {len(learn)} rows"] + ([note] if note else [])
        decay, tried = self._choose(vectors, sets, learn, y_learn, B, notes)
        if sets.validation is not None and self.shots is None:
            extra, y_extra = sets.validation.labelled()
            B, y_learn = np.concatenate([B, vectors.images(extra.items)]), np.concatenate([y_learn, y_extra])
        K = len(data.classes)
        scores, converged = self._fit(B, y_learn, X, decay, K)
        if not converged:
            notes.append(f"L-BFGS stopped after {self.max_iter} steps before it had converged")
        rows = class_rows(data, scores, y)
        numbers = (*class_numbers(scores, y, K), plain("weight_decay", decay, len(y_learn)))
        chart = {
            "kind": "lines",
            "title": "Validation accuracy by weight decay",
            "x": "log10 weight decay",
            "y": "acc1",
            "series": {"validation": sorted([float(np.log10(d)), a] for d, a in tried.items())},
        }
        return Report(
            "linear_probe",
            vectors.name,
            data.name,
            numbers,
            tuple(rows),
            ((chart,) if tried else ()) + (confusion_chart(y, scores.argmax(axis=1), data.classes),),
            worst_errors(rows),
            notes=tuple(notes),
            standard={"task": "linear_probe", "metrics": {m.name: m.value for m in numbers}},
        )

    def _fit(self, B: Any, y: Ints, X: Any, decay: float, K: int) -> tuple[NDArray[np.float64], bool]:
        """Logits ``[N, K]`` of ``X`` after learning from ``B, y``, and whether the solver converged."""
        if self.solver == "lbfgs":
            return lbfgs(B, y, X, decay, K, self.max_iter)
        W, b = adamw(B, y, K, decay, seed=self.seed)
        return np.asarray(X, np.float64) @ W.T + b, True

    def _choose(
        self, vectors: Vectors, sets: Sets, learn: Dataset, y: Ints, B: Any, notes: list[str]
    ) -> tuple[float, dict[float, float]]:
        """The weight decay, and what each one tried scored on validation."""
        if self.weight_decay is not None:
            return self.weight_decay, {}
        if sets.validation is not None:
            aside, y_val = sets.validation.labelled()
            V, T, y_train = vectors.images(aside.items), B, y
        else:
            kept = held_out(learn, y, self.held, self.seed)
            V, y_val, T, y_train = B[kept], y[kept], B[~kept], y[~kept]
            if not len(V) or len(np.unique(y_train)) < 2:
                notes.append("too few rows to keep a validation set aside: weight decay 1e-4")
                return 1e-4, {}
            notes.append(f"weight decay chosen on {len(V)} training rows kept aside")
        K = len(learn.classes)

        def score(decay: float) -> float:
            return float((true_ranks(self._fit(T, y_train, V, decay, K)[0], y_val) < 1).mean())

        return sweep(score)


def sweep(score: Callable[[float], float]) -> tuple[float, dict[float, float]]:
    """The best of 97 weight decays in 7 + 8 tries; ties go to the one tried first. Also returns what was tried."""
    tried: dict[int, float] = {}

    def best_of(places: list[int]) -> int:
        for place in places:
            place = min(max(place, 0), len(GRID) - 1)
            if place not in tried:
                tried[place] = score(float(GRID[place]))
        return max(tried, key=lambda place: tried[place])  # the first of equals

    best = best_of(list(range(0, len(GRID), 16)))
    for step in (8, 4, 2, 1):
        best = best_of([best - step, best + step])
    return float(GRID[best]), {float(GRID[place]): value for place, value in tried.items()}


def few(data: Dataset, y: Ints, shots: int, seed: int) -> NDArray[Any]:
    """A mask ``[N]`` of the first `shots` rows of each class, in the order of the hash of their ids.

    Raises:
        InputError: a class has fewer.
    """
    order = np.argsort(uniform(seed, data.ids), kind="stable")
    keep = np.zeros(len(y), dtype=bool)
    for k in range(len(data.classes)):
        rows = order[y[order] == k]
        if len(rows) < shots:
            raise InputError(f"{data.classes[k]!r} has {len(rows)} training pictures, fewer than {shots} shots")
        keep[rows[:shots]] = True
    return keep


def held_out(data: Dataset, y: Ints, share: float, seed: int) -> NDArray[Any]:
    """A mask ``[N]`` of a share of each class, in the order of the hash of their ids; a class keeps at least one row."""
    order = np.argsort(uniform(seed + 1, data.ids), kind="stable")
    aside = np.zeros(len(y), dtype=bool)
    for k in np.unique(y):
        rows = order[y[order] == k]
        aside[rows[: min(max(1, round(share * len(rows))), len(rows) - 1)]] = True
    return aside
