"""FALIP: visual prompts as foveal attention (Zhuang, Hu, Liang, Tan & Zheng 2024, arXiv 2407.05578).

A circle or a blur tells a CLIP where to look but changes the picture. Here the pixels stay: a bump is added to the class
token's attention logits over a region, before the softmax, in the last blocks only. No training; one pass a region, of
which the first blocks are shared by all regions of a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

from binderclip.cards import Card
from binderclip.errors import InputError
from binderclip.evaluate.class_attention import (
    attention_mass,
    biased_blocks,
    grid_of,
    head_reactions,
    square_pixels,
)
from binderclip.evaluate.foveal import box_maps, bump, foveal_bias, mask_maps
from binderclip.evaluate.referring import ReferringProbe
from binderclip.model.base import AttentionState, SiteFunction, State
from binderclip.model.clip import CLIP

__all__ = ["FALIP", "ReferringProbe", "attention_mass", "bump", "foveal_bias", "grid_of", "head_reactions"]

CARD = Card(
    slug="falip",
    name="FALIP",
    title="FALIP: Visual Prompt as Foveal Attention Boosts CLIP Zero-Shot Performance",
    arxiv="2407.05578",
    year=2024,
    room="evaluate",
    provides="FALIP",
    kind="Surgery",
    needs=("image.attention",),
    files=("evaluate/class_attention.py", "evaluate/foveal.py", "evaluate/referring.py"),
    must_show={
        "strength 0 gives encode_image bit for bit; the zero bias through the biased kernel 1e-6": (
            "tests/evaluate/test_falip.py::test_strength_0_is_encode_image"
        ),
        "blocks before the last third identical (0); the first biased block changes the class row alone": (
            "tests/evaluate/test_falip.py::test_it_reaches_only_the_last_third_and_first_the_class_row"
        ),
        "bump against the closed form: within 6e-4 v on every rectangle up to 14 x 14; v where it is flat (1e-9)": (
            "tests/evaluate/test_falip.py::test_the_bump_against_its_closed_form"
        ),
        "class attention on the region strictly rises with the strength, first biased block, every head": (
            "tests/evaluate/test_falip.py::test_the_class_attention_rises_with_the_strength"
        ),
        "a constant over all patches and the class column equals no bias (1e-6)": (
            "tests/evaluate/test_falip.py::test_a_constant_over_everything_changes_nothing"
        ),
        "cached shared blocks equal the uncached path (1e-6)": (
            "tests/evaluate/test_falip.py::test_shared_blocks_equal_the_whole_way"
        ),
        "two-object scenes: the right box by 'a photo of a X', chance + 10 points at the best strength, pixels unchanged, "
        "crop, blur and circle beside": "bench:evaluate_falip",
    },
)

Floats = NDArray[np.float64]


class FALIP:
    """Vectors and scores of regions of a picture, seen in their context; the picture is squeezed to the tower's square.

    Args:
        clips: with attention between tokens: ViTs with a class token, CLIP's ResNets and SigLIP (there the bump is in the
            pooling's attention); several models' logits are added.
        strength: v of `bump`; 0.2 is the published value, for ViT-B/16.
        sigma: of `bump`, in patches.
        blocks: "last_third" (from ``L - L // 3`` on), or numbers of blocks.
        heads: the heads that get the bump; all by default.
        target: "class" (the class token's row) or "all" (every row, which is another method).
        prefix: put before every text in lower case; "a photo of " is part of the protocol.
        coverage: weigh a mask's patches by how much of them it covers.

    Raises:
        NeedsPartError: an image tower without such attention.
        InputError: an unknown target, or a block or head that the tower has not.

    Example:
        ``FALIP(clip).score(photo, [(0, 0, 50, 80), (60, 10, 120, 90)], ["a red bicycle"])``
    """

    def __init__(
        self,
        clips: CLIP | Sequence[CLIP],
        strength: float = 0.2,
        sigma: float = 100.0,
        blocks: str | Sequence[int] = "last_third",
        heads: Sequence[int] | None = None,
        target: str = "class",
        *,
        prefix: str = "a photo of ",
        coverage: bool = False,
    ) -> None:
        self.clips: list[CLIP] = list(clips) if isinstance(clips, Sequence) else [clips]
        if not self.clips or target not in ("class", "all"):
            raise InputError(
                f"target {target!r} with {len(self.clips)} models: use class or all and at least one model"
            )
        self.strength, self.sigma, self.blocks, self.target = strength, sigma, blocks, target
        self.heads = None if heads is None else tuple(heads)
        self.prefix, self.coverage = prefix, coverage
        for clip in self.clips:
            biased_blocks(clip, blocks)

    @property
    def name(self) -> str:
        """Of the models."""
        return " + ".join(clip.name for clip in self.clips)

    def encode_regions(self, image: Image.Image, regions: ArrayLike, clip: CLIP | None = None) -> Tensor:
        """Unit rows ``[K, D]`` of the picture, each with one region in the fovea.

        Args:
            image: upright, RGB.
            regions: boxes ``[K, 4]`` in its pixels, or masks ``[K, H, W]`` of its pixels.
            clip: which; the first one by default.

        Raises:
            InputError: no regions, or one without a patch in the picture.
        """
        clip = self.clips[0] if clip is None else clip
        pixels = square_pixels(clip, image)
        return self.encode_pixels(clip, pixels, self._maps(clip, pixels, regions, image.size))

    def score(
        self,
        image: Image.Image,
        regions: ArrayLike,
        texts: Sequence[str],
        negatives: Sequence[str] | None = None,
    ) -> Floats:
        """``tau cos(e_b, t)`` ``[K, T]``, added over the models.

        Args:
            image: upright, RGB.
            regions: boxes or masks.
            texts: expressions, without a full stop.
            negatives: expressions of other pictures; the mean of their scores is taken off, as in Red Circle.
        """
        total: Any = 0.0
        for clip in self.clips:
            e = self.encode_regions(image, regions, clip)
            s = e @ self._texts(clip, texts).T  # [K, T]
            if negatives:
                s = s - (e @ self._texts(clip, negatives).T).mean(1, keepdim=True)
            total = total + (clip.scale.detach() * s).double().cpu().numpy()
        out: Floats = total
        return out

    def score_views(self, views: Sequence[Image.Image], masks: Sequence[ArrayLike], texts: Sequence[str]) -> Floats:
        """Mean logits ``[T]`` over views of one thing, such as depth maps of a point cloud, each with its own mask."""
        pairs = zip(views, masks, strict=True)
        out: Floats = np.mean([self.score(view, np.asarray(m)[None], texts)[0] for view, m in pairs], axis=0)
        return out

    @torch.no_grad()
    def encode_pixels(
        self, clip: CLIP, pixels: Tensor, maps: Floats, *, shared: bool = True, batch: int = 32
    ) -> Tensor:
        """Unit rows ``[K, D]`` of one picture's normalised pixels ``[1, 3, H, W]`` for bumps ``[K, h, w]``.

        Args:
            clip: in eval mode.
            pixels: of one picture.
            maps: in the order of the patches; where all are 0 nothing is added, and the vectors are `encode_image`'s.
            shared: run the blocks before the first biased one once.
            batch: regions at a time.
        """
        names = biased_blocks(clip, self.blocks) if np.any(maps) else []
        if not names:
            return clip.encode_image(pixels).expand(len(maps), -1)
        parts = []
        for start in range(0, len(maps), batch):
            wanted = torch.from_numpy(maps[start : start + batch]).to(pixels)
            at = {name: self.function(wanted) for name in names}
            if shared and names[0].startswith("blocks."):
                pooled = _from_block(clip.tower("image"), pixels, at, int(names[0].split(".")[1]), len(wanted))
            else:
                pooled = clip.encode("image", pixels.expand(len(wanted), -1, -1, -1), at).pooled
            parts.append(F.normalize(pooled, dim=-1))
        return torch.cat(parts)

    def function(self, maps: Tensor) -> SiteFunction:
        """What is put at an attention site: adds the bump ``[K, h, w]`` to the class token's logits."""

        def look(a: AttentionState) -> AttentionState:
            k, (h, s, t) = len(maps), (a.q.shape[1], a.q.shape[2], a.k.shape[2])
            row = F.pad(maps.flatten(1), (t - maps[0].numel(), 0))  # [K, T]: zeros for tokens before the patches
            queries = torch.ones(s) if self.target == "all" else F.pad(torch.ones(1), (0, s - 1))
            on = torch.ones(h)
            if self.heads is not None:
                if not all(0 <= one < h for one in self.heads):
                    raise InputError(f"heads {list(self.heads)}: this tower has heads 0 to {h - 1}")
                on = torch.zeros(h).index_fill(0, torch.tensor(self.heads, dtype=torch.long), 1.0)
            where = (on[:, None] * queries).to(row)  # [H, S]
            extra = where[None, :, :, None] * row.view(k, 1, 1, t)
            return a.with_(bias=extra if a.bias is None else a.bias + extra)

        return look

    def _maps(self, clip: CLIP, pixels: Tensor, regions: ArrayLike, size: tuple[int, int]) -> Floats:
        grid, given = grid_of(clip, pixels), np.asarray(regions)
        if given.ndim == 3:
            return mask_maps(given, grid, self.strength, self.sigma, self.coverage)
        if given.ndim != 2 or not len(given):
            raise InputError("there are no regions: give boxes [K, 4] or masks [K, H, W], at least one")
        return box_maps(given * np.array([grid[1] / size[0], grid[0] / size[1]] * 2), grid, self.strength, self.sigma)

    def _texts(self, clip: CLIP, texts: Sequence[str]) -> Tensor:
        with torch.no_grad():
            return clip.encode_text([self.prefix + text.lower() for text in texts])


def _from_block(tower: Any, pixels: Tensor, at: Mapping[str, SiteFunction], first: int, count: int) -> Tensor:
    """Pooled rows ``[K, D]``: the blocks before `first` once, the others for every region."""
    state: State = tower.enter(tower.embed(pixels))
    for block in tower.blocks[:first]:
        state = block(state)
    state = state.with_(x=state.x.expand(count, -1, -1))
    for i in range(first, len(tower.blocks)):
        state = tower.blocks[i](state, at.get(f"blocks.{i}.attn"))
    pooled: Tensor = tower.pool(state).pooled
    return pooled
