"""A CLIP's vectors of every patch or place of a picture, in the joint space."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from binderclip.dense.last_block import LastBlock
from binderclip.errors import NeedsPartError
from binderclip.model.base import At
from binderclip.model.clip import CLIP

__all__ = ["is_vit", "patch_features", "stride_of"]


def is_vit(clip: CLIP) -> bool:
    """Whether the image tower has patch tokens and attention."""
    return "blocks.0.attn" in getattr(clip.tower("image"), "sites", ())


def stride_of(clip: CLIP) -> int:
    """Pixels between two places."""
    tower: Any = clip.tower("image")
    return int(getattr(tower, "patch_size", 32))


def patch_features(clip: CLIP, pixels: Tensor, last: LastBlock | None = None, at: At | None = None) -> Tensor:
    """Vectors ``[N, h, w, D]`` of the places of pictures, projected, not of unit length.

    A ViT's are those of its patch tokens, its last block run as `last` says. A convolutional tower has its head applied at
    every place: with a linear head the mean over places is the pooled vector.

    Args:
        clip: in eval mode.
        pixels: normalised ``[N, 3, H, W]``.
        last: of a ViT; the tower's own block where there is none.
        at: further site functions.

    Raises:
        NeedsPartError: a tower whose places cannot be brought into the joint space one by one.
    """
    tower: Any = clip.tower("image")
    if not is_vit(clip):
        if hasattr(tower, "dense"):  # a ResNet: the values of its attention pooling
            return _on_grid(tower.dense(pixels), (pixels.shape[-2] // 32, pixels.shape[-1] // 32))
        found = clip.encode("image", pixels, at)
        if found.grid is None or not hasattr(tower, "project"):
            raise NeedsPartError(f"{clip.name} does not say how its places lie")
        return _on_grid(tower.project(found.sequence), found.grid)
    if getattr(tower, "pooling", "cls") == "map":
        raise NeedsPartError(f"{clip.name} pools by attention (SigLIP): its patches are not in the joint space")
    sites = {} if last is None else dict(last.at(tower))
    for name, function in (at or {}).items():
        sites[name] = (*_listed(sites.get(name, ())), *_listed(function))
    found = clip.encode("image", pixels, sites)
    if found.grid is None:
        raise NeedsPartError(f"{clip.name} does not say how its patches lie")
    patches = found.sequence[:, found.prefix :]
    return _on_grid(tower.project(patches), found.grid)


def _on_grid(rows: Tensor, grid: tuple[int, int]) -> Tensor:
    """``[N, h w, D]`` to ``[N, h, w, D]``."""
    return rows.reshape(len(rows), *grid, rows.shape[-1])


def _listed(functions: Any) -> tuple[Any, ...]:
    return (functions,) if callable(functions) else tuple(functions)
