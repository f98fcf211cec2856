"""A queue of past features, searched for neighbours (Dwibedi et al. 2021, arXiv 2104.14548; DeCLIP, arXiv 2110.05208)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from binderclip.errors import InputError

__all__ = ["FeatureQueue"]


class FeatureQueue(nn.Module):
    """The last ``size`` unit vectors pushed, first in first out, exact where it wraps round.

    Rows, place and count are buffers, so that they are in the checkpoint. Each process has its own queue of its own rows:
    DDP must not broadcast its buffers.

    Args:
        size: slots (DeCLIP: 65,536).
        dim: ``D``.

    Attributes:
        rows: ``[size, D]``; slots not filled yet are zero.
        head: the slot written next.
        filled: how many slots hold a vector.
    """

    rows: Tensor
    head: Tensor
    filled: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        if size < 1 or dim < 1:
            raise InputError(f"a queue of {size} vectors of {dim} numbers holds nothing: give both at least 1")
        self.register_buffer("rows", torch.zeros(size, dim))
        self.register_buffer("head", torch.zeros((), dtype=torch.long))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))

    def __len__(self) -> int:
        return int(self.filled)

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Add unit vectors ``[N, D]`` as they are, the first row first; of more than ``size`` rows the last ones stay."""
        size = len(self.rows)
        slots = (self.head + torch.arange(len(rows), device=self.rows.device)) % size
        self.rows[slots[-size:]] = rows.detach()[-size:].to(self.rows)  # distinct slots: no write is lost
        self.head.copy_((self.head + len(rows)) % size)
        self.filled.copy_((self.filled + len(rows)).clamp(max=size))

    @torch.no_grad()
    def nearest(self, rows: Tensor, k: int = 1) -> tuple[Tensor, Tensor] | None:
        """The vectors of largest cosine with each row, among the filled slots, the nearest first; without gradient.

        Args:
            rows: ``[N, D]``, of any length.
            k: how many; no more than are filled.

        Returns:
            Copies of the vectors ``[N, k, D]`` and their slots ``[N, k]``; ``None`` while the queue is empty.
        """
        filled = len(self)
        if not filled:
            return None
        cosine = rows.detach().to(self.rows) @ self.rows[:filled].T  # [N, filled], times the row's length
        slots = cosine.topk(min(k, filled), dim=1).indices
        return self.rows[slots], slots

    def ordered(self) -> Tensor:
        """What is held ``[filled, D]``, the oldest first."""
        filled = len(self)
        start = int(self.head) - filled
        return self.rows[torch.arange(start, start + filled, device=self.rows.device) % len(self.rows)]
