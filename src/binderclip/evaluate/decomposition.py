"""A ViT CLIP's image embedding as an exact sum over heads, source patches and MLPs (arXiv 2310.05916).

``e = P ln(z)`` of the class token, ``z = z_0 + sum_l MSA^l + sum_l MLP^l``, and head h of layer l adds from source token i

    ``c_{i,l,h} = A_{cls,i} (v_i W_O^{l,h}) + b_O^l / (S H)``, ``S = N + 1`` tokens.

With the mean ``mu`` and deviation ``sd`` that the last norm really used, a term ``u`` that is one of K parts is worth
``P (gamma (u - mu/K) / sd + beta/K) / |e|`` in the joint space, ``K = n`` for z_0 and MLPs, ``n S H`` for one ``c``,
``n = 2 L + 1``. The shares ``1/K`` add to one, so that all terms add to the unit embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from binderclip.errors import InputError, NeedsPartError
from binderclip.model.base import AttentionState, SiteFunction, State
from binderclip.model.block import Block
from binderclip.model.clip import CLIP
from binderclip.model.sites import recorder
from binderclip.model.vit import VisionTransformer

__all__ = ["Collector", "Decomposition", "collect", "decompose", "patch_terms", "pixel_batches", "splittable"]


@dataclass(frozen=True)
class Decomposition:
    """Terms of unit embeddings of B pictures.

    Args:
        attn: of each head ``[B, L, H, D]``; from each source token, class token first, ``[B, L, S, H, D]`` where asked for.
        own: what the class token's attention to itself gives each head ``[B, L, H, D]``, a part of `attn`.
        mlp: ``[B, L + 1, D]``, the class row before the first block first.
        embedding: their sum, unit rows ``[B, D]``.
    """

    attn: Tensor
    own: Tensor
    mlp: Tensor
    embedding: Tensor

    @property
    def heads(self) -> Tensor:
        """``[B, L, H, D]``, whether source tokens are told apart or not."""
        return self.attn if self.attn.dim() == 4 else self.attn.sum(2)

    def total(self) -> Tensor:
        """The sum of all terms ``[B, D]``."""
        return self.heads.sum((1, 2)) + self.mlp.sum(1)

    def mean(self) -> Decomposition:
        """The means over the pictures, as one picture."""
        return self._map(lambda part: part.mean(0, keepdim=True))

    def rows(self, which: Any) -> Decomposition:
        """Some of the pictures."""
        return self._map(lambda part: part[which])

    def _map(self, change: Any) -> Decomposition:
        return replace(self, **{field.name: change(getattr(self, field.name)) for field in fields(self)})


def splittable(clip: CLIP) -> VisionTransformer:
    """The image tower, where it can be split.

    Raises:
        NeedsPartError: it is no ViT that pools its class token, or its blocks do not only add to their input.
    """
    tower = clip.tower("image")
    if not isinstance(tower, VisionTransformer) or tower.pooling != "cls":
        raise NeedsPartError(f"heads are told apart in ViTs that pool their class token, which {clip.name} does not")
    if any(block.order != "pre" for block in _blocks(tower)):
        raise NeedsPartError(f"heads are told apart where norms stand before each part; {clip.name} has others")
    return tower


class Collector:
    """Site functions that keep each head's part of the class row, in the joint space, and the rest in the tower's width.

    Args:
        tower: from `splittable`.
        detail: "heads", "tokens" (each head from each source token) or "patches" (each source token, all heads together).

    Attributes:
        at: the functions, for one call of the tower; a new collector for every call.
    """

    def __init__(self, tower: VisionTransformer, detail: str = "heads") -> None:
        self.tower, self.detail = tower, detail
        assert isinstance(tower.norm, nn.LayerNorm)
        gamma, beta, proj = tower.norm.weight, tower.norm.bias, tower.proj
        self.eps: float = tower.norm.eps
        eye = torch.eye(tower.width, dtype=gamma.dtype, device=gamma.device)
        P = proj.weight if isinstance(proj, nn.Linear) else eye  # [D, C]
        shift = proj.bias if isinstance(proj, nn.Linear) and proj.bias is not None else 0.0
        self.G = P * gamma  # [D, C]: what a row of the stream is worth, but for mean, deviation and length
        self.shift = P @ beta + shift  # [D]
        self.parts: list[tuple[Tensor, Tensor]] = []
        self.seen: dict[str, Tensor] = {}
        self.mlp: list[Tensor] = []
        self.last: dict[str, State] = {}
        self.at: dict[str, SiteFunction] = {"blocks.0.in": self._first, "pool.in": recorder(self.last, "z")}
        for i, block in enumerate(_blocks(tower)):
            self.at[f"blocks.{i}.attn"] = self._attention(block)
            self.at[f"blocks.{i}.out"] = self._out

    def _first(self, state: State) -> State:
        self.mlp.append(state.x[:, 0])
        return state

    def _attention(self, block: Block) -> SiteFunction:
        def look(a: AttentionState) -> AttentionState:
            h, s, d = a.v.shape[1:]
            gamma = getattr(block.scale1, "gamma", None)
            weight, bias = block.attn.out.weight, block.attn.out.bias
            W = weight if gamma is None else weight * gamma[:, None]  # [C, C]
            b = W.new_zeros(W.shape[0]) if bias is None else bias if gamma is None else bias * gamma
            M = (self.G @ W).reshape(-1, h, d)  # [D, H, d]
            mixed = a.weights()[:, :, 0, :, None] * a.v  # [N, H, S, d], the class row alone
            gb = self.G @ b / (s * h)  # [D]
            if self.detail == "heads":
                part = torch.einsum("nhd,ehd->nhe", mixed.sum(2), M) + s * gb
            else:
                way = "nhsd,ehd->nshe" if self.detail == "tokens" else "nhsd,ehd->nse"
                part = torch.einsum(way, mixed, M) + (gb if self.detail == "tokens" else h * gb)
            self.parts.append((part, torch.einsum("nhd,ehd->nhe", mixed[:, :, 0], M) + gb))
            self.seen["sum"] = a.state.x[:, 0] + mixed.sum(2).flatten(1) @ W.T + b  # [N, C] before the MLP
            return a

        return look

    def _out(self, state: State) -> State:
        self.mlp.append(state.x[:, 0] - self.seen["sum"])
        return state

    def done(self, pooled: Tensor) -> Decomposition:
        """The terms, once the tower has run and given ``pooled`` ``[N, D]``."""
        z, L = self.last["z"].x[:, 0], len(self.parts)
        length = pooled.norm(dim=1)
        sd = (z.var(1, unbiased=False) + self.eps).sqrt()
        n, s, h = 2 * L + 1, self.last["z"].x.shape[1], self.parts[0][1].shape[1]
        # what every K-th of the sum carries of mean, beta and bias, [N, D]
        common = (self.shift - z.mean(1, keepdim=True) / sd[:, None] * self.G.sum(1)) / length[:, None]

        def fold(part: Tensor, share: float) -> Tensor:
            ones = [1] * (part.dim() - 2)
            folded: Tensor = part / (sd * length).view(-1, *ones, 1) + share * common.view(len(z), *ones, -1)
            return folded

        share = {"heads": 1 / (n * h), "tokens": 1 / (n * s * h), "patches": 1 / (n * s)}[self.detail]
        attn = fold(torch.stack([part for part, _ in self.parts], 1), share)
        own = fold(torch.stack([own for _, own in self.parts], 1), 1 / (n * s * h))
        mlp = fold(torch.stack(self.mlp, 1) @ self.G.T, 1 / n)
        return Decomposition(attn, own, mlp, pooled / length[:, None])


@torch.no_grad()
def decompose(clip: CLIP, pixels: Tensor, per_token: bool = False) -> Decomposition:
    """Every term of the unit embeddings of pictures; the tower runs as it always does, its output is the same to the bit.

    Args:
        clip: with a ViT whose class token is pooled, pre-norm blocks, with or without biases and layer scale.
        pixels: normalised ``[B, 3, H, W]``.
        per_token: tell source tokens apart, which takes ``L S H D`` numbers a picture (58 MB for ViT-B/16): few at a time.

    Raises:
        NeedsPartError: the tower pools otherwise, or its blocks are post-norm or sub-norm.
    """
    return _run(clip, pixels, "tokens" if per_token else "heads")


@torch.no_grad()
def patch_terms(clip: CLIP, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """What each patch adds through all layers and heads ``[B, h w, D]``, and the grid (h, w)."""
    tower = splittable(clip)
    collector = Collector(tower, "patches")
    found = collector.done(tower(pixels, collector.at).pooled)
    state = collector.last["z"]
    assert state.grid is not None
    return found.attn.sum(1)[:, state.prefix :], state.grid


def collect(clip: CLIP, images: Tensor | Sequence[Any], batch: int = 32) -> Decomposition:
    """The terms of many pictures, by head: normalised pixels, or paths and Pillow images.

    Raises:
        InputError: no pictures.
    """
    parts = [decompose(clip, pixels) for pixels in pixel_batches(clip, images, batch)]
    if not parts:
        raise InputError("there are no pictures to look at: give at least one")
    joined = {field.name: torch.cat([getattr(p, field.name) for p in parts]) for field in fields(Decomposition)}
    return Decomposition(**joined)


def pixel_batches(clip: CLIP, images: Tensor | Sequence[Any], batch: int = 32) -> Iterator[Tensor]:
    """Normalised pixels ``[<= batch, 3, H, W]`` of pixels, or of paths and Pillow images.

    Raises:
        NeedsPartError: pictures for a model without preprocessing.
    """
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        if isinstance(part, Tensor):
            yield part
        elif clip.preprocess is None:
            raise NeedsPartError(f"{clip.name} has no preprocess: give normalised pixels [N, 3, H, W]")
        else:
            seen = np.stack([clip.preprocess(clip.decode(one)) for one in part])
            yield torch.from_numpy(clip.preprocess.normalize(seen)).to(clip.device, clip.logit_scale.dtype)


def _run(clip: CLIP, pixels: Tensor, detail: str) -> Decomposition:
    tower = splittable(clip)
    collector = Collector(tower, detail)
    return collector.done(tower(pixels, collector.at).pooled)


def _blocks(tower: VisionTransformer) -> list[Block]:
    return [block for block in tower.blocks if isinstance(block, Block)]
