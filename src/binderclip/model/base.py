"""What every tower shares: its input and output types, and what a site function is given.

A tower's forward is a loop over public stages, ``embed -> State``, ``blocks[i](State)``, ``pool(State) -> Tokens``. Between
them are the named sites of ``binderclip.model.sites``, where a function of ``State`` (or, inside attention, of
``AttentionState``) may be put without editing the tower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from binderclip.model.clip import CLIP

__all__ = [
    "At",
    "AttentionState",
    "SiteFunction",
    "State",
    "Surgery",
    "Tokens",
    "Tower",
]

SiteFunction = Callable[[Any], Any]
At = Mapping[str, SiteFunction | Sequence[SiteFunction]]
Surgery = Callable[["CLIP"], "CLIP"]


@dataclass(frozen=True)
class Tokens:
    """What a tower returns.

    Attributes:
        pooled: ``[N, D]`` in the joint space, not yet of unit length.
        sequence: ``[N, S, C]`` after the final norm, not projected (convolutional towers: ``S = h w`` locations).
        mask: ``[N, S]`` bool, true where a token is real; ``None`` where all are.
        raw: ``[N, C]`` the pooled feature before the projection.
        hidden: ``[N, S, C]`` before the final norm.
        prefix: how many leading tokens are not patches or words (class token, registers).
        grid: rows and columns of the patches, for images.
    """

    pooled: Tensor
    sequence: Tensor
    mask: Tensor | None = None
    raw: Tensor | None = None
    hidden: Tensor | None = None
    prefix: int = 0
    grid: tuple[int, int] | None = None


@dataclass(frozen=True)
class State:
    """Tokens on their way through a tower.

    Attributes:
        x: ``[N, S, C]``; in convolutional towers the feature map ``[N, C, H, W]``.
        positions: ``[S]`` or ``[N, S]`` int64, each token's row in the position table; -1 for inserted tokens.
        mask: ``[N, S]`` bool, false where a token must not be attended to; ``None`` where all may.
        bias: added to the attention logits of every block, broadcastable to ``[N, heads, S, S]``.
        causal: a token sees itself and those before it.
        prefix: leading tokens that are not patches (class token, registers).
        index: ``[N]`` int64, the token that will be pooled (a text's end token).
        grid: rows and columns of the patches.
        frames: how many consecutive rows of the batch are one video.
    """

    x: Tensor
    positions: Tensor | None = None
    mask: Tensor | None = None
    bias: Tensor | None = None
    causal: bool = False
    prefix: int = 0
    index: Tensor | None = None
    grid: tuple[int, int] | None = None
    frames: int = 1

    def with_(self, **changes: Any) -> State:
        """A copy with some fields replaced."""
        return replace(self, **changes)

    def attention_bias(self) -> Tensor | None:
        """Mask, causal order and bias as one additive tensor, or ``None`` when nothing is masked."""
        total = self.bias
        if self.causal:
            order = torch.arange(self.x.shape[1], device=self.x.device)
            later = order[None, :] > order[:, None]  # [S, S]
            causal = torch.zeros_like(later, dtype=self.x.dtype).masked_fill(later, float("-inf"))
            total = causal if total is None else total + causal
        if self.mask is not None:
            hidden = ~self.mask[:, None, None, :]  # [N, 1, 1, S]
            padding = torch.zeros_like(hidden, dtype=self.x.dtype).masked_fill(hidden, float("-inf"))
            total = padding if total is None else total + padding
        return total

    def insert(self, tokens: Tensor, slot: int | None = None, *, prefix: bool = False) -> State:
        """Put tokens before ``slot`` (at the end by default); mask, bias, positions and end index follow.

        Args:
            tokens: ``[M, C]`` for every row, or ``[N, M, C]``.
            slot: place of the first new token; negative counts from the end; ``None`` appends.
            prefix: count them as prefix tokens (extra class tokens).
        """
        n, s = self.x.shape[:2]
        slot = s if slot is None else slot % (s + 1) if slot < 0 else slot
        new = tokens.expand(n, *tokens.shape[-2:]).to(self.x.dtype)  # [N, M, C]
        m = new.shape[1]
        changes: dict[str, Any] = {"x": _splice(self.x, new, slot, 1), "prefix": self.prefix + (m if prefix else 0)}
        if self.positions is not None:
            none = self.positions.new_full((*self.positions.shape[:-1], m), -1)
            changes["positions"] = _splice(self.positions, none, slot, -1)
        if self.mask is not None:
            changes["mask"] = _splice(self.mask, self.mask.new_ones(n, m), slot, 1)
        if self.bias is not None:
            wide = self.bias
            for dim in (-1, -2):
                if wide.shape[dim] == 1:  # broadcast: stays so
                    continue
                shape = list(wide.shape)
                shape[dim] = m
                wide = _splice(wide, wide.new_zeros(shape), slot, dim)
            changes["bias"] = wide
        if self.index is not None:
            changes["index"] = self.index + m * (self.index >= slot).to(self.index.dtype)
        return replace(self, **changes)

    def take(self, keep: Tensor) -> State:
        """Keep a subset of the tokens, with their true positions.

        Args:
            keep: ``[K]`` or ``[N, K]`` int64 indices into the sequence, ascending, with the prefix tokens among them.
                A text keeps its end token only if its index is among them.
        """
        n = self.x.shape[0]
        rows = keep.expand(n, keep.shape[-1])  # [N, K]
        at = torch.arange(n, device=rows.device)[:, None]  # [N, 1]
        changes: dict[str, Any] = {"x": self.x[at, rows], "grid": None}
        if self.positions is not None:
            changes["positions"] = self.positions.expand(n, self.x.shape[1])[at, rows]
        if self.mask is not None:
            changes["mask"] = self.mask[at, rows]
        if self.bias is not None:
            full = self.bias.expand(n, -1, self.x.shape[1], self.x.shape[1])  # [N, H|1, S, S]
            columns = torch.take_along_dim(full, rows[:, None, None, :], dim=-1)
            changes["bias"] = torch.take_along_dim(columns, rows[:, None, :, None], dim=-2)
        if self.index is not None:
            changes["index"] = (rows < self.index[:, None]).sum(1)
        return replace(self, **changes)


def _splice(old: Tensor, new: Tensor, slot: int, dim: int) -> Tensor:
    size = old.shape[dim]
    return torch.cat([old.narrow(dim, 0, slot), new, old.narrow(dim, slot, size - slot)], dim)


@dataclass(frozen=True)
class AttentionState:
    """One attention, about to be computed: what a function at an ``attn`` site sees and may change.

    Attributes:
        q: ``[N, H, S, d]`` queries.
        k: ``[N, H, T, d]`` keys.
        v: ``[N, H, T, d]`` values.
        bias: added to the logits, broadcastable to ``[N, H, S, T]``, or ``None``.
        scale: factor on ``q k^T``, by default ``d ** -0.5``.
        state: the block's input.
        output: ``[N, H, S, d]`` set by a function that computed the attention itself; ``None`` leaves it to the
            fused kernel, so that a recorder changes no bit.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None
    scale: float
    state: State
    output: Tensor | None = None

    def with_(self, **changes: Any) -> AttentionState:
        """A copy with some fields replaced."""
        return replace(self, **changes)

    def logits(self) -> Tensor:
        """``scale q k^T + bias``, ``[N, H, S, T]``."""
        scores = self.scale * (self.q @ self.k.transpose(-2, -1))
        return scores if self.bias is None else scores + self.bias

    def weights(self) -> Tensor:
        """Softmax of the logits over the keys, ``[N, H, S, T]``."""
        return self.logits().softmax(dim=-1)

    def mixed(self, weights: Tensor) -> AttentionState:
        """Use these weights ``[N, H, S, T]`` instead of the softmax; rows need not add to one."""
        return replace(self, output=weights @ self.v)

    def prepend(self, k: Tensor, v: Tensor) -> AttentionState:
        """Put keys and values ``[N|1, H, P, d]`` before the block's own, seen by every query."""
        n, p = self.k.shape[0], k.shape[-2]
        bias = self.bias
        if bias is not None:
            bias = torch.cat([bias.new_zeros(*bias.shape[:-1], p), bias.expand(*bias.shape[:-1], self.k.shape[2])], -1)
        keys = torch.cat([k.expand(n, -1, -1, -1), self.k], dim=2)
        values = torch.cat([v.expand(n, -1, -1, -1), self.v], dim=2)
        return replace(self, k=keys, v=values, bias=bias)


@runtime_checkable
class Tower(Protocol):
    """Pixels ``[N, 3, H, W]`` or token ids ``[N, L]`` to ``Tokens``.

    Attributes:
        embed_dim: width ``D`` of the joint space.
        width: width ``C`` of the sequence.
        sites: names where a function may be put.
    """

    embed_dim: int
    width: int

    @property
    def sites(self) -> tuple[str, ...]:
        """Names where a function may be put."""
        ...

    def forward(self, x: Tensor, at: At | None = None) -> Tokens:
        """Run the tower."""
        ...
