"""Rows of the same text are each other's positives: how they are known, also across processes, and the targets they make."""

from __future__ import annotations

import torch
from torch import Tensor

from binderclip.data.hashing import hash64
from binderclip.losses import gather_rows
from binderclip.train.base import TrainBatch

__all__ = ["alike_targets", "text_keys"]


def text_keys(batch: TrainBatch, device: torch.device) -> Tensor:
    """A number ``[N]`` for each row's first text; equal texts are equal numbers in every process."""
    return torch.tensor([hash64(0, row[0]) >> 1 for row in batch.texts], device=device)


def alike_targets(keys: Tensor, like: Tensor) -> Tensor:
    """Targets ``[N, M]`` over all processes' rows, even among those of the same key; rows sum to one.

    Args:
        keys: of this process's rows ``[N]``.
        like: whose dtype the targets have.
    """
    same = (keys[:, None] == gather_rows(keys)[None, :]).to(like.dtype)
    return same / same.sum(-1, keepdim=True)
