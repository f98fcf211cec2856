"""Zero-shot classification with template ensembling (Radford et al. 2021, arXiv 2103.00020, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binderclip.errors import InputError
from binderclip.evaluate.base import Report, plain
from binderclip.evaluate.classifying import class_numbers, class_rows, confusion_chart, worst_errors
from binderclip.evaluate.data import Dataset, Sets
from binderclip.evaluate.metrics.calibration import softmax
from binderclip.evaluate.metrics.ranking import mean_average_precision
from binderclip.evaluate.vectors import Vectors

__all__ = ["ZeroShot"]


@dataclass(frozen=True)
class ZeroShot:
    """``argmax_k x . w_k`` with ``w_k`` the mean of the class's sentences: fill, encode, normalise, mean, normalise.

    Numbers are in CLIP_benchmark's keys: acc1, acc5 (NaN under five classes), mean_per_class_recall, macro_f1; for items
    with several labels mean_average_precision over the classes that occur. Probabilities use the model's own scale.

    Args:
        templates: a named set, one sentence with ``{}``, or several; those that came with the data otherwise.
        only_present: leave out classes that no item has, as the ImageNet variants do.
    """

    templates: str | tuple[str, ...] | None = None
    only_present: bool = False

    def run(self, vectors: Vectors, sets: Sets) -> Report:
        """Measure.

        Raises:
            InputError: no labels, no class names, or one class only.
        """
        sentences = self.templates or sets.test.templates or "photos"
        if sets.test.many_labels:
            return self._several(vectors, sets.test, sentences)
        data, y = sets.test.labelled()
        W = vectors.classes(data, sentences)  # [K, D]
        scores = (vectors.images(data.items) @ W.T).astype(np.float64)  # [N, K]
        if self.only_present:
            absent = np.setdiff1d(np.arange(len(W)), y)
            scores[:, absent] = -2.0  # below every cosine
        p = softmax(vectors.scale * scores)
        rows = class_rows(data, scores, y, p)
        numbers = class_numbers(scores, y, len(W))
        standard = {m.name: m.value for m in numbers[:3]}
        return Report(
            "zero_shot",
            vectors.name,
            data.name,
            numbers,
            tuple(rows),
            (confusion_chart(y, scores.argmax(axis=1), data.classes),),
            worst_errors(rows),
            notes=unused(sets.test, y),
            standard={"task": "zeroshot_classification", "metrics": standard},
        )

    def _several(self, vectors: Vectors, test: Dataset, sentences: str | tuple[str, ...]) -> Report:
        """Items with several labels: every class ranks all items."""
        data = test.select([bool(item.labels) for item in test.items])
        if len(data.classes) < 2:
            raise InputError(f"{data.name} has one class only: give at least two")
        scores = vectors.images(data.items) @ vectors.classes(data, sentences).T
        targets = np.zeros(scores.shape, dtype=bool)
        for i, item in enumerate(data.items):
            targets[i, list(item.labels)] = True
        value, each = mean_average_precision(scores, targets)
        empty = [name for name, ap in zip(data.classes, each, strict=True) if np.isnan(ap)]
        rows: tuple[Mapping[str, Any], ...] = tuple(
            {"class": name, "average_precision": float(ap), "positives": int(targets[:, k].sum())}
            for k, (name, ap) in enumerate(zip(data.classes, each, strict=True))
        )
        return Report(
            "zero_shot",
            vectors.name,
            data.name,
            (plain("mean_average_precision", value, len(data), "higher", "share"),),
            rows,
            notes=(f"no item of: {', '.join(empty)}; left out of the mean",) if empty else (),
            standard={"task": "zeroshot_classification", "metrics": {"mean_average_precision": value}},
        )


def unused(data: Dataset, y: NDArray[Any]) -> tuple[str, ...]:
    """Notes on classes without items and items without a label."""
    notes = []
    absent = len(data.classes) - len(np.unique(y))
    if absent:
        notes.append(f"{absent} of {len(data.classes)} classes have no item; they can still be predicted")
    if len(data) > len(y):
        notes.append(f"{len(data) - len(y)} items without a label were left out")
    return tuple(notes)
