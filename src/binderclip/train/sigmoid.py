"""SigLIP: sigmoid loss for language image pre-training (Zhai et al. 2023, arXiv 2303.15343)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from binderclip.cards import Card
from binderclip.losses import sigmoid_loss
from binderclip.model.clip import CLIP
from binderclip.train.base import Features, Loss, Objective, TrainBatch

__all__ = ["Sigmoid"]

CARD = Card(
    slug="sigmoid",
    name="SigLIP",
    title="Sigmoid Loss for Language Image Pre-Training",
    arxiv="2303.15343",
    year=2023,
    room="train",
    provides="Sigmoid",
    kind="Objective",
    baseline=True,
    claim="as good as softmax, better at small batches",
    must_show={
        "the loss is that of a loop over rows": "tests/train/test_sigmoid.py::test_loss_equals_loops",
        "the bias is learnt, exported and loaded": "tests/train/test_sigmoid.py::test_the_bias_travels",
    },
)


class Sigmoid(Objective):
    """Every pair of rows is a yes or no: ``L = -1/N sum_ij log sigmoid(z_ij (t x_i.y_j + b))``, ``z`` +1 on the diagonal.

    ``t = exp(t')`` and ``b`` are learnt and not clamped. A CLIP that has a bias is a sigmoid model already and keeps both;
    any other gets ``t' = log 10`` and ``b = -10``, so that the many negatives do not outweigh the start. The bias is the
    CLIP's own from then on: its config and weights carry it.

    Args:
        scale: ``t`` at the start.
        bias: ``b`` at the start.
        chunk: rows of logits held at a time; None holds all.
    """

    clamp = None

    def __init__(self, scale: float = 10.0, bias: float = -10.0, chunk: int | None = None) -> None:
        super().__init__()
        self.scale, self.bias, self.chunk = scale, bias, chunk

    def setup(self, clip: CLIP, recipe: Mapping[str, Any]) -> None:
        """The bias, where there is none."""
        if clip.logit_bias is not None:
            return
        exponential = bool(clip.config.get("exponential", True))
        with torch.no_grad():
            clip.logit_scale.fill_(math.log(self.scale) if exponential else self.scale)
        clip.logit_bias = nn.Parameter(torch.full_like(clip.logit_scale, self.bias, requires_grad=False))
        clip.config = {**clip.config, "logit_bias": self.bias}  # a shared config is not written to

    def loss(self, clip: CLIP, features: Features, batch: TrainBatch, step: int, total: int) -> Loss:
        """The sigmoid loss; all processes' texts are compared with."""
        assert clip.logit_bias is not None, "setup comes first"
        value = sigmoid_loss(features["image"], features["text"], clip.scale, clip.logit_bias, chunk=self.chunk)
        return Loss(value, {"sigmoid": value})
