"""The last block of a ViT, taken apart: one slot for most training-free segmenters.

With ``y = norm(x)``, ``a = Wo(A v)`` and a rule for ``A``, the block's output becomes ``[x +] a [then + MLP(norm(.))]``:

    =========  =============================================  ========  ===
    A          rows of A add to                               residual  MLP
    =========  =============================================  ========  ===
    vanilla    1: softmax(s q k^T)                            yes       yes   the tower as it is
    identity   1: I                                           no        no    MaskCLIP (arXiv 2112.01071)
    vv         1: softmax(s v v^T)                            no        no    CLIP Surgery (2304.05653)
    qq+kk      2: softmax(s q q^T) + softmax(s k k^T)         yes       yes   SCLIP (2312.01597)
    qq+kk+vv   3                                              yes       yes   CLIPtrase (2407.08268)
    qq         1: softmax(s q q^T)                            no        no    ClearCLIP (2407.12442)
    kk+near    1: softmax(s k k^T + G)                        no        no    NACLIP (2404.08181)
    =========  =============================================  ========  ===

``G_ij = exp(-|p_i - p_j|^2 / (2 sigma^2))`` of patch places ``p`` with sigma 5 patches, 0 in the class token's row and
column.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from binderclip.errors import InputError, NeedsPartError
from binderclip.model.base import At, AttentionState, State

__all__ = ["AFFINITIES", "Affinity", "LastBlock"]

Affinity = Callable[[AttentionState], Tensor]
SIGMA = 5.0  # of NACLIP, in patches


def _same(*which: str) -> Affinity:
    """Sum of ``softmax(s t t^T)`` over some of q, k, v."""

    def weights(a: AttentionState) -> Tensor:
        parts = [(a.scale * t @ t.mT).softmax(-1) for t in (getattr(a, name) for name in which)]
        return torch.stack(parts).sum(0)

    return weights


def _identity(a: AttentionState) -> Tensor:
    n, h, s, _ = a.v.shape
    return torch.eye(s, dtype=a.v.dtype, device=a.v.device).expand(n, h, s, s)


def _near(a: AttentionState) -> Tensor:
    return (a.scale * a.k @ a.k.mT + nearness(a.state).to(a.k.dtype)).softmax(-1)


def nearness(state: State, sigma: float = SIGMA) -> Tensor:
    """``G`` ``[S, S]`` of a grid of patches behind ``prefix`` tokens."""
    if state.grid is None:
        raise NeedsPartError("this affinity needs to know how the patches lie: run it on all of them")
    device = state.x.device
    rows, columns = (torch.arange(side, device=device, dtype=torch.float32) for side in state.grid)
    place = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1)  # [h w, 2]
    near = (-torch.cdist(place, place).square() / (2 * sigma**2)).exp()
    whole = near.new_zeros(state.x.shape[1], state.x.shape[1])
    whole[state.prefix :, state.prefix :] = near
    return whole


AFFINITIES: dict[str, Affinity] = {
    "vanilla": AttentionState.weights,
    "identity": _identity,
    "vv": _same("v"),
    "qq": _same("q"),
    "qq+kk": _same("q", "k"),
    "qq+kk+vv": _same("q", "k", "v"),
    "kk+near": _near,
}


@dataclass(frozen=True)
class LastBlock:
    """How the last block is run.

    Args:
        affinity: a name of `AFFINITIES`, or a function of `AttentionState` that gives ``[N, H, S, S]``.
        residual: whether the block's input is added.
        mlp: whether the MLP follows.
        drop_cls: keep the patches from attending to the prefix tokens (class token, registers).

    Raises:
        InputError: an affinity of no known name.
    """

    affinity: str | Affinity = "identity"
    residual: bool = False
    mlp: bool = False
    drop_cls: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.affinity, str) and self.affinity not in AFFINITIES:
            raise InputError(f"no affinity is called {self.affinity!r}: use {', '.join(AFFINITIES)}")

    def at(self, tower: nn.Module, index: int = -1) -> At:
        """Site functions that run one block of a tower in this way.

        Args:
            tower: a ViT with sites and pre-norm blocks.
            index: of the block; the last by default.

        Raises:
            NeedsPartError: the tower has no such blocks.
        """
        blocks: Any = getattr(tower, "blocks", ())
        sites = getattr(tower, "sites", ())
        number = index % max(len(blocks), 1)
        if f"blocks.{number}.attn" not in sites:
            raise NeedsPartError("this method needs patch tokens; the image tower is convolutional: use a ViT")
        block = blocks[number]
        if getattr(block, "order", "") == "post":
            raise NeedsPartError("this method needs a ViT whose blocks norm first (pre-norm)")
        kept: dict[str, Tensor] = {}

        def enter(state: State) -> State:
            kept["x"] = state.x
            return state

        def attend(a: AttentionState) -> AttentionState:
            mixed = a.mixed(self._weights(a))
            assert mixed.output is not None
            kept["a"] = mixed.output
            return mixed

        def leave(state: State) -> State:
            out = block.scale1(block.attn.merge(kept["a"]))  # [N, S, C]
            out = kept["x"] + out if self.residual else out
            return state.with_(x=out + block.scale2(block.mlp(block.norm2(out))) if self.mlp else out)

        return {f"blocks.{number}.in": enter, f"blocks.{number}.attn": attend, f"blocks.{number}.out": leave}

    def _weights(self, a: AttentionState) -> Tensor:
        rule = AFFINITIES[self.affinity] if isinstance(self.affinity, str) else self.affinity
        weights = rule(a)
        if self.drop_cls and a.state.prefix:
            weights = weights.clone()
            weights[..., a.state.prefix :, : a.state.prefix] = 0
        return weights
