"""Robustness: how much of the zero-shot accuracy is left on corrupted pictures (arXiv 1903.12261)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binderclip.data.embeddings import uniform
from binderclip.errors import InputError
from binderclip.evaluate.base import Example, Metric, Report, mean_of, plain, share
from binderclip.evaluate.corruption import KINDS, corrupt
from binderclip.evaluate.data import Dataset, Sets
from binderclip.evaluate.vectors import Vectors

__all__ = ["Corruptions"]


@dataclass(frozen=True)
class Corruptions:
    """Error by kind and severity, their mean mE, flip rate and drift of the vectors.

    Pictures are corrupted after the model's own crop, before normalisation. mE is not mCE: it is not divided by another
    network's errors, which are published for ImageNet-C only.

    Args:
        kinds: of corruptions; the fifteen of the paper.
        severities: from 1 to 5.
        templates: a named set, one sentence with ``{}``, or several; those that came with the data otherwise.
        most: pictures that are used, the first in the order of the hash of their ids: each is encoded kinds x severities
            times.
        seed: of what is random in a corruption.
    """

    kinds: tuple[str, ...] = KINDS
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    templates: str | tuple[str, ...] | None = None
    most: int = 200
    seed: int = 0

    def run(self, vectors: Vectors, sets: Sets) -> Report:
        """Measure.

        Raises:
            InputError: no labels, no class names, one class only, or no pictures.
        """
        if not self.kinds or not self.severities:
            raise InputError("name at least one kind of corruption and one severity")
        data, y, notes = self._few(sets.test)
        W = vectors.classes(data, self.templates or sets.test.templates or "photos")
        pictures = [vectors.picture(item) for item in data.items]
        clean = self._encode(vectors, pictures)
        before = (clean @ W.T).argmax(axis=1)
        error = np.zeros((len(self.kinds), len(self.severities), len(data)))  # [kind, severity, N]
        flips, drift = np.zeros(error.shape, dtype=bool), np.zeros(error.shape)
        total = len(self.kinds) * len(self.severities)
        for c, kind in enumerate(self.kinds):
            for s, severity in enumerate(self.severities):
                changed = [
                    corrupt(picture, kind, severity, key=item.id, seed=self.seed)
                    for picture, item in zip(pictures, data.items, strict=True)
                ]
                X = self._encode(vectors, changed)
                predicted = (X @ W.T).argmax(axis=1)
                error[c, s], flips[c, s] = predicted != y, predicted != before
                drift[c, s] = 1.0 - (X * clean).sum(axis=1)
                if vectors.on_progress is not None:
                    vectors.on_progress(c * len(self.severities) + s + 1, total)
        mine = error.mean(axis=(0, 1))  # [N]
        numbers: list[Metric] = [
            mean_of("mE", mine, "lower", "share"),
            mean_of("relative_mE", mine - (before != y), "lower", "share"),
            share("clean_acc1", before == y),
            mean_of("corrupted_acc1", 1.0 - mine, "higher", "share"),
            mean_of("flip_rate", flips.mean(axis=(0, 1)), "lower", "share"),
            mean_of("drift", drift.mean(axis=(0, 1)), "lower"),
        ]
        numbers += [
            plain(f"error_{kind}", error[c].mean(), len(y), "lower", "share") for c, kind in enumerate(self.kinds)
        ]
        rows = tuple(
            {
                "id": item.id,
                "label": data.classes[y[i]],
                "clean_correct": bool(before[i] == y[i]),
                "corrupted_error": float(mine[i]),
                "flips": float(flips[:, :, i].mean()),
                "drift": float(drift[:, :, i].mean()),
            }
            for i, item in enumerate(data.items)
        )
        worst = [
            i for i in np.argsort(-mine + 2.0 * (before != y), kind="stable")[:12] if mine[i] > 0 and before[i] == y[i]
        ]
        examples = tuple(
            Example(
                data.items[i].id, f"{data.classes[y[i]]}: lost in {mine[i]:.0%} of the corruptions", "right when clean"
            )
            for i in worst
        )
        return Report(
            "corruptions",
            vectors.name,
            data.name,
            tuple(numbers),
            rows,
            (self._chart(error, before == y),),
            examples,
            (*notes, "mE is not mCE: corruptions are drawn here, and errors are not divided by another network's"),
        )

    def _few(self, test: Dataset) -> tuple[Dataset, NDArray[np.int64], list[str]]:
        data, y = test.labelled()
        if len(data) <= self.most:
            return data, y, []
        u = uniform(self.seed, data.ids)
        keep = u <= np.sort(u)[self.most - 1]
        return data.select(keep), y[keep], [f"{self.most} of {len(data)} pictures, by the hash of their ids"]

    def _encode(self, vectors: Vectors, pictures: list[Any]) -> NDArray[Any]:
        step = vectors.batch
        return np.concatenate([vectors.of_pictures(pictures[i : i + step]) for i in range(0, len(pictures), step)])

    def _chart(self, error: NDArray[Any], clean: NDArray[Any]) -> dict[str, Any]:
        start = [[0, float(clean.mean())]]
        series = {
            kind.replace("_", " "): start
            + [[s, 1.0 - float(error[c, i].mean())] for i, s in enumerate(self.severities)]
            for c, kind in enumerate(self.kinds)
        }
        return {"kind": "lines", "title": "Accuracy by severity", "x": "severity", "y": "acc1", "series": series}
