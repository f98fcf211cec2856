"""Fewer patch tokens in training: random, grid, block or attentive subsets (CLIPA, Li et al. 2023, arXiv 2305.07017).

A fresh subset for each sample and call, taken after positions are added; tokens left out are removed, not zeroed. For
training only: towers see all tokens when they are evaluated.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from binderclip.errors import InputError, NeedsPartError
from binderclip.model.base import SiteFunction, State

__all__ = ["block_shape", "drop_tokens", "keep_count", "keep_indices"]

_HOWS = ("random", "grid", "block", "attentive")


def keep_count(patches: int, keep: float) -> int:
    """``K = floor(S keep + 1e-6)`` of ``S`` patches: 179 of 256 at 0.7, 10 of 100 at 0.1 whatever 1 - 0.9 rounds to.

    Raises:
        InputError: ``keep`` is not in (0, 1], or no patch would be left.
    """
    if not 0.0 < keep <= 1.0:
        raise InputError(f"keep is {keep}: give the share of patches to keep, over 0 and at most 1")
    count = math.floor(patches * keep + 1e-6)
    if count < 1:
        raise InputError(f"keep {keep} leaves none of {patches} patches: give at least {1 / patches:.3g}")
    return count


def block_shape(grid: tuple[int, int], count: int) -> tuple[int, int]:
    """Rows and columns of the most nearly square rectangle of ``count`` patches in a grid; of two alike, the wider.

    Raises:
        InputError: no rectangle of that many fits (a prime over the side, as 179 in 16 x 16); the nearest counts that
            have one are named.
    """
    rows, columns = grid

    def fits(size: int) -> list[tuple[int, int]]:
        return [(a, size // a) for a in range(1, rows + 1) if size % a == 0 and size // a <= columns]

    found = fits(count)
    if not found:
        good = [size for size in range(1, rows * columns + 1) if fits(size)]
        near = [str(size) for size in (max(s for s in good if s < count), min(s for s in good if s > count))]
        raise InputError(f"no rectangle of {count} patches fits {rows} x {columns}: keep {' or '.join(near)} of them")
    return min(found, key=lambda shape: (abs(shape[0] - shape[1]), shape[0]))


def keep_indices(
    n: int,
    grid: tuple[int, int],
    keep: float,
    how: str = "random",
    generator: torch.Generator | None = None,
    keep_map: Tensor | None = None,
) -> Tensor:
    """Which patches stay: ``[n, K]`` int64 indices into the ``S = h w`` patches, ascending, on the CPU.

    Numbers are drawn on the CPU, so that one seed drops the same tokens on every device. ``keep = 1`` draws none.

    Args:
        n: samples; each has its own subset.
        grid: rows and columns of the patches.
        keep: share to keep; ``K`` is ``keep_count``.
        how: ``random`` (a uniform subset), ``grid`` (one random patch of each 2 x 2 window, so ``keep`` is 0.25), ``block``
            (one rectangle of ``block_shape`` at a uniform place) or ``attentive`` (the ``K`` highest of ``keep_map``).
        generator: of the draws; torch's global one by default.
        keep_map: ``[n, h, w]`` or ``[n, S]`` scores for ``attentive``; equal scores are taken in order.

    Raises:
        InputError: an unknown ``how``, or a grid, share or map that it cannot work with.
    """
    if how not in _HOWS:
        raise InputError(f"unknown way of dropping tokens {how!r}: use one of {', '.join(_HOWS)}")
    rows, columns = grid
    patches = rows * columns
    count = keep_count(patches, keep)
    if count == patches:
        return torch.arange(patches).expand(n, -1)
    if how == "grid":
        return _one_a_window(n, grid, count, generator)
    if how == "block":
        return _block(n, grid, count, generator)
    if how == "random":
        score = torch.rand(n, patches, generator=generator)  # [n, S]
    else:
        if keep_map is None or keep_map.numel() != n * patches:
            raise InputError(f"attentive dropping needs a score for each of {n} x {patches} patches: pass keep_map")
        score = -keep_map.detach().reshape(n, patches).cpu()
    return score.argsort(dim=1, stable=True)[:, :count].sort(dim=1).values


def _one_a_window(n: int, grid: tuple[int, int], count: int, generator: torch.Generator | None) -> Tensor:
    rows, columns = grid
    if rows % 2 or columns % 2 or 4 * count != rows * columns:
        raise InputError(
            f"grid dropping keeps 1 patch in 4 of an even grid, not {count} of {rows} x {columns}: keep 0.25"
        )
    corner = torch.randint(4, (n, rows // 2, columns // 2), generator=generator)  # [n, h/2, w/2], which of the window
    y = 2 * torch.arange(rows // 2)[:, None] + corner // 2
    x = 2 * torch.arange(columns // 2) + corner % 2
    return (y * columns + x).flatten(1).sort(dim=1).values


def _block(n: int, grid: tuple[int, int], count: int, generator: torch.Generator | None) -> Tensor:
    rows, columns = grid
    high, wide = block_shape(grid, count)
    top = torch.randint(rows - high + 1, (n, 1, 1), generator=generator)
    left = torch.randint(columns - wide + 1, (n, 1, 1), generator=generator)
    return ((top + torch.arange(high)[:, None]) * columns + left + torch.arange(wide)).flatten(1)  # [n, K]


def drop_tokens(
    keep: float = 0.5,
    how: str = "random",
    generator: torch.Generator | None = None,
    indices: Tensor | None = None,
) -> SiteFunction:
    """A function for a tower's site ``embed.out`` that keeps some of the patches; class token and registers always stay.

    Pass it in training only, ``tower(pixels, at={"embed.out": drop_tokens(0.5)})``. Each call draws anew. Where all patches
    stay (``keep = 1``) the state comes back as it was, and nothing is drawn.

    Args:
        keep: share of the patches to keep.
        how: as in ``keep_indices``; ``attentive`` takes ``indices``.
        generator: of the draws; torch's global one by default.
        indices: ``[K]`` or ``[N, K]`` distinct patches (the first patch is 0) to keep in place of a draw, in any order.

    Raises:
        InputError: as in ``keep_indices``, once the grid is known.
        NeedsPartError: the tower has no sequence of patches.
    """
    if how == "attentive" and indices is None:
        raise InputError("attentive dropping needs the patches to keep: pass indices, as keep_indices gives them")

    def drop(state: State) -> State:
        if state.x.ndim != 3 or state.grid is None:
            raise NeedsPartError("dropping tokens needs a tower with a grid of patch tokens: use a transformer")
        n, tokens = state.x.shape[:2]
        chosen = keep_indices(n, state.grid, keep, how, generator) if indices is None else indices.sort(dim=-1).values
        if chosen.shape[-1] == tokens - state.prefix:
            return state
        chosen = chosen.to(state.x.device).expand(n, -1) + state.prefix  # [N, K]
        head = torch.arange(state.prefix, device=state.x.device).expand(n, -1)
        return state.take(torch.cat([head, chosen], dim=1))

    return drop
