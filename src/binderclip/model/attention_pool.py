"""Pooling by attention: SigLIP's learned query, and the mean query of CLIP's ResNets."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from binderclip.errors import InputError
from binderclip.model.base import AttentionState, SiteFunction, State
from binderclip.model.block import MLP, attend
from binderclip.model.positions import resize_grid_positions

__all__ = ["AttentionPool2d", "MapHead"]


class MapHead(nn.Module):
    """Multi-head attention pooling (Lee et al. 2018, arXiv 1810.00825; SigLIP, arXiv 2303.15343).

    One learned query attends to all tokens: ``h = attention(probe, x)``, then ``h + MLP(norm(h))``.

    Args:
        width: ``C``.
        heads: ``H``.
        activation: of the MLP.
        eps: of the norm.
        mlp_hidden: inner width of the MLP, ``4 C`` by default.
    """

    def __init__(
        self, width: int, heads: int, *, activation: str = "gelu_tanh", eps: float = 1e-6, mlp_hidden: int | None = None
    ) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.probe = nn.Parameter(width**-0.5 * torch.randn(width))
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.mlp = MLP(width, mlp_hidden or 4 * width, activation)

    def forward(self, x: Tensor, state: State, attn: SiteFunction | None = None) -> Tensor:
        """``[N, S, C] -> [N, C]``."""
        n, s, c = x.shape
        d = c // self.heads
        q = self.q(self.probe.to(x.dtype)).reshape(1, 1, self.heads, d).transpose(1, 2).expand(n, -1, -1, -1)
        k, v = self.kv(x).reshape(n, s, 2, self.heads, d).permute(2, 0, 3, 1, 4).unbind(0)  # [N, H, S, d]
        hidden = None if state.mask is None else ~state.mask[:, None, None, :]
        bias = None if hidden is None else torch.zeros_like(hidden, dtype=x.dtype).masked_fill(hidden, float("-inf"))
        given = AttentionState(q, k, v, bias, self.scale, state)
        pooled = attend(given if attn is None else attn(given))  # [N, H, 1, d]
        h = self.out(pooled.transpose(1, 2).reshape(n, c))  # [N, C]
        out: Tensor = h + self.mlp(self.norm(h))
        return out


class AttentionPool2d(nn.Module):
    """The head of CLIP's ResNets (arXiv 2103.00020): the mean location asks, all locations and the mean answer.

    Args:
        side: rows of the feature map that the position table is made for.
        width: channels ``C`` of the feature map.
        heads: ``H``.
        embed_dim: ``D``.
    """

    def __init__(self, side: int, width: int, heads: int, embed_dim: int) -> None:
        super().__init__()
        if width % heads:
            raise InputError(f"width {width} does not divide into {heads} heads")
        self.side, self.heads, self.scale = side, heads, (width // heads) ** -0.5
        self.positions = nn.Parameter(torch.randn(side * side + 1, width) * width**-0.5)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, embed_dim)

    def _heads(self, x: Tensor) -> Tensor:
        n, s, c = x.shape
        return x.reshape(n, s, self.heads, c // self.heads).transpose(1, 2)  # [N, H, S, d]

    def dense(self, maps: Tensor) -> Tensor:
        """Every location through value and output layers, no attention: ``[N, C, h, w] -> [N, h w, D]``."""
        out: Tensor = self.out(self.v(maps.flatten(2).transpose(1, 2)))
        return out

    def forward(self, maps: Tensor, attn: SiteFunction | None = None) -> Tensor:
        """``[N, C, h, w] -> [N, D]``."""
        n, _, h, w = maps.shape
        x = maps.flatten(2).transpose(1, 2)  # [N, h w, C]
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1)
        table = self.positions if (h, w) == (self.side, self.side) else resize_grid_positions(self.positions, (h, w), 1)
        x = x + table.to(x.dtype)  # [N, 1 + h w, C]
        state = State(x=x, positions=torch.arange(x.shape[1], device=x.device), prefix=1, grid=(h, w))
        q, k, v = self._heads(self.q(x[:, :1])), self._heads(self.k(x)), self._heads(self.v(x))
        given = AttentionState(q, k, v, None, self.scale, state)
        heads = attend(given if attn is None else attn(given))  # [N, H, 1, d]
        out: Tensor = self.out(heads[:, :, 0].reshape(n, -1))
        return out
