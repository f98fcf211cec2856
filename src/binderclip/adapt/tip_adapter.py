"""Tip-Adapter, training-free (Zhang et al. 2022, arXiv 2207.09519): a cache of the few shots beside the class names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from binderclip.adapt.base import Adapter, Few
from binderclip.adapt.parts import PHOTO, Floats, grid, grid_values, unit, zero_shot_logits
from binderclip.cards import Card
from binderclip.errors import InputError

__all__ = ["TipAdapter", "cache_logits"]

CARD = Card(
    slug="tip_adapter",
    name="Tip-Adapter",
    title="Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification",
    arxiv="2207.09519",
    year=2022,
    room="adapt",
    provides="TipAdapter",
    kind="Adapter",
    verb="fit",
    needs=("embeddings",),
    baseline=True,
    must_show={
        "the cache is the formula, row by row": "tests/adapt/test_baselines.py::test_tip_adapter_by_loops",
        "alpha = 0 is zero-shot": "tests/adapt/test_baselines.py::test_tip_adapter_without_its_cache",
        "alpha and beta are the first best of the grid, beta outside": "tests/adapt/test_baselines.py::test_tip_search",
    },
)


class TipAdapter(Adapter):
    """``z = s f W^T + alpha exp(-beta (1 - f F^T)) L``, keys F [CK, D], one-hot values L [CK, C].

    A key is the mean over the views of a shot, brought to length 1. Nothing is trained: alpha and beta are searched on the
    validation set over 20 and 200 values; without one the first values hold, those of the paper's textures (DTD).

    Args:
        encoder: see `Adapter`.
        classes: see `Adapter`.
        templates: sentences with ``{}`` for the name, or a named set.
        seed: of the views.
        alpha: weight of the cache without validation.
        beta: sharpness of the cache without validation.
        scales: ends of the search of (beta, alpha).
        keys: "raw" takes the mean of the views as given (the reference: of raw embeddings), "unit" of unit vectors.
        n_views: random views of a shot where pictures are encoded; 1 for the picture as the model crops it.
    """

    learned = ("keys_", "values_", "alpha_", "beta_")

    def __init__(
        self,
        encoder: Any,
        classes: Sequence[str],
        *,
        templates: str | Sequence[str] = PHOTO,
        seed: int = 0,
        alpha: float = 2.0,
        beta: float = 1.0,
        scales: tuple[float, float] = (13.0, 13.0),
        keys: str = "raw",
        n_views: int = 10,
    ) -> None:
        super().__init__(encoder, classes, templates=templates, seed=seed)
        self.alpha, self.beta, self.scales, self.keys, self.n_views = alpha, beta, scales, keys, n_views

    def _fit(self, few: Few) -> None:
        if self.keys not in ("raw", "unit"):
            raise InputError(f"keys is {self.keys!r}: use raw or unit")
        X, self.values_ = few.labelled()
        self.keys_ = unit((X if self.keys == "raw" else unit(X)).mean(axis=1))  # [CK, D]
        chosen = {"beta": float(self.beta), "alpha": float(self.alpha)}
        if few.X_val is not None:
            chosen = self._search(few.X_val, few.y_val)
        self.alpha_, self.beta_, self.hyper_ = chosen["alpha"], chosen["beta"], chosen

    def _search(self, f: Floats, y: Any) -> dict[str, float]:
        z = zero_shot_logits(f, self.W_, self.scale_)
        last: dict[float, Floats] = {}

        def score(beta: float, alpha: float) -> float:
            if beta not in last:
                last.clear()
                last[beta] = cache_logits(f, self.keys_, self.values_, beta, len(self.classes))
            return float(((z + alpha * last[beta]).argmax(axis=1) == y).mean())

        return grid(score, beta=grid_values(self.scales[0], 200), alpha=grid_values(self.scales[1], 20))

    def _logits(self, f: Floats) -> Floats:
        cache = cache_logits(f, self.keys_, self.values_, float(self.beta_), len(self.classes))
        return zero_shot_logits(f, self.W_, self.scale_) + float(self.alpha_) * cache


def cache_logits(f: Floats, F: Floats, y: Any, beta: float, C: int) -> Floats:
    """``exp(-beta (1 - f F^T)) L`` [N, C].

    Args:
        f: unit queries ``[N, D]``.
        F: unit keys ``[M, D]``.
        y: classes of the keys ``[M]``.
        beta: sharpness.
        C: classes.
    """
    out: Floats = np.exp(-beta * (1.0 - f @ F.T)) @ np.eye(C)[np.asarray(y, np.int64)]
    return out
