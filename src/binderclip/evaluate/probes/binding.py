"""Binding on one's own hard negatives, and what one matrix on the texts repairs (LABCLIP, arXiv 2502.03566)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binderclip.errors import InputError
from binderclip.evaluate.base import Metric, Report, mean_of, share
from binderclip.evaluate.data import Dataset, Item, Sets
from binderclip.evaluate.labclip import LABCLIP
from binderclip.evaluate.vectors import Vectors

__all__ = ["Binding"]


@dataclass(frozen=True)
class Binding:
    """``s(x, caption) > s(x, negative)`` with CLIP's cosine and with ``cos(x, A y)``, A learnt on other rows.

    Rows need a caption and a negative. Recall at 1 of the true captions stands beside, since a repair must not cost it.

    Args:
        lr: learning rate of A.
        epochs: passes over the rows that are learnt from.
        batch: rows a step.
        seed: of their order.
    """

    lr: float = 1e-3
    epochs: int = 30
    batch: int = 512
    seed: int = 0

    def run(self, vectors: Vectors, sets: Sets) -> Report:
        """Measure.

        Raises:
            InputError: no hard negatives, or too few rows to learn from.
        """
        parts = {name: _usable(part) for name, part in sets.parts().items() if name in ("test", "train")}
        if not len(parts["test"]):
            raise InputError(
                f"{sets.test.name} has no hard negatives: give a table with the columns caption and negatives"
            )
        learn, test, note = Sets(**parts).to_learn(self.seed)
        if not len(learn):
            raise InputError(f"{learn.name} has no hard negatives to learn from: give some, or no --train")
        sides = [_sides(vectors, part.items) for part in (learn, test)]
        made = LABCLIP(lr=self.lr, epochs=self.epochs, batch=self.batch, seed=self.seed).fit(
            *sides[0], clip_scale=vectors.scale
        )
        X, T, W = sides[1]
        said = [item.captions[0] for item in test.items]
        numbers: list[Metric] = []
        margins = []
        for label, (true, wrong) in (("clip", (T, W)), ("labclip", (made.transform(T), made.transform(W)))):
            margins.append((X * true).sum(axis=1) - (X * wrong).sum(axis=1))
            numbers += [
                share(f"accuracy_{label}", margins[-1] > 0),
                share(f"recall1_{label}", _first(X @ true.T, said)),
            ]
        gain = (margins[1] > 0).astype(float) - (margins[0] > 0)
        rows = tuple(
            {
                "id": item.id,
                "caption": item.captions[0],
                "negative": item.negatives[0],
                "margin_clip": float(a),
                "margin_labclip": float(b),
            }
            for item, a, b in zip(test.items, *margins, strict=True)
        )
        numbers.append(mean_of("gain", gain, unit="share"))
        notes = (f"A was learnt on {len(learn)} rows", *([note] if note else []))
        return Report("binding", vectors.name, sets.test.name, tuple(numbers), rows, notes=notes)


def _usable(data: Dataset) -> Dataset:
    """Rows with a caption and a negative that differ, by id: the order of a file must not matter."""
    kept = [item for item in data.items if item.captions and item.negatives and item.captions[0] != item.negatives[0]]
    return replace(data, items=tuple(sorted(kept, key=lambda item: item.id)))


def _sides(vectors: Vectors, items: tuple[Item, ...]) -> tuple[Any, Any, Any]:
    texts = vectors.texts([text for item in items for text in (item.captions[0], item.negatives[0])])
    return vectors.images(items), texts[::2], texts[1::2]


def _first(s: NDArray[Any], said: list[str]) -> NDArray[np.bool_]:
    """Whether each picture's own caption is above all captions in other words."""
    words = np.array(said)
    other = np.where(words[:, None] == words[None], -np.inf, s)
    out: NDArray[np.bool_] = np.diag(s) > other.max(axis=1)
    return out
