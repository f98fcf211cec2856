"""Fine-tuning of Long-CLIP (Zhang et al. 2024, arXiv 2403.15378): long captions, and short ones by primary components.

``L = CE2(s v tl^T) + w CE2(s v_s ts^T)`` with unit image, long and short text features; ``mu = mean(v)``,
``X = v - mu = U S V^T``, and ``v_s = X V_k V_k^T + mu`` is what the k strongest directions of the batch keep of v; it is not
made unit again. CE2 is the mean of both directions with label smoothing 0.1. mu and V are of the rows of all processes (the
reference: of each device's own), so that the number of processes changes nothing. The surgery is
`binderclip.model.long_clip`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from binderclip.cards import Card
from binderclip.data.hashing import Draws
from binderclip.data.pairs import Pair
from binderclip.errors import InputError
from binderclip.losses import gather_rows, info_nce
from binderclip.model.clip import CLIP
from binderclip.model.long_clip import shorten
from binderclip.train.base import Features, Loss, Objective, TrainBatch

__all__ = ["LongClip", "primary_component"]

CARD = Card(
    slug="long_clip_finetune",
    name="Long-CLIP's fine-tuning",
    title="Long-CLIP: Unlocking the Long-Text Capability of CLIP",
    arxiv="2403.15378",
    year=2024,
    room="train",
    provides="LongClip",
    kind="Objective",
    baseline=True,  # a part of long_clip, whose card holds the specification's lines
    must_show={"the loss by a slow loop": "tests/train/test_long_clip.py::test_the_loss_by_a_loop"},
)


def primary_component(v: Tensor, k: int, rows: Tensor | None = None) -> Tensor:
    """``(v - mu) V_k V_k^T + mu``, ``[N, D]``, with gradient through V and mu.

    Args:
        v: ``[N, D]``.
        k: directions kept; all of v where it is no less than the rank.
        rows: ``[M, D]`` that mu and V are of; v itself by default.
    """
    every = v if rows is None else rows
    mu = every.mean(dim=0)
    X = (every - mu).to(torch.promote_types(every.dtype, torch.float32))  # half precision has no SVD worth the name
    if k >= min(X.shape):
        return v
    V = torch.linalg.svd(X, full_matrices=False).Vh[:k].to(v.dtype)  # [k, D]
    out: Tensor = (v - mu) @ V.mT @ V + mu
    return out


class LongClip(Objective):
    """Long captions beside short ones.

    Args:
        pca_dim: k.
        short_weight: w; an earlier version of the reference had 0.1.
        label_smoothing: of both terms.
        init_logit_scale: ln s at the start; None leaves it. s is trained and not clamped.
        keep: rows of the position table that never change.
        long: "caption": the row's caption is the long one and its first sentence the short one; "joined": all captions of
            a row in one text, its first the short one.

    Raises:
        InputError: numbers out of range, or no such way to a long text.
    """

    clamp = None
    kept: Tensor

    def __init__(
        self,
        pca_dim: int = 32,
        short_weight: float = 1.0,
        label_smoothing: float = 0.1,
        init_logit_scale: float | None = 4.6052,
        keep: int = 20,
        long: str = "caption",
    ) -> None:
        super().__init__()
        if pca_dim < 1 or short_weight < 0 or keep < 0 or long not in ("caption", "joined"):
            raise InputError(f"pca_dim {pca_dim}, short_weight {short_weight}, keep {keep}, long {long!r}: check them")
        self.pca_dim, self.short_weight, self.smoothing = pca_dim, short_weight, label_smoothing
        self.init_logit_scale, self.keep, self.long = init_logit_scale, keep, long
        self.register_buffer("kept", torch.empty(0))

    def texts(self, pair: Pair, draws: Draws, caption: str) -> tuple[str, ...]:
        """The long and the short text."""
        if self.long == "joined":
            return ". ".join(one.rstrip(".") for one in pair.captions), pair.captions[0]
        return " ".join(caption.split("\n")), shorten(caption)

    def setup(self, clip: CLIP, recipe: Mapping[str, Any]) -> None:
        """The scale, and the rows that stay."""
        table: Any = getattr(clip.tower("text"), "positions", None)
        if not isinstance(table, Tensor):
            raise InputError(f"{clip.name} has no table of text positions: long_clip cannot fine-tune it")
        with torch.no_grad():
            if self.init_logit_scale is not None:
                clip.logit_scale.fill_(self.init_logit_scale)
        self.kept = table[: self.keep].detach().clone()
        rows = self.keep
        if rows and table.requires_grad:  # no part in the norm of the gradients either
            table.register_hook(lambda g: torch.cat([torch.zeros_like(g[:rows]), g[rows:]]))  # type: ignore[no-untyped-call]

    def encode(self, clip: CLIP, batch: TrainBatch) -> Features:
        """Unit features ``image``, ``long`` and ``short`` ``[N, D]``."""
        long, short = (clip.encode_text((batch.ids[i], batch.eos[i])) for i in (0, 1))
        image = F.normalize(clip.encode("image", batch.views[0], batch.image_at).pooled, dim=-1)
        return {"image": image, "long": long, "short": short}

    def loss(self, clip: CLIP, features: Features, batch: TrainBatch, step: int, total: int) -> Loss:
        """Both terms; all processes' rows are negatives."""
        v = features["image"]
        long = info_nce(v, features["long"], clip.scale, smoothing=self.smoothing)
        coarse = primary_component(v, self.pca_dim, gather_rows(v))
        short = info_nce(coarse, features["short"], clip.scale, smoothing=self.smoothing)
        return Loss(long + self.short_weight * short, {"long": long, "short": short})

    def after_step(self, clip: CLIP, step: int, total: int) -> None:
        """The kept rows as they were: weight decay would shrink them without any gradient."""
        super().after_step(clip, step, total)
        table: Any = clip.tower("text").positions
        with torch.no_grad():
            table[: self.keep] = self.kept.to(table)
