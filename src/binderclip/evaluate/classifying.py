"""What every probe that gives class scores reports of them: the same numbers, rows, charts and examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binderclip.evaluate.base import Example, Metric, plain, resampled, share
from binderclip.evaluate.data import Dataset
from binderclip.evaluate.metrics.classification import confusion, macro_f1, margins, per_class, true_ranks

__all__ = ["class_numbers", "class_rows", "confusion_chart", "top_one", "worst_errors"]

Floats = NDArray[Any]
Ints = NDArray[np.int64]
MOST_CLASSES = 25  # a confusion matrix that can still be read
EXAMPLES = 12


def top_one(name: str, scores: Floats, y: Ints) -> Metric:
    """The share of rows whose class scores above all others."""
    return share(name, true_ranks(scores, y) < 1)


def class_numbers(scores: Floats, y: Ints, K: int) -> tuple[Metric, ...]:
    """acc1, acc5 (NaN under five classes), mean_per_class_recall and macro_f1 of scores ``[N, K]``."""
    place = true_ranks(scores, y)
    predicted = scores.argmax(axis=1)
    right = predicted == y
    five = share("acc5", place < 5) if K >= 5 else plain("acc5", float("nan"), len(y), unit="share")

    def recall(rows: Ints) -> float:
        support = np.bincount(y[rows], minlength=K)
        hits = np.bincount(y[rows][right[rows]], minlength=K)
        return float((hits[support > 0] / support[support > 0]).mean())

    return (
        share("acc1", place < 1),
        five,
        resampled("mean_per_class_recall", recall, len(y), unit="share"),
        resampled("macro_f1", lambda r: macro_f1(y[r], predicted[r], K), len(y), unit="share", resamples=200),
    )


def class_rows(data: Dataset, scores: Floats, y: Ints, probabilities: Floats | None = None) -> list[dict[str, Any]]:
    """One row an item: label, prediction, rank of the label, margin, and the confidence where there is one."""
    place, gap, predicted = true_ranks(scores, y), margins(scores, y), scores.argmax(axis=1)
    rows = [
        {
            "id": item.id,
            "label": data.classes[y[i]],
            "prediction": data.classes[predicted[i]],
            "correct": bool(place[i] < 1),
            "rank": int(place[i]) + 1,
            "margin": float(gap[i]),
        }
        for i, item in enumerate(data.items)
    ]
    if probabilities is not None:
        for i, row in enumerate(rows):
            row["confidence"] = float(probabilities[i, predicted[i]])
            row["probability"] = float(probabilities[i, y[i]])
    return rows


def confusion_chart(y: Ints, predicted: Ints, classes: Sequence[str]) -> dict[str, Any]:
    """The confusion matrix, or for many classes the part with the most errors; and the figures of each class."""
    K = len(classes)
    counts = confusion(y, predicted, K)
    table = per_class(counts)
    off = counts - np.diag(np.diagonal(counts))
    shown = np.arange(K)
    if K > MOST_CLASSES:
        errors = off.sum(axis=0) + off.sum(axis=1)
        shown = np.sort(np.argsort(-errors, kind="stable")[:MOST_CLASSES])
    pairs = np.argsort(-off, axis=None, kind="stable")[:10]
    return {
        "kind": "confusion",
        "title": "Confusion" if K <= MOST_CLASSES else f"Confusion: the {MOST_CLASSES} classes with most errors of {K}",
        "classes": [classes[int(k)] for k in shown],
        "counts": counts[np.ix_(shown, shown)].tolist(),
        "per_class": [
            {"class": name, **{key: float(column[k]) for key, column in table.items()}}
            for k, name in enumerate(classes)
        ],
        "pairs": [
            {"label": classes[int(flat) // K], "prediction": classes[int(flat) % K], "count": int(off.flat[flat])}
            for flat in pairs
            if off.flat[flat] > 0
        ],
    }


def worst_errors(rows: Sequence[Mapping[str, Any]]) -> tuple[Example, ...]:
    """The wrong rows that were surest of themselves."""
    wrong = sorted((row for row in rows if not row["correct"]), key=lambda row: row["margin"])
    return tuple(
        Example(
            row["id"],
            f"{row['label']} taken for {row['prediction']}"
            if row["label"] != row["prediction"]
            else f"tie: {row['label']}",
            f"rank {row['rank']}" + (f", {row['confidence']:.0%} sure" if "confidence" in row else ""),
        )
        for row in wrong[:EXAMPLES]
    )
