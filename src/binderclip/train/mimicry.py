"""Feature mimicry: an image tower learns the place of each picture in a teacher's space, whose text tower it keeps.

The plain winner of CLIP-KD's comparison (Yang et al. 2023, arXiv 2307.12732) with LiT's frozen text side (Zhai et al. 2021,
arXiv 2111.07991). ``pocket-vit`` is made with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from binderclip.cards import Card
from binderclip.data.pairs import Pair
from binderclip.data.transforms import View
from binderclip.losses import gather_rows, kl_distill, soft_cross_entropy
from binderclip.model.clip import CLIP
from binderclip.train.base import Features, Loss, Objective, TrainBatch
from binderclip.train.parts.alike import alike_targets, text_keys
from binderclip.train.parts.teacher import TeacherVectors

__all__ = ["Mimicry"]

CARD = Card(
    slug="mimicry",
    name="Feature mimicry",
    title="CLIP-KD: An Empirical Study of CLIP Model Distillation",
    arxiv="2307.12732",
    year=2023,
    room="train",
    provides="Mimicry",
    kind="Objective",
    baseline=True,
    must_show={
        "the loss is that of a loop over rows": "tests/train/test_mimicry.py::test_the_loss_against_loops",
        "a student equal to its teacher has no feature or relation loss": (
            "tests/train/test_mimicry.py::test_nothing_is_left_to_learn_from_itself"
        ),
        "another teacher's vectors are refused": "tests/train/test_mimicry.py::test_a_cache_of_another_teacher",
    },
)


class Mimicry(Objective):
    """``L = f mean(1 - v.t) + c CE(s v U', same text) + r KL(softmax(s t U') || softmax(s v U'))``.

    ``v`` are the student's unit image vectors, ``t`` the teacher's of the same views (``cache_teacher``), ``U`` the unit
    vectors of the texts of the batch. Rows of the same text are each other's positives. The text tower is frozen: it is the
    teacher's own.

    Args:
        vectors: folder of the teacher's vectors, or several, one a source.
        feature: ``f``.
        contrast: ``c``.
        relation: ``r``.
        scale: ``s``, fixed; the teacher's own makes targets of one class, a lower one tells more of the others.
    """

    needs: ClassVar[tuple[str, ...]] = ("image", "caption")
    clamp = None

    def __init__(
        self,
        vectors: str | Sequence[str],
        feature: float = 5.0,
        contrast: float = 0.5,
        relation: float = 1.0,
        scale: float = 30.0,
    ) -> None:
        super().__init__()
        self.feature, self.contrast, self.relation, self.scale = feature, contrast, relation, scale
        folders = [vectors] if isinstance(vectors, str) else vectors
        self.teachers = [TeacherVectors(Path(folder)) for folder in folders]

    def fields(self, pair: Pair, epoch: int, views: tuple[View, ...]) -> Mapping[str, NDArray[Any]]:
        """The teacher's vector of this view."""
        found = next((teacher for teacher in self.teachers if pair.id in teacher), self.teachers[0])
        return {"teacher": found(pair.id, epoch)}

    def setup(self, clip: CLIP, recipe: Mapping[str, Any]) -> None:
        """Freeze all but the image tower."""
        for name, parameter in clip.named_parameters():
            if not name.startswith("image."):
                parameter.requires_grad_(False)

    def encode(self, clip: CLIP, batch: TrainBatch) -> Features:
        """Unit features; the frozen text tower without a graph."""
        image = F.normalize(clip.encode("image", batch.views[0], batch.image_at).pooled, dim=-1)
        with torch.no_grad():
            text = clip.encode_text((batch.ids[0], batch.eos[0]))
        return {"image": image, "text": text, "key": text_keys(batch, image.device)}

    def loss(self, clip: CLIP, features: Features, batch: TrainBatch, step: int, total: int) -> Loss:
        """The three terms."""
        v, t = features["image"], batch.fields["teacher"]
        u = gather_rows(features["text"])  # of all processes
        logits = self.scale * v @ u.T
        parts = {
            "feature": 1 - (v * t).sum(-1).mean(),
            "contrast": soft_cross_entropy(logits, alike_targets(features["key"], v)),
            "relation": kl_distill(logits, self.scale * t @ u.T),
        }
        total_loss = (
            self.feature * parts["feature"] + self.contrast * parts["contrast"] + self.relation * parts["relation"]
        )
        return Loss(total_loss, parts)
