"""How good pictures look, from 0 to 1, without a reference (QualiCLIP, Agnolucci et al. 2024, arXiv 2403.11176).

Any CLIP can be asked, plain or tuned by `QualityRanking`; plain ones know little of quality.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from binderclip.cards import Card
from binderclip.data.media import open_image
from binderclip.errors import InputError
from binderclip.evaluate.base import Example, Metric, Report, mean_of, resampled, share
from binderclip.evaluate.data import Sets
from binderclip.evaluate.metrics.agreement import plcc, srcc
from binderclip.evaluate.qualiclip import PAIRS, QualityProbe, quality
from binderclip.evaluate.vectors import Vectors

__all__ = ["QualiCLIP"]

CARD = Card(
    slug="qualiclip",
    name="QualiCLIP",
    title="Quality-Aware Image-Text Alignment for Opinion-Unaware Image Quality Assessment",
    arxiv="2403.11176",
    year=2024,
    room="evaluate",
    provides="QualiCLIP",
    kind="Probe",
    files=("evaluate/qualiclip.py", "evaluate/degrade.py", "evaluate/metrics/agreement.py"),
    must_show={
        "loss against explicit loops (1e-6); perfect order and equal crops give 0; reversed linear order m_rank + 2 g": (
            "tests/evaluate/test_qualiclip.py::test_loss_against_loops"
        ),
        "swapping T_p and T_n swaps L_pos and L_neg under reversed levels (1e-6)": (
            "tests/evaluate/test_qualiclip.py::test_swapped_texts"
        ),
        "gradients: image tower only; text embeddings constant over training": (
            "tests/evaluate/test_qualiclip.py::test_only_the_image_tower_learns"
        ),
        "each of the 24 kinds: mean absolute change non-decreasing over 5 levels on 20 photos": (
            "tests/evaluate/test_qualiclip.py::test_levels_on_photos"
        ),
        "score in [0, 1]; swapping every pair maps q to 1 - q (1e-6)": (
            "tests/evaluate/test_qualiclip.py::test_scores"
        ),
        "300 steps, 5 kinds held out: level ranking on unseen photos rises by 10 points, over 60 % on held-out kinds": (
            "bench:evaluate_qualiclip"
        ),
        "zero-shot class accuracy drop reported": "bench:evaluate_qualiclip",
    },
)


@dataclass(frozen=True)
class QualiCLIP:
    """Mean quality, the share over a limit; with ratings of people, SRCC and PLCC (after a logistic curve).

    A torch CLIP sees pictures at their own resolution; an ONNX `Encoder` only after its own resize and crop, which changes
    quality, and the report says so.

    Args:
        least: pictures of a quality under this are named, and counted.
        scale: on cosines.
        pairs: antonym texts, good then bad.
    """

    least: float = 0.5
    scale: float = 100.0
    pairs: tuple[tuple[str, str], ...] = PAIRS

    def run(self, vectors: Vectors, sets: Sets) -> Report:
        """Measure.

        Raises:
            InputError: no pairs of texts.
        """
        if not self.pairs or any(len(pair) != 2 for pair in self.pairs):
            raise InputError("give pairs of a good and a bad text")
        items, notes = sets.test.items, list[str]()
        clip = getattr(vectors.encoder, "clip", None)
        if clip is not None and all(item.image is not None for item in items):
            scorer = QualityProbe(clip, self.pairs, self.scale)
            X, texts = [], scorer.texts
            for start in range(0, len(items), 32):
                part = [item.image for item in items[start : start + 32] if item.image is not None]
                X.append(scorer.vectors([open_image(image).image for image in part]))
                if vectors.on_progress is not None:
                    vectors.on_progress(min(start + 32, len(items)), len(items))
            rows = np.concatenate(X)
        else:
            notes.append("pictures were resized and cropped for this model, which changes quality: use a torch model")
            rows = vectors.images(items).astype(np.float64)
            flat = vectors.texts([text for pair in self.pairs for text in pair])
            texts = flat.reshape(len(self.pairs), 2, -1).astype(np.float64)
        q, parts = quality(rows, texts, self.scale)
        numbers: list[Metric] = [mean_of("quality", q), share(f"over {self.least:g}", q >= self.least)]
        rated = [i for i, item in enumerate(items) if item.rating is not None]
        if len(rated) > 4:
            stars = np.array([items[i].rating for i in rated], np.float64)
            own = q[rated]
            if np.ptp(stars) > 0 and np.ptp(own) > 0:
                numbers.append(resampled("srcc", lambda r: srcc(own[r], stars[r]), len(rated)))
                numbers.append(resampled("plcc", lambda r: plcc(own[r], stars[r], 50), len(rated), resamples=100))
        good = [pair[0] for pair in self.pairs]
        table = tuple(
            {"id": item.id, "quality": float(q[i]), **{name: float(parts[i, p]) for p, name in enumerate(good)}}
            for i, item in enumerate(items)
        )
        worst = [i for i in np.lexsort((np.array(sets.test.ids), q))[:12] if q[i] < self.least]
        examples = tuple(Example(items[i].id, f"quality {q[i]:.2f}") for i in worst)
        chart = {"kind": "histogram", "title": "Quality", "x": "quality", "series": {"pictures": q.tolist()}}
        return Report(
            "qualiclip", vectors.name, sets.test.name, tuple(numbers), table, (chart,), examples, tuple(notes)
        )
