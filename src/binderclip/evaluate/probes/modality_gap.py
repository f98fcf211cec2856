"""The shape of the joint space: modality gap (arXiv 2203.02053), alignment and uniformity (arXiv 2005.10242)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binderclip.data.embeddings import uniform
from binderclip.errors import InputError
from binderclip.evaluate.base import Metric, Report, mean_of, plain, resampled, share
from binderclip.evaluate.data import Dataset, Sets
from binderclip.evaluate.metrics import geometry
from binderclip.evaluate.metrics.retrieval import ranks_by_group
from binderclip.evaluate.vectors import Vectors

__all__ = ["ModalityGap"]

ENOUGH = 500  # pairs below which the figures are shaky


@dataclass(frozen=True)
class ModalityGap:
    """Gap, cones, alignment, uniformity, effective rank and separability of pictures and their own texts.

    A picture is paired with its first caption; where there are no captions, with the sentence of its class (then texts
    repeat, and uniformity of texts tells how confusable the class names are). All of it on unit rows.

    Args:
        template: of the sentence of a class.
        alpha: power of alignment.
        t: of uniformity.
        shifts: amounts lambda of the shift experiment; 1 makes the two means equal.
        most: pairs that are used, the first in the order of the hash of their ids; uniformity is quadratic in them.
    """

    template: str = "a photo of a {}."
    alpha: float = 2.0
    t: float = 2.0
    shifts: tuple[float, ...] = (-1.0, -0.5, 0.0, 0.5, 1.0)
    most: int = 5000

    def run(self, vectors: Vectors, sets: Sets) -> Report:
        """Measure.

        Raises:
            InputError: neither captions nor labels, or fewer than two pairs.
        """
        data, Y, group, notes = self._pairs(vectors, sets.test)
        X = vectors.images(data.items)  # [N, D]
        N = len(X)
        if N < 2:
            raise InputError(f"{data.name} has {N} picture with a text: the gap needs at least two")
        if N < ENOUGH:
            notes.append(f"{N} pairs: below {ENOUGH} these figures are shaky")
        cosines = (X * Y).sum(axis=1).astype(np.float64)
        texts = np.unique(Y, axis=0)
        numbers: list[Metric] = [
            resampled("gap", lambda r: geometry.gap(X[r], Y[r]), N, "", resamples=200, centred=True),
            mean_of("alignment", geometry.alignment(X, Y, self.alpha), "lower"),
            plain("uniformity_image", geometry.uniformity(X, self.t), N, "lower"),
            plain(
                "uniformity_text",
                geometry.uniformity(texts, self.t) if len(texts) > 1 else float("nan"),
                len(texts),
                "lower",
            ),
            plain("uniformity_cross", geometry.cross_uniformity(X, Y, self.t), N, "lower"),
            mean_of("paired_cosine", cosines, ""),
            plain("cone_image", geometry.cone(X), N),
            plain("cone_text", geometry.cone(texts) if len(texts) > 1 else float("nan"), len(texts)),
            plain("effective_rank_image", geometry.effective_rank(X), N),
            plain("effective_rank_text", geometry.effective_rank(Y), N),
        ]
        margin = self._margins(X, Y, group)
        numbers += [plain(f"margin_q{q}", float(np.quantile(margin, q / 100)), N) for q in (5, 25, 50, 75, 95)]
        apart = separability(X, Y)
        if apart is None:
            notes.append("separability left out: it needs scikit-learn, pip install 'binderclip[learn]'")
        else:
            numbers.append(share("separability", apart, ""))
        moved = [(s, *geometry.shift(X, Y, s)) for s in self.shifts]
        recall = [[s, float(ranks_by_group(a, b, group, group).hits(1).mean())] for s, a, b in moved]
        charts = (
            _plane(X, Y),
            {
                "kind": "lines",
                "title": "Shift along the gap",
                "x": "lambda",
                "y": "recall@1",
                "series": {"image to text": recall},
            },
        )
        rows = tuple(
            {"id": item.id, "cosine": float(cosines[i]), "margin": float(margin[i])}
            for i, item in enumerate(data.items)
        )
        return Report("modality_gap", vectors.name, data.name, tuple(numbers), rows, charts, notes=tuple(notes))

    def _pairs(self, vectors: Vectors, test: Dataset) -> tuple[Dataset, Any, NDArray[np.int64], list[str]]:
        """Pictures, the unit text ``[N, D]`` of each, a number ``[N]`` that equal texts share, and notes."""
        captioned = [bool(item.captions) for item in test.items]
        notes: list[str] = []
        if any(captioned):
            data = self._fewer(test.select(captioned), notes)
            texts = [item.captions[0] for item in data.items]
            Y = vectors.texts(texts)
        else:
            data = self._fewer(test.labelled()[0], notes)
            texts = [data.classes[item.labels[0]] for item in data.items]
            Y = vectors.classes(data, self.template)[[item.labels[0] for item in data.items]]
            notes.append("no captions: each picture is paired with the sentence of its class")
        return data, Y, np.unique(texts, return_inverse=True)[1].reshape(-1).astype(np.int64), notes

    def _fewer(self, data: Dataset, notes: list[str]) -> Dataset:
        if len(data) <= self.most:
            return data
        u = uniform(0, data.ids)
        notes.append(f"{self.most} of {len(data)} pairs, by the hash of their ids")
        return data.select(u <= np.sort(u)[self.most - 1])

    def _margins(self, X: Any, Y: Any, group: NDArray[np.int64]) -> NDArray[np.float64]:
        """``s(x_i, y_i) - max s(x_i, y_j)`` over texts of another kind, ``[N]``."""
        out = []
        for i in range(0, len(X), 512):
            s = (X[i : i + 512] @ Y.T).astype(np.float64)
            same = group[i : i + 512, None] == group[None]
            own = np.where(same, s, -np.inf).max(axis=1)
            out.append(own - np.where(same, -np.inf, s).max(axis=1))
        margin = np.concatenate(out)
        return np.where(np.isfinite(margin), margin, np.nan)


def separability(X: Any, Y: Any) -> NDArray[Any] | None:
    """Which held-out rows ``[M]`` a logistic regression tells right, picture or text; None without scikit-learn."""
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        return None
    rows = np.concatenate([X, Y])
    kind = np.repeat([0, 1], [len(X), len(Y)])
    # a pair is on one side of the split as a whole, so that repeated texts at least share their number
    learn = np.tile(np.arange(len(X)) % 2 == 0, 2)
    model = LogisticRegression(C=100.0, max_iter=1000).fit(rows[learn], kind[learn])
    out: NDArray[Any] = model.predict(rows[~learn]) == kind[~learn]
    return out


def _plane(X: Any, Y: Any, most: int = 400) -> dict[str, Any]:
    """Both sides in the plane of the first two principal directions of their union."""
    step = max(1, len(X) // most)
    both = np.concatenate([X, Y]).astype(np.float64)
    centred = both - both.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    points = centred @ axes[:2].T
    if points.shape[1] < 2:
        points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    return {
        "kind": "scatter",
        "title": "First two principal directions",
        "series": {"pictures": points[: len(X)][::step].tolist(), "texts": points[len(X) :][::step].tolist()},
    }
