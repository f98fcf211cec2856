"""The image transformer of CLIP (Dosovitskiy et al. 2020, arXiv 2010.11929; Radford et al. 2021, arXiv 2103.00020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from binderclip.errors import InputError
from binderclip.model.attention_pool import MapHead
from binderclip.model.base import At, SiteFunction, State, Tokens
from binderclip.model.block import Block, make_norm
from binderclip.model.positions import Rotary, resize_grid_positions
from binderclip.model.sites import run_blocks, site_names

__all__ = ["VisionTransformer", "sincos_positions"]


class VisionTransformer(nn.Module):
    """Pixels ``[N, 3, H, W]`` to image features through patches of ``p x p``.

    Any size is taken: the position table is resized bicubically when the grid differs, and pixels right and below that
    fill no patch are left out (SigLIP's 384 pixels in patches of 14).

    Args:
        image_size: side in pixels that the position table is made for.
        patch_size: ``p``.
        width: ``C``.
        layers: number of blocks.
        heads: attention heads.
        embed_dim: ``D``, the joint space.
        activation: of the MLPs (``quick_gelu`` in OpenAI's models, ``gelu_tanh`` in SigLIP).
        class_token: whether a learned token goes before the patches.
        positions: ``learned`` (a table, resized where the grid differs) or ``sincos`` (`sincos_positions`, no weights).
        pre_norm: a norm before the first block (OpenAI's).
        pool: ``cls`` (first token), ``avg`` (mean of the patches) or ``map`` (SigLIP's attention pooling).
        patch_bias: whether the patch embedding has a bias.
        proj: ``linear`` to ``embed_dim``, or ``none``.
        proj_bias: whether that map has a bias.
        patch_dropout: share of patches dropped in training (FLIP, arXiv 2212.00794).
        eps: of the norms.
        mlp_ratio: inner width of the MLPs over ``width``.
        mlp_hidden: inner width of the MLPs, outright.
        rotary: arguments of ``binderclip.model.positions.Rotary`` beside the head width (EVA-02).
        block: further arguments of ``binderclip.model.block.Block``.
    """

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        width: int,
        layers: int,
        heads: int,
        embed_dim: int,
        *,
        activation: str = "gelu",
        class_token: bool = True,
        positions: str = "learned",
        pre_norm: bool = True,
        pool: str = "cls",
        patch_bias: bool = False,
        proj: str = "linear",
        proj_bias: bool = False,
        patch_dropout: float = 0.0,
        eps: float = 1e-5,
        mlp_ratio: float = 4.0,
        mlp_hidden: int | None = None,
        rotary: Mapping[str, Any] | None = None,
        block: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if pool not in ("cls", "avg", "map"):
            raise InputError(f"unknown image pooling {pool!r}: use 'cls', 'avg' or 'map'")
        if pool == "cls" and not class_token:
            raise InputError("pool='cls' needs class_token=True")
        if positions not in ("learned", "sincos"):
            raise InputError(f"unknown image positions {positions!r}: use 'learned' or 'sincos'")
        side = image_size // patch_size
        if not side:
            raise InputError(f"an image of {image_size} pixels holds no patch of {patch_size}")
        self.image_size, self.patch_size, self.width = image_size, patch_size, width
        self.embed_dim = embed_dim if proj == "linear" else width
        self.pooling, self.patch_dropout, self.prefix = pool, patch_dropout, int(class_token)
        self.patch = nn.Conv2d(3, width, patch_size, patch_size, bias=patch_bias)
        self.class_token = nn.Parameter(width**-0.5 * torch.randn(width)) if class_token else None
        table = nn.Parameter(width**-0.5 * torch.randn(self.prefix + side * side, width))
        self.positions = table if positions == "learned" else None
        self.norm_pre = make_norm("layer", width, eps) if pre_norm else nn.Identity()
        shared = {"activation": activation, "eps": eps, "mlp_ratio": mlp_ratio, "mlp_hidden": mlp_hidden}
        turn = None if rotary is None else Rotary(width // heads, **rotary)
        options = {**shared, "rotary": turn, **(block or {})}
        self.blocks = nn.ModuleList(Block(width, heads, **options) for _ in range(layers))
        self.norm = make_norm("layer", width, eps)
        self.head = (
            MapHead(width, heads, activation=activation, eps=eps, mlp_hidden=mlp_hidden) if pool == "map" else None
        )
        self.proj = nn.Linear(width, embed_dim, bias=proj_bias) if proj == "linear" else nn.Identity()
        self._reset()

    def _reset(self) -> None:
        for block in self.blocks:
            assert isinstance(block, Block)
            block.reset(len(self.blocks))
        if isinstance(self.proj, nn.Linear):
            nn.init.normal_(self.proj.weight, std=self.width**-0.5)

    @property
    def sites(self) -> tuple[str, ...]:
        """Names where a function may be put."""
        return site_names(len(self.blocks), pool_attention=self.head is not None)

    def embed(self, pixels: Tensor) -> State:
        """Normalised pixels to tokens with positions, before the first norm."""
        maps = self.patch(pixels)  # [N, C, h, w]
        grid = (maps.shape[2], maps.shape[3])
        x = maps.flatten(2).transpose(1, 2)  # [N, h w, C]
        if self.class_token is not None:
            x = torch.cat([self.class_token.to(x.dtype).expand(x.shape[0], 1, -1), x], dim=1)
        x = x + self.positions_for(grid).to(x.dtype)
        state = State(x=x, positions=torch.arange(x.shape[1], device=x.device), prefix=self.prefix, grid=grid)
        return self._drop(state) if self.training and self.patch_dropout else state

    def positions_for(self, grid: tuple[int, int]) -> Tensor:
        """The position table ``[prefix + h w, C]`` for a grid of patches."""
        if self.positions is None:
            return sincos_positions(grid, self.width, self.prefix, self.patch.weight.device)
        side = self.image_size // self.patch_size
        return self.positions if grid == (side, side) else resize_grid_positions(self.positions, grid, self.prefix)

    def _drop(self, state: State) -> State:
        n, s = state.x.shape[:2]
        patches = s - state.prefix
        kept = max(1, round(patches * (1 - self.patch_dropout)))
        order = torch.rand(n, patches, device=state.x.device).argsort(1)[:, :kept].sort(1).values + state.prefix
        head = torch.arange(state.prefix, device=state.x.device).expand(n, -1)
        return state.take(torch.cat([head, order], dim=1))

    def enter(self, state: State) -> State:
        """The norm before the first block."""
        return state.with_(x=self.norm_pre(state.x))

    def forward(self, x: Tensor, at: At | None = None) -> Tokens:
        """Encode normalised pixels ``[N, 3, H, W]``."""
        return run_blocks(self, self.embed(x), at)

    def pool(self, state: State, attn: SiteFunction | None = None) -> Tokens:
        """Final norm, pooling, projection."""
        sequence = self.norm(state.x)  # [N, S, C]
        if self.head is not None:
            raw = self.head(sequence, state, attn)
        elif self.pooling == "cls":
            raw = sequence[:, 0]
        else:
            raw = sequence[:, state.prefix :].mean(dim=1)
        return Tokens(self.project(raw), sequence, state.mask, raw, state.x, state.prefix, state.grid)

    def project(self, x: Tensor) -> Tensor:
        """Final-normed features ``[..., C]`` to the joint space ``[..., D]``, pooled or of every patch."""
        out: Tensor = self.proj(x)
        return out

    def resize_positions(self, image_size: int) -> None:
        """Make another image size the tower's own (a learned table is resized bicubically)."""
        side = image_size // self.patch_size
        if self.positions is not None:
            self.positions = nn.Parameter(self.positions_for((side, side)).detach().clone())
        self.image_size = image_size


def sincos_positions(grid: tuple[int, int], width: int, prefix: int = 0, device: torch.device | None = None) -> Tensor:
    """Fixed positions ``[prefix + h w, C]``, the same for every size (MoCo v3, Chen et al. 2021, arXiv 2104.02057).

    The row of the patch in column x and row y is ``[sin(x omega), cos(x omega), sin(y omega), cos(y omega)]`` with
    ``omega_i = 10000^(-i / (C/4 - 1))``, ``i < C/4``; prefix tokens have rows of zeros.

    Raises:
        InputError: a width that is no multiple of 4, or under 8.
    """
    if width % 4 or width < 8:
        raise InputError(f"sin-cos positions need a width of 8 or more that 4 divides, not {width}")
    omega = 10_000.0 ** (-torch.arange(width // 4, device=device) / (width // 4 - 1))  # [C/4]
    rows, columns = (torch.arange(side, device=device) for side in grid)
    y, x = (place.flatten()[:, None] * omega for place in torch.meshgrid(rows, columns, indexing="ij"))  # [h w, C/4]
    table = torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1)
    return torch.cat([table.new_zeros(prefix, width), table])
