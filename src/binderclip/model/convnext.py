"""ConvNeXt (Liu et al. 2022, arXiv 2201.03545) as CLIP image tower."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from binderclip.errors import InputError
from binderclip.model.base import At, State, Tokens
from binderclip.model.block import MLP
from binderclip.model.sites import Sites, site_names

__all__ = ["ConvNeXt"]


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a feature map ``[N, C, H, W]``."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise each location."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """``x + gamma MLP(norm(depthwise 7x7(x)))``."""

    def __init__(self, width: int, layer_scale: float | None, eps: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.mlp = MLP(width, 4 * width, "gelu")
        self.gamma = None if layer_scale is None else nn.Parameter(torch.full((width,), layer_scale))

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W] -> [N, C, H, W]``."""
        y = self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))  # [N, H, W, C]
        y = y if self.gamma is None else y * self.gamma
        out: Tensor = x + y.permute(0, 3, 1, 2)
        return out


class ConvNeXt(nn.Module):
    """Pixels ``[N, 3, H, W]`` to image features.

    Its sites are those of the four stages, where ``State.x`` is a feature map; there is no attention.

    Args:
        depths: blocks of each stage; tiny (3, 3, 9, 3), base (3, 3, 27, 3).
        widths: channels of each stage; tiny (96, 192, 384, 768), base (128, 256, 512, 1024).
        embed_dim: ``D``, the joint space.
        image_size: side in pixels it was trained on; any size is taken.
        layer_scale: start value of ``gamma``; ``None`` for none.
        eps: of the norms.
        proj: ``linear`` or ``mlp`` (one hidden layer of twice ``D``, exact GELU).
        proj_bias: whether the projection's last layer has a bias.
    """

    def __init__(
        self,
        depths: Sequence[int],
        widths: Sequence[int],
        embed_dim: int,
        *,
        image_size: int = 224,
        layer_scale: float | None = 1e-6,
        eps: float = 1e-6,
        proj: str = "linear",
        proj_bias: bool = False,
    ) -> None:
        super().__init__()
        if proj not in ("linear", "mlp"):
            raise InputError(f"unknown image projection {proj!r}: use 'linear' or 'mlp'")
        self.image_size, self.embed_dim, self.width = image_size, embed_dim, widths[-1]
        self.stem = nn.Sequential(nn.Conv2d(3, widths[0], 4, stride=4), ChannelNorm(widths[0], eps=eps))
        self.downs = nn.ModuleList([nn.Identity()])
        for narrow, wide in pairwise(widths):
            self.downs.append(nn.Sequential(ChannelNorm(narrow, eps=eps), nn.Conv2d(narrow, wide, 2, stride=2)))
        self.stages = nn.ModuleList(
            nn.Sequential(*(ConvNeXtBlock(width, layer_scale, eps) for _ in range(depth)))
            for depth, width in zip(depths, widths, strict=True)
        )
        self.norm = nn.LayerNorm(self.width, eps=eps)
        self.proj: nn.Module
        if proj == "mlp":
            self.proj = nn.Sequential(
                nn.Linear(self.width, 2 * embed_dim),
                nn.GELU(),
                nn.Linear(2 * embed_dim, embed_dim, bias=proj_bias),
            )
        else:
            self.proj = nn.Linear(self.width, embed_dim, bias=proj_bias)

    @property
    def sites(self) -> tuple[str, ...]:
        """Names where a function may be put."""
        return site_names(len(self.stages), attention=False)

    def embed(self, pixels: Tensor) -> State:
        """Normalised pixels to the stem's feature map ``[N, C, H/4, W/4]``."""
        return State(x=self.stem(pixels))

    def forward(self, x: Tensor, at: At | None = None) -> Tokens:
        """Encode normalised pixels ``[N, 3, H, W]``."""
        sites = Sites(at, self.sites)
        state = sites("embed.out", self.embed(x))
        for i, (down, stage) in enumerate(zip(self.downs, self.stages, strict=True)):
            state = sites(f"blocks.{i}.in", state)
            state = sites(f"blocks.{i}.out", state.with_(x=stage(down(state.x))))
        return self.pool(sites("pool.in", state))

    def pool(self, state: State) -> Tokens:
        """Mean over locations, norm, projection."""
        hidden = state.x.flatten(2).transpose(1, 2)  # [N, h w, C]
        raw = self.norm(state.x.mean(dim=(2, 3)))  # [N, C]
        grid = (state.x.shape[2], state.x.shape[3])
        return Tokens(self.project(raw), self.norm(hidden), raw=raw, hidden=hidden, grid=grid)

    def project(self, x: Tensor) -> Tensor:
        """Normed features ``[..., C]`` to the joint space, pooled or of every location."""
        out: Tensor = self.proj(x)
        return out

    def pyramid(self, pixels: Tensor) -> dict[int, Tensor]:
        """Feature maps by stride: 4, 8, 16, 32."""
        x, maps = self.stem(pixels), {}
        for stride, down, stage in zip((4, 8, 16, 32), self.downs, self.stages, strict=True):
            x = maps[stride] = stage(down(x))
        return maps
