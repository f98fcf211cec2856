"""Taking heads out of a ViT CLIP: their terms are replaced by means over pictures (TextSpan, arXiv 2310.05916)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from binderclip.evaluate.decomposition import Collector, Decomposition, splittable
from binderclip.model.base import At, Tokens
from binderclip.model.clip import CLIP
from binderclip.model.functions import frozen_copy
from binderclip.model.vit import VisionTransformer

__all__ = ["Head", "HeadAblation", "ablate", "role"]

Head = tuple[int, int]  #: (layer, head), both from 0


def ablate(
    terms: Decomposition, mean: Decomposition, heads: Iterable[Head] = (), *, mlps: bool = False, own: bool = False
) -> Tensor:
    """The sum of all terms ``[B, D]``, some of them replaced by their means; no re-normalisation.

    Args:
        terms: of B pictures.
        mean: from `Decomposition.mean`, of other pictures than those that are measured.
        heads: to replace.
        mlps: replace all MLPs and the class row before the first block.
        own: replace what the class token's attention to itself gives every head.
    """
    gone = list(heads)
    if not (gone or mlps or own):
        return terms.embedding
    parts = terms.heads - terms.own + mean.own if own else terms.heads
    if gone:
        which = torch.zeros(parts.shape[1:3], dtype=torch.bool, device=parts.device)
        which[tuple(torch.tensor(gone).T)] = True
        parts = torch.where(which[None, :, :, None], mean.heads, parts)
    rest = mean.mlp.expand_as(terms.mlp) if mlps else terms.mlp
    return parts.sum((1, 2)) + rest.sum(1)


def role(terms: Decomposition, heads: Iterable[Head]) -> Tensor:
    """``e_role``, the sum of some heads' terms ``[B, D]``: search by it finds what those heads look at."""
    return torch.stack([terms.heads[:, layer, head] for layer, head in heads]).sum(0)


@dataclass(frozen=True)
class HeadAblation:
    """A Surgery: a CLIP without what some heads see. Its image embedding is `ablate`'s, times the length it had.

    Args:
        heads: to replace by their means.
        mean: from `Decomposition.mean`.
        mlps: see `ablate`.
        own: see `ablate`.

    Example:
        ``HeadAblation([(11, 6), (11, 0)], collect(clip, others).mean())(clip).encode_image(pixels)``
    """

    heads: tuple[Head, ...]
    mean: Decomposition
    mlps: bool = False
    own: bool = False

    def __call__(self, clip: CLIP) -> CLIP:
        """A frozen copy whose image tower is wrapped.

        Raises:
            NeedsPartError: the tower cannot be split.
        """
        twin = frozen_copy(clip)
        twin.add_module("image", _AblatedTower(splittable(twin), self))
        return twin


class _AblatedTower(nn.Module):
    def __init__(self, tower: VisionTransformer, what: HeadAblation) -> None:
        super().__init__()
        self.tower, self.what = tower, what
        self.embed_dim, self.width = tower.embed_dim, tower.width

    @property
    def sites(self) -> tuple[str, ...]:
        return self.tower.sites

    def forward(self, x: Tensor, at: At | None = None) -> Tokens:
        collector, joined = Collector(self.tower), dict[str, Any](at or {})
        for name, ours in collector.at.items():
            given = joined.get(name, ())
            joined[name] = (*((given,) if callable(given) else given), ours)
        tokens: Tokens = self.tower(x, joined)
        length = tokens.pooled.norm(dim=1, keepdim=True)
        what = self.what
        left = ablate(collector.done(tokens.pooled), what.mean, what.heads, mlps=what.mlps, own=what.own)
        return replace(tokens, pooled=left * length)
