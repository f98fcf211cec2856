"""The class token's attention: where it can be changed, and how much of it lies on a region (FALIP, arXiv 2407.05578)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from binderclip.data.regions import draw_mark
from binderclip.errors import InputError, NeedsPartError
from binderclip.evaluate.foveal import box_maps
from binderclip.model.base import AttentionState, SiteFunction
from binderclip.model.clip import CLIP
from binderclip.model.vit import VisionTransformer

__all__ = ["attention_mass", "biased_blocks", "grid_of", "head_reactions", "square_pixels"]

Floats = NDArray[np.float64]


def biased_blocks(clip: CLIP, blocks: str | Sequence[int] = "last_third") -> list[str]:
    """Names of the sites that get the bump.

    Raises:
        NeedsPartError: no attention whose output is pooled.
        InputError: a block that the tower has not.
    """
    tower = clip.tower("image")
    sites: Sequence[str] = getattr(tower, "sites", ())
    attention = [name for name in sites if name.startswith("blocks.") and name.endswith(".attn")]
    if "pool.attn" in sites:
        return ["pool.attn"]
    if not attention or getattr(tower, "pooling", "cls") != "cls":
        raise NeedsPartError(f"foveal attention needs a class token or an attention pooling, which {clip.name} has not")
    depth = len(attention)
    chosen = range(depth - depth // 3, depth) if blocks == "last_third" else blocks
    if isinstance(chosen, str) or not all(0 <= i < depth for i in chosen):
        raise InputError(f"blocks {blocks!r}: use last_third or numbers from 0 to {depth - 1}")
    return [f"blocks.{i}.attn" for i in sorted(chosen)]


@torch.no_grad()
def grid_of(clip: CLIP, pixels: Tensor) -> tuple[int, int]:
    """Rows and columns of the patches, without running the blocks where the tower can be entered."""
    tower = clip.tower("image")
    if isinstance(tower, VisionTransformer):
        return pixels.shape[2] // tower.patch_size, pixels.shape[3] // tower.patch_size
    grid: tuple[int, int] | None = tower(pixels).grid
    if grid is None:
        raise NeedsPartError(f"{clip.name} does not say how its patches lie")
    return grid


def square_pixels(clip: CLIP, image: Image.Image) -> Tensor:
    """Normalised ``[1, 3, S, S]`` of a picture squeezed to the tower's square, so that boxes scale by side.

    Raises:
        NeedsPartError: the model does not say how pictures are prepared for it.
    """
    if clip.preprocess is None:
        raise NeedsPartError(f"{clip.name} has no preprocess: it does not say how pictures are prepared for it")
    side = clip.preprocess.size
    square = np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))
    return torch.from_numpy(clip.preprocess.normalize(square[None])).to(clip.device, clip.logit_scale.dtype)


@torch.no_grad()
def attention_mass(
    clip: CLIP, pixels: Tensor, region: NDArray[np.bool_], at: Mapping[str, SiteFunction] | None = None
) -> Floats:
    """How much of the class token's attention is on a region of patches ``[h, w]``, by block and head ``[L, H]``.

    Args:
        clip: a ViT with a class token.
        pixels: normalised ``[1, 3, H, W]``.
        region: of bool.
        at: functions that change the attention, as from `FALIP.function`.
    """
    found: dict[str, Tensor] = {}
    columns = torch.from_numpy(region.ravel())

    def keep(name: str) -> SiteFunction:
        def look(a: AttentionState) -> AttentionState:
            row = a.weights()[0, :, 0]  # [H, T]
            found[name] = row[:, row.shape[1] - len(columns) :][:, columns].sum(1)
            return a

        return look

    sites: Sequence[str] = getattr(clip.tower("image"), "sites", ())
    names = biased_blocks(clip, range(sum(name.startswith("blocks.") and name.endswith(".attn") for name in sites)))
    clip.encode("image", pixels, {name: [*([at[name]] if at and name in at else []), keep(name)] for name in names})
    return torch.stack([found[name] for name in names]).double().cpu().numpy()


def head_reactions(clip: CLIP, image: Image.Image, box: Sequence[float], mark: str = "circle") -> tuple[Floats, Floats]:
    """Attention mass on a box ``[L, H]`` of the picture as it is, and of the picture with a mark drawn around the box.

    The heads whose mass rises most are those that follow visual prompts; give them to `FALIP` as `heads`.

    Args:
        clip: a ViT with a class token.
        image: upright, RGB.
        box: in its pixels.
        mark: a kind of `binderclip.data.regions.draw_mark`.
    """
    masses = []
    for one in (image.convert("RGB"), draw_mark(image, box, mark)):
        pixels = square_pixels(clip, one)
        grid = grid_of(clip, pixels)
        scaled = np.asarray(box, np.float64) * np.array([grid[1] / image.width, grid[0] / image.height] * 2)
        masses.append(attention_mass(clip, pixels, box_maps(scaled[None], grid, 1.0, 100.0)[0] > 0))
    return masses[0], masses[1]
