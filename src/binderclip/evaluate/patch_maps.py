"""Where a text is in a picture, by what each patch adds to a ViT CLIP's embedding along it (TextSpan, arXiv 2310.05916)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from binderclip.errors import InputError
from binderclip.evaluate.decomposition import patch_terms, pixel_batches, splittable
from binderclip.model.clip import CLIP

__all__ = ["Segments", "find_patches", "heat_maps"]


@dataclass(frozen=True)
class Segments:
    """Where texts are in pictures.

    Args:
        heat: ``[B, T, H, W]``, 0 to 1 in each map.
        mask: heat above its own mean ``[B, T, H, W]`` of bool.
        labels: the text of each pixel ``[B, H, W]``.
        predicted: the text of each whole picture ``[B]``.
    """

    heat: NDArray[np.float32]
    mask: NDArray[np.bool_]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]


def heat_maps(patches: Tensor, grid: tuple[int, int], texts: Tensor, against: Tensor, patch: int) -> Tensor:
    """``h_i = sum_{l,h} <c_{i,l,h}, w - mean w'>``, bilinear, ``[B, T, H, W]``, neither clipped nor scaled.

    Args:
        patches: from `patch_terms` ``[B, h w, D]``.
        grid: (h, w).
        texts: w, unit rows ``[T, D]``.
        against: w', unit rows ``[M, D]`` whose mean is taken off.
        patch: pixels a side.
    """
    h = torch.einsum("bnd,td->btn", patches, texts - against.mean(0))
    return F.interpolate(h.view(*h.shape[:2], *grid), scale_factor=float(patch), mode="bilinear", align_corners=False)


@torch.no_grad()
def find_patches(clip: CLIP, images: Tensor | Sequence[Any], texts: Tensor, against: Tensor) -> Segments:
    """Heat clipped at 0, from 0 to 1 in each map, and where it is over its own mean.

    Args:
        clip: a ViT, see `binderclip.evaluate.decomposition.splittable`.
        images: normalised pixels, paths or Pillow images.
        texts: unit rows ``[T, D]``.
        against: unit rows ``[M, D]`` whose mean is taken off.

    Raises:
        InputError: no pictures.
    """
    patch = splittable(clip).patch_size
    maps, whole = list[Tensor](), list[Tensor]()
    for pixels in pixel_batches(clip, images):
        patches, grid = patch_terms(clip, pixels)
        maps.append(heat_maps(patches, grid, texts, against, patch).cpu())
        whole.append((clip.encode_image(pixels) @ texts.T).argmax(1).cpu())
    if not maps:
        raise InputError("there are no pictures to look at: give at least one")
    raw = torch.cat(maps)
    clipped = raw.clamp_min(0)
    low, high = clipped.amin((2, 3), keepdim=True), clipped.amax((2, 3), keepdim=True)
    heat = (clipped - low) / (high - low).clamp_min(1e-12)
    mask = heat > heat.mean((2, 3), keepdim=True)
    return Segments(heat.numpy(), mask.numpy(), raw.argmax(1).numpy(), torch.cat(whole).numpy())
