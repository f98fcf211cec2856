"""The room's protocol: a `Pooler` makes one embedding of the embeddings of a clip's frames.

Frames arrive un-normalised, ``F`` [B, T, D], with a mask [B, T] that is true where there is a frame; what the mask leaves
out never changes a result, whatever is in it. Frame embeddings come from any image tower, mostly cached ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from binderclip.errors import InputError

__all__ = ["Pooler", "check_frames", "masked_mean", "pad_clips", "pick_frames"]


class Pooler(nn.Module, ABC):
    """``pooler(frames [B, T, D], mask [B, T]) -> [B, D]``, unit norm."""

    @abstractmethod
    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """One unit embedding [B, D] of each clip.

        Args:
            frames: embeddings of frames, projected, not normalised, [B, T, D].
            mask: true where there is a frame [B, T]; None: everywhere.

        Raises:
            InputError: shapes differ, or a clip has no frame.
        """

    def similarity(self, text: Tensor, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """Cosines [N, M] of texts [N, D], of any length but 0, to clips [M, T, D]; not multiplied by a scale."""
        clips: Tensor = self(frames, mask)  # [M, D]
        return F.normalize(text, dim=-1) @ clips.T


def check_frames(frames: Tensor, mask: Tensor | None) -> Tensor:
    """The mask as booleans [B, T].

    Raises:
        InputError: shapes differ, or a clip has no frame.
    """
    if frames.ndim != 3:
        raise InputError(f"frames have shape {tuple(frames.shape)}: give [clips, frames, embedding]")
    if mask is None:
        mask = torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
    if mask.shape != frames.shape[:2]:
        raise InputError(f"the mask has shape {tuple(mask.shape)}: give one of {tuple(frames.shape[:2])}")
    mask = mask.bool()
    if not bool(mask.any(dim=1).all()):
        raise InputError("a clip has no frame: leave it out")
    return mask


def masked_mean(frames: Tensor, mask: Tensor) -> Tensor:
    """``v = sum_t m_t f_t / sum_t m_t`` with unit ``f_t = F_t / |F_t|``, then ``v / |v|``: [B, T, D] to [B, D].

    Masked frames are replaced before they are normalised: a padded row of zeros, or of NaN, gives no NaN.
    """
    kept = frames.masked_fill(~mask[..., None], 0.0)  # [B, T, D]
    unit = F.normalize(kept, dim=-1)  # a row of zeros stays zero
    mean = unit.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return F.normalize(mean, dim=-1)


def pick_frames(count: int, most: int = 12) -> list[int]:
    """Which of `count` frames are used: all, or `most` of them spread evenly from the first to the last (truncated)."""
    if count < 1 or most < 1:
        raise InputError(f"{count} frames, at most {most} to take: both must be 1 or more")
    if count <= most:
        return list(range(count))
    return [int(i * (count - 1) / max(most - 1, 1)) for i in range(most)]


def pad_clips(clips: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Clips of different lengths [T_i, D] as frames [B, T, D], padded with zeros at the end, and their mask [B, T]."""
    if not clips:
        raise InputError("no clips: give one or more")
    frames = nn.utils.rnn.pad_sequence(list(clips), batch_first=True)
    lengths = torch.tensor([len(clip) for clip in clips], device=frames.device)
    return frames, torch.arange(frames.shape[1], device=frames.device)[None] < lengths[:, None]
