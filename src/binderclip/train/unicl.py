"""UniCL: unified contrastive learning in image-text-label space (Yang et al. 2022, arXiv 2204.03610)."""

from __future__ import annotations

from torch import nn

from binderclip.cards import Card
from binderclip.losses import gather_rows, soft_cross_entropy
from binderclip.model.clip import CLIP
from binderclip.train.base import Features, Loss, Objective, TrainBatch
from binderclip.train.parts.alike import alike_targets, text_keys

__all__ = ["UniCL"]

CARD = Card(
    slug="unicl",
    name="UniCL",
    title="Unified Contrastive Learning in Image-Text-Label Space",
    arxiv="2204.03610",
    year=2022,
    room="train",
    provides="UniCL",
    kind="Objective",
    baseline=True,
    claim="as CLIP where no text comes twice",
    must_show={
        "the loss is that of a loop over rows": "tests/train/test_unicl.py::test_the_loss_against_loops",
        "with no text twice it is plain CLIP": "tests/train/test_unicl.py::test_different_texts_are_plain_clip",
    },
)


class UniCL(Objective):
    """InfoNCE in which rows of the same text are each other's positives, as captions made of labels are.

    ``L = (L_i2t + L_t2i) / 2``, ``L_i2t = - mean_i 1/|P(i)| sum_{k in P(i)} log softmax(s v_i U')_k``, ``P(i)`` the rows of
    row i's text; ``L_t2i`` the same with the sides exchanged.

    Args:
        frozen_statistics: BatchNorm layers keep the mean and variance that they came with, as they should on few pictures.
    """

    def __init__(self, frozen_statistics: bool = True) -> None:
        super().__init__()
        self.frozen_statistics = frozen_statistics

    def before_step(self, clip: CLIP, step: int, total: int) -> None:
        """BatchNorm in eval mode; its weights are trained all the same."""
        if self.frozen_statistics:
            for module in clip.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def encode(self, clip: CLIP, batch: TrainBatch) -> Features:
        """Unit features, and a number that equal texts share."""
        return {**super().encode(clip, batch), "key": text_keys(batch, clip.device)}

    def loss(self, clip: CLIP, features: Features, batch: TrainBatch, step: int, total: int) -> Loss:
        """Both directions; all processes' rows count."""
        image, text = features["image"], features["text"]
        targets = alike_targets(features["key"], image)  # [N, M]
        forth = soft_cross_entropy(clip.scale * image @ gather_rows(text).T, targets)
        back = soft_cross_entropy(clip.scale * text @ gather_rows(image).T, targets)
        return Loss((forth + back) / 2, {"image_to_text": forth, "text_to_image": back})
