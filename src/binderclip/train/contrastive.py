"""Plain CLIP: learning visual models from natural language supervision (Radford et al. 2021, arXiv 2103.00020)."""

from __future__ import annotations

from binderclip.cards import Card
from binderclip.losses import info_nce
from binderclip.model.clip import CLIP
from binderclip.train.base import Features, Loss, Objective, TrainBatch

__all__ = ["Contrastive"]

CARD = Card(
    slug="contrastive",
    name="CLIP",
    title="Learning Transferable Visual Models From Natural Language Supervision",
    arxiv="2103.00020",
    year=2021,
    room="train",
    provides="Contrastive",
    kind="Objective",
    baseline=True,
    must_show={
        "the loss is that of a loop over rows": "tests/test_losses.py::test_info_nce_against_loops",
        "processes and chunks change nothing": "tests/test_losses.py::test_two_processes_equal_one",
    },
)


class Contrastive(Objective):
    """InfoNCE over the batch: ``L = (CE(s I T', diag) + CE(s T I', diag)) / 2``, s learnt and clamped to 100.

    Args:
        smoothing: of the labels; the paper has none.
        chunk: rows of logits held at a time; None holds all.
    """

    def __init__(self, smoothing: float = 0.0, chunk: int | None = None) -> None:
        super().__init__()
        self.smoothing, self.chunk = smoothing, chunk

    def loss(self, clip: CLIP, features: Features, batch: TrainBatch, step: int, total: int) -> Loss:
        """InfoNCE; all processes' rows are negatives."""
        image, text = features["image"], features["text"]
        value = info_nce(image, text, clip.scale, smoothing=self.smoothing, chunk=self.chunk)
        return Loss(value, {"contrastive": value})
