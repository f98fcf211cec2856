"""CLIP with data augmentation, a strategy of Scaling (Down) CLIP (Li et al. 2024, arXiv 2404.08197)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from binderclip.cards import Card
from binderclip.data.transforms import PRESETS, Augment, RandAugment
from binderclip.errors import InputError
from binderclip.train.contrastive import Contrastive

__all__ = ["CLIPAug"]

CARD = Card(
    slug="clip_aug",
    name="CLIP + Data Augmentation",
    title="Scaling (Down) CLIP: A Comprehensive Analysis of Data, Architecture, and Training Strategies",
    arxiv="2404.08197",
    year=2024,
    room="train",
    provides="CLIPAug",
    kind="Objective",
    baseline=True,
    claim="better on little data",
    must_show={
        "one view, drawn by the policy": "tests/train/test_scaling_down.py::test_clip_aug_changes_the_view_alone",
    },
)


class CLIPAug(Contrastive):
    """InfoNCE on one view that is augmented strongly; the paper names the kind of policy, not its numbers.

    The recipe's crop stays (it must name one, ``data.augment``); a flip and RandAugment (Cubuk et al. 2019, arXiv
    1909.13719) come on top. A flip makes captions that say left and right untrue: set it to 0 for those.

    Args:
        policy: "randaug", or "slip": jitter, grey and blur in its place.
        magnitude: of RandAugment, 0 to 10.
        n: operations of RandAugment a view.
        flip: probability.

    Raises:
        InputError: an unknown policy.
    """

    def __init__(self, policy: str = "randaug", magnitude: float = 9, n: int = 2, flip: float = 0.5) -> None:
        super().__init__()
        if policy not in ("randaug", "slip"):
            raise InputError(f"unknown policy {policy!r}: use 'randaug' or 'slip'")
        self.policy, self.flip = policy, flip
        self.operations = RandAugment(N=n, M=magnitude)

    def views(self, augment: Augment) -> Mapping[str, Augment]:
        """The recipe's view with the policy."""
        if self.policy == "slip":
            return {"view": replace(PRESETS["slip"], scale=augment.scale, flip=self.flip)}
        return {"view": replace(augment, flip=self.flip, randaugment=self.operations)}
