"""CLIPScore and RefCLIPScore of captions (Hessel et al. 2021, arXiv 2104.08718)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from binderclip.errors import InputError
from binderclip.evaluate.base import Example, Metric, Report, mean_of, plain
from binderclip.evaluate.data import Sets
from binderclip.evaluate.metrics.captions import W, clipscore, ref_clipscore
from binderclip.evaluate.metrics.statistics import kendall_tau
from binderclip.evaluate.vectors import Vectors

__all__ = ["CLIPScore"]


@dataclass(frozen=True)
class CLIPScore:
    """``2.5 max(cos, 0)`` of a picture and its candidate (its captions where it has none), and RefCLIPScore.

    With a column `rating` also Kendall's tau-b and tau-c with what people thought. Never compare values across models.

    Args:
        w: factor.
        prefix: before candidates and references.
    """

    w: float = W
    prefix: str = "A photo depicts "

    def run(self, vectors: Vectors, sets: Sets) -> Report:
        """Measure.

        Raises:
            InputError: no captions.
        """
        pairs = [
            (item, text)
            for item in sets.test.items
            for text in ((item.candidate,) if item.candidate else item.captions)
        ]
        if not pairs:
            raise InputError(f"{sets.test.name} has no captions: give a table with a column of captions or candidates")
        items = [item for item, _ in pairs]
        C = vectors.texts([self.prefix + text for _, text in pairs])
        V = vectors.images(items)
        scores = clipscore(C, V, self.w)
        numbers: list[Metric] = [mean_of("clipscore", scores, "")]
        refs = [item.references or (item.captions if item.candidate else ()) for item in items]
        judged = np.array([bool(texts) for texts in refs])
        with_refs = np.full(len(items), np.nan)
        if judged.any():
            R = [vectors.texts([self.prefix + text for text in texts]) for texts in refs if texts]
            with_refs[judged] = ref_clipscore(C[judged], V[judged], R, self.w)
            numbers.append(mean_of("ref_clipscore", with_refs[judged], ""))
        rated = np.array([item.rating is not None for item in items])
        if rated.sum() > 1:
            human = np.array([item.rating for item in items if item.rating is not None])
            for name, values in (("clipscore", scores[rated]), ("ref_clipscore", with_refs[rated])):
                if np.isfinite(values).all():
                    numbers += [
                        plain(f"{name}_tau_{v}", kendall_tau(values, human, v), len(human), "higher")
                        for v in ("b", "c")
                    ]
        rows = tuple(
            {"id": item.id, "text": text, "clipscore": float(scores[i]), "ref_clipscore": float(with_refs[i])}
            for i, (item, text) in enumerate(pairs)
        )
        examples = tuple(
            Example(items[i].id, pairs[i][1], f"CLIPScore {scores[i]:.3f}")
            for i in np.argsort(scores, kind="stable")[:12]
        )
        chart = {"kind": "histogram", "title": "CLIPScore", "x": "score", "series": {"captions": scores.tolist()}}
        return Report(
            "clipscore",
            vectors.name,
            sets.test.name,
            tuple(numbers),
            rows,
            (chart,),
            examples,
            ("values depend on the model: never compare them across models",),
        )
