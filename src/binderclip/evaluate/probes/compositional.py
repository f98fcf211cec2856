"""Compositional scoring: does the model tell a caption from one whose words are swapped?

Winoground (Thrush et al. 2022, arXiv 2204.03162) for groups of two pictures and two captions; SugarCrepe (Hsieh et al. 2023,
arXiv 2306.14610) and ARO (Yuksekgonul et al. 2023, arXiv 2210.01936) for one picture with captions that do not fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from binderclip.data.hashing import Draws
from binderclip.errors import InputError
from binderclip.evaluate.base import Example, Metric, Report, mean_of, plain, share
from binderclip.evaluate.data import Item, Sets
from binderclip.evaluate.vectors import Vectors

__all__ = ["Compositional"]


@dataclass(frozen=True)
class Compositional:
    """Hard negatives of the user's own; a tie is not correct.

    Items with `negatives`: ``accuracy`` = share with ``s(caption, picture) > s(negative, picture)`` for every negative, by
    `kind` too, and ``macro_accuracy`` over kinds. ``acc`` is CLIP_benchmark's key, where a tie counts as correct.
    ``longest_wins`` is what the longer caption alone would score: a model should beat it.

    Two items of one `group`, each with its caption, by ``s(C_i, I_j)``: ``text_score`` (each picture prefers its caption),
    ``image_score`` (each caption prefers its picture), ``group_score`` (both).

    ``shuffle_drop`` = mean of ``s(x, y) - s(x, shuffled words of y)``.

    Args:
        seed: of the shuffling.
    """

    seed: int = 0

    def run(self, vectors: Vectors, sets: Sets) -> Report:
        """Measure.

        Raises:
            InputError: neither negatives nor groups of two.
        """
        items = [item for item in sets.test.items if item.captions]
        negative = [item for item in items if item.negatives]
        groups: dict[str, list[Item]] = {}
        for item in items:
            if item.group:
                groups.setdefault(item.group, []).append(item)
        twos = [pair for pair in groups.values() if len(pair) == 2]
        if not negative and not twos:
            raise InputError(
                f"{sets.test.name} has no hard negatives: give a table with the columns caption and negatives, "
                "or groups of two pictures with the columns caption and group"
            )
        numbers: list[Metric] = []
        rows: list[dict[str, Any]] = []
        if twos:
            numbers += self._groups(vectors, twos, rows)
        if negative:
            numbers += self._negatives(vectors, negative, rows)
        numbers.append(self._shuffled(vectors, items))
        lost = len(groups) - len(twos)
        wrong = sorted((row for row in rows if not row["correct"]), key=lambda row: row["margin"])[:12]
        examples = tuple(
            Example(r["id"], r["caption"], f"{r['kind']}: lost to “{r['negative']}” by {-r['margin']:.3f}")
            for r in wrong
        )
        return Report(
            "compositional",
            vectors.name,
            sets.test.name,
            tuple(numbers),
            tuple(rows),
            examples=examples,
            notes=(f"{lost} groups are not of two items and were left out",) if lost else (),
            standard={
                "task": "image_caption_selection",
                "metrics": {m.name: m.value for m in numbers if m.name == "acc"},
            },
        )

    def _groups(self, vectors: Vectors, twos: list[list[Item]], rows: list[dict[str, Any]]) -> list[Metric]:
        flat = [item for pair in twos for item in pair]
        I = vectors.images(flat).reshape(len(twos), 2, -1)  # noqa: E741 - the paper's letters
        C = vectors.texts([item.captions[0] for item in flat]).reshape(len(twos), 2, -1)
        s = np.einsum("gcd,gid->gci", C, I)  # [groups, caption, picture]
        text = (s[:, 0, 0] > s[:, 1, 0]) & (s[:, 1, 1] > s[:, 0, 1])
        image = (s[:, 0, 0] > s[:, 0, 1]) & (s[:, 1, 1] > s[:, 1, 0])
        for g, pair in enumerate(twos):
            for i, item in enumerate(pair):
                margin = float(s[g, i, i] - s[g, 1 - i, i])
                rows.append(_row(item, pair[1 - i].captions[0], "group", margin))
        return [share("text_score", text), share("image_score", image), share("group_score", text & image)]

    def _negatives(self, vectors: Vectors, items: list[Item], rows: list[dict[str, Any]]) -> list[Metric]:
        X = vectors.images(items)
        vectors.texts([text for item in items for text in (item.captions[0], *item.negatives)])  # all in one go
        margins, longer = [], []
        for item, x in zip(items, X, strict=True):
            s = vectors.texts([item.captions[0], *item.negatives]) @ x
            best = int(s[1:].argmax())
            margins.append(float(s[0] - s[1 + best]))
            longer.append(all(len(item.captions[0]) > len(text) for text in item.negatives))
            rows.append(_row(item, item.negatives[best], item.kind or "negatives", margins[-1]))
        margin = np.array(margins)
        numbers = [share("accuracy", margin > 0)]
        kinds = sorted({item.kind for item in items if item.kind})
        by_kind = [share(f"accuracy_{kind}", margin[[item.kind == kind for item in items]] > 0) for kind in kinds]
        if by_kind:
            numbers.append(
                plain("macro_accuracy", float(np.mean([m.value for m in by_kind])), len(items), "higher", "share")
            )
        chance = float(np.mean([1.0 / (1 + len(item.negatives)) for item in items]))
        return [
            *numbers,
            *by_kind,
            share("acc", margin >= 0),
            share("longest_wins", np.array(longer), ""),
            plain("chance", chance, len(items), "", "share"),
        ]

    def _shuffled(self, vectors: Vectors, items: list[Item]) -> Metric:
        words = [item.captions[0] for item in items]
        mixed = [" ".join(Draws(self.seed, text).shuffled("words", text.split())) for text in words]
        X = vectors.images(items)
        drop = (X * vectors.texts(words)).sum(axis=1) - (X * vectors.texts(mixed)).sum(axis=1)
        return mean_of("shuffle_drop", drop)


def _row(item: Item, negative: str, kind: str, margin: float) -> dict[str, Any]:
    caption = item.captions[0]
    return {
        "id": item.id,
        "kind": kind,
        "caption": caption,
        "negative": negative,
        "margin": margin,
        "correct": margin > 0,
    }
