"""MaskCLIP (Zhou et al. 2022, arXiv 2112.01071): patches classified by the values of the last attention, untrained.

In the last block queries, keys and softmax are dropped: ``F = norm(Wo v + b) P`` at every patch, and
``score = tau cos(F, W)``. The paper's key smoothing and prompt denoising are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from binderclip.cards import Card
from binderclip.dense.base import Segmenter
from binderclip.dense.features import is_vit, patch_features
from binderclip.dense.last_block import Affinity, LastBlock
from binderclip.model.clip import CLIP

__all__ = ["MaskCLIP"]

CARD = Card(
    slug="maskclip",
    name="MaskCLIP",
    title="Extract Free Dense Labels from CLIP",
    arxiv="2112.01071",
    year=2022,
    room="dense",
    provides="MaskCLIP",
    kind="Segmenter",
    verb="segment",
    needs=("image.tokens",),
    baseline=True,
    claim="training-free: Pascal Context 25.5 mIoU with ViT-B/16 and all its refinements",
    must_show={
        "an identity for the attention weights is the values themselves": "tests/dense/test_last_block.py::test_identity",
        "a linear head at every place has the pooled vector as its mean": "tests/dense/test_features.py::test_mean",
    },
)


class MaskCLIP(Segmenter):
    """MaskCLIP, and with other arguments most training-free segmenters of one last block (see `LastBlock`).

    A convolutional tower's places are brought into the joint space by its own head.

    Args:
        clip: see `Segmenter`.
        affinity: of the last block; see `AFFINITIES`.
        residual: whether the last block's input is added.
        mlp: whether its MLP follows.
        options: of `Segmenter`.
    """

    def __init__(
        self,
        clip: CLIP,
        *,
        affinity: str | Affinity = "identity",
        residual: bool = False,
        mlp: bool = False,
        templates: str | Sequence[str] = "photo",
        **options: Any,
    ) -> None:
        super().__init__(clip, templates=templates, **options)
        self.last = LastBlock(affinity, residual, mlp) if is_vit(clip) else None

    def scores(self, pixels: Tensor, W: Tensor) -> Tensor:
        """``tau cos(F, W)``, ``[N, T, h, w]``."""
        features = F.normalize(patch_features(self.clip, pixels, self.last), dim=-1)  # [N, h, w, D]
        return (self.tau * features @ W.T).permute(0, 3, 1, 2)
