"""Retrieval both ways: the pictures of a text, the texts of a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from binderclip.errors import InputError
from binderclip.evaluate.base import Example, Metric, Report, mean_of, plain, resampled, share
from binderclip.evaluate.data import Sets
from binderclip.evaluate.metrics.retrieval import Ranks, ndcg, ranks_by_group
from binderclip.evaluate.vectors import Vectors

__all__ = ["Retrieval"]


@dataclass(frozen=True)
class Retrieval:
    """Recall@k of texts and of pictures, rsum, median rank, MRR, nDCG.

    ``text_to_image_recall@k``: share of texts whose picture is among the ``k`` best; ``image_to_text_recall@k``: share of
    pictures with one of their captions among the ``k`` best. A tie is not correct. CLIP_benchmark's keys
    (``image_retrieval_recall@k``, ``text_retrieval_recall@k``) stand beside, with ties counted as hits.

    Args:
        ks: the k of recall@k; papers use 1, 5 and 10.
        captions: most captions of a picture that are used (Karpathy's COCO split: 5); None for all.
        depth: of nDCG.
        chunk: queries at a time.
    """

    ks: tuple[int, ...] = (1, 5, 10)
    captions: int | None = None
    depth: int = 10
    chunk: int = 512

    def run(self, vectors: Vectors, sets: Sets) -> Report:
        """Measure.

        Raises:
            InputError: no captions, or fewer than two pictures with one.
        """
        data = sets.test.select([bool(item.captions) for item in sets.test.items])
        if len(data) < 2:
            raise InputError(f"{sets.test.name} has {len(data)} pictures with a caption: retrieval needs at least two")
        texts = [text for item in data.items for text in item.captions[: self.captions]]
        owner = np.repeat(np.arange(len(data)), [len(item.captions[: self.captions]) for item in data.items])
        X, Y = vectors.images(data.items), vectors.texts(texts)  # [N, D], [M, D]
        pictures = np.arange(len(data))
        of_text = ranks_by_group(Y, X, owner, pictures, chunk=self.chunk)
        of_image = ranks_by_group(X, Y, pictures, owner, chunk=self.chunk)
        numbers: list[Metric] = []
        for name, found in (("text_to_image", of_text), ("image_to_text", of_image)):
            numbers += [share(f"{name}_recall@{k}", found.hits(k)) for k in self.ks]
        numbers.append(plain("rsum", 100 * sum(m.value for m in numbers), len(texts), "higher"))
        ideal = {"text_to_image": self._ndcg(Y, X, owner, pictures), "image_to_text": self._ndcg(X, Y, pictures, owner)}
        for name, found in (("text_to_image", of_text), ("image_to_text", of_image)):
            numbers += _ranks(name, found)
            numbers.append(mean_of(f"{name}_ndcg@{self.depth}", ideal[name]))
        ours = {"image_retrieval": of_text, "text_retrieval": of_image}
        standard = {
            f"{name}_recall@{k}": float(found.hits_with_ties(k).mean()) for k in self.ks for name, found in ours.items()
        }
        numbers += [
            plain(key, value, len(texts if "image_r" in key else data), "higher", "share")
            for key, value in standard.items()
        ]
        rows = [
            {
                "id": data.items[owner[i]].id,
                "text": text,
                "rank": float(of_text.rank[i]),
                "ties": int(of_text.ties[i]),
                "best": data.items[of_text.best[i]].id,
                "cosine": float(Y[i] @ X[owner[i]]),
            }
            for i, text in enumerate(texts)
        ]
        worst = sorted(range(len(rows)), key=lambda i: -of_text.rank[i])[:12]
        examples = tuple(
            Example(rows[i]["id"], texts[i], f"rank {rows[i]['rank']:g} of {len(data)}")
            for i in worst
            if of_text.rank[i] > 1
        )
        chart = {
            "kind": "lines",
            "title": "Recall at k",
            "x": "k",
            "y": "recall",
            "series": {
                name: [[k, float(found.hits(k).mean())] for k in _ladder(len(data if name[0] == "t" else texts))]
                for name, found in (("text to image", of_text), ("image to text", of_image))
            },
        }
        return Report(
            "retrieval",
            vectors.name,
            data.name,
            tuple(numbers),
            tuple(rows),
            (chart,),
            examples,
            notes=(f"{len(data)} pictures, {len(texts)} texts; chance of recall@1 is {1 / len(data):.2%}",),
            standard={"task": "zeroshot_retrieval", "metrics": standard},
        )

    def _ndcg(self, queries: Any, items: Any, group: Any, of: Any) -> Any:
        parts = []
        for i in range(0, len(queries), self.chunk):
            part = slice(i, i + self.chunk)
            parts.append(ndcg(queries[part] @ items.T, group[part, None] == of[None], self.depth))
        return np.concatenate(parts)


def _ranks(name: str, found: Ranks) -> list[Metric]:
    rank = found.rank
    return [
        resampled(f"{name}_median_rank", lambda r: float(np.median(rank[r])), len(rank), "lower"),
        mean_of(f"{name}_mrr", 1.0 / rank),
    ]


def _ladder(top: int) -> list[int]:
    return [k for k in (1, 2, 3, 5, 7, 10, 15, 20, 30, 50) if k <= top]
