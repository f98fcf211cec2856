"""What a class token attends to, carried from crop to crop, and the patches to keep by it (A-CLIP, arXiv 2212.08653)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from binderclip.errors import InputError, NeedsPartError
from binderclip.model.base import AttentionState, Tokens

__all__ = ["attentive_keep", "carry_map", "cls_attention", "kept_cells", "watched"]


def cls_attention(tower: nn.Module, x: Tensor) -> Tensor:
    """What the class token attends to: softmax attention of all blocks and heads, mean.

    Args:
        tower: a vision transformer with a class token.
        x: normalised pixels ``[N, 3, H, W]``.

    Returns:
        ``[N, h, w]`` over the patches, the class token's own share left out and nothing made to sum to one.
    """
    return watched(tower, x)[1]


def watched(tower: nn.Module, x: Tensor) -> tuple[Tokens, Tensor]:
    """What a tower gives, and its `cls_attention`, of one pass."""
    rows: list[Tensor] = []

    def look(a: AttentionState) -> AttentionState:
        bias = None if a.bias is None else a.bias[..., :1, :]
        rows.append(a.with_(q=a.q[:, :, :1], bias=bias).weights()[:, :, 0].mean(1))  # [N, S]
        return a

    names = [name for name in tower.sites if name.startswith("blocks.") and name.endswith(".attn")]  # type: ignore[union-attr]
    tokens: Tokens = tower(x, dict.fromkeys(names, look))
    if tokens.grid is None:
        raise NeedsPartError("attention over patches needs a tower with a grid of patches: use a vision transformer")
    return tokens, torch.stack(rows).mean(0)[:, tokens.prefix :].reshape(-1, *tokens.grid)


def carry_map(a: Tensor, from_crop: Tensor, to_crop: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps over one crop as maps over another inside it, bilinear twice: up to the pixels of the picture, then down.

    Args:
        a: ``[N, h, w]`` over ``from_crop``.
        from_crop: top, left, height, width in pixels of the picture ``[N, 4]``.
        to_crop: the same of a part of it ``[N, 4]``.
        size: rows and columns wanted.

    Returns:
        ``[N, rows, columns]``.
    """
    sides = []
    for axis in (0, 1):
        start = (to_crop - from_crop)[:, axis]
        sides.append(
            _bilinear(a.shape[1 + axis], from_crop[:, 2 + axis], start, to_crop[:, 2 + axis], size[axis]).to(a)
        )
    return sides[0] @ a @ sides[1].transpose(1, 2)


def _bilinear(cells: int, length: Tensor, start: Tensor, part: Tensor, out: int) -> Tensor:
    """``[N, out, cells]``: cells stretched to ``length`` pixels, of which ``part`` from ``start`` are resized to ``out``."""
    length, start, part = (x.double()[:, None] for x in (length, start, part))  # [N, 1]
    place = torch.arange(out, device=part.device)

    def shares(pixel: Tensor) -> Tensor:
        where = ((start + pixel + 0.5) * cells / length - 0.5).clamp(0, cells - 1)  # [N, out], in cells
        return F.relu(1 - (where[..., None] - torch.arange(cells, device=part.device)).abs())

    c = torch.minimum(((place + 0.5) * part / out - 0.5).clamp_min(0), part - 1)  # [N, out], in pixels of the part
    low = c.floor()
    high = (c - low)[..., None]
    return (1 - high) * shares(low) + high * shares(torch.minimum(low + 1, part - 1))


def kept_cells(grid: tuple[int, int], ratio: float, cell: int) -> int:
    """``min(N + 1, cells)`` with ``N = floor(cells ratio)``: the paper's count, 25 of 49 at one half.

    Raises:
        InputError: cells that do not tile the grid.
    """
    if grid[0] % cell or grid[1] % cell:
        raise InputError(f"cells of {cell} x {cell} patches do not tile {grid[0]} x {grid[1]}: choose another cell")
    cells = grid[0] * grid[1] // cell**2
    return min(math.floor(cells * ratio + 1e-6) + 1, cells)


def attentive_keep(a: Tensor, ratio: float = 0.5, cell: int = 2) -> Tensor:
    """Patches ``[N, K]``, ascending, of the cells that are attended to most; equal ones in order.

    Args:
        a: attention ``[N, h, w]``.
        ratio: share of the cells, see `kept_cells`.
        cell: side of a cell in patches.
    """
    n, rows, columns = a.shape
    count = kept_cells((rows, columns), ratio, cell)
    means = F.avg_pool2d(a.detach()[:, None], cell).flatten(1)  # [N, cells]
    kept = (-means).argsort(dim=1, stable=True)[:, :count]
    chosen = torch.zeros_like(means, dtype=torch.bool).scatter_(1, kept, True).reshape(n, rows // cell, -1)
    patches: Tensor = chosen.repeat_interleave(cell, 1).repeat_interleave(cell, 2).flatten(1)  # [N, h w]
    return patches.nonzero()[:, 1].reshape(n, count * cell**2)
