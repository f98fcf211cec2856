"""Positions that act inside attention (rotary, ALiBi), and resizing of learned position tables."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from binderclip.errors import InputError
from binderclip.model.base import State

__all__ = ["ALiBi", "Rotary", "resize_grid_positions", "resize_text_positions", "rotate"]


def rotate(x: Tensor, angles: Tensor, convention: str) -> Tensor:
    """Turn pairs of channels by their angles (Su et al. 2021, arXiv 2104.09864).

    Args:
        x: ``[N, H, S, d]``.
        angles: ``[..., S, d / 2]``, one for each pair.
        convention: which channels make a pair: ``adjacent`` (0, 1), (2, 3), ... as in vision towers, or ``halves``
            (0, d/2), (1, d/2 + 1), ... as in XLM-R and most language models.
    """
    cos, sin = angles.cos(), angles.sin()
    if convention == "adjacent":
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class Rotary(nn.Module):
    """Rotary positions (arXiv 2104.09864): token ``p`` turns pair ``j`` by ``p / base^(2 j / d)``.

    With ``axes=2`` the first half of the pairs turns by the patch's row and the second by its column, both scaled by
    ``train_grid / grid`` (EVA-02, arXiv 2303.11331). Prefix tokens and inserted prompts (position -1) are not turned.

    Args:
        head_width: ``d``.
        convention: ``adjacent`` or ``halves``.
        base: 10,000 in all published towers but long-text ones.
        axes: 1 for texts, 2 for images.
        train_grid: side of the grid the tower was trained on; ``None`` does not scale.
    """

    def __init__(
        self,
        head_width: int,
        convention: str = "halves",
        *,
        base: float = 10_000.0,
        axes: int = 1,
        train_grid: int | None = None,
    ) -> None:
        super().__init__()
        if convention not in ("adjacent", "halves"):
            raise InputError(f"unknown rotary convention {convention!r}: use 'adjacent' or 'halves'")
        if axes not in (1, 2) or head_width % (2 * axes):
            raise InputError(f"rotary positions on {axes} axes need a head width divisible by {2 * axes}")
        self.convention, self.axes, self.train_grid = convention, axes, train_grid
        self.base, self.pairs = base, head_width // 2

    def angles(self, state: State) -> Tensor:
        """``[S, d/2]`` or ``[N, 1, S, d/2]``: what each pair of each token is turned by."""
        if state.positions is None:
            raise InputError("rotary positions need State.positions")
        p, per = state.positions, self.pairs // self.axes
        frequency = self.base ** (-torch.arange(per, device=p.device, dtype=torch.float32) / per)  # [per]
        if self.axes == 1:
            parts, real = [p], p >= 0
        else:
            if state.grid is None:
                raise InputError("rotary positions on two axes need State.grid")
            columns = state.grid[1]
            place = (p - self._first_patch(state)).clamp(min=0)
            parts, real = [place // columns, place % columns], p >= self._first_patch(state)
        factors = [
            1.0 if self.train_grid is None or state.grid is None else self.train_grid / g for g in self._sides(state)
        ]
        turned = [(part * f)[..., None] * frequency for part, f in zip(parts, factors, strict=True)]
        angles = torch.cat(turned, dim=-1) * real[..., None]
        return angles if angles.dim() == 2 else angles[:, None]

    def _first_patch(self, state: State) -> int:
        return 1 if state.prefix else 0

    def _sides(self, state: State) -> tuple[int, ...]:
        return (1,) if self.axes == 1 or state.grid is None else state.grid

    def forward(self, q: Tensor, k: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """Turn queries and keys ``[N, H, S, d]``."""
        angles = self.angles(state).to(q.dtype)
        return rotate(q, angles, self.convention), rotate(k, angles, self.convention)


class ALiBi(nn.Module):
    """Distance penalty on attention logits, ``-m_h |i - j|`` (Press et al. 2021, arXiv 2108.12409).

    The slopes ``m_h`` are ``2^(-8 h / H)``, h = 1..H, for H a power of two; otherwise those of the next lower power,
    filled up with every second slope of the next higher one.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.slopes = alibi_slopes(heads)

    def forward(self, state: State) -> Tensor:
        """``[1 | N, H, S, S]`` to be added to the logits."""
        if state.positions is None:
            raise InputError("ALiBi needs State.positions")
        p = state.positions if state.positions.dim() == 2 else state.positions[None]
        distance = (p[:, None, :] - p[:, :, None]).abs()  # [1 | N, S, S]
        slopes = torch.tensor(self.slopes, dtype=state.x.dtype, device=state.x.device)
        return -slopes[None, :, None, None] * distance[:, None]


def alibi_slopes(heads: int) -> list[float]:
    """The slope of each head."""
    power = 2 ** (heads.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * h / power) for h in range(1, power + 1)]
    if power < heads:
        slopes += [2.0 ** (-4.0 * h / power) for h in range(1, 2 * (heads - power) + 1, 2)]
    return slopes


def resize_grid_positions(table: Tensor, grid: tuple[int, int], prefix: int, *, antialias: bool = True) -> Tensor:
    """Bicubic resizing of a learned position table ``[prefix + h w, C]`` (square grid) to another grid."""
    head, patches = table[:prefix], table[prefix:]
    side = round(len(patches) ** 0.5)
    if side * side != len(patches):
        raise InputError(f"a table of {len(patches)} patch positions is not a square grid: it cannot be resized")
    if (side, side) == tuple(grid):
        return table
    square = patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)  # [1, C, h, w]
    resized = F.interpolate(square.float(), size=grid, mode="bicubic", antialias=antialias, align_corners=False)
    return torch.cat([head, resized.to(table.dtype).flatten(2)[0].T])


def resize_text_positions(table: Tensor, length: int) -> Tensor:
    """A text's position table ``[L, C]``: cut to a shorter length (exact), stretched linearly to a longer one."""
    if length <= len(table):
        return table[:length]
    stretched = F.interpolate(table.T[None].float(), size=length, mode="linear", align_corners=True)
    return stretched[0].T.to(table.dtype)
