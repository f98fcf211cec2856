"""FLIP: scaling language-image pre-training via masking (Li et al. 2022, arXiv 2212.00794)."""

from __future__ import annotations

from binderclip.cards import Card
from binderclip.errors import InputError
from binderclip.model.clip import CLIP
from binderclip.train.base import Features, TrainBatch
from binderclip.train.contrastive import Contrastive
from binderclip.train.parts.dropping import drop_tokens
from binderclip.train.parts.sites import with_site

__all__ = ["FLIP"]

CARD = Card(
    slug="flip",
    name="FLIP",
    title="Scaling Language-Image Pre-training via Masking",
    arxiv="2212.00794",
    year=2022,
    room="train",
    provides="FLIP",
    kind="Objective",
    baseline=True,
    claim="better at equal compute",
    must_show={
        "keep 1 is CLIP to the bit; 0.5 keeps half of the patches": "tests/train/test_scaling_down.py::test_flip",
        "all tokens at the end": "tests/train/test_scaling_down.py::test_flip_ends_unmasked",
    },
)


class FLIP(Contrastive):
    """InfoNCE on images of which a random half of the patches is left out: about twice the images at equal cost.

    There are no mask tokens and nothing is reconstructed; the class token stays; every image and step draws anew.

    Args:
        keep: share of the patches.
        unmasked: share of the run, at its end, in which all patches are seen (the paper tunes so for 0.3 epochs).

    Raises:
        InputError: a share that there is not.
    """

    def __init__(self, keep: float = 0.5, unmasked: float = 0.0) -> None:
        super().__init__()
        if not 0 < keep <= 1 or not 0 <= unmasked <= 1:
            raise InputError(f"keep is {keep}, unmasked {unmasked}: give shares, keep above 0")
        self.keep, self.unmasked = keep, unmasked
        self.masked = keep < 1
        self.draws = self.masked

    def before_step(self, clip: CLIP, step: int, total: int) -> None:
        """Masks until the last stretch."""
        self.masked = self.keep < 1 and step < total * (1 - self.unmasked)

    def encode(self, clip: CLIP, batch: TrainBatch) -> Features:
        """Features of the patches that stay."""
        if not (self.masked and self.training):
            return super().encode(clip, batch)
        return super().encode(clip, with_site(batch, "embed.out", drop_tokens(self.keep)))
